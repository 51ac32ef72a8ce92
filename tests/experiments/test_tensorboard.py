"""TensorBoard's own server, started on real runs, answers with every tag of docs/tensorboard.md, and with no other."""

from __future__ import annotations

import html
import json
import re
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossrag.experiments.cli import run
from lossrag.experiments.record.board_tags import (
    ALL,
    BEST,
    COMPOSITION,
    EVENTS,
    LAMBDA,
    PICTURES,
    RESULT,
    RETRIEVAL,
    SETTINGS,
    TEST,
    D,
    place_of,
)
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.tensorboard import TensorBoard
from lossrag.lossbank import LOSSES
from lossrag.tasks import SUITES, Task
from tests.browser.board import tensorboard
from tests.experiments.banks import SMALL_VALUE_GAINS, write_bank

pytestmark = pytest.mark.pictures

PAGE = Path(__file__).parents[2] / "docs" / "tensorboard.md"
CLASSES, REGRESSIONS = ("digit", "parity", "loops"), ("centre",)
TOY_CLASSES, TOY_REGRESSIONS = ("two", "three"), ("value",)
RUN = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=256", "log.figures_every=1"]
ADVERSARIAL = ["model.sharing=shared_private", "model.adversarial=0.05", "model.orthogonal=0.01", "model.filters=2"]
TERMS = ("discriminator", "orthogonality")
LABELS = {
    "meta": "epochs=2 batch_size=256",
    "uniform": "epochs=2 batch_size=256 query_for_baselines=support",
    "learned": "retrieval k=6 risk=1.0 questions=0,0.05,0.15 +5",
    "adversarial": "epochs=2 batch_size=40 sharing=shared_private +3",
}
RUNS = tuple(LABELS)


@dataclass(frozen=True)
class Row:
    """A row of a table of the page: the series of metrics.jsonl, the card, and whether it is in the runs of tasks."""

    series: str
    card: str

    @property
    def of_task(self):
        return "<task>" in self.series or self.card in TEXTS_OF_TASKS


TEXTS_OF_TASKS = ("2_events", "3_retrieval")


def rows(title):
    """Of the table whose first column has this title."""
    lines = PAGE.read_text().partition(f"\n| {title} |")[2].partition("\n\n")[0].splitlines()[2:]
    if title == "in `metrics.jsonl`":
        return [Row(*(cell.strip().replace("`", "") for cell in line.split(" | ")[:2])) for line in _stripped(lines)]
    return [Row("", line.split("`")[1]) for line in lines]


def _stripped(lines):
    return [line.removeprefix("| ") for line in lines]


SERIES = rows("in `metrics.jsonl`")


def tasks_of(row, classes, regressions):
    metric = row.card.rsplit("_", 1)[-1]
    of_terms = row.card.startswith("6_")
    return {"accuracy": classes, "r2": regressions}.get("" if of_terms else metric, classes + regressions)


def documented(classes=CLASSES, regressions=REGRESSIONS, kind=SERIES):
    """The cards by run that the page promises, with these tasks."""
    cards = {run: set() for run in (ALL, *classes, *regressions)}
    for row in kind:
        for task in tasks_of(row, classes, regressions) if row.of_task else [ALL]:
            cards[task].add(row.card)
    return cards


def documented_series(classes=CLASSES, regressions=REGRESSIONS):
    """The names in metrics.jsonl, those of losses with <loss>."""
    plain = [row for row in SERIES if " of " not in row.series]
    named = [row.series.replace("<task>", task) for row in plain for task in tasks_of(row, classes, regressions)]
    return {name for name in named if not name.startswith((*TERMS, "steps"))}


def without(cards, *beginnings):
    """Of cards by run."""
    return {run: {card for card in own if not card.startswith(beginnings)} for run, own in cards.items()}


ADVERSARY, SKIPPED = "6_adversarial", "5_optimizer/skipped_steps"
COMPOSED = ("1_overview/5", "2_", "7_")
OUTER = ("4_", "1_overview/4")


def test_the_page_lists_what_there_is():
    assert len(SERIES) == 31
    for row in SERIES:
        if " of " not in row.series:
            run, tag = place_of(row.series)
            assert (run, tag) == ("<task>" if row.of_task else ALL, row.card)
    assert {row.card for row in rows("picture")} == {COMPOSITION, D, *PICTURES}
    assert [row.card for row in rows("text")] == [RESULT, EVENTS, RETRIEVAL, SETTINGS]


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, toy_entry):
    """A run with an outer problem, one without, one that composes its losses, and an adversarial one."""
    root = tmp_path_factory.mktemp("logdir")
    assert run([*RUN, f"run.dir={root / 'meta'}"]) == 0
    assert run([*RUN, f"run.dir={root / 'uniform'}", "weighting=uniform", "train.query_for_baselines=support"]) == 0
    composing = [
        "loss.policy=retrieval",
        "loss.risk=1.0",
        f"loss.bank={write_bank(root / 'bank.safetensors', values=SMALL_VALUE_GAINS)}",
        "loss.questions=[0,0.05,0.15]",
        "loss.evidence=one_step",
        "loss.review=2",
        "loss.k=6",
        "log.figures_every=2",
    ]
    assert run([*RUN, f"run.dir={root / 'learned'}", *composing]) == 0
    toy = ["train", "tasks=toy", "train.epochs=2", "train.batch_size=40", *ADVERSARIAL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES._entries, "toy", toy_entry)
        assert run([*toy, f"run.dir={root / 'adversarial'}", "weighting=uniform"]) == 0
    return root


def collapsed(tags):
    """The tags of the table's form: one for all losses of a task."""
    tags = {re.sub(r"^(2_composition|7_contribution)/.+", r"\1/<loss>", tag) for tag in tags}
    return {re.sub(r"^(composition|contribution)/(\w+)/.+", r"\1/\2/<loss>", tag) for tag in tags}


def run_of(name, task):
    """TensorBoard's name for a task of one of the runs."""
    return f"{name}/tensorboard/{LABELS[name]} {task}".replace("/ ", "/")


@pytest.fixture(scope="module")
def ask(logdir):
    """Questions to a TensorBoard that serves these runs."""
    with tensorboard(logdir) as address:

        def get(path, body=None, **query):
            url = f"{address}/data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
                return json.loads(content) if "json" in answer.headers["Content-Type"] else content

        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            tags = get("plugin/scalars/tags")
            if all(TEST in tags.get(run_of(name, ALL), ()) for name in RUNS):
                break
            time.sleep(0.2)
        yield get


@pytest.fixture(scope="module")
def served(ask):
    """The scalar tags by run and task."""
    tags = ask("plugin/scalars/tags")
    tasks = {**dict.fromkeys(RUNS, (ALL, *CLASSES, *REGRESSIONS)), "adversarial": (ALL, *TOY_CLASSES, *TOY_REGRESSIONS)}
    assert set(tags) == {run_of(name, task) for name in RUNS for task in tasks[name]}
    return {name: {task: set(tags[run_of(name, task)]) for task in tasks[name]} for name in RUNS}


def test_every_task_is_a_run(ask, served):
    assert set(ask("runs")) == {run_of(name, task) for name in RUNS for task in served[name]}


def test_scalar_tags_are_those_of_the_table(served):
    usual = without(documented(), ADVERSARY, SKIPPED)
    assert served["meta"] == without(usual, "3_training/query_mean", *COMPOSED)
    assert served["uniform"] == without(usual, *OUTER, *COMPOSED)
    assert {task: collapsed(tags) for task, tags in served["learned"].items()} == without(
        usual, "3_training/query_mean"
    )
    toy = documented(TOY_CLASSES, TOY_REGRESSIONS)
    assert served["adversarial"] == without(toy, SKIPPED, "3_training/query", *OUTER, *COMPOSED)
    assert len([tag for tags in served["adversarial"].values() for tag in tags if tag.startswith("6_")]) == 3 * 3


def test_every_point_is_served(ask, logdir, served):
    """TensorBoard and metrics.jsonl hold the same numbers."""
    for name in RUNS:
        points = read_points(logdir / name / "metrics.jsonl")
        told = {run: {LAMBDA, BEST} & tags for run, tags in served[name].items()}
        for series in dict.fromkeys(
            tag for point in points for tag in point if "/" in tag and tag != "hypergradient/D"
        ):
            task, tag = place_of(series)
            told[task].add(tag)
            shown = ask("plugin/scalars/scalars", run=run_of(name, task), tag=tag)
            logged = [(point["step"], point[series]) for point in points if series in point]
            if series.startswith(("composition/", "composition_active/")):
                epochs = [point["step"] for point in points if "validation/score_mean" in point]
                shown = _without_held(shown, logged, epochs)
            assert [step for _, step, _ in shown] == [step for step, _ in logged], tag
            assert [value for *_, value in shown] == pytest.approx([value for _, value in logged], rel=1e-6)
        assert told == served[name]


def _without_held(shown, logged, epochs):
    """What is shown but for the points at the ends of epochs, each of which must be the last logged one before it."""
    kept = []
    for moment, step, value in shown:
        if step in dict(logged):
            kept.append((moment, step, value))
        else:
            assert step in epochs
            assert value == pytest.approx(next(last for at, last in reversed(logged) if at < step), rel=1e-6)
    assert max(epochs) in [step for _, step, _ in shown]
    return kept


def test_lambda_is_a_running_mean_and_the_best_score_a_maximum(ask, logdir):
    points = read_points(logdir / "meta" / "metrics.jsonl")
    for task in CLASSES + REGRESSIONS:
        raw = [point[f"lambda/{task}"] for point in points if f"lambda/{task}" in point]
        shown = [value for *_, value in ask("plugin/scalars/scalars", run=run_of("meta", task), tag=LAMBDA)]
        assert shown == pytest.approx([sum(raw[: n + 1]) / (n + 1) for n in range(len(raw))], rel=1e-6)
    scores = [point["validation/score_mean"] for point in points if "validation/score_mean" in point]
    best = [value for *_, value in ask("plugin/scalars/scalars", run=run_of("meta", ALL), tag=BEST)]
    assert best == pytest.approx([max(scores[: n + 1]) for n in range(len(scores))], rel=1e-6)


def test_the_mean_of_lambda_looks_back_on_fifty_points(tmp_path):
    task = Task("a", "classification", 2)
    board = TensorBoard(tmp_path, "", [task], 0)
    board.recall({"lambda/a": 1.0, "step": 0})
    for step in range(1, 61):
        board.write(step, {"lambda/a": 0.0})
    board.close()
    events = EventAccumulator(str(tmp_path / "a")).Reload().Scalars(LAMBDA)
    assert [event.value for event in events] == pytest.approx([1 / (n + 1) for n in range(1, 50)] + [0.0] * 11)


def test_metrics_hold_no_undocumented_series(logdir):
    tags = {
        name: {tag for point in read_points(logdir / name / "metrics.jsonl") for tag in point} - {"step", "epoch"}
        for name in RUNS
    }
    toy = tags.pop("adversarial")
    assert collapsed(set().union(*tags.values())) == documented_series() | {"hypergradient/D"}
    known = {place_of(tag) for tag in toy}
    assert {tag for _, tag in known} <= set().union(*documented(TOY_CLASSES, TOY_REGRESSIONS).values())
    assert {tag.split("/")[0] for tag in toy} >= set(TERMS)


def test_pictures(ask, logdir):
    served = ask("plugin/images/tags")
    every = {COMPOSITION, D, *PICTURES}
    results = {name: {tag for tag, file in PICTURES.items() if (logdir / name / file).exists()} for name in RUNS}
    assert results["learned"] == set(PICTURES)
    assert results["meta"] == {"8_result/1_trajectories"}
    assert {run: set(tags) for run, tags in served.items()} == {
        run_of("meta", ALL): {D} | results["meta"],
        run_of("uniform", ALL): results["uniform"],
        run_of("learned", ALL): every,
        run_of("adversarial", ALL): results["adversarial"],
    }

    def pictures(name, tag):
        listed = ask("plugin/images/images", run=run_of(name, ALL), tag=tag, sample="0")
        return {shown["step"]: ask(f"plugin/images/individualImage?{shown['query']}") for shown in listed}

    assert list(pictures("meta", D)) == [5, 10]
    assert list(pictures("learned", COMPOSITION)) == [10]
    assert all(png.startswith(b"\x89PNG") for tag in (D, COMPOSITION) for png in pictures("learned", tag).values())
    for tag, file in PICTURES.items():
        assert pictures("learned", tag) == {10: (logdir / "learned" / file).read_bytes()}


def test_texts_of_the_composition(ask):
    """The digit is composed before the first step; the centre keeps its reference there, and is composed after it."""
    for task, steps, at in (("digit", [0], 0), ("centre", [0, 1], 1)):
        for tag, part in ((EVENTS, "composed"), (RETRIEVAL, "<ol>")):
            texts = ask("plugin/text/text", run=run_of("learned", task), tag=tag)
            assert [entry["step"] for entry in texts][: len(steps)] == (steps if tag == EVENTS else [at])
            assert part in next(entry["text"] for entry in texts if entry["step"] == at)
    assert "made up, task" in ask("plugin/text/text", run=run_of("learned", "digit"), tag=EVENTS)[0]["text"]


def test_projector(ask):
    assert ask("plugin/projector/runs") == [run_of("learned", ALL)]
    (embedding,) = ask("plugin/projector/info", run=run_of("learned", ALL))["embeddings"]
    shown = {"run": run_of("learned", ALL), "name": embedding["tensorName"]}
    labels = ask("plugin/projector/metadata", **shown).decode().splitlines()
    assert {line.split("\t")[0] for line in labels[1:]} == {
        *LOSSES,
        *(f"task {task}" for task in CLASSES + REGRESSIONS),
    }
    assert len(ask("plugin/projector/tensor", **shown)) == 4 * (len(labels) - 1) * embedding["tensorShape"][1]


def test_texts(ask, logdir):
    """The final table and the sentences, the decisions, the settings."""
    served = ask("plugin/text/tags")
    expected = documented(kind=rows("text"))
    assert {task: set(served[run_of("learned", task)]) for task in expected} == expected
    assert {run: set(tags) for run, tags in served.items() if run.startswith("meta")} == {
        run_of("meta", ALL): {RESULT, SETTINGS}
    }
    (entry,) = ask("plugin/text/text", run=run_of("meta", ALL), tag=SETTINGS)
    assert "alpha: 0.05" in entry["text"]
    summary = json.loads((logdir / "learned" / "summary.json").read_text())
    (entry,) = ask("plugin/text/text", run=run_of("learned", ALL), tag=RESULT)
    for task, metric in summary["metric"].items():
        score = {**summary["test_accuracy"], **summary["test_r2"]}[task]
        assert re.search(rf"<td[^>]*>{task}</td>\s*<td[^>]*>{score:.4f} {metric}</td>", entry["text"])
        assert f"<li>{task}: " in entry["text"]
        assert summary["reasons"][task] in html.unescape(entry["text"])
    assert f"{summary['test_score_mean']:.4f}" in entry["text"]
    assert "<li>bank: " in entry["text"]


def test_one_chart_holds_all_tasks(ask):
    """Every chart of the page shows something of some run, and the patterns of all runs are one layout."""
    layout = ask("plugin/custom_scalars/layout")
    categories = {
        category["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        for category in layout["category"]
    }
    assert list(categories) == ["Overview", "Training", "Adversary", "Losses: choose one task's run"]
    cards = without(documented(), "3_training/query_mean")
    for charts in categories.values():
        for title, (pattern,) in charts.items():
            tasks = REGRESSIONS if "r2" in title else CLASSES if re.search("(?<!nator )accuracy", title) else ()
            tasks = [ALL] if "mean validation" in title else tasks or CLASSES + REGRESSIONS
            shown = {task for task, tags in cards.items() if any(re.match(pattern, tag) for tag in tags)}
            assert shown == set(tasks), title


def test_hyperparameters(ask):
    experiment = ask("plugin/hparams/experiment", body={"experimentName": ""})
    columns = {info["name"]: info["displayName"] for info in experiment["hparamInfos"]}
    first = [
        "method, losses",
        "suite",
        "alpha",
        "learning rate",
        "seed",
        "differs from preset",
        "preset",
        "loss policy",
    ]
    assert list(columns.values())[: len(first)] == first
    assert {"seed", "weighting.name", "optimizer.lr", "tasks.rho", "weighting.temperature"} <= set(columns.values())
    means = {info["name"]["tag"]: info["displayName"] for info in experiment["metricInfos"]}
    assert means == {BEST: "validation mean (best epoch)", TEST: "test mean (best epoch)"}
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 9,
    }
    groups = ask("plugin/hparams/session_groups", body=request)["sessionGroups"]
    told = {columns[key]: value for group in groups for key, value in group["hparams"].items() if key.startswith("0")}
    assert told["suite"] in ("digits", "toy")
    methods = {group["hparams"]["00"]: group for group in groups}
    assert set(methods) == {"MetaWeighting", "Uniform", "MetaWeighting, retrieval losses", "AdvMTL"}
    assert methods["MetaWeighting"]["hparams"]["05"] == "epochs=2 batch_size=256"
    assert methods["MetaWeighting"]["hparams"]["04"] == "0"
    assert "02" not in methods["Uniform"]["hparams"]
    assert methods["MetaWeighting"]["name"] == "epochs=2 batch_size=256 meta"
    assert len(methods["MetaWeighting"]["metricValues"]) == 2


def test_without_tensorboard(train):
    directory = train("log.tensorboard=false", "train.epochs=1")
    assert not (directory / "tensorboard").exists()
    assert (directory / "trajectories.png").exists()
