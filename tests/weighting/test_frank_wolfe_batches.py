"""The minimum-norm solver on batches, devices, dtypes and strides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from tests.weighting.min_norm_problems import KINDS, assert_on_simplex, assert_optimal, gram, rows

# --- batches, devices, dtypes ------------------------------------------------------------------------------------


def mixed_batch(T: int) -> Tensor:
    return torch.stack([gram(rows(kind, T, seed)) for kind in KINDS for seed in range(4)])


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


@pytest.mark.parametrize("T", [2, 3, 4, 5, 9, 16, 17])
@pytest.mark.parametrize("start", [False, True])
def test_a_batch_is_its_problems(T: int, start: bool) -> None:
    B = mixed_batch(T).reshape(len(KINDS), 4, T, T)
    guess = torch.rand(len(KINDS), 4, T, generator=torch.Generator().manual_seed(T)) if start else None
    batch = frank_wolfe(B, start=guess)
    assert batch.weights.shape == (len(KINDS), 4, T)
    assert batch.gap.shape == batch.iterations.shape == (len(KINDS), 4)
    assert batch.iterations.dtype == torch.int64
    guesses = [None] * 60 if guess is None else list(guess.flatten(0, 1))
    alone = [frank_wolfe(one, start=first) for one, first in zip(B.flatten(0, 1), guesses, strict=True)]
    assert_same_solution(B.flatten(0, 1), batch.weights.flatten(0, 1), torch.stack([one.weights for one in alone]))
    assert (batch.gap < 1e-12).all()
    assert all(one.gap < 1e-12 for one in alone)


@pytest.mark.parametrize("T", [2, 3, 5, 17])
def test_a_batch_of_algorithm_2_is_its_problems(T: int) -> None:
    B = mixed_batch(T)
    batch = frank_wolfe(B, solver="paper")
    for i in range(len(B)):
        single = frank_wolfe(B[i], solver="paper")
        torch.testing.assert_close(batch.weights[i], single.weights, rtol=1e-9, atol=1e-12)
        assert batch.iterations[i] == single.iterations


@pytest.mark.parametrize("T", [2, 3, 4, 5, 7, 14, 33])
def test_neighbours_and_position_do_not_change_a_bit(T: int) -> None:
    B = torch.cat([mixed_batch(T), *(torch.stack([gram(rows(k, T, s)) for s in range(47)]) for k in KINDS[:13:2])])
    order = torch.randperm(len(B), generator=torch.Generator().manual_seed(T))
    everything = frank_wolfe(B).weights
    assert torch.equal(frank_wolfe(B[order]).weights, everything[order])
    for first, last in ((0, 2), (1, 8), (100, 103), (201, len(B))):
        assert torch.equal(frank_wolfe(B[first:last]).weights, everything[first:last])


@pytest.mark.parametrize("T", [2, 3, 4, 9, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_rows_share_equally(T: int, dtype: torch.dtype) -> None:
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


@pytest.mark.parametrize("T", [1, 2, 3, 9, 17])
def test_the_unsynchronised_loop_gives_the_same(T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    B = mixed_batch(T)
    eager = frank_wolfe(B)
    warm = frank_wolfe(B, start=eager.weights)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for result in (frank_wolfe(B), frank_wolfe(B, start=eager.weights)):
        assert_same_solution(B, result.weights, eager.weights)
        assert (result.gap < 1e-12).all()
    assert_same_solution(B, warm.weights, eager.weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [1e-2, 1e-6])
def test_good_enough_is_good_enough_and_saves_solves(kind: str, gap: float) -> None:
    for T in (2, 5, 30):
        B = torch.stack([gram(rows(kind, T, seed)) for seed in range(5)])
        for result, exact in (
            (frank_wolfe(B, gap=gap), frank_wolfe(B)),
            *((frank_wolfe(one, gap=gap), frank_wolfe(one)) for one in B),
        ):
            assert (result.gap <= gap).all()
            assert (result.iterations <= exact.iterations).all()


@pytest.mark.parametrize("device", ["cuda", "cpu", "meta"])
@pytest.mark.parametrize("solver", ["exact", "paper"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 5), (3, 2, 4, 4)])
def test_it_traces_without_data(device: str, solver: str, shape: tuple[int, ...]) -> None:
    with FakeTensorMode():
        B = torch.empty(*shape, device=device)
        for start in (None, torch.empty(shape[:-1], device=device)):
            result = frank_wolfe(B, solver=solver, start=start)  # type: ignore[arg-type]
            assert result.weights.shape == shape[:-1]
            assert result.gap.shape == result.iterations.shape == shape[:-2]
            assert result.weights.device.type == device


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_dtype_comes_back_as_it_came(dtype: torch.dtype) -> None:
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
        torch.testing.assert_close(frank_wolfe(view).weights, expected, rtol=1e-9, atol=1e-12)


def test_an_empty_batch_is_a_batch() -> None:
    assert frank_wolfe(torch.zeros(0, 3, 3)).weights.shape == (0, 3)


def test_the_weights_are_constants_and_the_gram_is_left_alone() -> None:
    B = gram(rows("ordinary", 4, 0)).requires_grad_()
    before = B.detach().clone()
    assert not frank_wolfe(B).weights.requires_grad
    assert torch.equal(B.detach(), before)
