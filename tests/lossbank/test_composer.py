"""Decisions of a composer in situations whose right answer is known."""

from __future__ import annotations

import pytest
import torch

from lossrag import ConfigError
from lossrag.lossbank import (
    LOSSES,
    Composer,
    ComposerConfig,
    LookAheadOptions,
    LossInputs,
    Moment,
    OneStepOptions,
    Tangent,
    TaskMoment,
    TaskSpec,
    contributions,
    cosines,
)

REFERENCE = "cross_entropy"
COUNTS = (10.0, 5.0, 2.0)
FOUR = ("cross_entropy", "mae", "brier", "logit_adjusted_1")
EVIDENCE = {"decay", "review"}
"""Options of the evidence; the others are the composer's."""


def moment(name, rows=32):
    """One task, whose logits the outer objective wants to move along the gradient of a loss."""
    generator = torch.Generator().manual_seed(0)
    logits, features = torch.randn(rows, 3, generator=generator), torch.randn(rows, 4, generator=generator)
    targets, counts = torch.randint(3, (rows,), generator=generator), torch.tensor(COUNTS)
    z = logits.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(LOSSES[name](z, targets, class_counts=counts).mean(), z)
    inputs, one = LossInputs(logits, targets, features, counts), torch.tensor(1.0)
    tangent = Tangent(inputs, wanted, torch.zeros_like(features))

    def measured(losses, sizes):
        return [cosines(tangent, contributions(tangent, losses[0]), sizes[0])]

    return Moment([TaskMoment(inputs, logits, targets, one, one)], measured)


def told(learner, name, steps):
    """The composer, told after each of these steps that the gradient of a loss is wanted."""
    for step in steps:
        learner.observe(moment(name), [torch.zeros(1)], step)
    return learner


def composer(policy, counts=COUNTS, retriever=None, seed=0, **options):
    evidence = OneStepOptions(**{key: options.pop(key) for key in EVIDENCE & options.keys()})
    spec = [TaskSpec("only", "classification", REFERENCE, None if counts is None else torch.tensor(counts))]
    return Composer(spec, ComposerConfig(policy=policy, relational=False, **options), evidence, retriever, seed)


@pytest.mark.parametrize("name", FOUR[1:])
def test_the_loss_whose_gradient_is_wanted_wins(name):
    learner = told(composer("gradient", candidates=FOUR, review=5, decay=0.0), name, range(1, 60))
    (shares,) = learner.compositions().values()
    assert next(iter(shares)) == name
    assert shares[name] > 0.9
    assert any(event.what == "off" and "mixture" in event.reason for event in learner.events)


def test_of_twins_one_is_retrieved():
    """mae and one_minus_p have the same shape: both at once would bring nothing, and take a place."""

    class Knows:
        def remember(self, *_):
            pass

        def predict(self, task, context, asked):
            mean = {"mae": 0.5, "one_minus_p": 0.5, "brier": 0.4}
            return torch.tensor([mean.get(name, -0.5) for name in asked]).double(), torch.zeros(len(asked)).double()

    names = ("cross_entropy", "mae", "one_minus_p", "brier", "focal_2", "multiclass_hinge")
    learner = composer("knn", None, Knows(), candidates=names, k=3, explore=1, review=3)
    told(learner, "mae", range(1, 4))
    retrieved = {event.loss for event in learner.events if event.what in ("retrieved", "explored")}
    active = {loss.name for loss in learner.mixtures()[0].losses}
    assert len({"mae", "one_minus_p"} & active) == 1
    assert "brier" in active | retrieved


def test_reviews_come_early_at_first():
    learner = composer("gradient", review=20)
    reviews = [0, *(told(learner, "mae", [step]).reviews for step in range(1, 42))]
    assert [step for step in range(1, 42) if reviews[step] > reviews[step - 1]] == [4, 8, 16, 20, 40]


def test_priors_are_corrected_where_they_are_uneven():
    def offered(counts, **options):
        return {loss.name for loss in composer("gradient", counts, **options).mixtures()[0].losses}

    assert "logit_adjusted_1" in offered((10.0, 5.0, 2.0))
    even = offered((10.0, 9.0, 8.0))
    assert {"logit_adjusted_1", "class_balanced_ce_0.99"} & even == set()
    assert {"cross_entropy", "mae", "multiclass_hinge"} <= even
    assert "logit_adjusted_1" in offered((10.0, 9.0, 8.0), candidates=("cross_entropy", "logit_adjusted_1"))


def test_uniform_learns_nothing():
    learner = told(composer("uniform", candidates=("cross_entropy", "mae")), "mae", range(1, 6))
    assert learner.compositions() == {"only": {"cross_entropy": 0.5, "mae": 0.5}}


def test_random_draws_by_the_seed():
    chosen = [composer("random", None, seed=seed).state.active for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert int(chosen[0].sum()) == 8


def test_k_larger_than_the_library_takes_all():
    assert int(composer("random", candidates=("cross_entropy", "mae"), k=50).state.active.sum()) == 2


def test_state_round_trip():
    first, second = (composer("gradient", review=2) for _ in range(2))
    told(first, "mae", range(1, 4))
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for each in (first, second):
        told(each, "mae", [4])
    assert torch.equal(first.state.scores, second.state.scores)
    assert [m.losses for m in first.mixtures()] == [m.losses for m in second.mixtures()]
    with pytest.raises(ConfigError, match="another library"):
        composer("gradient", candidates=("mae",)).load_state_dict(first.state_dict())


def test_mistakes():
    with pytest.raises(ConfigError, match="ComposerConfig: policy=knn retrieves losses"):
        composer("knn")
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        composer("gradient", candidates=("cross_entropi",))
    with pytest.raises(ConfigError, match="is for regression, not classification"):
        Composer([TaskSpec("only", "classification", "huber")], ComposerConfig(policy="uniform"), OneStepOptions())
    spec = [TaskSpec("only", "classification", "triplet_0.2")]
    Composer(spec, ComposerConfig(policy="gradient"), OneStepOptions())
    with pytest.raises(ConfigError, match=r"pairs of samples.*look one step ahead, horizon=1"):
        Composer(spec, ComposerConfig(policy="gradient"), LookAheadOptions())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ComposerConfig, {"policy": "two_towers"}, "ComposerConfig: policy='two_towers' is unknown: did you mean"),
        (ComposerConfig, {"k": 0}, "ComposerConfig: k must be 1 or more"),
        (ComposerConfig, {"k": 3, "explore": 3}, "explore=3 leaves none of k=3"),
        (ComposerConfig, {"candidates": ()}, "candidates is empty"),
        (OneStepOptions, {"decay": 1.0}, r"OneStepOptions: decay must be in \[0, 1\)"),
        (OneStepOptions, {"outer": "max"}, "choose from: lambda, mean"),
        (LookAheadOptions, {"temperature": 0.0}, "LookAheadOptions: temperature must be a positive number"),
        (LookAheadOptions, {"horizon": 0}, "horizon must be 1 or more"),
    ],
)
def test_options_out_of_range_are_named_by_class_and_field(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
