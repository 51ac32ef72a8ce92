"""The minimum-norm solver against hand-derived values, an exact rational reference, and its own certificate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lossrag import ConfigError
from weighting import min_norm
from weighting.solvers import frank_wolfe

Matrix = list[list[Fraction]]
KINDS = (
    "ordinary",
    "wide",
    "biased",
    "scaled",
    "low rank",
    "low rank, biased",
    "low rank, scaled",
    "duplicated",
    "opposed",
    "opposed, scaled",
    "zero row",
    "zero",
    "near parallel",
    "non-negative",
    "hypergradient",
)


def rows(kind: str, T: int, seed: int) -> Tensor:
    """D (T, d) float64 of one kind of trouble."""
    generator = torch.Generator().manual_seed(1000 * seed + T)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d = max(1, T // 2) if kind.startswith("low rank") else 20 * T if kind == "wide" else 2 * T
    D = normal(T, d)
    if "biased" in kind:
        D += 2 * normal(d)
    if kind == "duplicated":
        D = D[: (T + 1) // 2].repeat(2, 1)[:T]
    if kind.startswith("opposed") and T > 1:
        D[1] = -D[0]
    if "scaled" in kind:
        D *= 10 ** (12 * torch.rand(T, 1, generator=generator, dtype=torch.float64) - 6)
    if kind == "zero row":
        D[T // 2] = 0
    if kind == "zero":
        D *= 0
    if kind == "near parallel":
        D = 0.01 * D + normal(d)
    if kind == "non-negative":
        D.clamp_(min=0)
    if kind == "hypergradient":
        D = 3 * torch.eye(T, dtype=torch.float64) + normal(T, T) / 2 + normal(T, 1) * normal(T)
    return D


def gram(D: Tensor) -> Tensor:
    return D @ D.mT


def assert_on_simplex(weights: Tensor) -> None:
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def assert_optimal(B: Tensor, lam: Tensor) -> None:
    """(B lam)_i >= f for every i: to 1e-9 of f itself, or as closely as float64 can know (B lam)_i."""
    q = B @ lam
    s = B.diagonal().sqrt()
    f = lam @ q
    assert ((f - q) <= 1e-9 * f + 1e-12 * s * (s @ lam)).all()


# --- by hand -----------------------------------------------------------------------------------------------------


def test_two_rows_have_the_closed_form() -> None:
    # d/d lam |lam g + (1 - lam) h|^2 = 0 at lam = <h, h - g> / |h - g|^2, cut off at 0 and 1.
    # g = (1, 0), h = (1, 2), h - g = (0, 2): lam = 4 / 4. g = (2, 0), h = (-1, 1), h - g = (-3, 1): lam = 4 / 10.
    assert frank_wolfe(gram(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))).weights.tolist() == [1.0, 0.0]
    lam = frank_wolfe(gram(torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64))).weights
    torch.testing.assert_close(lam, torch.tensor([0.4, 0.6], dtype=torch.float64))


def test_orthogonal_rows_weigh_one_over_their_square() -> None:
    # lam_i |g_i|^2 must be the same for all i: (1, 1/4, 1/16) / (21/16).
    lam = frank_wolfe(torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64).diag()).weights
    torch.testing.assert_close(lam, torch.tensor([16.0, 4.0, 1.0], dtype=torch.float64) / 21)


def test_a_row_that_only_hurts_gets_exactly_zero() -> None:
    # (5, 5) lies behind the segment from (1, 0) to (0, 1), whose middle is the nearest point to the origin.
    lam = frank_wolfe(gram(torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]], dtype=torch.float64))).weights
    torch.testing.assert_close(lam, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert lam[2] == 0


def test_opposed_rows_cancel() -> None:
    D = torch.tensor([[3.0, 1.0], [-6.0, -2.0], [4.0, -12.0]], dtype=torch.float64)
    lam = frank_wolfe(gram(D)).weights
    torch.testing.assert_close(lam @ D, torch.zeros(2, dtype=torch.float64), atol=1e-11, rtol=0)


def test_one_row_needs_no_choice() -> None:
    result = frank_wolfe(torch.tensor([[7.0]]))
    assert result.weights.tolist() == [1.0]
    assert result.gap.item() == 0


def test_zero_rows_share_the_weight() -> None:
    D = rows("ordinary", 5, 0)
    D[1] = D[3] = 0
    assert frank_wolfe(gram(D)).weights.tolist() == [0, 0.5, 0, 0.5, 0]
    assert frank_wolfe(torch.zeros(2, 4, 4)).weights.tolist() == [[0.25] * 4] * 2
    assert frank_wolfe(torch.zeros(2, 2)).weights.tolist() == [0.5, 0.5]
    assert frank_wolfe(torch.zeros(2, 2)).gap.item() == 0


def test_frozen_values() -> None:
    # (2, 1, 0) / 4 + (-1, 1, 1) / 2 + (0, 1, -2) / 4 = (0, 1, 0), and every row has 1 or more along it.
    D = torch.tensor([[2, 1, 0], [-1, 1, 1], [3, 3, 1], [0, 1, -2]], dtype=torch.float64)
    lam = frank_wolfe(gram(D)).weights
    torch.testing.assert_close(lam, torch.tensor([0.25, 0.5, 0, 0.25], dtype=torch.float64), rtol=1e-12, atol=1e-12)


# --- against exact fractions -------------------------------------------------------------------------------------


def reference_minimum(B: Matrix) -> Fraction:
    """min lam^T B lam by enumerating every face of the simplex, without rounding. Shares no idea with the solver."""
    candidates = []
    for size in range(1, len(B) + 1):
        for face in combinations(range(len(B)), size):
            part = [[B[i][j] for j in face] for i in face]
            lam = stationary(part)
            if lam is not None and min(lam) >= 0:
                candidates.append(objective(part, lam))
    return min(candidates)


def stationary(B: Matrix) -> list[Fraction] | None:
    """lam with B lam = nu 1 and sum(lam) = 1 by Gauss-Jordan elimination. None when that is singular: then a smaller
    face attains the same minimum (Caratheodory)."""
    k = len(B)
    one, zero = Fraction(1), Fraction(0)
    table = [[*row, -one, zero] for row in B] + [[one] * k + [zero, one]]
    for column in range(k + 1):
        pivot = next((r for r in range(column, k + 1) if table[r][column]), None)
        if pivot is None:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        table[column] = [value / table[column][column] for value in table[column]]
        for r in range(k + 1):
            if r != column and table[r][column]:
                table[r] = [x - table[r][column] * y for x, y in zip(table[r], table[column], strict=True)]
    return [row[-1] for row in table[:k]]


def objective(B: Matrix, lam: list[Fraction]) -> Fraction:
    return sum((x * y * b for x, row in zip(lam, B, strict=True) for y, b in zip(lam, row, strict=True)), Fraction(0))


def integer_problems() -> Iterator[tuple[Tensor, Matrix]]:
    """B of small integer rows times powers of two from 2^-20 to 2^20: exact in float64, so both sides see one B."""
    generator = torch.Generator().manual_seed(5)
    for case in range(120):
        T, d = 2 + case % 4, 1 + case // 4 % 6
        D = torch.randint(-9, 10, (T, d), generator=generator).double()
        if case % 3 == 0:
            D += 8
        if case % 5 == 0:
            D[-1] = -D[0] if case % 2 else D[0]
        if case % 2:
            D *= 2.0 ** torch.randint(-20, 21, (T, 1), generator=generator)
        B = gram(D)
        yield B, [[Fraction(value) for value in row] for row in B.tolist()]


def test_objective_matches_the_exact_reference() -> None:
    for B, exact in integer_problems():
        lam = frank_wolfe(B).weights
        value, best = objective(exact, [Fraction(x) for x in lam.tolist()]), reference_minimum(exact)
        if best > 0:
            assert abs(value / best - 1) < 1e-6, (B, lam)
        else:
            assert value <= 1e-12 * B.trace().item(), (B, lam)


# --- by its own certificate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_random_problems_are_solved_to_rounding(kind: str) -> None:
    for seed in range(70):
        T = 1 + (seed * 37) % 64
        B = gram(rows(kind, T, seed))
        result = frank_wolfe(B)
        assert_on_simplex(result.weights)
        assert_optimal(B, result.weights)
        assert result.gap < 1e-12
        assert result.iterations < min_norm.MAX_ITERATIONS


@pytest.mark.parametrize("kind", KINDS)
def test_the_interior_point_phase_alone_solves_them_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(min_norm, "PIVOTS", 1)
    for seed in range(10):
        B = gram(rows(kind, 3 + 5 * seed, seed))
        result = frank_wolfe(B)
        assert_optimal(B, result.weights)
        assert result.iterations < 25


@pytest.mark.parametrize("kind", ["ordinary", "low rank", "scaled", "opposed, scaled"])
def test_256_tasks(kind: str) -> None:
    B = gram(rows(kind, 256, 1))
    result = frank_wolfe(B)
    assert_optimal(B, result.weights)
    assert result.gap < 1e-12


def test_the_gap_bounds_the_error_it_reports() -> None:
    B = gram(rows("biased", 12, 3))
    best = frank_wolfe(B).weights
    rough = frank_wolfe(B, solver="paper", max_iterations=5)
    excess = rough.weights @ B @ rough.weights - best @ B @ best
    assert 0 < excess <= 2 * rough.gap * B.trace()
    q = B @ rough.weights
    torch.testing.assert_close(rough.gap, (rough.weights @ q - q.min()) / B.trace())


# --- properties --------------------------------------------------------------------------------------------------

tasks, seeds = st.integers(2, 12), st.integers(0, 10_000)


@given(T=tasks, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_permuted_rows_permute_the_weights(T: int, seed: int) -> None:
    B = gram(rows("biased", T, seed))
    order = torch.randperm(T, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(frank_wolfe(B[order][:, order]).weights, frank_wolfe(B).weights[order])


@given(T=tasks, seed=seeds, exponent=st.integers(-40, 40))
@settings(max_examples=40, deadline=None)
def test_units_do_not_matter(T: int, seed: int, exponent: int) -> None:
    B = gram(rows("biased", T, seed))
    torch.testing.assert_close(frank_wolfe(B * 10.0**exponent).weights, frank_wolfe(B).weights)


@given(T=tasks, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_a_duplicated_row_shares_its_weight_with_its_copy(T: int, seed: int) -> None:
    D = rows("biased", T, seed)
    alone, shared = frank_wolfe(gram(D)).weights, frank_wolfe(gram(torch.cat([D, D[:1]]))).weights
    torch.testing.assert_close(shared[0] + shared[-1], alone[0], atol=1e-8, rtol=0)
    torch.testing.assert_close(shared[1:-1], alone[1:], atol=1e-8, rtol=0)


@given(T=tasks, seed=seeds, guess=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_any_start_leads_to_an_optimum(T: int, seed: int, guess: int, kind: str) -> None:
    B = gram(rows(kind, T, seed))
    start = torch.rand(T, generator=torch.Generator().manual_seed(guess)).sub(0.5).clamp(min=0)
    assert_optimal(B, frank_wolfe(B, start=start).weights)


def test_a_good_start_saves_steps() -> None:
    B = gram(rows("biased", 30, 0))
    cold = frank_wolfe(B)
    warm = frank_wolfe(B, start=cold.weights)
    assert warm.iterations == 1 < cold.iterations
    torch.testing.assert_close(warm.weights, cold.weights)


# --- batches, devices, dtypes ------------------------------------------------------------------------------------


def mixed_batch(T: int) -> Tensor:
    return torch.stack([gram(rows(kind, T, seed)) for kind in KINDS for seed in range(4)])


@pytest.mark.parametrize("T", [2, 3, 5, 17])
@pytest.mark.parametrize("solver", ["exact", "paper"])
def test_a_batch_is_its_problems(T: int, solver: str) -> None:
    B = mixed_batch(T).reshape(len(KINDS), 4, T, T)
    batch = frank_wolfe(B, solver=solver)  # type: ignore[arg-type]
    assert batch.weights.shape == (len(KINDS), 4, T)
    assert batch.gap.shape == batch.iterations.shape == (len(KINDS), 4)
    assert batch.iterations.dtype == torch.int64
    for i in range(len(KINDS)):
        for j in range(4):
            single = frank_wolfe(B[i, j], solver=solver)  # type: ignore[arg-type]
            torch.testing.assert_close(batch.weights[i, j], single.weights, rtol=1e-9, atol=1e-12)
            assert batch.iterations[i, j] == single.iterations


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


def test_the_unsynchronised_loop_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    B = mixed_batch(9)
    eager = frank_wolfe(B)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    masked = frank_wolfe(B)
    torch.testing.assert_close(masked.weights, eager.weights, rtol=1e-9, atol=1e-12)
    assert masked.iterations.tolist() == eager.iterations.tolist()


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
    B = gram(rows("biased", 30, 0))
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
        (torch.zeros(4, 3, 3), {"start": torch.ones(3)}, r"start of shape \(4, 3\).*got \(3,\)"),
    ],
)
def test_errors_say_what_was_expected(gram_: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frank_wolfe(gram_, **options)  # type: ignore[arg-type]
