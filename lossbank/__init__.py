"""The library of losses: registered, checked per-sample functions of (logits, targets)."""

# Importing the losses is what registers them.
from lossbank import losses
from lossbank.contract import Loss, LossFunction
from lossbank.metric_learning import from_metric_learning
from lossbank.registration import LOSSES, register_loss

__all__ = ["LOSSES", "Loss", "LossFunction", "from_metric_learning", "losses", "register_loss"]
