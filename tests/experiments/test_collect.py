"""Collection of experience: stacked trainings against single ones, Latin squares, shards that are made once."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from lossrag.experiments.bank.collect import pools as pools_module
from lossrag.experiments.bank.collect.cases import draw_case
from lossrag.experiments.bank.collect.plan import CollectPlan, Squares, Stacked, load_collect_plan
from lossrag.experiments.bank.collect.pools import Pool, pools
from lossrag.experiments.bank.collect.squares import latin, square
from lossrag.experiments.bank.collect.stacked import Stack, collect_case, stacked_losses, train
from lossrag.experiments.bank.collect.troubles import VALUE_TROUBLES, Strengths, Trouble, contaminated, drawn_trouble
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.files import load_experience
from lossrag.tasks import Examples, Suite, Task, TokenInputs
from lossrag.tensors import load_tensors

SMALL = Stacked(2, sources={"wine": 1}, troubles={"both": 1}, repeats=2, steps=25, batch_size=16, hidden=6)
VALUES = Stacked(2, kind="regression", sources={"diabetes": 1}, troubles={"skew": 1}, repeats=2, steps=25, hidden=6)


def alone(part, case, loss, stack, number, repeat, chance):
    """A single model with this loss, trained from the same start through the same batches."""
    first, second = torch.nn.Linear(case.support[0].shape[1], part.hidden), torch.nn.Linear(part.hidden, case.outputs)
    with torch.no_grad():
        first.weight.copy_(stack.parameters[0][repeat, :, number].T)
        first.bias.copy_(stack.parameters[1][repeat, 0, number])
        second.weight.copy_(stack.parameters[2][repeat, number].T)
        second.bias.copy_(stack.parameters[3][repeat, number, 0])
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    optimizer = torch.optim.Adam(model.parameters(), lr=part.lr)
    inputs, targets = case.support
    for _ in range(part.steps):
        rows = torch.from_numpy(chance.integers(len(targets), size=min(part.batch_size, len(targets))))
        optimizer.zero_grad()
        loss(model(inputs[rows]), targets[rows], class_counts=case.class_counts).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("part", [SMALL, VALUES], ids=["classification", "regression"])
def test_side_by_side_is_one_by_one(part):
    """Every loss gets what a training of its own would give it."""
    case = draw_case(part, np.random.default_rng(3))
    losses = stacked_losses(part.kind)
    picked = [0, 3, len(losses) - 1]
    chances = [np.random.default_rng(seed) for seed in range(part.repeats)]
    stack = Stack.of(case.support[0].shape[1], part.hidden, case.outputs, len(losses), chances)
    start = Stack(tuple(parameter.detach().clone() for parameter in stack.parameters))
    assert torch.equal(start.parameters[0][1, :, 0], start.parameters[0][1, :, 5])
    assert not torch.equal(start.parameters[0][0], start.parameters[0][1])
    second = [np.random.default_rng() for _ in chances]
    for copy, chance in zip(second, chances, strict=True):
        copy.bit_generator.state = chance.bit_generator.state
    # the first repeat draws the rows of snapshots between its batches: another one tells the batches alone
    train(part, case, losses, stack, chances)
    expected = {}
    for number in picked:
        chance = np.random.default_rng()
        chance.bit_generator.state = second[1].bit_generator.state
        expected[number] = alone(part, case, losses[number], start, number, 1, chance)
    with torch.no_grad():
        logits, _ = stack(case.test[0].expand(part.repeats, -1, -1))
        for number, model in expected.items():
            assert torch.allclose(logits[1, number], model(case.test[0]), atol=2e-4), losses[number].name


def test_a_linear_head():
    chances = [np.random.default_rng(0)]
    stack = Stack.of(4, None, 3, 2, chances)
    inputs = torch.randn(1, 5, 4)
    logits, features = stack(inputs)
    assert logits.shape == (1, 2, 5, 3)
    assert torch.equal(features, inputs)
    assert torch.allclose(logits[0, 1], inputs[0] @ stack.parameters[0][0, :, 1] + stack.parameters[1][0, 0, 1])


def test_a_loss_that_breaks_has_no_outcome():
    stack = Stack.of(4, 3, 2, 5, [np.random.default_rng(0), np.random.default_rng(1)])
    with torch.no_grad():
        stack.parameters[2][1, 3, 0, 0] = math.nan
        stack.parameters[1][0, 0, 2, 1] = math.inf
    assert stack.finite().tolist() == [True, True, False, False, True]


def test_outcomes_are_paired_differences():
    plan = CollectPlan("mine", 5, {"a": SMALL})
    record = collect_case(plan, "a", SMALL, 1)
    assert "cross_entropy" not in record.outcomes
    assert set(record.outcomes) == {loss.name for loss in stacked_losses("classification")} - {"cross_entropy"}
    assert {outcome.repeats for outcome in record.outcomes.values()} == {2}
    assert all(-1 <= o.gain <= 1 - record.case.reference + 1e-6 and o.error >= 0 for o in record.outcomes.values())
    assert (record.case.source, record.case.task, record.case.encoder, record.case.outputs) == (
        "wine",
        "cultivar",
        "mlp",
        3,
    )
    assert (record.case.trouble, record.case.metric, record.case.seed) == ("both", "macro_accuracy", 1)
    assert 0.1 <= record.case.strength <= 0.4
    assert list(record.moments) == [0.0, 0.02, 0.15]
    again = collect_case(CollectPlan("yours", 5, {"b": VALUES, "a": SMALL}), "a", SMALL, 1)
    assert again.outcomes == record.outcomes


def test_losses_of_a_stack():
    for kind, first in (("classification", "cross_entropy"), ("regression", "squared_error")):
        losses = stacked_losses(kind)
        assert losses[0].name == first
        assert {loss.name for loss in losses} == {
            loss.name for loss in LOSSES.values() if loss.target_kind == kind and not loss.relational
        }


def test_r2_below_that_of_the_mean_counts_as_0():
    record = collect_case(CollectPlan("mine", 5, {}), "a", Stacked(**{**vars(VALUES), "steps": 1}), 0)
    assert record.case.reference == 0.0
    assert max(abs(outcome.gain) for outcome in record.outcomes.values()) == 0.0


@pytest.mark.parametrize("trouble", ["clean", "symmetric", "pair", "imbalance", "both"])
def test_cases_of_classes(trouble):
    part = Stacked(1, sources={"digits": 1}, troubles={trouble: 1})
    counts: Counter[int] = Counter()
    for seed in range(8):
        case = draw_case(part, np.random.default_rng(seed))
        sides = [case.support, case.query, case.test]
        assert all(set(targets.tolist()) == set(range(case.outputs)) for _, targets in sides)
        counts[case.outputs] += 1
        sizes = [len(targets) for _, targets in sides]
        assert sizes[2] >= 0.4 * sum(sizes)
        assert (case.class_counts == torch.bincount(case.support[1], minlength=case.outputs)).all()
        ratio = float(case.class_counts.max() / case.class_counts.min())
        assert ratio > 2 if trouble == "imbalance" else ratio < 2 or trouble not in ("clean", "symmetric")
        assert math.isnan(case.trouble.strength) == (trouble == "clean")
    assert len(counts) > 2


def test_label_noise_is_as_strong_as_it_says():
    """Where labels can be looked up: of the digits' pool, by the pixels."""
    (pool,) = pools("digits", "mlp", "classification")
    truth = {tuple(row): label for row, label in zip(pool.inputs.tolist(), pool.targets.tolist(), strict=True)}
    part = Stacked(1, encoder="bert_frozen", sources={"newsgroups": 1}, troubles={"symmetric": 1})
    seen, wrong, expected = 0, 0, 0.0
    with pytest.MonkeyPatch.context() as patch:
        # features as they are: those of an encoder are not scaled
        patch.setattr(
            "lossrag.experiments.bank.collect.cases.pools",
            lambda *_: (Pool("digits", "digits", pool.inputs, pool.targets % 2),),
        )
        for seed in range(10):
            case = draw_case(part, np.random.default_rng(seed))
            for inputs, targets in (case.support, case.query):
                right = torch.tensor([truth[tuple(row)] % 2 for row in inputs.tolist()])
                wrong += int((right != targets).sum())
                seen += len(targets)
                expected += case.trouble.strength * len(targets)
            right = torch.tensor([truth[tuple(row)] % 2 for row in case.test[0].tolist()])
            assert torch.equal(right, case.test[1])
    assert wrong / seen == pytest.approx(expected / seen, abs=0.02)


@pytest.mark.parametrize("trouble", VALUE_TROUBLES)
def test_cases_of_values(trouble):
    part = Stacked(1, kind="regression", sources={"diabetes": 1, "digits": 1}, troubles={trouble: 1})
    tasks = set()
    for seed in range(6):
        case = draw_case(part, np.random.default_rng(seed))
        tasks.add(case.task)
        assert case.class_counts is None
        assert case.test[1].shape[1] == case.outputs == case.support[1].shape[1]
        assert float(case.test[1].std()) == pytest.approx(1, abs=0.25)
        assert len(case.query[1]) == round((len(case.query[1]) + len(case.support[1])) / 6)
    assert len(tasks) > 2


def test_errors_of_values():
    chance = np.random.default_rng(0)
    inputs, targets = torch.randn(4000, 3), torch.zeros(4000, 1)
    errors = {kind: contaminated(Trouble(kind, 0.2), inputs, targets, chance)[:, 0].double() for kind in VALUE_TROUBLES}
    assert not errors["clean"].any()
    off = errors["outliers"].abs()
    assert float((off > 0).double().mean()) == pytest.approx(0.2, abs=0.02)
    assert 3 <= float(off[off > 0].min()) <= float(off.max()) <= 8
    assert abs(float(errors["skew"].median())) < 0.02 < abs(float(errors["skew"].mean()))
    assert abs(float(errors["heavy_tails"].median())) < 0.02
    kurtosis = {kind: float((e**4).mean() / (e**2).mean() ** 2) for kind, e in errors.items() if kind != "clean"}
    assert min(kurtosis["heavy_tails"], kurtosis["heteroscedastic"]) > 6


def test_strengths_stay_in_their_ranges():
    chance = np.random.default_rng(0)
    for kind, low, high in (("symmetric", 0.1, 0.6), ("pair", 0.1, 0.45), ("imbalance", 3, 50), ("both", 0.1, 0.4)):
        drawn = [drawn_trouble(Strengths(), kind, 4, chance).strength for _ in range(100)]
        assert low <= min(drawn) < low + 0.2 * (high - low) < high - 0.2 * (high - low) < max(drawn) <= high
    two = [drawn_trouble(Strengths(), "symmetric", 2, chance).strength for _ in range(100)]
    assert max(two) <= 0.4
    narrow = [drawn_trouble(Strengths((0.2, 0.3), (5, 6)), kind, 5, chance) for kind in ("pair", "imbalance") * 20]
    assert all(0.2 <= t.strength <= 0.3 or 5 <= t.strength <= 6 for t in narrow)


def test_pools_of_texts_are_mean_word_vectors(monkeypatch):
    """Documents [1, 2], [3] and none; all splits of both tasks together, the classes of the second after the first."""
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [1.0, 1.0]])
    inputs = TokenInputs(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3, 3]))
    examples = Examples(inputs, torch.tensor([0, 1, 0]))
    splits = dict.fromkeys(("support", "query", "validation", "test"), (examples, examples))
    suite = Suite(
        "made", "up", (Task("a", "classification", 2), Task("b", "classification", 2)), False, splits, vectors
    )
    monkeypatch.setattr(pools_module, "load_suite", lambda *_, **__: suite)
    pools.cache_clear()
    (pool,) = pools("newsgroups", "mlp", "classification")
    assert (pool.outputs, len(pool.targets)) == (4, 24)
    assert pool.inputs[:3].tolist() == [[1.0, 2.0], [1.0, 1.0], [0.0, 0.0]]
    assert pool.targets[:3].tolist() == [0, 1, 0]
    assert pool.targets[12:15].tolist() == [2, 3, 2]
    assert [own.task for own in pools("sentiment", "mlp", "classification")] == ["a", "b"]
    pools.cache_clear()


def test_latin_squares():
    for tasks, losses in ((14, 8), (4, 8), (3, 3)):
        table = latin(tasks, losses, np.random.default_rng(tasks))
        assert table.shape == (losses, tasks)
        # every task meets every loss once; a run has them as evenly as can be
        assert all(sorted(column) == list(range(losses)) for column in table.T.tolist())
        assert all(max(Counter(row).values()) <= -(-tasks // losses) for row in table.tolist())


SQUARE = {
    "squares": 1,
    "experiment": "digits",
    "losses": ["cross_entropy", "mae"],
    "troubles": {"clean": 1, "symmetric": 2},
    "overrides": [
        "weighting=uniform",
        "train.query_for_baselines=support",
        "train.epochs=2",
        "train.batch_size=256",
        "log.contexts=true",
        "log.tensorboard=false",
    ],
}
PLAN = {
    "seed": 4,
    "stacked": {
        "few": {"cases": 3, "sources": {"iris": 1}, "troubles": {"clean": 1}, "steps": 10, "per_shard": 2, "hidden": 4}
    },
    "squares": {"digits": SQUARE},
}


def test_a_square_is_the_same_problem_in_every_run():
    part = Squares(**SQUARE)
    lines = square(CollectPlan("mine", 4, {}), "digits", part, 0)
    assert lines == square(CollectPlan("mine", 4, {}), "digits", part, 0)
    assert lines != square(CollectPlan("mine", 5, {}), "digits", part, 0)
    assert lines[0][:-1] == lines[1][:-1]
    given = [yaml.safe_load(line[-1].partition("=")[2]) for line in lines]
    # the regression keeps its loss
    assert all(set(losses) == {"digit", "parity", "loops"} for losses in given)
    assert all({losses[task] for losses in given} == {"cross_entropy", "mae"} for task in given[0])


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


def assert_same(first, second):
    """Two tensor files hold the same bits."""
    (a, meta_a), (b, meta_b) = (load_tensors(path) for path in (first, second))
    assert meta_a == meta_b
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name].nan_to_num(-7.0), b[name].nan_to_num(-7.0)) for name in a)


def test_a_collection_is_made_once_and_is_always_the_same(plan, lossrag, tmp_path, runs_here):
    with runs_here():
        first = lossrag("bank", "collect", str(plan), f"root={tmp_path}/a", "processes=1")
    assert first.code == 0, first
    assert "3 of 3 shards: 6 cases" in first.out
    folder = tmp_path / "a" / "mine"
    whole = load_experience(folder / "experience.safetensors")
    assert Counter(whole.texts("source").tolist()) == {"iris": 3, "digits": 3}
    assert (folder / "experience.safetensors").stat().st_size < 100_000
    with (folder / "cases.csv").open(newline="") as file:
        cases = list(csv.DictReader(file))
    assert [case["task"] for case in cases] == ["species"] * 3 + ["digit", "parity", "loops"]
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["digits", "digits"]
    summaries = [json.loads((folder / "digits" / row["run_id"] / "summary.json").read_text()) for row in rows]
    assert [f"{summary['test_score_mean']:.6f}" for summary in summaries] == [row["test"] for row in rows]
    gains = [abs(s["test_accuracy"]["digit"] - summaries[0]["test_accuracy"]["digit"]) for s in summaries]
    assert abs(float(cases[3]["gain"])) == pytest.approx(max(gains), abs=1e-4)
    assert not list((folder / "digits").rglob("checkpoints"))

    made, kept = (folder / "shards" / name for name in ("few-0001.safetensors", "few-0000.safetensors"))
    made.rename(tmp_path / "made")
    before = kept.read_bytes()
    again = lossrag("bank", "collect", str(plan), f"root={tmp_path}/a", "processes=1", "parts=[few]")
    assert "few: 2 of 2 shards" in again.out
    assert_same(made, tmp_path / "made")
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_processes_make_no_difference(plan, lossrag, tmp_path):
    for processes in (1, 2):
        result = lossrag(
            "bank", "collect", str(plan), f"root={tmp_path}/{processes}", f"processes={processes}", "parts=[few]"
        )
        assert "2 of 3 shards: 3 cases" in result.out
    assert_same(*(tmp_path / f"{n}" / "mine" / "experience.safetensors" for n in (1, 2)))


WINE = "stacked: {a: {cases: 1, sources: {wine: 1}, troubles: {clean: 1}}}"
MISTAKES = {
    "seed: no": "seed must be a whole number",
    "parts: {}": "parts by name under stacked and squares",
    "seed: 1\nstacked: {a: {cases: 1, sources: {iris: 1}, troubles: {clean: 1}, stps: 3}}": "did you mean 'steps'",
    f"seed: 1\n{WINE}".replace("wine: 1", "iris: -1"): "sources needs positive weights",
    f"seed: 1\n{WINE}".replace("wine: 1", "irs: 1"): "sources has 'irs', which there is not: did you mean 'iris'",
    f"seed: 1\n{WINE}".replace("clean", "noise"): "troubles has 'noise', which there is not: choose from",
    "seed: 1\nstacked: {a: {cases: 0, sources: {iris: 1}, troubles: {clean: 1}}}": "cases must be 1 or more",
    "seed: 1\nsquares: {a: {squares: 1, losses: [mae], troubles: {clean: 1}}}": "losses needs two at least",
    "seed: 1\nsquares: {a: {squares: 1, losses: [mae, mea], troubles: {clean: 1}}}": "Unknown loss 'mea'",
    "[": "cannot be read",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_plan(lossrag, tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    assert MISTAKES[text] in lossrag("bank", "collect", f"{tmp_path}/mine.yaml", f"root={tmp_path}").error


def test_other_mistakes(lossrag, plan, tmp_path):
    assert "did you mean 'builtin'" in lossrag("bank", "collect", "buitlin").error
    assert "has no part 'fewer': did you mean 'few'" in lossrag("bank", "collect", str(plan), "parts=[fewer]").error
    assert "processes must be 1 or more" in lossrag("bank", "collect", str(plan), "processes=0").error
    shards = tmp_path / "b" / "mine" / "shards"
    shards.mkdir(parents=True)
    (shards / "few-0000.safetensors").write_bytes(b"nothing")
    error = lossrag("bank", "collect", str(plan), f"root={tmp_path}/b", "parts=[few]").error
    assert "few-0000.safetensors is damaged" in error


def test_the_plan_of_the_bank_that_ships():
    plan = load_collect_plan("builtin")
    for part in plan.parts.values():
        if isinstance(part, Squares):
            assert part.losses[0] == "cross_entropy"
        else:
            assert stacked_losses(part.kind)[0].name in ("cross_entropy", "squared_error")
