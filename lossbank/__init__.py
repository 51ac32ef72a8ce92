"""The library of losses: registered, checked per-sample functions of (logits, targets)."""

# Importing the losses is what registers them.
from lossbank import losses
from lossbank.bank import LossBank
from lossbank.candidates import TaskSpec
from lossbank.composer import Composer
from lossbank.composition import Composition
from lossbank.context import CONTEXT_NAMES, TaskSignals, context_vector
from lossbank.contract import Loss, LossFunction
from lossbank.embedding import EMBEDDING_VERSION, PATTERN_NAMES, loss_vectors
from lossbank.events import Event, Retriever
from lossbank.geometry import GEOMETRY_NAMES, gradient_curve
from lossbank.lookahead import HeadView, calibrated, look_ahead, savings
from lossbank.metric_learning import from_metric_learning
from lossbank.mixture import Mixture, joined_mixture
from lossbank.policies import POLICIES, ComposerConfig, Policy
from lossbank.pricing import Lens, contributions, cosines, gradient_sizes
from lossbank.registration import LOSSES, register_loss
from lossbank.retrieval import KnnPredictor, Prediction, Predictor, TowerPredictor
from lossbank.retriever import BankRetriever, starting_retriever
from lossbank.tangents import push_forward
from lossbank.towers import FitReport, Towers

__all__ = [
    "CONTEXT_NAMES",
    "EMBEDDING_VERSION",
    "GEOMETRY_NAMES",
    "LOSSES",
    "PATTERN_NAMES",
    "POLICIES",
    "BankRetriever",
    "Composer",
    "ComposerConfig",
    "Composition",
    "Event",
    "FitReport",
    "HeadView",
    "KnnPredictor",
    "Lens",
    "Loss",
    "LossBank",
    "LossFunction",
    "Mixture",
    "Policy",
    "Prediction",
    "Predictor",
    "Retriever",
    "TaskSignals",
    "TaskSpec",
    "TowerPredictor",
    "Towers",
    "calibrated",
    "context_vector",
    "contributions",
    "cosines",
    "from_metric_learning",
    "gradient_curve",
    "gradient_sizes",
    "joined_mixture",
    "look_ahead",
    "loss_vectors",
    "losses",
    "push_forward",
    "register_loss",
    "savings",
    "starting_retriever",
]
