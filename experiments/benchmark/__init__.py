"""`lossrag benchmark SUBJECT [key=value ...]`: costs as medians of paired ratios."""

from experiments.benchmark.command import benchmark

__all__ = ["benchmark"]
