"""Processes that take one step together: their group, and the gradients that each holds a slice of."""
