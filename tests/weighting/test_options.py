"""Options that cannot work: refused with class and field, when the method is made or when the step is."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag import ConfigError
from lossrag.weighting import (
    DTP,
    DWA,
    EPO,
    MGDA,
    MGDAUB,
    WEIGHTINGS,
    BanditMTL,
    Fixed,
    GradNorm,
    MetaWeighting,
    MultiDDS,
    ParetoMTL,
    RandomWeights,
    Tchebycheff,
    Uncertainty,
)
from lossrag.weighting.methods.torchjd import PCD, AlignedMTL, FairGrad, GradVac, Krum, UPGrad

NAN, INF = math.nan, math.inf
POSITIVE = "must be a positive number, got"
REFUSED = [
    (BanditMTL, {"rho": 0.0}, f"rho {POSITIVE} 0.0"),
    (BanditMTL, {"eta_p": -1.0}, f"eta_p {POSITIVE} -1.0"),
    (BanditMTL, {"eta_p": INF}, f"eta_p {POSITIVE} inf"),
    (DTP, {"alpha": 0.0}, "alpha must be above 0 and at most 1, got 0.0"),
    (DTP, {"alpha": 1.1}, "alpha must be above 0 and at most 1, got 1.1"),
    (DTP, {"alpha": NAN}, "alpha must be above 0"),
    (DTP, {"gamma": -0.5}, "gamma must be 0 or more, got -0.5"),
    (DTP, {"scale": "mean"}, "scale='mean' is unknown"),
    (DWA, {"temperature": 0.0}, f"temperature {POSITIVE} 0.0"),
    (DWA, {"temperature": NAN}, f"temperature {POSITIVE} nan"),
    (EPO, {"preference": [1.0, 0.0]}, "preference must hold positive numbers, got [1.0, 0.0]"),
    (EPO, {"preference": [1.0, INF]}, "preference must hold positive numbers"),
    (EPO, {"tolerance": 0.0}, f"tolerance {POSITIVE} 0.0"),
    (Fixed, {"weights": [1.0, -1.0]}, "weights must hold numbers of 0 or more, not all 0"),
    (Fixed, {"weights": [0.0, 0.0]}, "weights must hold numbers of 0 or more, not all 0"),
    (Fixed, {"weights": [NAN, 1.0]}, "weights must hold numbers of 0 or more"),
    (GradNorm, {"alpha": -1}, "alpha must be 0 or more, got -1"),
    (GradNorm, {"alpha": NAN}, "alpha must be 0 or more, got nan"),
    (GradNorm, {"lr": 0}, f"lr {POSITIVE} 0"),
    (MetaWeighting, {"alpha": 0.0}, f"alpha {POSITIVE} 0.0"),
    (MetaWeighting, {"alpha": NAN}, f"alpha {POSITIVE} nan"),
    (MetaWeighting, {"iterations": 0}, "iterations must be 1 or more, got 0"),
    (MetaWeighting, {"constraint": "simplx"}, "did you mean 'simplex'"),
    (MetaWeighting, {"solver": "exct"}, "did you mean 'exact'"),
    (MGDA, {"normalization": "los"}, "did you mean 'loss"),
    (MGDAUB, {"align": "row"}, "align='row' is unknown"),
    (MGDAUB, {"normalization": "row"}, "normalization='row' is unknown"),
    (MultiDDS, {"lr": 0}, f"lr {POSITIVE} 0"),
    (MultiDDS, {"reward": "cos"}, "did you mean 'cosine'"),
    (MultiDDS, {"update": "all"}, "update='all' is unknown"),
    (MultiDDS, {"parameters": "x"}, "parameters='x' is unknown"),
    (ParetoMTL, {"preference": [1.0, -1.0]}, "preference must hold numbers of 0 or more"),
    (ParetoMTL, {"preference": [0.0, 0.0]}, "not all 0"),
    (ParetoMTL, {"others": [[1.0, NAN]]}, "others must hold numbers"),
    (ParetoMTL, {"others": [1.0, 2.0]}, "others must hold lists of numbers, got 1.0"),
    (ParetoMTL, {"others": [[1.0, "x"]]}, "others must hold lists of numbers"),
    (ParetoMTL, {"margin": 1.0}, "margin must be in [0, 1), got 1.0"),
    (ParetoMTL, {"start_steps": -1}, "start_steps must be 0 or more, got -1"),
    (RandomWeights, {"distribution": "norml"}, "did you mean 'normal'"),
    (RandomWeights, {"seed": -1}, "seed must be 0 or more, got -1"),
    (Tchebycheff, {"mu": -1.0}, "mu must be 0 or more, got -1.0"),
    (Tchebycheff, {"mu": INF}, "mu must be 0 or more, got inf"),
    (Tchebycheff, {"preference": [1.0, 0.0]}, "preference must hold positive numbers"),
    (Tchebycheff, {"reference": [1.0, NAN]}, "reference must hold finite numbers"),
    (Uncertainty, {"lr": NAN}, f"lr {POSITIVE} nan"),
    (Uncertainty, {"optimizer": "rmsprop"}, "optimizer='rmsprop' is unknown"),
    (Uncertainty, {"likelihood": ["regresion"]}, "did you mean 'regression'"),
    (UPGrad, {"reg_eps": -1}, "reg_eps must be 0 or more, got -1"),
    (WEIGHTINGS["torchjd/mgda"], {"epsilon": 0.0}, f"epsilon {POSITIVE} 0.0"),
    (WEIGHTINGS["torchjd/mgda"], {"max_iters": 0}, "max_iters must be 1 or more, got 0"),
    (FairGrad, {"max_iters": 0}, "max_iters must be 1 or more, got 0"),
    (GradVac, {"beta": 1.5}, "beta must be from 0 to 1, got 1.5"),
    (PCD, {"tau": 1.5}, "tau must be from 0 to 1, got 1.5"),
    (PCD, {"tau": NAN}, "tau must be 0 or more, got nan"),
    (PCD, {"beta": 1.0}, "beta must be in [0, 1), got 1.0"),
    (Krum, {"n_byzantine": -1}, "n_byzantine must be 0 or more"),
    (Krum, {"n_selected": 0}, "n_selected must be 1 or more"),
    (AlignedMTL, {"scale_mode": "mean"}, "scale_mode='mean' is unknown"),
]


def test_options_out_of_range():
    for cls, options, message in REFUSED:
        with pytest.raises(ConfigError) as caught:
            cls(**options)
        assert message in str(caught.value), (cls, options)
        assert str(caught.value).startswith(f"{cls.__name__}: ")


def test_the_hypergradient_names_its_own_options():
    for option in ("scale", "inner", "parameters"):
        with pytest.raises(ConfigError, match=f"HypergradientSpec: {option}='x' is unknown"):
            MetaWeighting(**{option: "x"})


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (EPO([1.0] * 3), "preference"),
        (Fixed([]), "weights"),
        (Fixed([1.0] * 3), "weights"),
        (ParetoMTL([1.0] * 3), "preference"),
        (ParetoMTL(others=[[1.0] * 3]), "others"),
        (Tchebycheff(0.0, [1.0] * 3), "preference"),
        (Tchebycheff(0.0, [], [1.0] * 3), "reference"),
        (Uncertainty([]), "likelihood"),
        (Uncertainty(["regression"] * 3), "likelihood"),
    ],
)
def test_a_list_without_an_entry_for_each_task(method, field):
    text = rf"{type(method).__name__}: {field} must hold one \w+ for each of the 2 tasks, in their order, got [03]"
    with pytest.raises(ConfigError, match=text) as caught:
        method.init(2, torch.device("cpu"))
    assert caught.value.by_key("weighting.").startswith(f"weighting.{field} must")
