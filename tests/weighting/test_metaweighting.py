"""MetaWeighting as a pure map from D to weights: options, properties, mistakes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.weighting import WEIGHTINGS, MetaWeighting, Uniform, project_simplex

CPU = torch.device("cpu")
matrices = st.integers(1, 6).flatmap(
    lambda t: st.lists(
        st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=t, max_size=t), min_size=t, max_size=t
    )
)


def learn(method, D):
    state, outer = method.learn(method.init(len(D), CPU), torch.tensor(D, dtype=torch.float64))
    return state["weights"], outer


@given(matrices)
def test_direction_descends_on_every_task(D):
    """Theorem 1: moving against d_c raises no task's query loss: <d_t, d_c> >= ||d_c||^2."""
    weights, outer = learn(MetaWeighting(alpha=0.5), D)
    products = torch.tensor(D, dtype=torch.float64) @ outer.direction
    scale = float(torch.tensor(D, dtype=torch.float64).square().sum())
    assert (products >= outer.direction.square().sum() - 1e-9 * scale).all()
    assert torch.allclose(weights, 1 - 0.5 * outer.direction)


def test_a_task_whose_query_nobody_changes_gets_all_of_lambda():
    weights, outer = learn(MetaWeighting(), [[0.0, 0.0], [-1.0, -1.0]])
    assert outer.lam.tolist() == [1.0, 0.0]
    assert weights.tolist() == [1.0, 1.0]


def test_constraints():
    D = [[10.0, -1.0], [10.0, -1.0]]
    assert learn(MetaWeighting(alpha=1.0), D)[0].tolist() == pytest.approx([-9.0, 2.0])
    assert learn(MetaWeighting(alpha=1.0, constraint="nonnegative"), D)[0].tolist() == pytest.approx([0.0, 2.0])
    assert learn(MetaWeighting(alpha=1.0, constraint="simplex"), D)[0].tolist() == pytest.approx([0.0, 2.0])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(0.1, 20))
def test_simplex_projection_is_the_nearest_point(values, total):
    point = torch.tensor(values, dtype=torch.float64)
    projected = project_simplex(point, total)
    assert (projected >= 0).all()
    assert float(projected.sum()) == pytest.approx(total, rel=1e-9, abs=1e-9)
    # optimality: moving towards any vertex does not bring it closer
    for vertex in torch.eye(len(values), dtype=torch.float64) * total:
        assert float((vertex - projected) @ (projected - point)) >= -1e-7 * (1 + total) * (1 + float(point.abs().max()))


def test_uniform_has_no_outer_problem():
    with pytest.raises(ConfigError, match="no outer problem"):
        Uniform().learn(Uniform().init(2, CPU), torch.eye(2))


def test_registry():
    assert WEIGHTINGS["metaweighting"] is MetaWeighting
    with pytest.raises(ConfigError, match="did you mean 'metaweighting'"):
        WEIGHTINGS["metawieghting"]


def test_weights_keep_the_paper_scale():
    """Steps of 1e-8 add up: the state is kept in float64 where the device has it."""
    method = MetaWeighting(alpha=1.0)
    state = method.init(1, CPU)
    for _ in range(100):
        state, _ = method.learn(state, torch.full((1, 1), -1e-8))
    assert float(state["weights"][0] - 1) == pytest.approx(1e-6, rel=1e-4)


@given(matrices, matrices)
def test_the_lambda_before_is_where_the_solver_starts_not_where_it_ends(before, D):
    """The state carries lambda; whatever it was, the direction that is found is that of a cold start."""
    if len(before) != len(D):
        return
    method = MetaWeighting()
    state, _ = method.learn(method.init(len(D), CPU), torch.tensor(before, dtype=torch.float64))
    after, outer = method.learn(state, torch.tensor(D, dtype=torch.float64))
    assert torch.equal(after["lam"], outer.lam)
    scale = 1 + float(torch.tensor(D).abs().max())
    assert torch.allclose(outer.direction, learn(method, D)[1].direction, atol=1e-4 * scale)
