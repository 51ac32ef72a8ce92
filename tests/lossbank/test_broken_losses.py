"""Losses that are no finite numbers in a composition, and tasks without labels: named, and nobody else's business."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lossrag import DivergedError
from lossrag.errors import LossError
from lossrag.lossbank import (
    LOSSES,
    Batch,
    Composer,
    ComposerConfig,
    LearnedLosses,
    LookAhead,
    LookAheadOptions,
    OneStep,
    OneStepOptions,
    TaskSpec,
)
from lossrag.lossbank.composing.evidence import observed
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.weighting import MultiTaskStep
from tests.lossbank.advisers import Adviser
from tests.lossbank.oracles import built_in

ROWS, STEPS = 24, 9
COUNTS = torch.tensor([9.0, 4.0, 2.0])
NOTHING = {"classification": -100, "regression": float("nan")}
THREE = ("cross_entropy", "mae", "l1")
EVIDENCE = ["one step", "look ahead", None]


@pytest.fixture(autouse=True)
def _library_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {name: LOSSES[name] for name in built_in()})


class Poison:
    """Cross-entropy, but what it is told to be from its ``after``-th call on that may see a gradient or none."""

    def __init__(self, how, after=1):
        self.how, self.after, self.calls = how, after, 0

    def __call__(self, logits, targets):
        self.calls += 1
        value = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        if self.calls < self.after:
            return value
        return {
            "nan": value * float("nan"),
            "inf": value * float("inf"),
            "only the value": value + float("nan"),
            "only the gradient": value + (0 * logits.sum(1)).sqrt(),
            "at one row": torch.where(torch.arange(len(value)) == 3, value * float("nan"), value),
        }[self.how]


def poisoned(how, after=1):
    function = Poison(how, after)
    LOSSES.add("my_poison", replace(LOSSES["cross_entropy"], name="my_poison", function=function))
    return function


class Loop:
    """Two classifications and a regression with heads of their own on one trunk, in a plain loop.

    missing: side and task, by number, whose rows have no label from this step on.
    """

    KINDS = ("classification", "classification", "regression")

    def __init__(self, evidence=None, missing=(), since=1, candidates=THREE, classes=3, dtype=None, **options):
        torch.manual_seed(0)
        self.trunk = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh())
        self.heads = torch.nn.ModuleList([torch.nn.Linear(8, K) for K in (classes, 3, 1)])
        self.model = torch.nn.ModuleList([self.trunk, self.heads]).to(dtype)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.data = torch.randn(2, 3, ROWS, 5).to(dtype)
        largest = self.data[:, :2, :, :3].argmax(-1)
        self.targets = [[*largest[side].unbind(), self.data[side, 2, :, 0].clone()] for side in (0, 1)]
        self.missing, self.since, self.step, self.masks = missing, since, 0, None
        made = {
            "one step": lambda: OneStep(self.model, OneStepOptions(every=1, review=2)),
            "look ahead": lambda: self.ahead(by_class=False),
            "look ahead by class": lambda: self.ahead(by_class=True),
            None: lambda: None,
        }
        tasks = [
            TaskSpec(name, kind, "cross_entropy" if kind == "classification" else "squared_error", counts)
            for name, kind, counts in zip("abc", self.KINDS, (COUNTS[:classes], COUNTS, None), strict=True)
        ]
        policy = options.pop("policy", "gradient" if evidence else "uniform")
        config = ComposerConfig(policy=policy, candidates=candidates)
        self.learned = LearnedLosses(tasks, self.model, config, total_steps=60, evidence=made[evidence](), **options)
        self.composer = self.learned.composer

    def ahead(self, by_class):
        return LookAhead(self.model, list(self.heads), LookAheadOptions(horizon=3, every=2), by_class)

    def labels(self, side, t):
        gone = self.step >= self.since and (side, t) in self.missing
        targets = self.targets[side][t]
        return torch.full_like(targets, NOTHING[self.KINDS[t]]) if gone else targets

    def outputs(self, side):
        features = [self.trunk(rows) for rows in self.data[side]]
        return [(head(own), own) for head, own in zip(self.heads, features, strict=True)]

    def rows(self, split, number=None):
        side = ("support", "query").index(split)
        targets = [self.labels(side, t) for t in range(3)]
        return Batch(lambda: self.outputs(side), targets, labelled=self.masks)

    def run(self, steps):
        for self.step in steps:
            mixtures = self.learned.begin(self.step, self.rows)
            losses = [
                mixture(z, self.labels(0, t), f).mean()
                for t, (mixture, (z, f)) in enumerate(zip(mixtures, self.outputs(0), strict=True))
            ]
            self.optimizer.zero_grad()
            sum(losses).backward()
            self.optimizer.step()
            self.learned.end(self.step, self.rows)
        return self

    def measured(self, steps=range(1, STEPS)):
        """Runs looks alone: no step is trained, so that the parameters stay as they are."""
        for self.step in steps:
            self.learned.begin(self.step, self.rows)
            self.learned.end(self.step, self.rows)
        return self


def finite(composer):
    return all(bool(tensor.isfinite().all()) for tensor in composer.state_dict().values())


@pytest.mark.parametrize("how", ["nan", "inf", "only the value", "only the gradient", "at one row"])
@pytest.mark.parametrize("kind", EVIDENCE)
def test_a_broken_loss_is_switched_off_with_its_name_and_no_other_moves(kind, how):
    poisoned(how)
    loop = Loop(kind, candidates=(*THREE, "my_poison")).measured()
    without = Loop(kind).measured()
    composer = loop.composer
    off = [event for event in composer.events if event.loss == "my_poison"]
    assert [(event.task, event.what, event.step) for event in off] == [("a", "off", 1), ("b", "off", 1)]
    assert off[0].reason == "its values or gradients are no finite numbers at step 1: it is out of this task for good"
    assert finite(composer)
    assert [set(shares) for shares in composer.compositions().values()] == [
        set(shares) for shares in without.composer.compositions().values()
    ]
    for name, shares in without.composer.compositions().items():
        assert composer.compositions()[name] == pytest.approx(shares)
    own = [i for i, name in enumerate(composer.names) if name != "my_poison"]
    for name in ("sizes", "coverage", "mean", "square", "count"):
        found, expected = (getattr(one.composer.state, name) for one in (loop, without))
        torch.testing.assert_close(found[:, own], expected)


def outcome(loop):
    """Of a training: None, or what ended it."""
    try:
        loop.run(range(1, STEPS))
    except DivergedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("after", range(1, 40, 2))
@pytest.mark.parametrize("kind", EVIDENCE)
def test_whenever_it_breaks_it_is_named(kind, after):
    """At whichever of its calls: in a look at sizes, at contributions, in a head trained ahead, or in the training,
    whose parameters are no numbers from then on."""
    function = poisoned("nan", after)
    loop = Loop(kind, candidates=(*THREE, "my_poison"))
    end = outcome(loop)
    if end is not None:
        assert "my_poison" in end
        assert end.startswith("Step ")
        return
    named = {event.loss for event in loop.composer.events if "finite" in event.reason}
    assert named == ({"my_poison"} if function.calls >= after else set())
    assert finite(loop.composer)
    assert all(bool(p.isfinite().all()) for p in loop.model.parameters())


def test_it_does_not_come_back():
    """Not by a review, a bank or a saved state."""
    poisoned("nan")
    first = Loop("one step", candidates=(*THREE, "my_poison")).measured()
    second = Loop("one step", candidates=(*THREE, "my_poison"))
    second.learned.load_state_dict({name: value.clone() for name, value in first.learned.state_dict().items()})
    place = first.composer.names.index("my_poison")
    for composer in (first.composer, second.composer):
        assert place not in composer.fitting[0]
        assert composer.broken == [{place}, {place}, set()]
        assert "my_poison" not in composer.compositions()["a"]
    bank = Adviser({"my_poison": (0.5, 0.01, 9), "mae": (0.1, 0.01, 9)})
    asking = Composer(first.composer.tasks, ComposerConfig(), OneStepOptions(), bank, encoder="textcnn")
    own = asking.names.index("my_poison")
    asking._drop(0, [own], torch.tensor([False]), 1)
    asking.ask([torch.zeros(len(CONTEXT_NAMES))] * 3, 0, 0.0)
    assert "my_poison" not in bank.asked[0].losses
    assert "my_poison" in bank.asked[1].losses
    assert set(asking.compositions()["a"]) == {"mae", "cross_entropy"}
    assert "my_poison" in asking.compositions()["b"]


def test_the_reference_stays_where_nothing_else_is_left():
    """A random choice may leave it out."""
    poisoned("nan")
    tasks = [TaskSpec("a", "classification", "cross_entropy")]
    config = ComposerConfig(policy="random", k=1, candidates=("my_poison",))
    seeds = (Composer(tasks, config, seed=seed) for seed in range(20))
    composer = next(c for c in seeds if list(c.compositions()["a"]) == ["my_poison"])
    batch = Batch(lambda: [(torch.randn(6, 3), torch.randn(6, 2))], [torch.arange(6) % 3])
    composer.measure(observed(torch.nn.Module(), tasks, batch, None), 1)  # any module: the batch runs none
    assert composer.compositions() == {"a": {"cross_entropy": 1.0}}


ENDS = [
    (lambda loop: loop.targets[0][2].fill_(float("inf")), "the loss squared_error of the task c, its reference, or a"),
    (
        lambda loop: loop.data[0, 1].fill_(float("nan")),
        "what the model puts out for b is no finite number.*; b with ",
    ),
]


@pytest.mark.parametrize(("breaks", "message"), ENDS)
@pytest.mark.parametrize("kind", EVIDENCE)
def test_a_broken_reference_ends_it_by_task_and_step(kind, breaks, message):
    loop = Loop(kind, candidates=("cross_entropy", "mae", "l1", "huber"))
    loop.run([1])
    breaks(loop)
    with pytest.raises(DivergedError, match=rf"Step [24]: {message}"):
        loop.measured(range(2, STEPS))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("task", [0, 2])
@pytest.mark.parametrize("kind", ["one step", "look ahead"])
def test_a_task_without_labels_keeps_its_state(kind, task, side):
    """From step 4 on; looked at by evidence on both sides."""
    loop = Loop(kind, missing=[(side, task)], since=4).run(range(1, 4))
    before = {name: value.clone() for name, value in loop.composer.state.state_dict().items()}
    shares = loop.composer.compositions()["abc"[task]]
    loop.run(range(4, STEPS))
    after = loop.composer.state.state_dict()
    for name, value in before.items():
        if name != "active":  # reviews go by the clock
            torch.testing.assert_close(after[name][task], value[task], msg=name)
    assert loop.composer.compositions()["abc"[task]] == pytest.approx(shares)
    others = [t for t in range(3) if t != task]
    assert not torch.equal(after["mean"][others], before["mean"][others])
    assert finite(loop.composer)


@pytest.mark.parametrize("kind", EVIDENCE)
def test_without_any_labels_nothing_happens(kind):
    missing = [(side, t) for side in (0, 1) for t in range(3)]
    loop = Loop(kind, missing=missing)
    before = [p.clone() for p in loop.model.parameters()]
    loop.run(range(1, STEPS))
    assert not loop.composer.state.count.any()
    assert not loop.composer.state.sizes.any()
    assert not [event for event in loop.composer.events if event.what == "off"]
    assert all(torch.equal(*pair) for pair in zip(before, loop.model.parameters(), strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [*EVIDENCE, "look ahead by class"])
def test_rows_without_a_label_are_as_if_they_were_not_there(kind, masked):
    """A third of each batch, in one loop with labels that are none, or with masks, in the other left out."""
    whole, left = Loop(kind), Loop(kind)
    kept = torch.arange(ROWS) % 3 != 0
    left.data = left.data[:, :, kept]
    left.targets = [[targets[kept] for targets in side] for side in left.targets]
    if masked:
        whole.masks = [kept] * 3
    else:
        for side in whole.targets:
            for kind_of, targets in zip(Loop.KINDS, side, strict=True):
                targets[~kept] = NOTHING[kind_of]
    whole.measured()
    left.measured()
    for name, expected in left.composer.state_dict().items():
        torch.testing.assert_close(whole.composer.state_dict()[name], expected, rtol=2e-4, atol=1e-5, msg=name)


def test_contexts_of_tasks_without_labels_are_no_numbers_and_the_bank_is_not_asked():
    bank = Adviser({"mae": (0.1, 0.01, 9)})
    loop = Loop(missing=[(1, 0)], policy="retrieval", candidates=None, bank=bank, encoder="textcnn").run([1])
    contexts = loop.learned.contexts[0]
    assert contexts.isnan().all(dim=1).tolist() == [True, False, False]
    assert [question.target_kind for question in bank.asked] == ["classification", "regression"]
    (event, *_) = [event for event in loop.composer.events if event.task == "a"]
    assert (event.what, event.reason[:27]) == ("silent", "Its context is not finite, ")
    assert loop.learned.before.isnan().all(dim=1).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", EVIDENCE)
def test_a_task_of_a_single_class(kind):
    loop = Loop(kind, candidates=("cross_entropy", "mae", "brier", "ldam_1", "l1"), classes=1)
    for side in (0, 1):
        loop.targets[side][0] = torch.zeros(ROWS, dtype=torch.int64)
    loop.run(range(1, STEPS))
    assert finite(loop.composer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", EVIDENCE)
def test_models_in_half_precision(kind, dtype):
    """Looked at as they are in float32, but for what their outputs were rounded by."""
    wide, half = (Loop(kind, dtype=chosen).measured().composer for chosen in (None, dtype))
    assert finite(half)
    torch.testing.assert_close(half.state.sizes, wide.state.sizes, rtol=0.05, atol=0.01)
    torch.testing.assert_close(half.contributions, wide.contributions, rtol=0.1, atol=0.1)


class Raising(Poison):
    """Cross-entropy that raises at its ``after``-th call, and from then on where it is ``how`` 'for good'."""

    def __call__(self, logits, targets):
        self.calls += 1
        if self.calls == self.after or (self.how == "for good" and self.calls > self.after):
            raise ValueError("I do not like this batch")
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def stepped(loop, steps):
    """Trains as anybody's own loop does, with a step that refuses what is not finite."""
    names = ["a", "b", "c"]
    step = MultiTaskStep(loop.model, torch.optim.SGD(loop.model.parameters(), lr=0.05), "uniform", names)
    for number in steps:
        loop.learned.begin(number, loop.rows)
        while True:
            mixtures = loop.composer.mixtures()

            def losses(mixtures=mixtures):
                given = zip(mixtures, loop.outputs(0), strict=True)
                return [m(z, loop.labels(0, t), f).mean() for t, (m, (z, f)) in enumerate(given)]

            try:
                step(losses)
                break
            except (DivergedError, LossError) as error:
                if not loop.learned.repair(number, loop.rows, error):
                    raise
        loop.learned.end(number, loop.rows)
    return step


@pytest.mark.parametrize("how", ["for good", "once", "nan", "only the gradient"])
@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 13, 21])
@pytest.mark.parametrize("kind", EVIDENCE)
def test_a_loss_that_fails_is_switched_off_and_the_training_goes_on(kind, after, how):
    """At whichever of its calls, in a look or in a step: told once a task, and everything stays finite."""
    function = (Raising if how in ("for good", "once") else Poison)(how, after)
    LOSSES.add("my_poison", replace(LOSSES["cross_entropy"], name="my_poison", function=function))
    loop = Loop(kind, candidates=(*THREE, "my_poison"))
    step = stepped(loop, range(1, STEPS))
    assert step.count == STEPS - 1
    told = [event for event in loop.composer.events if event.loss == "my_poison" and event.what == "off"]
    # evidence may have thought little of it before
    off = [event for event in told if event.reason.endswith("for good")]
    failed = function.calls >= after
    if how in ("for good", "nan", "only the gradient") and failed:
        assert sorted(event.task for event in off) == ["a", "b"]
    assert bool(off) == failed
    expected = "raised ValueError: I do not like this batch" if isinstance(function, Raising) else "no finite numbers"
    assert all(expected in event.reason for event in off)
    assert all("my_poison" not in loop.composer.compositions()[event.task] for event in off)
    assert finite(loop.composer)
    assert all(bool(p.isfinite().all()) for p in loop.model.parameters())


def test_what_is_not_for_the_losses_ends_the_training():
    """Bad inputs are none of a loss's business, nor is a reference that raises."""
    loop = Loop("one step", candidates=(*THREE, "brier"))
    stepped(loop, [1])
    loop.data[0, 1].fill_(float("nan"))
    with pytest.raises(DivergedError, match="Step 1: the support loss is not finite for b"):
        stepped(loop, [2])
    assert not [event for event in loop.composer.events if event.what == "off"]
    LOSSES._entries["squared_error"] = replace(LOSSES["squared_error"], function=Raising("for good", 3))
    with pytest.raises(LossError, match=r"squared_error raised ValueError: I do not like this batch \(.*, line \d+\)"):
        stepped(Loop(candidates=THREE), range(1, STEPS))
