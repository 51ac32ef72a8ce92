"""`lossrag compare`: methods by suites by seeds, every method tuned with the same number of runs."""

from experiments.compare.command import compare

__all__ = ["compare"]
