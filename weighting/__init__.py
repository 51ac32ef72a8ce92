"""Signals of a step -> task weights: MetaWeighting, Frank-Wolfe, baselines, and the step for your own loop."""

from weighting.base import WEIGHTINGS, HypergradientSpec, Outer, Signals, State, Weighting
from weighting.gradient_rows import GradientRows, TaskGradients
from weighting.losses import Closure, JointClosure, Losses, Rows, TaskGroup
from weighting.metaweighting import MetaWeighting, project_simplex
from weighting.mgda import MGDA
from weighting.record import StepRecord
from weighting.single_task import SingleTask
from weighting.solvers import FrankWolfeResult, frank_wolfe
from weighting.step import MultiTaskStep
from weighting.torchjd_adapter import TorchJD
from weighting.torchjd_methods import PCGrad, UPGrad
from weighting.uniform import Uniform

__all__ = [
    "MGDA",
    "WEIGHTINGS",
    "Closure",
    "FrankWolfeResult",
    "GradientRows",
    "HypergradientSpec",
    "JointClosure",
    "Losses",
    "MetaWeighting",
    "MultiTaskStep",
    "Outer",
    "PCGrad",
    "Rows",
    "Signals",
    "SingleTask",
    "State",
    "StepRecord",
    "TaskGradients",
    "TaskGroup",
    "TorchJD",
    "UPGrad",
    "Uniform",
    "Weighting",
    "frank_wolfe",
    "project_simplex",
]
