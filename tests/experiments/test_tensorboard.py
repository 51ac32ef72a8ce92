"""TensorBoard's own server, started on real runs, answers with every tag of docs/tensorboard.md, and with no other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from itertools import product
from pathlib import Path

import pytest

from lossrag.experiments.cli import run
from lossrag.experiments.record.jsonl import read_points
from lossrag.lossbank import LOSSES
from lossrag.tasks import SUITES
from tests.experiments.banks import SMALL_VALUE_GAINS, write_bank

PAGE = Path(__file__).parents[2] / "docs" / "tensorboard.md"
CLASSES, REGRESSIONS = ("digit", "parity", "loops"), ("centre",)
TOY_CLASSES, TOY_REGRESSIONS = ("two", "three"), ("value",)
RUN = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=256", "log.figures_every=1"]
ADVERSARIAL = ["model.sharing=shared_private", "model.adversarial=0.05", "model.orthogonal=0.01", "model.filters=2"]
TERMS = ("discriminator", "orthogonality")
RUNS = ("meta", "uniform", "learned", "adversarial")


def documented(kind, classes=CLASSES, regressions=REGRESSIONS):
    """The tags of this kind that the page promises, with these tasks, but those of an adversarial model: digits have
    none."""
    return {tag for tag in _documented(kind, classes, regressions) if tag.split("/")[0] not in (*TERMS, "steps")}


def _documented(kind, classes, regressions):
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) > 15
    tags = set()
    for tag, its_kind in rows:
        if its_kind == kind:
            metric = "" if tag.startswith(TERMS) else tag.partition("/")[2].partition("/")[0]
            tasks = {"accuracy": classes, "r2": regressions}.get(metric, classes + regressions)
            tags |= {tag.replace("<task>", task) for task in tasks} if "<task>" in tag else {tag}
    return tags


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
    return {re.sub(r"^(composition|contribution)/(\w+)/.+", r"\1/\2/<loss>", tag) for tag in tags}


@pytest.fixture(scope="module")
def ask(logdir):
    """Questions to a TensorBoard that serves these runs."""
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=logdir) as server:
        try:
            address = next(m.group() for m in (re.search(r"http://127\S+", text) for text in server.stderr) if m)

            def get(path, body=None, **query):
                url = f"{address.rstrip('/')}/data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
                data = None if body is None else json.dumps(body).encode()
                request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    content = answer.read()
                    return json.loads(content) if "json" in answer.headers["Content-Type"] else content

            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                tags = get("plugin/scalars/tags")
                if len(tags) == len(RUNS) and all("test/score_mean" in those for those in tags.values()):
                    break
                time.sleep(0.2)
            yield get
        finally:
            server.terminate()


def test_runs(ask):
    assert set(ask("runs")) == {f"{name}/tensorboard" for name in RUNS}


def test_scalar_tags_are_those_of_the_table(ask):
    served = ask("plugin/scalars/tags")
    adversarial = set(served.pop("adversarial/tensorboard"))
    assert collapsed(set().union(*served.values())) == documented("scalar")
    composed = {tag for tag in documented("scalar") if tag.startswith(("compos", "contribution"))}
    assert len(composed) == 12
    outer = {tag for tag in documented("scalar") if tag.split("/")[0] in ("lambda", "frank_wolfe", "theory")}
    assert set(served["meta/tensorboard"]) == documented("scalar") - {"query/score_mean"} - composed
    assert set(served["uniform/tensorboard"]) == documented("scalar") - outer - composed
    assert collapsed(served["learned/tensorboard"]) == documented("scalar") - {"query/score_mean"}
    toy = _documented("scalar", TOY_CLASSES, TOY_REGRESSIONS)
    left_out = {
        "steps",
        "query",
        "lambda",
        "frank_wolfe",
        "theory",
        "composition",
        "composition_active",
        "contribution",
    }
    assert adversarial == {tag for tag in toy if tag.split("/")[0] not in left_out}
    assert len([tag for tag in adversarial if tag.startswith(TERMS)]) == 3 * 3


def test_every_point_is_served(ask, logdir):
    """TensorBoard and metrics.jsonl hold the same numbers."""
    for name in RUNS:
        points = read_points(logdir / name / "metrics.jsonl")
        for tag in ask("plugin/scalars/tags")[f"{name}/tensorboard"]:
            served = ask("plugin/scalars/scalars", run=f"{name}/tensorboard", tag=tag)
            logged = [(point["step"], point[tag]) for point in points if tag in point]
            assert [step for _, step, _ in served] == [step for step, _ in logged], tag
            assert [value for *_, value in served] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_metrics_hold_no_undocumented_series(logdir):
    tags = {
        name: {tag for point in read_points(logdir / name / "metrics.jsonl") for tag in point} - {"step", "epoch"}
        for name in RUNS
    }
    toy = tags.pop("adversarial")
    assert collapsed(set().union(*tags.values())) == documented("scalar") | {"hypergradient/D"}
    assert toy <= _documented("scalar", TOY_CLASSES, TOY_REGRESSIONS)
    assert {tag.split("/")[0] for tag in toy} >= set(TERMS)


def test_pictures_of_the_hypergradient(ask):
    served = ask("plugin/images/tags")
    assert {run: set(tags) for run, tags in served.items()} == {
        "meta/tensorboard": {"hypergradient/D"},
        "learned/tensorboard": documented("image"),
    }
    pictures = ask("plugin/images/images", run="meta/tensorboard", tag="hypergradient/D", sample="0")
    assert [picture["step"] for picture in pictures] == [5, 10]
    for picture in pictures:
        assert ask(f"plugin/images/individualImage?{picture['query']}").startswith(b"\x89PNG")


def test_pictures_of_the_composition(ask):
    (picture,) = ask("plugin/images/images", run="learned/tensorboard", tag="composition/shares", sample="0")
    assert picture["step"] == 10
    assert ask(f"plugin/images/individualImage?{picture['query']}").startswith(b"\x89PNG")


def test_texts_of_the_composition(ask):
    """The digit is composed before the first step; the centre keeps its reference there, and is composed after it."""
    for task, steps, at in (("digit", [0], 0), ("centre", [0, 1], 1)):
        for kind, part in (("events", "composed"), ("retrieval", "<ol>")):
            texts = ask("plugin/text/text", run="learned/tensorboard", tag=f"{kind}/{task}/text_summary")
            assert [entry["step"] for entry in texts][: len(steps)] == (steps if kind == "events" else [at])
            assert part in next(entry["text"] for entry in texts if entry["step"] == at)
    assert (
        "made up, task"
        in ask("plugin/text/text", run="learned/tensorboard", tag="events/digit/text_summary")[0]["text"]
    )


def test_projector(ask):
    assert ask("plugin/projector/runs") == ["learned/tensorboard"]
    (embedding,) = ask("plugin/projector/info", run="learned/tensorboard")["embeddings"]
    shown = {"run": "learned/tensorboard", "name": embedding["tensorName"]}
    labels = ask("plugin/projector/metadata", **shown).decode().splitlines()
    assert {line.split("\t")[0] for line in labels[1:]} == {
        *LOSSES,
        *(f"task {task}" for task in CLASSES + REGRESSIONS),
    }
    assert len(ask("plugin/projector/tensor", **shown)) == 4 * (len(labels) - 1) * embedding["tensorShape"][1]


def test_text_of_the_configuration(ask):
    served = ask("plugin/text/tags")
    texts = {tag.removesuffix("/text_summary") for tag in served["learned/tensorboard"]}
    assert texts == documented("text")
    assert served["meta/tensorboard"] == ["config/text_summary"]
    (entry,) = ask("plugin/text/text", run="meta/tensorboard", tag="config/text_summary")
    assert "alpha: 0.05" in entry["text"]


def test_one_chart_holds_all_tasks(ask):
    layout = ask("plugin/custom_scalars/layout")
    categories = {
        category["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        for category in layout["category"]
    }
    charts = categories["All tasks"]
    for title, tag in (("Composition", "composition"), ("Contributions", "contribution")):
        assert categories[title] == {task: [rf"^{tag}/{task}/.*"] for task in CLASSES + REGRESSIONS}
    titles = {
        f"{split} {value}" for split, value in product(("support", "query", "validation"), ("loss", "accuracy", "r2"))
    }
    terms = {"discriminator loss", "discriminator accuracy", "orthogonality"}
    assert set(charts) == {"task weights", "lambda", "active losses"} | titles | terms
    for title in terms:
        every = _documented("scalar", TOY_CLASSES, TOY_REGRESSIONS)
        shown = {tag.rsplit("/", 1)[-1] for tag in every if re.match(charts[title][0], tag)}
        assert shown == set(TOY_CLASSES + TOY_REGRESSIONS), title
    for title, (pattern,) in charts.items():
        if title in terms:
            continue
        tasks = REGRESSIONS if "r2" in title else CLASSES if "accuracy" in title else CLASSES + REGRESSIONS
        shown = {tag.rsplit("/", 1)[-1] for tag in documented("scalar") if re.match(pattern, tag)}
        assert shown == set(tasks), title


def test_hyperparameters(ask):
    experiment = ask("plugin/hparams/experiment", body={"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"seed", "weighting.name", "optimizer.lr", "tasks.rho"} <= names
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == ["test/score_mean"]
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 9,
    }
    groups = ask("plugin/hparams/session_groups", body=request)["sessionGroups"]
    assert {group["hparams"]["weighting.name"] for group in groups} == {"metaweighting", "uniform"}


def test_without_tensorboard(train):
    directory = train("log.tensorboard=false", "train.epochs=1")
    assert not (directory / "tensorboard").exists()
    assert (directory / "trajectories.png").exists()
