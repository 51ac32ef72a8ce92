"""Absent tasks: what every method does for those that are present, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.weighting import (
    DTP,
    DWA,
    EPO,
    WEIGHTINGS,
    BanditMTL,
    Fixed,
    GradNorm,
    MetaWeighting,
    MultiDDS,
    ParetoMTL,
    Signals,
    Tchebycheff,
    Uncertainty,
    Weighting,
)
from lossrag.weighting.methods.torchjd import PCD, GradVac, Krum
from lossrag.weighting.state.presence import learn_present, reordered, weigh_present
from tests.weighting import test_properties as listed
from tests.weighting.properties import CPU, STEPS, Inputs, T, make, start

METHODS = {name: promises.method for name, promises in listed.METHODS.items()}
METHODS |= {name: cls() for name, cls in WEIGHTINGS.items() if name.startswith("torchjd/")}
METHODS |= {
    "torchjd/pcd, far": PCD(tau=0.5, beta=0.5),
    "torchjd/gradvac, fast": GradVac(beta=1.0),
    "fixed, with zeros": Fixed([0.0, 1.0, 0.0, 2.0, 1.0]),
}
EVERYONE = [True] * T
INPUTS = make(3)


def without(inputs: Inputs, s: int, present, outer) -> tuple[Signals, torch.Tensor]:
    """The signals and D of step s, in which what is said of absent tasks is not a number."""
    signals, D = inputs.signals(s), inputs.hypergradient(s).clone()
    gone, unasked = ~torch.tensor(present), ~torch.tensor(outer)
    B = signals.gramian.clone()
    B[gone], B[:, gone], D[:, gone], D[unasked] = [torch.nan] * 4
    nan = torch.full((len(present),), torch.nan, dtype=torch.float64)
    kept = {name: torch.where(gone, nan, getattr(signals, name)) for name in ("losses", "scores")}
    return replace(signals, gramian=B, representation=B, **kept), D


def advance(method: Weighting, state, s: int, present=EVERYONE, outer=None, inputs: Inputs = INPUTS):
    """The weights of step s, the state after it, and the outer result or None."""
    outer = present if outer is None else outer
    signals, D = without(inputs, s, present, outer)
    weights, state = weigh_present(method, state, signals, present)
    if method.needs.hypergradient is None:
        return weights, state, None
    return weights, *learn_present(method, state, D, outer, present)


def mask(*absent: int) -> list[bool]:
    return [t not in absent for t in range(T)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("absent", [(0,), (2,), (1, 4), (0, 1, 2, 3)], ids=str)
def test_absent_for_ever(name, absent):
    """The others get what a run without the task gives them; the weight and the memory of the task stay to the bit."""
    method, present = METHODS[name], mask(*absent)
    kept = [t for t in range(T) if present[t]]
    alone, inputs = method.among(kept, T), INPUTS.reordered(kept)
    few = isinstance(method, Krum) and len(kept) < method.least
    start(method, T)
    # Krum refuses to be made for so few
    initial, expected = method.init(T, CPU), {} if few else alone.init(len(kept), CPU)
    state = initial
    for s in range(STEPS):
        torch.manual_seed(s)  # of torchjd's random orders
        weights, state, outer = advance(method, state, s, present, inputs=INPUTS)
        for key, value in state.items():
            if value.ndim:
                assert torch.equal(value[list(absent)], initial[key][list(absent)]), key
        assert torch.equal(weights[list(absent)], initial["weights"][list(absent)])
        if few:
            assert weights[kept].tolist() == [1.0] * len(kept)
            continue
        torch.manual_seed(s)
        wanted, expected = alone.weigh(expected, inputs.signals(s))
        if outer is not None:
            expected, result = alone.learn(expected, inputs.hypergradient(s))
            torch.testing.assert_close(outer.lam[kept], result.lam)
            torch.testing.assert_close(outer.direction[kept], result.direction)
            assert outer.lam[list(absent)].tolist() == outer.direction[list(absent)].tolist() == [0.0] * len(absent)
        torch.testing.assert_close(weights[kept], wanted, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(state["weights"][kept], expected["weights"], rtol=1e-6, atol=1e-9)


SEPARABLE = [
    *("uniform", "single_task", "fixed", "uncertainty", "uncertainty, of both kinds", "dtp, paper"),
    "fixed, with zeros",
]


@pytest.mark.parametrize("name", SEPARABLE)
def test_absent_once_where_tasks_do_not_know_of_each_other(name):
    """Task 2 is absent from the third step: the others do what they do where it never was, and what they do where it
    always was; it goes on from where it stopped."""
    method, kept = METHODS[name], [0, 1, 3, 4]
    alone, inputs = method.among(kept, T), INPUTS.reordered(kept)
    state, full, few = method.init(T, CPU), method.init(T, CPU), alone.init(4, CPU)
    for s in range(STEPS):
        weights, state, _ = advance(method, state, s, mask(2) if s == 2 else EVERYONE)
        always, full = method.weigh(full, INPUTS.signals(s))
        never, few = alone.weigh(few, inputs.signals(s))
        if name != "single_task":  # T times (1/T): its weights are the number of tasks
            torch.testing.assert_close(weights[kept], never, rtol=1e-6, atol=0)
            torch.testing.assert_close(weights[kept], always[kept], rtol=1e-6, atol=0)
    again = method.init(T, CPU)
    for s in range(STEPS):
        again = again if s == 2 else method.weigh(again, INPUTS.signals(s))[1]
    torch.testing.assert_close(state["weights"][2], again["weights"][2])


@given(
    name=st.sampled_from(sorted(METHODS)),
    masks=st.lists(st.tuples(*[st.lists(st.booleans(), min_size=T, max_size=T)] * 2), min_size=STEPS, max_size=STEPS),
)
@settings(max_examples=250, deadline=None)
def test_random_sequences(name, masks):
    method = METHODS[name]
    state = start(method, T)
    for s, (present, outer) in enumerate(masks):
        before = {key: value.clone() for key, value in state.items()}
        weights, state, result = advance(method, state, s, present, outer)
        assert {key: (v.shape, v.dtype) for key, v in state.items()} == {
            key: (v.shape, v.dtype) for key, v in before.items()
        }
        gone = [t for t in range(T) if not present[t]]
        assert weights.isfinite().all()
        assert torch.equal(weights[gone], before["weights"][gone])
        for key, value in state.items():
            assert value.isfinite().all(), key
            left = [t for t in range(T) if not outer[t] or not any(present)] if key in method.outer_state else gone
            assert value.ndim == 0 or torch.equal(value[left], before[key][left]), key
        assert result is None or result.lam.isfinite().all()
    if isinstance(method, GradNorm) or getattr(method, "constraint", "") == "simplex":
        assert float(state["weights"].sum()) == pytest.approx(T)
    if isinstance(method, BanditMTL):
        assert float(state["log_p"].logsumexp(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_all_and_none(name):
    method = METHODS[name]
    state = start(method, T)
    torch.manual_seed(1)
    weights, after, _ = advance(method, state, 0)
    torch.manual_seed(1)
    plain, expected = method.weigh(state, INPUTS.signals(0))
    if method.needs.hypergradient is not None:
        expected, _ = method.learn(expected, INPUTS.hypergradient(0))
    assert torch.equal(weights, plain)
    assert all(torch.equal(after[key], expected[key]) for key in expected)
    weights, same, outer = advance(method, after, 1, [False] * T)
    assert torch.equal(weights, after["weights"])
    assert all(torch.equal(same[key], after[key]) for key in after)
    assert outer is None or not outer.lam.any()


@pytest.mark.parametrize("name", [name for name, promises in listed.METHODS.items() if promises.blind])
def test_nothing_is_read_from_the_device(name):
    method, meta = METHODS[name], torch.device("meta")
    signals = INPUTS.signals(0)
    blank = replace(signals, **{k: v.to("meta") for k, v in vars(signals).items() if isinstance(v, torch.Tensor)})
    weights, state = weigh_present(method, method.init(T, meta), blank, mask(1, 3))
    if method.needs.hypergradient is not None:
        D = INPUTS.hypergradient(0).to("meta")
        state, outer = learn_present(method, state, D, mask(0), mask(1, 3))
        assert outer.lam.device.type == "meta"
    assert weights.shape == (T,)
    assert all(value.device.type == "meta" for value in state.values())


# --- the outer problem ---------------------------------------------------------------------------------------------


def test_absent_from_the_query_the_others_still_learn():
    method = MetaWeighting(alpha=0.5)
    D = INPUTS.hypergradient(0)
    state, outer = learn_present(method, method.init(T, CPU), D, mask(2), EVERYONE)
    rows = D[mask(2)]
    lam = outer.lam[mask(2)]
    torch.testing.assert_close(outer.direction, lam @ rows)
    torch.testing.assert_close(state["weights"], 1 - 0.5 * lam @ rows)  # that of task 2 too: it had a support loss
    assert state["lam"][2] == 0.2
    products = rows @ outer.direction
    assert (products >= products.min().clamp(min=0) - 1e-12).all()
    assert outer.direction @ outer.direction == pytest.approx(float(products.min()))


def test_absent_from_the_support_a_task_is_still_asked_for():
    method = MetaWeighting(alpha=0.5)
    D = INPUTS.hypergradient(0).clone()
    D[:, 2] = torch.nan
    state, outer = learn_present(method, method.init(T, CPU), D, EVERYONE, mask(2))
    part, result = method.learn(method.init(T, CPU) | {"weights": torch.ones(4, dtype=torch.float64)}, D[:, mask(2)])
    torch.testing.assert_close(outer.lam, result.lam)
    torch.testing.assert_close(state["weights"][mask(2)], part["weights"])
    assert state["weights"][2] == 1
    assert outer.direction[2] == 0


def test_an_outer_problem_over_one_task():
    D = INPUTS.hypergradient(0)
    for method in (MetaWeighting(alpha=0.1), MultiDDS(reward="inner")):
        _, state = method.weigh(method.init(T, CPU), INPUTS.signals(0))
        _, outer = learn_present(method, state, D, mask(0, 1, 2, 4), EVERYONE)
        assert outer.lam.tolist() == [0, 0, 0, 1, 0]
        torch.testing.assert_close(outer.direction, D[3])


# --- methods with a memory of their own ------------------------------------------------------------------------------


def test_the_share_of_an_absent_task_is_not_given_away():
    """How a task of a bandit stands to the others, on the whole, does not change by its being absent."""
    method = BanditMTL(eta_p=0.5)
    signals = Signals(torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64))
    _, state = method.weigh(method.init(3, CPU), signals)
    third = state["log_p"][2].exp()
    weights, after = weigh_present(method, state, signals, [True, True, False])
    p = state["log_p"][:2].exp()
    torch.testing.assert_close(weights[:2], 2 * p / p.sum())
    torch.testing.assert_close(after["log_p"].exp().sum(), torch.ones((), dtype=torch.float64))
    back, _ = method.weigh(after, signals)
    torch.testing.assert_close(back[2], 3 * third)


def test_averages_count_the_steps_of_each_task():
    method = DWA(temperature=1.0)
    state = method.init(2, CPU)
    losses = [[4.0, 2.0], [2.0, 9.0], [3.0, 1.0], [1.0, 9.0], [1.0, 1.0]]  # 9: absent
    for s, (values, epoch) in enumerate(zip(losses, [0, 0, 1, 1, 2], strict=True)):
        signals = Signals(torch.tensor(values, dtype=torch.float64), epoch=epoch)
        weights, state = weigh_present(method, state, signals, [True, s not in (1, 3)])
    # means 3 and 2, 2 and 1: ratios 2/3 and 1/2
    share = torch.softmax(torch.tensor([2 / 3, 1 / 2], dtype=torch.float64), dim=0)
    torch.testing.assert_close(weights, 2 * share)


def test_a_task_that_comes_late_starts_then():
    scores = torch.tensor([0.5, 0.9], dtype=torch.float64)
    state = DTP().init(2, CPU)
    for present in ([True, False], [True, True]):
        _, state = weigh_present(DTP(), state, Signals(torch.ones(2), scores=scores), present)
    assert state["kappa"].tolist() == [0.5, 0.9]
    method = DWA()
    state = method.init(2, CPU)
    for epoch in range(4):
        signals = Signals(torch.tensor([0.5**epoch, 1.0], dtype=torch.float64), epoch=epoch)
        weights, state = weigh_present(method, state, signals, [True, epoch == 3])
    assert weights[1] > weights[0]  # ratios 1, as nothing is known, and 1/2


def test_mean_squares_of_an_absent_task_do_not_shrink():
    method = PCD(beta=0.9)
    B = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    state = method.init(3, CPU)
    for present in ([True, True, False], [True, False, True], [True, True, True]):
        _, state = weigh_present(method, state, Signals(torch.ones(3), B), present)
        B = B * 2
    # 4 and 16 at two of three steps: (0.9 * 4 (1 - 0.9^2) + 0.1 * 16) / (1 - 0.9^3); and 18 and 36
    first, third = (0.9 * m * 0.19 + 0.1 * new for m, new in ((4.0, 16.0), (18.0, 36.0)))
    assert state["squares"][1:].tolist() == pytest.approx([first / 0.271, third / 0.271])


def test_moments_do_not_know_the_number_of_tasks():
    method, one = Uncertainty(lr=0.1), Uncertainty(lr=0.1).init(1, CPU)
    three = method.init(3, CPU)
    for loss in (2.0, 1.0, 3.0):
        _, one = method.weigh(one, Signals(torch.tensor([loss])))
        _, three = method.weigh(three, Signals(torch.full((3,), loss)))
    assert torch.equal(three["weights"], one["weights"].expand(3))


def test_what_a_step_of_tasks_that_weigh_nothing_gets():
    method = Fixed([0.0, 1.0, 0.0])
    weights, _ = weigh_present(method, method.init(3, CPU), Signals(torch.ones(3)), [True, False, True])
    assert weights.tolist() == [0.0, 1.0, 0.0]


# --- options and orders ----------------------------------------------------------------------------------------------


def test_options_of_the_tasks_that_are_kept():
    kept = [2, 0]
    assert EPO([1.0, 2.0, 3.0]).among(kept, 3) == EPO([3.0, 1.0])
    assert Tchebycheff(0.5, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]).among(kept, 3) == Tchebycheff(0.5, [3.0, 1.0], [0.3, 0.1])
    assert Uncertainty(["regression"]).among(kept, 3) == Uncertainty(["regression"])
    assert Fixed([1.0, 2.0, 3.0]).among(kept, 3) == Fixed([3.0, 1.0])
    sided = ParetoMTL([0.0, 1.0, 0.0], [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert sided.among(kept, 3) == ParetoMTL([], [[2.0, 1.0]])
    # a vector that says nothing about them bounds nothing, and does not fall back to those of no option
    alone = ParetoMTL([1.0, 2.0, 3.0], [[0.0, 1.0, 0.0]]).among(kept, 3)
    assert len(alone.constraints(torch.ones(2, dtype=torch.float64))) == 0


def test_a_state_in_another_order_continues_alike():
    order = [3, 0, 4, 1, 2]
    for name in ("gradnorm", "dwa", "metaweighting", "epo, one side", "fixed", "torchjd/gradvac", "multi_dds"):
        method = METHODS[name]
        _, state, _ = advance(method, start(method, T), 0)
        moved = reordered(state, order)
        _, one, _ = advance(method, state, 1)
        _, other, _ = advance(method.among(order, T), moved, 1, inputs=INPUTS.reordered(order))
        if name != "torchjd/gradvac":  # in a random order
            torch.testing.assert_close(other["weights"], one["weights"][order], rtol=1e-6, atol=1e-9)
    assert torch.equal(reordered(state, order)["psi"], state["psi"][order])
    cosines = torch.arange(25.0).view(5, 5)
    assert reordered({"cosines": cosines}, order)["cosines"][0, 1] == cosines[3, 0]
