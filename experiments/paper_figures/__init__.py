"""`lossrag figures`: the paper's figures from one's own runs."""

from experiments.paper_figures.command import figures

__all__ = ["figures"]
