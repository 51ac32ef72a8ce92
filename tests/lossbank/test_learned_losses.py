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
    LossInputs,
    OneStep,
    OneStepOptions,
    TaskSpec,
)
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.snapshots import snapshot
from tests.lossbank.advisers import Adviser

ROWS = 90


class Loop:
    """One classification task whose support labels are partly wrong, and its learned losses."""

    def __init__(self, kind=None, *, config=None, bank=None, dropout=0.0, **options):
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout))
        self.head = torch.nn.Linear(16, 3)
        self.model = torch.nn.Sequential(self.encoder, self.head)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
        self.data = torch.randn(2, ROWS, 5)
        self.labels = self.data[..., :3].argmax(-1)
        self.labels[0, :36] = torch.randint(3, (36,))
        self.counts = torch.bincount(self.labels[0]).float()
        judge = LOSSES["one_minus_p"]
        self.outer = lambda t, logits, features: judge(logits, self.labels[1]).mean()
        kinds = {"one step": self.one_step, "look ahead": self.ahead, None: lambda: None}
        candidates = ("cross_entropy", "mae", "focal_2")
        config = config or ComposerConfig(policy="gradient" if kind else "uniform", candidates=candidates)
        self.learned = LearnedLosses(
            [TaskSpec("only", "classification", "cross_entropy", self.counts)],
            self.model,
            config,
            total_steps=60,
            bank=bank,
            evidence=kinds[kind](**options),
        )
        self.asked = []

    def one_step(self, **options):
        return OneStep(self.model, OneStepOptions(**options))

    def ahead(self, **options):
        return LookAhead(self.model, [self.head], LookAheadOptions(**options))

    def rows(self, split, number=None):
        side = ["support", "query"].index(split)

        def outputs():
            self.asked.append((split, number))
            features = self.encoder(self.data[side])
            return [(self.head(features), features)]

        return Batch(outputs, [self.labels[side]], self.outer)

    def run(self, steps):
        for step in steps:
            torch.manual_seed(step)
            (mixture,) = self.learned.begin(step, self.rows)
            loss = mixture(self.head(self.encoder(self.data[0])), self.labels[0]).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.learned.end(step, self.rows)
        return self.learned


def test_one_step_ahead_it_looks_away_from_what_cannot_be_learned():
    (shares,) = Loop("one step", every=1, smoothing=0.0).run(range(1, 61)).composer.compositions().values()
    assert shares["mae"] > shares.get("cross_entropy", 0.0)


def test_rows_are_asked_for_when_they_are_due():
    loop = Loop("look ahead", every=8, horizon=2)
    loop.run(range(1, 17))
    assert loop.asked == [("support", 512), ("query", 512)] * 4  # at steps 1, 4, 8 and 16
    assert loop.learned.composer.measurements == 4


def test_a_given_query_gradient_is_followed_and_not_computed_again():
    given, own = Loop("one step", every=1), Loop("one step", every=1)
    own.run([1])
    loop, parameters = given, list(given.learned.evidence.parameters.values())
    (mixture,) = loop.learned.begin(1, loop.rows)
    loss = mixture(loop.head(loop.encoder(loop.data[0])), loop.labels[0]).mean()
    loss.backward()
    loop.optimizer.step()
    outer = loop.outer(0, loop.head(loop.encoder(loop.data[1])), None)
    gradient = torch.autograd.grad(outer, parameters)
    features = loop.encoder(loop.data[1]).detach().requires_grad_()  # the heads alone run again
    heads = Batch(lambda: [(loop.head(features), features)], [loop.labels[1]], loop.outer)
    ends = {"support": loop.rows("support"), "query": heads}
    loop.learned.end(1, lambda split, number: ends[split], query_gradient=gradient)
    for name, direction in own.learned.evidence.direction.items():
        assert torch.allclose(given.learned.evidence.direction[name], direction)
    assert torch.allclose(given.learned.composer.contributions, own.learned.composer.contributions, atol=1e-6)


ROBUST = {"mae": (0.04, 0.01, 9), "brier": (0.02, 0.01, 9)}
UNSURE = {"mae": (0.01, 0.02, 9), "brier": (-0.02, 0.01, 9)}
"""What speaks for nothing."""
THREE = (0.0, 0.05, 0.15)
"""Questions: a later one than the usual two, with a look between them at which none is asked."""


@pytest.mark.parametrize(
    ("kind", "options", "policy", "told", "asked"),
    [
        ("one step", {"every": 1, "review": 2}, "gradient", ROBUST, (0, 0, 0)),
        ("look ahead", {"every": 4, "horizon": 2, "review": 2}, "retrieval", ROBUST, (1, 1, 0)),
        (None, {}, "retrieval", ROBUST, (1, 1, 0)),
        (None, {}, "retrieval", UNSURE, (3, 2, 1)),
    ],
)
def test_it_goes_on_from_a_saved_state_bit_for_bit(kind, options, policy, told, asked):
    """Questions at steps 0, 3 and 9, until one composes; stopped between two of them."""
    candidates = ("cross_entropy", "mae", "focal_2", "brier")
    config = ComposerConfig(policy=policy, candidates=candidates, questions=THREE, temperature=0.01)
    banks = [Adviser(told, by_progress={0.15: ROBUST}) for _ in range(3)]
    whole, first, second = (Loop(kind, config=config, bank=bank, dropout=0.1, **options) for bank in banks)
    whole.run(range(1, 31))
    first.run(range(1, 8))
    state = {name: tensor.clone() for name, tensor in first.learned.state_dict().items()}
    second.learned.load_state_dict(state)
    second.model.load_state_dict(first.model.state_dict())
    second.run(range(8, 31))
    expected, found = whole.learned.state_dict(), second.learned.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name].nan_to_num(9), found[name].nan_to_num(9)) for name in expected)
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    assert tuple(len(bank.asked) for bank in banks) == asked
    assert len(whole.learned.composer.compositions()["only"]) > 1


def test_the_bank_is_asked_about_what_the_model_makes_of_some_rows():
    """Looked at before the first step and after steps 1, 3 and 9, a fall of the losses being that since the last look;
    asked at all of them but one."""
    bank = Adviser()
    loop = Loop(config=ComposerConfig(questions=THREE), bank=bank)
    before, looks = None, []
    for steps in (range(1, 1), range(1, 2), range(2, 4), range(4, 10)):
        loop.run(steps)
        loop.model.eval()
        with torch.no_grad():
            features = [loop.encoder(rows) for rows in loop.data]
            inputs = [LossInputs(loop.head(f), y, f, loop.counts) for f, y in zip(features, loop.labels, strict=True)]
        shot = snapshot(LOSSES["cross_entropy"], *inputs, (steps.stop - 1) / 60, before)
        before = shot.losses
        looks.append(shot.context)
    assert loop.asked == [("support", 256), ("query", 256)] * 4
    assert torch.equal(loop.learned.contexts[:, 0], torch.stack(looks))
    assert loop.learned.contexts.shape == (4, 1, len(CONTEXT_NAMES))
    assert [question.progress for question in bank.asked] == list(THREE)
    for question, look in zip(bank.asked, [looks[0], *looks[2:]], strict=True):
        assert question.context.tolist() == look.tolist()


@pytest.mark.parametrize(("told", "composed"), [({0.0: ROBUST}, 0), ({0.05: ROBUST}, 0.05), ({}, None)])
def test_contexts_are_those_under_the_reference_alone(told, composed):
    """Looked at after steps 0, 1, 3 and 9; a task that is composed leaves no numbers from then on."""
    bank = Adviser(UNSURE, by_progress=told)
    loop = Loop(config=ComposerConfig(questions=THREE), bank=bank)
    loop.run(range(1, 11))
    taken = loop.learned.contexts[:, 0].isfinite().all(dim=1)
    assert (
        taken.tolist() == {0: [True, False, False, False], 0.05: [True, True, True, False], None: [True] * 4}[composed]
    )
    assert torch.equal(loop.learned.contexts[:, 0].isnan().all(dim=1), ~taken)
    assert [question.progress for question in bank.asked] == [at for at in THREE if composed is None or at <= composed]


def test_a_task_for_which_nothing_is_better_trains_as_without_learned_losses():
    """Bit for bit; dropout is drawn as it would be."""
    configs = ComposerConfig(policy="fixed"), ComposerConfig()
    plain, asking = (Loop(config=config, bank=Adviser(), dropout=0.1) for config in configs)
    for loop in (plain, asking):
        loop.run(range(1, 31))
    assert all(torch.equal(*pair) for pair in zip(plain.model.parameters(), asking.model.parameters(), strict=True))
    assert asking.asked
    assert not plain.asked


def test_sizes_are_measured_seldom_and_on_few_rows():
    loop = Loop(config=ComposerConfig(questions=(0.0,), candidates=("mae", "brier")), bank=Adviser({"mae": (1, 0, 9)}))
    loop.run(range(1, 66))
    assert loop.asked[2:] == [("support", 128)] * 7  # at steps 1, 2, 4, 8, 16, 32, 64


def test_fixed_losses_are_never_measured():
    loop = Loop(config=ComposerConfig(policy="fixed"))
    (mixture,) = loop.run(range(1, 5)).begin(5, lambda *_: None)
    assert [loss.name for loss in mixture.losses] == ["cross_entropy"]
    assert loop.asked == []


def test_the_example_of_the_page_is_short_and_needs_no_experiments():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (example,) = re.findall(r"## In your own loop.*?```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    assert "experiments" not in example
