"""Signals of a step -> task weights: MetaWeighting, Frank-Wolfe, baselines, and the step for your own loop."""

from weighting.bandit_mtl import BanditMTL
from weighting.base import WEIGHTINGS, HypergradientSpec, Outer, Signals, State, Weighting
from weighting.dtp import DTP
from weighting.dwa import DWA
from weighting.epo import EPO
from weighting.fixed import Fixed
from weighting.gradient_rows import GradientRows, TaskGradients
from weighting.gradnorm import GradNorm
from weighting.losses import Closure, JointClosure, Losses, Rows, TaskGroup
from weighting.metaweighting import MetaWeighting, project_simplex
from weighting.mgda import MGDA
from weighting.mgda_ub import MGDAUB
from weighting.multi_dds import MultiDDS
from weighting.pareto_mtl import ParetoMTL
from weighting.random_weights import RandomWeights
from weighting.record import StepRecord
from weighting.single_task import SingleTask
from weighting.solvers import FrankWolfeResult, frank_wolfe
from weighting.step import MultiTaskStep
from weighting.tchebycheff import Tchebycheff
from weighting.torchjd_adapter import TorchJD
from weighting.torchjd_methods import PCGrad, UPGrad
from weighting.uncertainty import Uncertainty
from weighting.uniform import Uniform

__all__ = [
    "DTP",
    "DWA",
    "EPO",
    "MGDA",
    "MGDAUB",
    "WEIGHTINGS",
    "BanditMTL",
    "Closure",
    "Fixed",
    "FrankWolfeResult",
    "GradNorm",
    "GradientRows",
    "HypergradientSpec",
    "JointClosure",
    "Losses",
    "MetaWeighting",
    "MultiDDS",
    "MultiTaskStep",
    "Outer",
    "PCGrad",
    "ParetoMTL",
    "RandomWeights",
    "Rows",
    "Signals",
    "SingleTask",
    "State",
    "StepRecord",
    "TaskGradients",
    "TaskGroup",
    "Tchebycheff",
    "TorchJD",
    "UPGrad",
    "Uncertainty",
    "Uniform",
    "Weighting",
    "frank_wolfe",
    "project_simplex",
]
