"""Methods that solve on a Gramian, in the precision that it was computed in: no exception, nothing that is not finite,
what they promise as far as rounding lets anybody see it, and in float32 what they do in float64.

The properties are those of TorchJD's tests (structure, permutation, linearity under scaling, no conflict, stationarity)
on inputs of their kinds, in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossrag.weighting import EPO, MGDA, MGDAUB, WEIGHTINGS, ParetoMTL, Signals
from tests.weighting.jacobians import KINDS, STATIONARY, jacobian, rounded

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64]
SEEDS, SCALES = range(3), (1.0, 1e-10, 1e10)
MIN_NORM = [MGDA(), MGDAUB(), ParetoMTL()]


def weigh(method, B, losses=None) -> Tensor:
    torch.manual_seed(0)  # of torchjd's random orders
    losses = torch.ones(len(B), dtype=B.dtype) if losses is None else losses.to(B.dtype)
    state = method.init(len(B), CPU)
    weights, state = method.weigh(state, Signals(losses, B, torch.exp(-losses), representation=B))
    if method.needs.hypergradient is not None:
        state, _ = method.learn(state, -B)
    return weights if method.needs.hypergradient is None and type(method).__name__ != "GradNorm" else state["weights"]


def size(weights: Tensor, G: Tensor) -> Tensor:
    """The length that an update by these weights would have if no gradients cancelled."""
    return weights.abs() @ G.norm(dim=1)


def precision(dtype) -> float:
    """What inner products are known to here, relative to the lengths; lengths to the root of it."""
    return {torch.float32: 5e-5, torch.float64: 1e-9}[dtype]


def made(name, tasks=20):
    options = {"weights": [1.0] * tasks} if name == "fixed" else {}
    return WEIGHTINGS[name](**options)


def fits(name, G):
    """Krum takes four tasks."""
    return name != "torchjd/krum" or len(G) >= 4


# --- structure: all methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_finite(name, dtype):
    for kind in KINDS:
        for seed in SEEDS if name != "torchjd/fairgrad" else SEEDS[:3]:  # which is slow where gradients cancel
            G = jacobian(kind, seed)
            if fits(name, G):
                weights = weigh(made(name, len(G)), rounded(G * SCALES[seed % 3], dtype))
                assert weights.shape == (len(G),)
                assert weights.dtype == torch.float64
                assert weights.isfinite().all(), (kind, seed)


@pytest.mark.parametrize("name", ["mgda", "mgda_ub", "pareto_mtl", "epo", "torchjd/upgrad", "torchjd/cagrad"])
def test_finite_where_sums_are_rounded_more_coarsely(name):
    """A float32 product of a million numbers is off by up to a hundred units."""
    for units in (4.0, 16.0, 100.0):
        for kind in KINDS:
            for seed in SEEDS:
                B = rounded(jacobian(kind, seed), torch.float32, units, seed)
                weights = weigh(made(name), B, torch.rand(len(B)) + 0.1)
                assert weights.isfinite().all(), (kind, seed, units)


# --- float32 and float64 -----------------------------------------------------------------------------------------

ALIKE = {
    **dict.fromkeys(("mgda", "mgda_ub", "pareto_mtl", "gradnorm", "multi_dds"), KINDS),
    **dict.fromkeys((f"torchjd/{name}" for name in ("upgrad", "dualproj", "pcgrad", "gradvac", "cagrad")), KINDS),
    # rank and nearest neighbours are not continuous in the Gramian
    **dict.fromkeys(("torchjd/imtl_g", "torchjd/aligned_mtl"), ("descending", "copies", "duplicated", "zero")),
}


@pytest.mark.parametrize("name", ALIKE)
def test_float32_does_what_float64_does(name):
    for kind in ALIKE[name]:
        for seed in SEEDS:
            G = jacobian(kind, seed).float().double()
            one, other = (weigh(made(name), rounded(G, dtype)) for dtype in DTYPES)
            apart = ((one - other) @ G).norm()
            assert apart <= 3e-3 * torch.maximum(size(one, G), size(other, G)), (kind, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_epo_keeps_its_constraints_in_either_precision(dtype):
    """A corner of a thin set may be far from that of another rounding, so the updates cannot be compared."""
    for kind in KINDS:
        if kind == "scaled":  # beyond what the program resolves
            continue
        for seed in range(50):
            G = jacobian(kind, seed).float().double()
            losses = torch.ones(len(G)) if seed % 2 else torch.rand(len(G), generator=torch.manual_seed(seed)) + 0.1
            weights, lengths = weigh(EPO(), rounded(G, dtype), losses), G.norm(dim=1)
            rates = G @ G.mT @ weights + precision(dtype) * lengths * size(weights, G)
            assert rates[losses.argmax()] >= 0, (kind, seed)
            assert seed % 2 == 0 or (rates >= 0).all(), (kind, seed)


# --- copies ------------------------------------------------------------------------------------------------------

EVEN = ["mgda", "mgda_ub", "pareto_mtl", "gradnorm", "multi_dds"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*EVEN, "torchjd/upgrad", "torchjd/dualproj", "torchjd/imtl_g"])
def test_copies_share_equally(name, dtype):
    for seed in range(30):
        G = jacobian("copies", seed)
        for units in (0.0, 1.0):
            weights = weigh(made(name), rounded(G, dtype, units, seed))
            assert (weights - weights.mean()).abs().max() <= 2e-3 * weights.abs().max(), (seed, units)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*MIN_NORM, MGDA("l2"), MGDA("loss+")], ids=repr)
def test_a_copy_among_others_weighs_what_its_original_does(method, dtype):
    for kind in ("normal", "strong", "weak", "descending", "opposed"):
        for seed in range(15):
            G = jacobian(kind, seed)
            for units in (0.0, 1.0):
                weights = weigh(method, rounded(torch.cat([G, G]), dtype, units, seed)).view(2, -1)
                assert (weights[0] - weights[1]).abs().max() <= 2e-3 * weights.abs().max(), (kind, seed, units)


# --- permutation, scaling, conflict, stationarity ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "method",
    [*MIN_NORM, *(WEIGHTINGS[f"torchjd/{name}"]() for name in ("upgrad", "dualproj", "cagrad", "imtl_g"))],
    ids=repr,
)
def test_the_order_of_the_tasks_does_not_matter(method, dtype):
    for kind in ("normal", "strong", "weak", "descending", "zero row", "zero"):
        for seed in SEEDS:
            G = jacobian(kind, seed)
            order = torch.randperm(len(G), generator=torch.manual_seed(seed))
            one, other = weigh(method, rounded(G, dtype)), weigh(method, rounded(G[order], dtype))
            apart = (one @ G - other @ G[order]).norm()
            assert apart <= precision(dtype) ** 0.5 * size(one, G) + 1e-5 * G.norm(), (kind, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
def test_linear_under_scaling(name, dtype):
    """A(diag(c) G) is linear in c > 0: for T = 2, where PCGrad is UPGrad; neither MGDA nor EPO nor ParetoMTL is."""
    method = WEIGHTINGS[f"torchjd/{name}"]()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        G = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        c = torch.rand(2, 2, generator=generator, dtype=torch.float64) + 0.1

        def update(c, G=G):
            scaled = c[:, None] * G
            return weigh(method, rounded(scaled, dtype)) @ scaled

        torch.testing.assert_close(
            update(0.3 * c[0] + 0.7 * c[1]), 0.3 * update(c[0]) + 0.7 * update(c[1]), atol=1e-2, rtol=0
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*MIN_NORM, EPO()], ids=repr)
def test_no_loss_rises(method, dtype):
    """At equal losses: inside its region ParetoMTL is MGDA, and EPO descends on all."""
    for kind in KINDS:
        if kind == "scaled" and isinstance(method, EPO):
            continue
        for seed in SEEDS:
            G = jacobian(kind, seed)
            weights, lengths = weigh(method, rounded(G, dtype)), G.norm(dim=1)
            assert (G @ G.mT @ weights >= -precision(dtype) * lengths * size(weights, G)).all(), (kind, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", MIN_NORM, ids=repr)
def test_rest_exactly_where_no_direction_lowers_all_losses(method, dtype):
    for kind in (*STATIONARY, "opposed", "zero row"):
        for seed in range(30):
            G = jacobian(kind, seed)
            weights = weigh(method, rounded(G, dtype))
            assert (weights @ G).norm() <= precision(dtype) ** 0.5 * len(G) * G.norm(dim=1).max(), (kind, seed)
    for seed in range(30):
        G = jacobian("descending", seed)
        weights = weigh(method, rounded(G, dtype))
        assert (weights @ G).norm() > 1e-4 * size(weights, G), seed


def test_pareto_mtl_near_a_stationary_point():
    # one float32 gradient is nearly the other reversed; the update must all but vanish
    B = torch.tensor([[192.1352996826172, -190.76341247558594], [-190.76341247558594, 189.40130615234375]])
    losses = torch.tensor([0.6462647914886475, 0.5971095561981201])
    assert weigh(ParetoMTL(), B, losses).tolist() == pytest.approx([0.9964, 1.0036], abs=1e-4)


@pytest.mark.parametrize("start_steps", [0, 200])
def test_pareto_mtl_outside_its_region_in_either_precision(start_steps):
    """Constraints are differences of gradients: they cancel near a stationary point and where gradients are alike."""
    for kind in KINDS:
        if kind == "scaled":
            continue
        for seed in range(20):
            G = jacobian(kind, seed).float().double()
            losses = torch.rand(len(G), generator=torch.manual_seed(seed)) + 0.1
            method = ParetoMTL(start_steps=start_steps)
            one, other = (weigh(method, rounded(G, dtype), losses) for dtype in DTYPES)
            assert ((one - other) @ G).norm() <= 5e-3 * size(other, G), (kind, seed)


def test_divisors_that_overflow_the_precision_of_the_gramian():
    B = torch.diag(torch.tensor([1e-30, 1.0, 1e30]))
    assert weigh(MGDA("l2"), B).tolist() == pytest.approx([1.0, 1.0, 1.0])
    losses = torch.tensor([1e-20, 1.0, 1e20])
    assert weigh(MGDA("loss"), B * 1e-5, losses).sum() == pytest.approx(3)
