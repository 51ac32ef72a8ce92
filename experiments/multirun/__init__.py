"""Multirun: Hydra's own way of starting many runs, with any sweeper and launcher plugin."""
