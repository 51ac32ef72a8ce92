"""Algorithm 2 in plain iterations, its cap, and what the solver refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossrag import ConfigError
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from tests.weighting.min_norm_problems import KINDS, assert_on_simplex, gram, rows

# --- Algorithm 2 -------------------------------------------------------------------------------------------------


def test_paper_solver_is_algorithm_2_in_a_plain_loop() -> None:
    B = gram(rows("biased", 7, 1))
    for steps in (1, 2, 10, 100):
        lam = torch.full((7,), 1 / 7, dtype=torch.float64)
        for _ in range(steps):
            direction = torch.eye(7, dtype=torch.float64)[(B @ lam).argmin()] - lam
            gamma = (-(direction @ B @ lam) / (direction @ B @ direction)).clamp(0, 1)
            lam = lam + gamma * direction
        result = frank_wolfe(B, solver="paper", max_iterations=steps)
        torch.testing.assert_close(result.weights, lam)
        assert result.iterations == steps


def test_paper_solver_takes_100_steps_and_can_be_far_from_the_optimum() -> None:
    D = rows("low rank", 14, 1)
    paper, exact = frank_wolfe(gram(D), solver="paper"), frank_wolfe(gram(D))
    assert paper.iterations == 100
    assert paper.gap > 1e-4
    assert exact.gap < 1e-12


def test_paper_solver_survives_degenerate_problems() -> None:
    for kind in KINDS:
        assert_on_simplex(frank_wolfe(gram(rows(kind, 6, 0)), solver="paper").weights)


# --- options and errors ------------------------------------------------------------------------------------------


def test_the_cap_is_kept_and_the_gap_tells() -> None:
    B = gram(rows("low rank", 30, 0))
    for cap in (1, 2, 13, 14):
        result = frank_wolfe(B, max_iterations=cap)
        assert result.iterations <= cap
        assert_on_simplex(result.weights)
    assert frank_wolfe(B, max_iterations=1).gap > frank_wolfe(B).gap


@pytest.mark.parametrize(
    ("gram_", "options", "message"),
    [
        (torch.zeros(3), {}, r"shape \(\.\.\., T, T\).*got \(3,\)"),
        (torch.zeros(3, 2), {}, r"got \(3, 2\): pass inner products"),
        (torch.zeros(0, 0), {}, r"T >= 1, got \(0, 0\)"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, r"got torch.int64: convert"),
        (torch.zeros(2, 2), {"solver": "exat"}, r"solver='exat'.*did you mean 'exact'"),
        (torch.zeros(2, 2), {"max_iterations": 0}, "at least 1 or None, got 0"),
        (torch.zeros(2, 2), {"tolerance": 0.0}, "between 0 and 1, got 0.0"),
        (torch.zeros(2, 2), {"tolerance": float("nan")}, "between 0 and 1, got nan"),
        (torch.zeros(2, 2), {"gap": -1.0}, "gap must be 0 or more, got -1.0"),
        (torch.zeros(4, 3, 3), {"start": torch.ones(3)}, r"start of shape \(4, 3\).*got \(3,\)"),
    ],
)
def test_errors_say_what_was_expected(gram_: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frank_wolfe(gram_, **options)  # type: ignore[arg-type]
