"""Every method beside what it promises; the assertions and their inputs are in tests/weighting/properties.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

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
    SingleTask,
    Tchebycheff,
    Uncertainty,
    Uniform,
    Weighting,
)
from tests.weighting import properties
from tests.weighting.properties import T, make, walk


@dataclass(frozen=True)
class Promises:
    """nonnegative; sum: T; symmetric: no task is special but by options, up to this; alike: equal tasks weigh the
    same, up to this; starts: every weight 1 at first; moves: changes with what it reads; units: no unit of the losses
    matters; descends: no conflict, and rest where gradients cancel; blind: never reads the device (asked of one
    method of a kind)."""

    method: Weighting
    nonnegative: bool = True
    sum: bool = True
    symmetric: float | None = 1e-6
    alike: float | None = 1e-6
    starts: bool = True
    moves: bool = True
    units: bool = False
    descends: bool = False
    blind: bool = True


PREFERENCE = [1.0, 2.0, 0.5, 1.0, 3.0]
NAMES = ["classification", "regression", "regression", "classification", "regression"]
TIES = 0.02  # of the min-norm point, where rounding decides what ties
METHODS = {
    "uniform": Promises(Uniform(), moves=False, units=True),
    "single_task": Promises(SingleTask(), sum=False, starts=False, moves=False, units=True),
    "fixed": Promises(Fixed(PREFERENCE), sum=False, starts=False, moves=False, units=True, alike=None),
    "random": Promises(RandomWeights(), symmetric=None, units=True, alike=None),
    "random, dirichlet": Promises(RandomWeights("dirichlet"), symmetric=None, units=True, alike=None),
    "uncertainty": Promises(Uncertainty(lr=0.1), sum=False),
    "uncertainty, sgd": Promises(Uncertainty(lr=0.1, optimizer="sgd"), sum=False),
    "uncertainty, of both kinds": Promises(Uncertainty(NAMES), sum=False, starts=False, alike=None),
    "dwa": Promises(DWA(), units=True),
    "tchebycheff": Promises(Tchebycheff(), units=True),
    "tchebycheff, smooth": Promises(Tchebycheff(0.5, PREFERENCE, [0.1, 0.2, 0.3, 0.4, 0.5]), alike=None),
    "bandit_mtl": Promises(BanditMTL()),
    "bandit_mtl, small ball": Promises(BanditMTL(rho=0.1, eta_p=2.0)),
    "dtp": Promises(DTP(gamma=2.0), units=True),
    "dtp, paper": Promises(DTP(scale="paper"), sum=False, units=True),
    "mgda": Promises(MGDA(), units=True, descends=True, alike=TIES),
    "mgda, l2": Promises(MGDA("l2"), units=True, alike=TIES, blind=False),
    "mgda, loss": Promises(MGDA("loss"), units=True, alike=TIES, blind=False),
    "mgda, loss+": Promises(MGDA("loss+"), units=True, alike=TIES),
    "mgda_ub": Promises(MGDAUB(), units=True, descends=True, alike=TIES),
    "gradnorm": Promises(GradNorm()),
    "gradnorm, equal norms": Promises(GradNorm(alpha=0.0)),
    "pareto_mtl": Promises(ParetoMTL(), nonnegative=False, units=True, alike=TIES),
    "pareto_mtl, one side": Promises(ParetoMTL(PREFERENCE, start_steps=2), nonnegative=False, units=True, alike=None),
    "epo": Promises(EPO(), units=True, blind=False, alike=None),
    "epo, one side": Promises(EPO(PREFERENCE, relaxed=True), units=True, blind=False, alike=None),
    "multi_dds": Promises(MultiDDS(lr=0.5), units=True),
    "multi_dds, sum": Promises(MultiDDS(lr=0.1, update="sum", parameters="shared"), units=True),
    "multi_dds, inner": Promises(MultiDDS(lr=0.1, reward="inner")),
    "metaweighting": Promises(MetaWeighting(), nonnegative=False, sum=False, alike=TIES),
    "metaweighting, nonnegative": Promises(
        MetaWeighting(constraint="nonnegative"), sum=False, symmetric=1e-3, alike=TIES
    ),
    "metaweighting, simplex": Promises(MetaWeighting(constraint="simplex"), symmetric=1e-3, alike=TIES),
}


def test_every_method_is_here():
    own = {cls for name, cls in WEIGHTINGS.items() if not name.startswith("torchjd/")}
    assert {type(promises.method) for promises in METHODS.values()} == own


@pytest.mark.parametrize("name", METHODS)
def test_range_and_sum(name):
    promises = METHODS[name]
    method = promises.method
    if promises.starts:
        assert method.init(T, properties.CPU)["weights"].tolist() == [1.0] * T
    properties.assert_finite(method)
    if promises.nonnegative:
        properties.assert_nonnegative(method)
    if promises.sum:
        properties.assert_sum(method)
    if promises.moves:
        assert walk(method, make()).sub(1).abs().max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_symmetry_and_units(name):
    promises = METHODS[name]
    if promises.symmetric is not None:
        properties.assert_equivariant(promises.method, promises.symmetric)
    if promises.alike is not None:
        properties.assert_equal_for_equal_tasks(promises.method, promises.alike)
    if promises.units:
        properties.assert_free_of_units(promises.method)
    if promises.descends:
        properties.assert_no_conflict(promises.method)
        properties.assert_stationary(promises.method)


@pytest.mark.parametrize("name", METHODS)
def test_state_and_device(name):
    properties.assert_pure(METHODS[name].method)
    if METHODS[name].blind:
        properties.assert_no_read_of_the_device(METHODS[name].method)
