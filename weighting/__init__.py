"""Signals of a step -> task weights: MetaWeighting, Frank-Wolfe, baselines, and the step for your own loop."""

if __name__ != "lossrag.weighting":
    raise ImportError("weighting is imported as lossrag.weighting: from lossrag.weighting import ...")

from lossrag.weighting.base import WEIGHTINGS, HypergradientSpec, Needs, Outer, Signals, State, Weighting
from lossrag.weighting.gradients.rows import GradientRows, TaskGradients
from lossrag.weighting.methods.bandit_mtl import BanditMTL
from lossrag.weighting.methods.dtp import DTP
from lossrag.weighting.methods.dwa import DWA
from lossrag.weighting.methods.epo import EPO
from lossrag.weighting.methods.fixed import Fixed
from lossrag.weighting.methods.gradnorm import GradNorm
from lossrag.weighting.methods.metaweighting import MetaWeighting, project_simplex
from lossrag.weighting.methods.mgda import MGDA
from lossrag.weighting.methods.mgda_ub import MGDAUB
from lossrag.weighting.methods.multi_dds import MultiDDS
from lossrag.weighting.methods.pareto_mtl import ParetoMTL
from lossrag.weighting.methods.random import RandomWeights
from lossrag.weighting.methods.single_task import SingleTask
from lossrag.weighting.methods.tchebycheff import Tchebycheff
from lossrag.weighting.methods.torchjd import PCGrad, TorchJD, UPGrad
from lossrag.weighting.methods.uncertainty import Uncertainty
from lossrag.weighting.methods.uniform import Uniform
from lossrag.weighting.min_norm.frank_wolfe import FrankWolfeResult, frank_wolfe
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.record import StepRecord
from lossrag.weighting.step import MultiTaskStep
from lossrag.weighting.training.closures import Closure, JointClosure, Losses, TableRows, TaskGroup

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
    "Group",
    "HypergradientSpec",
    "JointClosure",
    "Losses",
    "MetaWeighting",
    "MultiDDS",
    "MultiTaskStep",
    "Needs",
    "Outer",
    "PCGrad",
    "ParetoMTL",
    "RandomWeights",
    "Signals",
    "SingleTask",
    "State",
    "StepRecord",
    "TableRows",
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
