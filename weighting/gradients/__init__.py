"""Gradients of T tasks: passes, rows, Gramians and the hypergradient, at the least cost."""
