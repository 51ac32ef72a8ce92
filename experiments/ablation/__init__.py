"""`lossrag ablate NAME`: rows of settings by seeds, compared in pairs."""

from experiments.ablation.command import ablate

__all__ = ["ablate"]
