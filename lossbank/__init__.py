"""Lossbank: a library of losses, what is remembered of them, and losses that are composed and learned in training."""

if __name__ != "lossrag.lossbank":
    raise ImportError("lossbank is imported as lossrag.lossbank: from lossrag.lossbank import ...")

# Importing the losses is what registers them.
from lossrag.labels import labelled, labelled_mean
from lossrag.lossbank import losses
from lossrag.lossbank.composing.composer import Composer
from lossrag.lossbank.composing.events import Event
from lossrag.lossbank.composing.evidence import Batch, Evidence, EvidenceOptions, Moment, TaskMoment, TaskSpec
from lossrag.lossbank.composing.learned_losses import LearnedLosses
from lossrag.lossbank.composing.look_ahead import (
    HeadView,
    LookAhead,
    LookAheadOptions,
    calibrated,
    look_ahead,
    savings,
)
from lossrag.lossbank.composing.one_step import OneStep, OneStepOptions, Tangent, contributions, cosines
from lossrag.lossbank.composing.policies import POLICIES, ComposerConfig, Policy
from lossrag.lossbank.composing.retrieval import Adviser, Gain
from lossrag.lossbank.composing.shares import ShareState
from lossrag.lossbank.composing.tangents import push_forward
from lossrag.lossbank.experience.bank import LossBank
from lossrag.lossbank.experience.context import CONTEXT_NAMES, TaskSignals, context_vector
from lossrag.lossbank.experience.questions import Answer, Question
from lossrag.lossbank.library.batched import gradient_sizes
from lossrag.lossbank.library.contract import Loss, LossFunction
from lossrag.lossbank.library.inputs import LossInputs
from lossrag.lossbank.library.metric_learning import from_metric_learning
from lossrag.lossbank.library.mixture import Mixture, joined_mixture
from lossrag.lossbank.library.registration import LOSSES, register_loss
from lossrag.lossbank.shape.alike import alike
from lossrag.lossbank.shape.geometry import GEOMETRY_NAMES, gradient_curve

__all__ = [
    "CONTEXT_NAMES",
    "GEOMETRY_NAMES",
    "LOSSES",
    "POLICIES",
    "Adviser",
    "Answer",
    "Batch",
    "Composer",
    "ComposerConfig",
    "Event",
    "Evidence",
    "EvidenceOptions",
    "Gain",
    "HeadView",
    "LearnedLosses",
    "LookAhead",
    "LookAheadOptions",
    "Loss",
    "LossBank",
    "LossFunction",
    "LossInputs",
    "Mixture",
    "Moment",
    "OneStep",
    "OneStepOptions",
    "Policy",
    "Question",
    "ShareState",
    "Tangent",
    "TaskMoment",
    "TaskSignals",
    "TaskSpec",
    "alike",
    "calibrated",
    "context_vector",
    "contributions",
    "cosines",
    "from_metric_learning",
    "gradient_curve",
    "gradient_sizes",
    "joined_mixture",
    "labelled",
    "labelled_mean",
    "look_ahead",
    "losses",
    "push_forward",
    "register_loss",
    "savings",
]
