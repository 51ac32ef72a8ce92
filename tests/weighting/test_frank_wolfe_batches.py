"""The minimum-norm solver on batches, devices, dtypes and strides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from tests.weighting.min_norm_problems import KINDS, assert_on_simplex, assert_optimal, gram, rows


def mixed_batch(T: int) -> Tensor:
    return torch.stack([gram(rows(kind, T, seed)) for kind in KINDS for seed in range(2)])


def assert_same_solution(B: Tensor, first: Tensor, second: Tensor) -> None:
    """Equal weights where the minimiser is unique and well determined, an optimum each where it is not."""
    for problem, one, two in zip(B, first, second, strict=True):
        s = problem.diagonal().sqrt()
        cosines = problem / s / s[:, None]
        if cosines.isfinite().all() and torch.linalg.eigvalsh(cosines)[0] > 1e-4:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)
        for lam in (one, two):
            assert_on_simplex(lam)
            assert_optimal(problem, lam)


@pytest.mark.parametrize("start", [False, True])
def test_a_batch_is_its_problems(start: bool) -> None:
    """The masked route beside the one that looks at its single problem."""
    for T in (1, 2, 3, 5, 17):
        B = mixed_batch(T).reshape(len(KINDS), 2, T, T)
        guess = torch.rand(len(KINDS), 2, T, generator=torch.Generator().manual_seed(T)) if start else None
        batch = frank_wolfe(B, start=guess)
        assert batch.weights.shape == (len(KINDS), 2, T)
        assert batch.gap.shape == batch.iterations.shape == (len(KINDS), 2)
        assert batch.iterations.dtype == torch.int64
        guesses = [None] * len(KINDS) * 2 if guess is None else list(guess.flatten(0, 1))
        alone = [frank_wolfe(one, start=first) for one, first in zip(B.flatten(0, 1), guesses, strict=True)]
        assert_same_solution(B.flatten(0, 1), batch.weights.flatten(0, 1), torch.stack([one.weights for one in alone]))
        assert (batch.gap < 1e-12).all()
        assert all(one.gap < 1e-12 for one in alone)


def test_a_batch_of_algorithm_2_is_its_problems() -> None:
    for T in (2, 3, 17):
        B = mixed_batch(T)
        batch = frank_wolfe(B, solver="paper")
        for i in range(len(B)):
            single = frank_wolfe(B[i], solver="paper")
            torch.testing.assert_close(batch.weights[i], single.weights, rtol=1e-9, atol=1e-12)
            assert batch.iterations[i] == single.iterations


def test_neighbours_and_position_do_not_matter() -> None:
    for T in (2, 3, 14):
        B = mixed_batch(T)
        order = torch.randperm(len(B), generator=torch.Generator().manual_seed(T))
        everything = frank_wolfe(B).weights
        assert_same_solution(B[order], frank_wolfe(B[order]).weights, everything[order])
        assert_same_solution(B[1:8], frank_wolfe(B[1:8]).weights, everything[1:8])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_rows_share_equally(dtype: torch.dtype) -> None:
    for T in (2, 3, 9, 20):
        row = torch.randn(1, 5, generator=torch.Generator().manual_seed(T), dtype=dtype)
        for problem in (gram(row.expand(T, 5)), torch.ones(T, T, dtype=dtype)):
            for B in (problem, problem.expand(3, T, T)):
                weights = frank_wolfe(B).weights
                torch.testing.assert_close(weights, torch.full_like(weights, 1 / T), rtol=0.02, atol=0)
        # a copy of every row of a problem with a unique solution
        D = rows("ordinary", T, 1)
        weights = frank_wolfe(gram(torch.cat([D, D]))).weights
        torch.testing.assert_close(weights[:T], weights[T:], rtol=0.02, atol=1e-9)


def test_a_broken_neighbour_harms_nobody_and_is_seen() -> None:
    B = mixed_batch(6)
    clean = frank_wolfe(B)
    for value in (torch.nan, torch.inf, -torch.inf):
        for place in ((0, 0), (1, 2)):
            broken = B.clone()
            broken[7][place] = value
            result = frank_wolfe(broken)
            assert_on_simplex(result.weights)
            assert not result.gap[7].isfinite()
            others = torch.arange(len(B)) != 7
            torch.testing.assert_close(result.weights[others], clean.weights[others], rtol=0, atol=0)
    for T in (1, 2, 3):
        result = frank_wolfe(torch.full((T, T), torch.nan))
        assert result.weights.tolist() == pytest.approx([1 / T] * T)
        assert result.gap.isnan()


def test_a_good_start_serves_the_masked_route_too() -> None:
    B = mixed_batch(9)
    cold = frank_wolfe(B)
    warm = frank_wolfe(B, start=cold.weights)
    assert_same_solution(B, warm.weights, cold.weights)
    assert (warm.gap < 1e-12).all()


@pytest.mark.parametrize("gap", [1e-2, 1e-6])
def test_good_enough_is_good_enough_and_saves_solves(gap: float) -> None:
    for kind in KINDS:
        for T in (2, 5, 30):
            for seed in range(3):
                B = gram(rows(kind, T, seed))
                result, exact = frank_wolfe(B, gap=gap), frank_wolfe(B)
                assert result.gap <= gap
                assert result.iterations <= exact.iterations


@pytest.mark.parametrize("solver", ["exact", "paper"])
def test_it_traces_without_data(solver: str) -> None:
    for device in ("cuda", "cpu", "meta"):
        for shape in ((1, 1), (2, 2), (5, 5), (3, 2, 4, 4)):
            with FakeTensorMode():
                B = torch.empty(*shape, device=device)
                # a start changes what is traced alike for every shape
                for start in (None, torch.empty(shape[:-1], device=device))[: 2 if len(shape) > 2 else 1]:
                    # pivots and two interior steps: all that there is to trace, a few times less often
                    result = frank_wolfe(B, solver=solver, start=start, max_iterations=14)
                    assert result.weights.shape == shape[:-1]
                    assert result.gap.shape == result.iterations.shape == shape[:-2]
                    assert result.weights.device.type == device


def test_every_floating_dtype_comes_back_as_it_came() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for kind in ("ordinary", "biased", "low rank", "opposed", "duplicated", "zero row"):
            for T in (2, 4, 14):
                B = gram(rows(kind, T, 2)).to(dtype)
                result = frank_wolfe(B)
                assert result.weights.dtype == result.gap.dtype == dtype
                weights = result.weights.double()
                assert (weights >= 0).all()
                assert weights.sum().item() == pytest.approx(1, abs=2 * torch.finfo(dtype).eps)
                assert result.gap <= 20 * torch.finfo(dtype).eps


def test_single_precision_grams_of_badly_scaled_rows() -> None:
    for seed in range(30):
        D = rows("low rank, scaled", 10, seed).float()
        result = frank_wolfe(gram(D))
        assert_on_simplex(result.weights)
        assert result.gap < 1e-6


def test_strides_do_not_matter() -> None:
    B = mixed_batch(4)
    strided = torch.empty(len(B), 4, 8, dtype=B.dtype)[..., ::2].copy_(B)
    reordered = B.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    expected = frank_wolfe(B).weights
    for view in (strided, reordered, B.mT):
        assert not view.is_contiguous()
        assert_same_solution(B, frank_wolfe(view).weights, expected)


def test_an_empty_batch_is_a_batch() -> None:
    assert frank_wolfe(torch.zeros(0, 3, 3)).weights.shape == (0, 3)


def test_the_weights_are_constants_and_the_gram_is_left_alone() -> None:
    B = gram(rows("ordinary", 4, 0)).requires_grad_()
    before = B.detach().clone()
    assert not frank_wolfe(B).weights.requires_grad
    assert torch.equal(B.detach(), before)
