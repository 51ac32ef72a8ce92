"""Corruption: label noise, imbalance and missing rows, put into a suite on purpose."""
