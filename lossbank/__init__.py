"""The library of losses: registered, checked per-sample functions of (logits, targets)."""

# Importing the files of losses is what registers them.
from lossbank import classification, regression
from lossbank.contract import LOSSES, Loss, LossFunction, register_loss

__all__ = ["LOSSES", "Loss", "LossFunction", "classification", "register_loss", "regression"]
