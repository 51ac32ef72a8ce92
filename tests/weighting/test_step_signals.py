"""What a step tells a method beside the losses: scores, epoch and number of the step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from lossrag import ConfigError
from lossrag.weighting import DTP, DWA, MetaWeighting, MultiTaskStep, Signals, Uniform, Weighting


@dataclass(frozen=True)
class Listening(Weighting):
    """Keeps the signals it gets."""

    heard: list[Signals] = field(default_factory=list)

    def weigh(self, state, signals):
        self.heard.append(signals)
        return state["weights"], state


@dataclass(frozen=True)
class Scoring(Listening):
    needs_scores: ClassVar[bool] = True


@dataclass(frozen=True)
class ScoringByRows(Scoring):
    needs_gramian: ClassVar[bool] = True


@dataclass(frozen=True)
class ScoringMeta(MetaWeighting):
    needs_scores: ClassVar[bool] = True


def made(method, **options):
    theta = torch.zeros(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), method, ["a", "b"], **options)
    return theta, step, [lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2]


def test_epoch_and_step():
    _, step, losses = made(Listening())
    step(losses)
    step(losses, epoch=4)
    assert [(signals.epoch, signals.step) for signals in step.weighting.heard] == [(0, 1), (4, 2)]
    assert step.weighting.heard[0].scores is None


@pytest.mark.parametrize("kind", [Scoring, ScoringByRows])
def test_scores_are_asked_for_once_between_losses_and_update(kind):
    theta, step, losses = made(kind())
    order = []

    def loss(t):
        order.append(f"loss {t}")
        return losses[t]()

    def scores():
        order.append("scores")
        assert theta.tolist() == [0.0, 0.0]
        return torch.tensor([0.25, 0.5], requires_grad=True)

    step([lambda: loss(0), lambda: loss(1)], scores=scores)
    assert order == ["loss 0", "loss 1", "scores"]
    assert theta[0] != 0
    (signals,) = step.weighting.heard
    assert signals.scores.tolist() == [0.25, 0.5]
    assert not signals.scores.requires_grad


def test_nobody_computes_scores_that_are_not_asked_for():
    _, step, losses = made(Uniform())

    def scores():
        raise AssertionError

    step(losses, scores=scores)


def test_what_is_missing_is_named_before_anything_is_computed():
    for method, name in ((DTP(), "scores"), (DWA(), "epoch")):
        _, step, _ = made(method)

        def loss():
            raise AssertionError

        with pytest.raises(ConfigError, match=f"{type(method).__name__} needs {name}: pass {name}="):
            step([loss, loss])
        assert step.count == 0


def test_wrong_number_of_scores():
    _, step, losses = made(DTP())
    with pytest.raises(ConfigError, match=r"expected 2 scores, one per task, got shape \(3,\)"):
        step(losses, scores=lambda: torch.ones(3))


def test_scores_beside_an_outer_problem():
    _, step, losses = made(ScoringMeta())
    step(losses, losses, scores=lambda: torch.ones(2))
    with pytest.raises(ConfigError, match=r"ScoringMeta reads scores before the update.* use memory='rows'"):
        made(ScoringMeta(), memory="low")


def test_the_name_of_the_steps_own_count_is_taken():
    """A method that counted under it would be stored without its count."""

    class Counting(Weighting):
        def init(self, tasks, device):
            return {**super().init(tasks, device), "count": torch.tensor(0)}

    with pytest.raises(ConfigError, match="the state of Counting must not have the key 'count'"):
        made(Counting())
