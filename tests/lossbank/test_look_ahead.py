"""Heads trained ahead: against torch's own Adam, against closed forms, and on problems whose answer is known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossrag import ConfigError
from lossrag.lossbank import (
    LOSSES,
    Batch,
    Composer,
    ComposerConfig,
    HeadView,
    LookAhead,
    LookAheadOptions,
    Moment,
    TaskSpec,
    calibrated,
    look_ahead,
    savings,
)

RATE = 0.01


def clusters(counts: list[int], seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Gaussian clusters around fixed centres, ``counts[c]`` samples of class c."""
    centres = torch.randn(len(counts), 6, generator=torch.Generator().manual_seed(99)) * 0.8
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return centres[targets] + spread * torch.randn(len(targets), 6, generator=generator), targets


def view_of(counts: list[int], query: list[int], seed: int = 0, spread: float = 1.0) -> HeadView:
    features, targets = clusters(counts, seed, spread)
    query_features, query_targets = clusters(query, seed + 1, spread)
    K = len(counts)
    weights = torch.full((len(query_targets),), 1 / len(query_targets), dtype=torch.float64)
    judge = partial(calibrated, targets=query_targets, weights=weights)
    generator = torch.Generator().manual_seed(seed + 2)
    weight = 0.1 * torch.randn(K, 6, generator=generator)
    return HeadView(weight, torch.zeros(K), features, targets, query_features, judge, torch.tensor(counts).float())


@given(st.integers(0, 1000), st.floats(0.05, 20.0))
@settings(max_examples=25, deadline=None)
def test_calibrated_is_the_least_over_temperatures_and_blind_to_scale(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 9, 4, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(4, (9,), generator=generator)
    weights = torch.rand(9, generator=generator, dtype=torch.float64)
    weights /= weights.sum()
    found = calibrated(logits, targets, weights)
    for n in range(3):
        grid = [
            float((torch.nn.functional.cross_entropy(logits[n] * b, targets, reduction="none") * weights).sum())
            for b in torch.logspace(-5, 2, 500, dtype=torch.float64)
        ]
        assert float(found[n]) <= min(grid) + 1e-6
        assert float(found[n]) >= min(grid) - 2e-3  # the grid is coarse
    assert (found <= math.log(4) + 1e-6).all()
    assert torch.allclose(calibrated(logits * scale, targets, weights), found, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "generalised_ce_0.7", "logit_adjusted_1"])
def test_heads_train_as_with_adam_of_torch(name: str) -> None:
    view, loss, steps = view_of([20, 12, 5], [8, 8, 8]), LOSSES[name], 7
    mean, spread = view.features.mean(0), view.features.std(0, unbiased=False)
    inputs, ahead = (view.features - mean) / spread, (view.query_features - mean) / spread
    weight = (view.weight * spread).clone().requires_grad_()
    bias = (view.bias + view.weight @ mean).clone().requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=RATE, betas=(0.9, 0.99), eps=1e-12)
    iterates = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(inputs @ weight.T + bias, view.targets, class_counts=view.class_counts).mean().backward()
        optimizer.step()
        if 2 * step > steps:
            iterates.append((weight.detach().clone(), bias.detach().clone()))
    weights, biases = zip(*iterates, strict=True)
    logits = ahead @ torch.stack(weights).mean(0).T + torch.stack(biases).mean(0)
    (found,) = look_ahead([view], [[LOSSES["brier"], loss]], steps, RATE)
    assert float(found[1]) == pytest.approx(float(view.judge(logits[None])[0]), rel=1e-5)


def test_tasks_side_by_side_are_as_alone() -> None:
    views = [view_of([9, 6, 4], [5, 5, 5], 0), view_of([3, 8], [6, 6], 5), view_of([10, 7, 9], [4, 4, 4], 9)]
    names = ["cross_entropy", "mae", "logit_adjusted_1", "focal_2"]
    losses = [[LOSSES[n] for n in names], [LOSSES[n] for n in names[1:]], [LOSSES[n] for n in names[::-1]]]
    together = look_ahead(views, losses, 5)
    for view, own, found in zip(views, losses, together, strict=True):
        (alone,) = look_ahead([view], [own], 5)
        assert torch.allclose(found, alone, rtol=1e-5)


def test_the_right_correction_for_rare_classes_wins_in_the_long_run() -> None:
    view = view_of([400, 60, 20], [150, 150, 150], spread=2.5)
    names = ["cross_entropy", "logit_adjusted_1", "logit_adjusted_2", "logit_squared_error"]
    (found,) = look_ahead([view], [[LOSSES[n] for n in names]], 200, RATE)
    lost = dict(zip(names, found.tolist(), strict=True))
    assert lost["logit_adjusted_1"] < min(lost["cross_entropy"], lost["logit_adjusted_2"], lost["logit_squared_error"])


def test_a_loss_on_features_says_nothing_to_a_head() -> None:
    view = view_of([9, 9], [5, 5])
    (found,) = look_ahead([view], [[LOSSES["cross_entropy"], LOSSES["centre"]]], 3)
    assert found.isnan().tolist() == [False, True]
    assert savings(view, found, 0).tolist() == [0.0, 0.0]


def test_savings_by_hand() -> None:
    view = view_of([9, 9], [5, 5])
    silent = math.log(2)
    lost = torch.tensor([silent - 0.2, silent - 0.4, silent - 0.1, float("nan"), float("inf")], dtype=torch.float64)
    assert savings(view, lost, 0).tolist() == pytest.approx([0.0, 0.5, -0.25, 0.0, -1.0], abs=1e-9)


def test_less_than_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="one step or more"):
        look_ahead([view_of([9, 9], [5, 5])], [[LOSSES["mae"]]], 0)


def composer(policy: str = "gradient", evidence: LookAheadOptions | None = None, **options: object) -> Composer:
    spec = [TaskSpec("only", "classification", "cross_entropy", torch.tensor([400.0, 60.0, 20.0]))]
    config = ComposerConfig(policy=policy, **options)  # type: ignore[arg-type]
    return Composer(spec, config, evidence or LookAheadOptions())


def moment_of(learner: Composer, counts: list[int], query: list[int], spread: float = 1.0) -> Moment:
    """The view that a look ahead has of one task whose features are its inputs."""
    head = torch.nn.Linear(6, 3)
    with torch.no_grad():
        head.weight.copy_(0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(2)))
        head.bias.zero_()
    rows = [clusters(each, seed, spread) for seed, each in enumerate((counts, query))]
    batches = [Batch(lambda f=f: [(head(f), f)], [y]) for f, y in rows]  # type: ignore[misc]
    assert isinstance(learner.evidence, LookAheadOptions)
    return LookAhead(head, [head], learner.evidence).moment(learner.tasks, *batches, None)


def test_a_composer_finds_it_at_the_first_look() -> None:
    learner = composer(evidence=LookAheadOptions(horizon=100))
    learner.observe(moment_of(learner, [400, 60, 20], [150, 150, 150], 2.5), 1)
    (shares,) = learner.compositions().values()
    assert next(iter(shares)) in ("logit_adjusted_1", "vector_scaling")
    assert shares["logit_adjusted_1"] > 5 * shares["cross_entropy"]


def test_scores_move_towards_the_contribution_by_decay() -> None:
    learner = composer(evidence=LookAheadOptions(horizon=20, decay=0.25, unit=0.1))
    moment = moment_of(learner, [400, 60, 20], [150, 150, 150], 2.5)
    for times in (1, 2):
        learner.observe(moment, times)
        worth = learner.state.worth(0, list(range(len(learner.names))))
        want = learner.contributions[0] * worth / 0.1 * (1 - 0.75**times)
        judged = learner.contributions[0] != 0
        assert judged.any()
        assert torch.allclose(learner.state.scores[0][judged], want[judged])


def test_what_was_not_drawn_is_not_measured() -> None:
    learner = composer("random", candidates=("cross_entropy", "mae", "brier", "focal_2", "poly1_1"), k=2)
    learner.observe(moment_of(learner, [20, 20, 20], [9, 9, 9]), 1)
    drawn = {learner.names.index(loss.name) for loss in learner.mixtures()[0].losses}
    counted = set(learner.state.count[0].nonzero().flatten().tolist())
    assert counted == drawn | {learner.reference[0]}
