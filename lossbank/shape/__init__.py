"""Geometry of a loss: its gradient on a grid of probes, free of any data."""
