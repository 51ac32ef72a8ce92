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

from lossrag.weighting.min_norm import masked
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from tests.weighting.jacobians import jacobian, rounded
from tests.weighting.min_norm_problems import KINDS, assert_on_simplex, assert_optimal, gram, rows

Matrix = list[list[Fraction]]
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


def test_random_problems_are_solved_to_rounding() -> None:
    for kind in KINDS:
        for seed in range(30):
            T = 1 + (seed * 37) % 64
            B = gram(rows(kind, T, seed))
            result = frank_wolfe(B)
            assert_on_simplex(result.weights)
            assert_optimal(B, result.weights)
            assert result.gap < 1e-12
            assert result.iterations <= T + 20


def test_the_interior_point_phase_alone_solves_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(masked, "PIVOTS", 1)
        for seed in range(5):
            B = gram(rows(kind, 3 + 5 * seed, seed))
            result = frank_wolfe(B)
            assert_optimal(B, result.weights)
            assert result.iterations < 25


def test_256_tasks() -> None:
    for kind in ("ordinary", "low rank", "scaled", "opposed, scaled"):
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


# --- rounding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("traced", [False, True])
def test_copies_weigh_the_same(dtype: torch.dtype, traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digits, alone or among others, whether these cancel or not, on either path."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    for kind in ("copies", "normal", "strong", "weak", "descending", "opposed", "scaled"):
        for seed in range(3 if traced else 10):  # takes ten times as long
            G = jacobian(kind, seed)
            for units in (0.0, 1.0):
                lam = frank_wolfe(rounded(torch.cat([G, G]), dtype, units, seed)).weights.view(2, -1)
                torch.testing.assert_close(lam[0], lam[1], atol=1e-5 if dtype is torch.float32 else 1e-12, rtol=0)


def test_two_rows_that_differ_by_rounding_share_the_weight() -> None:
    for dtype in (torch.float32, torch.float64):
        off = 1 + 2 * torch.finfo(dtype).eps
        B = torch.tensor([[1.0, 1.0], [1.0, off]], dtype=dtype)
        assert frank_wolfe(B).weights.tolist() == frank_wolfe(B.flip(0, 1)).weights.tolist() == [0.5, 0.5]
        assert frank_wolfe(torch.stack([B, B])).weights.tolist() == [[0.5, 0.5]] * 2


def test_a_second_row_that_all_but_ties_gets_no_negative_weight() -> None:
    for length in (2e-10, 1e-10, 5e-10):
        for angle in (1.5e-10, 1e-10, 4.9e-10):
            s = torch.tensor([1.0, 1 / (1 - length), 3.0], dtype=torch.float64)
            C = torch.full((3, 3), 0.5, dtype=torch.float64).fill_diagonal_(1)
            C[0, 1] = C[1, 0] = 1 - angle
            B = C * s * s[:, None]
            lam = frank_wolfe(B).weights
            assert_on_simplex(lam)
            assert_optimal(B, lam)


def test_rounding_that_the_ridge_does_not_cover() -> None:
    """Up to a hundred units, as in products of a million numbers: the optimum as far as it can be seen."""
    beyond = 0
    for units in (4.0, 16.0, 100.0):
        for kind in ("normal", "strong", "weak", "descending", "opposed", "duplicated"):
            for seed in range(15):
                G = jacobian(kind, seed)
                result = frank_wolfe(rounded(G, torch.float32, units, seed))
                lam, s, noise = result.weights.double(), G.norm(dim=1), (units + 2) * torch.finfo(torch.float32).eps
                assert_on_simplex(result.weights)
                f, q = (lam @ G).square().sum(), G @ (lam @ G)
                assert (q >= f - 8 * len(G) ** 0.5 * noise * s * (s @ lam)).all(), (units, kind, seed)
                beyond += int(result.iterations) > len(G) + 30
    assert beyond > 50


def test_the_precision_that_a_gramian_was_computed_in() -> None:
    """Copies that are known to float32 only are told apart in float64, unless it is said what they are."""
    B = rounded(jacobian("copies", 3), torch.float32, 1.0).double()
    even = torch.full((len(B),), 1 / len(B), dtype=torch.float64)
    torch.testing.assert_close(frank_wolfe(B, precision=torch.float32).weights, even)
    assert (frank_wolfe(B).weights - even).abs().max() > 0.1


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
    B = gram(rows("low rank", 30, 0))
    cold = frank_wolfe(B)
    warm = frank_wolfe(B, start=cold.weights)
    assert warm.iterations == 1 < cold.iterations
    torch.testing.assert_close(warm.weights, cold.weights)
