"""Learned losses in a plain loop: what they find out, what they remember, and that they go on from a saved state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lossrag.lossbank import (
    LOSSES,
    Batch,
    ComposerConfig,
    LearnedLosses,
    LookAhead,
    LookAheadOptions,
    LossBank,
    OneStep,
    OneStepOptions,
    TaskSpec,
)
from tests.lossbank.simulated import fingerprint

ROWS = 90


class Loop:
    """One classification task whose support labels are partly wrong, and its learned losses."""

    def __init__(self, kind, *, counts=None, config=None, **options):
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh())
        self.head = torch.nn.Linear(16, 3)
        model = torch.nn.Sequential(self.encoder, self.head)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        self.data = torch.randn(2, ROWS, 5)
        self.labels = self.data[..., :3].argmax(-1)
        self.labels[0, :36] = torch.randint(3, (36,))
        judge = LOSSES["one_minus_p"]
        self.outer = lambda t, logits, features: judge(logits, self.labels[1]).mean()
        evidence = OneStep(model, OneStepOptions(**options)) if kind == "one step" else self.ahead(model, options)
        config = config or ComposerConfig(policy="gradient", candidates=("cross_entropy", "mae", "focal_2"))
        task = TaskSpec("only", "classification", "cross_entropy", counts)
        self.learned = LearnedLosses([task], evidence, config, total_steps=60)
        self.asked = []

    def ahead(self, model, options):
        return LookAhead(model, [self.head], LookAheadOptions(**options))

    def batch(self, split):
        def outputs():
            self.asked.append(split)
            features = self.encoder(self.data[split])
            return [(self.head(features), features)]

        return Batch(outputs, [self.labels[split]], self.outer)

    def run(self, steps):
        for step in steps:
            (mixture,) = self.learned.begin(step)
            loss = mixture(self.head(self.encoder(self.data[0])), self.labels[0]).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.learned.end(step, [loss], lambda: self.batch(0), lambda: self.batch(1))
        return self.learned


def test_one_step_ahead_it_looks_away_from_what_cannot_be_learned():
    (shares,) = Loop("one step", every=1, smoothing=0.0).run(range(1, 61)).composer.compositions().values()
    assert shares["mae"] > shares.get("cross_entropy", 0.0)


def test_rows_are_asked_for_when_they_are_due():
    loop = Loop("look ahead", every=8, horizon=2)
    loop.run(range(1, 17))
    assert loop.asked == [0, 1] * 4  # at steps 1, 4, 8 and 16
    assert loop.learned.composer.measurements == 4


def test_a_given_query_gradient_is_followed_and_not_computed_again():
    given, own = Loop("one step", every=1), Loop("one step", every=1)
    own.run([1])
    loop, parameters = given, list(given.learned.evidence.parameters.values())
    (mixture,) = loop.learned.begin(1)
    loss = mixture(loop.head(loop.encoder(loop.data[0])), loop.labels[0]).mean()
    loss.backward()
    loop.optimizer.step()
    outer = loop.outer(0, loop.head(loop.encoder(loop.data[1])), None)
    gradient = torch.autograd.grad(outer, parameters)
    features = loop.encoder(loop.data[1]).detach().requires_grad_()  # the heads alone run again
    heads = Batch(lambda: [(loop.head(features), features)], [loop.labels[1]], loop.outer)
    loop.learned.end(1, [loss], lambda: loop.batch(0), lambda: heads, query_gradient=gradient)
    for name, direction in own.learned.evidence.direction.items():
        assert torch.allclose(given.learned.evidence.direction[name], direction)
    assert torch.allclose(given.learned.composer.contributions, own.learned.composer.contributions, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), [("one step", {"every": 1}), ("look ahead", {"every": 4, "horizon": 2})])
def test_it_goes_on_from_a_saved_state_bit_for_bit(kind, options, tmp_path):
    config = ComposerConfig(policy="knn", candidates=("cross_entropy", "mae", "focal_2", "brier"), k=2, explore=1)
    whole, first, second = (Loop(kind, config=config, review=2, **options) for _ in range(3))
    whole.run(range(1, 17))
    first.run(range(1, 13))
    first.learned.save_bank(tmp_path / "bank")
    second.learned.load_state_dict({name: tensor.clone() for name, tensor in first.learned.state_dict().items()})
    second.learned.resume_bank(tmp_path / "bank", 12)
    for mine, other in ((first.encoder, second.encoder), (first.head, second.head)):
        other.load_state_dict(mine.state_dict())
    second.run(range(13, 17))
    expected, found = whole.learned.state_dict(), second.learned.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    memories = [fingerprint(loop.learned.retriever.bank.memory) for loop in (whole, second)]
    assert memories[0] == memories[1]


def test_a_bank_is_asked_right_away_and_filled():
    candidates = ("cross_entropy", "mae", "focal_2", "brier")
    config = ComposerConfig(policy="knn", candidates=candidates, k=2, explore=1)
    bank = LossBank.create(candidates)
    loop = Loop("look ahead", horizon=2, review=100)
    task = TaskSpec("only", "classification", "cross_entropy")
    loop.learned = LearnedLosses([task], loop.learned.evidence, config, total_steps=9, bank=bank, run="mine")
    loop.run([1])
    assert loop.learned.composer.reviews == 1
    assert bank.memory.records.runs == ("mine",)
    assert len(bank.memory) == len(candidates)


def test_fixed_losses_are_never_measured():
    loop = Loop("look ahead", config=ComposerConfig(policy="fixed"))
    (mixture,) = loop.run(range(1, 5)).begin(5)
    assert [loss.name for loss in mixture.losses] == ["cross_entropy"]
    assert loop.asked == []


def test_the_example_of_the_page_is_short_and_needs_no_experiments():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (example,) = re.findall(r"### In your own loop.*?```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    assert "experiments" not in example
