"""Check of runs, banks and caches: what is damaged, what it can be rebuilt from, and the rebuilding."""
