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

from experiments.cli import run
from experiments.log import read_points
from lossbank import LOSSES

PAGE = Path(__file__).parents[2] / "docs" / "tensorboard.md"
CLASSES, REGRESSIONS = ("digit", "parity", "loops"), ("centre",)
RUN = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=256", "log.figures_every=1"]


def documented(kind):
    """The tags of this kind that the page promises, with the tasks of the digits suite."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) > 15
    tags = set()
    for tag, its_kind in rows:
        if its_kind == kind:
            tasks = {"accuracy": CLASSES, "r2": REGRESSIONS}.get(
                tag.partition("/")[2].partition("/")[0], CLASSES + REGRESSIONS
            )
            tags |= {tag.replace("<task>", task) for task in tasks} if "<task>" in tag else {tag}
    return tags


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A run with an outer problem, one without, and one that composes its losses."""
    root = tmp_path_factory.mktemp("logdir")
    assert run([*RUN, f"run.dir={root / 'meta'}"]) == 0
    assert run([*RUN, f"run.dir={root / 'uniform'}", "weighting=uniform", "train.query_for_baselines=support"]) == 0
    composing = ["loss.policy=knn", "loss.review=2", "loss.k=6", "loss.explore=1", "log.figures_every=2"]
    assert run([*RUN, f"run.dir={root / 'learned'}", *composing]) == 0
    return root


def collapsed(tags):
    """The tags of the table's form: one for all losses of a task."""
    return {re.sub(r"^(composition|contribution)/(\w+)/.+", r"\1/\2/<loss>", tag) for tag in tags}


@pytest.fixture(scope="module")
def ask(logdir):
    """Questions to a TensorBoard that serves both runs."""
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
                if len(tags) == 3 and all("test/score_mean" in those for those in tags.values()):
                    break
                time.sleep(0.2)
            yield get
        finally:
            server.terminate()


def test_runs(ask):
    assert set(ask("runs")) == {"meta/tensorboard", "uniform/tensorboard", "learned/tensorboard"}


def test_scalar_tags_are_those_of_the_table(ask):
    served = ask("plugin/scalars/tags")
    assert collapsed(set().union(*served.values())) == documented("scalar")
    composed = {tag for tag in documented("scalar") if tag.startswith(("compos", "contribution"))}
    assert len(composed) == 12
    outer = {tag for tag in documented("scalar") if tag.split("/")[0] in ("lambda", "frank_wolfe", "theory")}
    assert set(served["meta/tensorboard"]) == documented("scalar") - {"query/score_mean"} - composed
    assert set(served["uniform/tensorboard"]) == documented("scalar") - outer - composed
    assert collapsed(served["learned/tensorboard"]) == documented("scalar") - {"query/score_mean"}


def test_every_point_is_served(ask, logdir):
    """TensorBoard and metrics.jsonl hold the same numbers."""
    for name in ("meta", "uniform", "learned"):
        points = read_points(logdir / name / "metrics.jsonl")
        for tag in ask("plugin/scalars/tags")[f"{name}/tensorboard"]:
            served = ask("plugin/scalars/scalars", run=f"{name}/tensorboard", tag=tag)
            logged = [(point["step"], point[tag]) for point in points if tag in point]
            assert [step for _, step, _ in served] == [step for step, _ in logged], tag
            assert [value for *_, value in served] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_metrics_hold_no_undocumented_series(logdir):
    tags = {
        tag
        for name in ("meta", "uniform", "learned")
        for point in read_points(logdir / name / "metrics.jsonl")
        for tag in point
    }
    assert collapsed(tags) - {"step", "epoch"} == documented("scalar") | {"hypergradient/D"}


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
    for kind, part in (("events", "retrieved"), ("retrieval", "<ol>")):
        texts = ask("plugin/text/text", run="learned/tensorboard", tag=f"{kind}/digit/text_summary")
        assert [entry["step"] for entry in texts] == [3, 7]
        assert part in texts[0]["text"]


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
    assert set(charts) == {"task weights", "lambda", "active losses"} | titles
    for title, (pattern,) in charts.items():
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
    directory = train("log.tensorboard=false")
    assert not (directory / "tensorboard").exists()
    assert (directory / "trajectories.png").exists()
