"""Studies of many runs: compare, sweep, ablate."""
