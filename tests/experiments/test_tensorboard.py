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
    """A run with an outer problem and one without."""
    root = tmp_path_factory.mktemp("logdir")
    assert run([*RUN, f"run.dir={root / 'meta'}"]) == 0
    assert run([*RUN, f"run.dir={root / 'uniform'}", "weighting=uniform", "train.query_for_baselines=support"]) == 0
    return root


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
                if len(tags) == 2 and all("test/score_mean" in those for those in tags.values()):
                    break
                time.sleep(0.2)
            yield get
        finally:
            server.terminate()


def test_runs(ask):
    assert set(ask("runs")) == {"meta/tensorboard", "uniform/tensorboard"}


def test_scalar_tags_are_those_of_the_table(ask):
    served = ask("plugin/scalars/tags")
    assert set().union(*served.values()) == documented("scalar")
    outer = {tag for tag in documented("scalar") if tag.split("/")[0] in ("lambda", "frank_wolfe")}
    assert set(served["meta/tensorboard"]) == documented("scalar") - {"query/score_mean"}
    assert set(served["uniform/tensorboard"]) == documented("scalar") - outer


def test_every_point_is_served(ask, logdir):
    """TensorBoard and metrics.jsonl hold the same numbers."""
    for name in ("meta", "uniform"):
        points = read_points(logdir / name / "metrics.jsonl")
        for tag in ask("plugin/scalars/tags")[f"{name}/tensorboard"]:
            served = ask("plugin/scalars/scalars", run=f"{name}/tensorboard", tag=tag)
            logged = [(point["step"], point[tag]) for point in points if tag in point]
            assert [step for _, step, _ in served] == [step for step, _ in logged], tag
            assert [value for *_, value in served] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_metrics_hold_no_undocumented_series(logdir):
    tags = {
        tag for name in ("meta", "uniform") for point in read_points(logdir / name / "metrics.jsonl") for tag in point
    }
    assert tags - {"step", "epoch"} == documented("scalar") | documented("image")


def test_pictures_of_the_hypergradient(ask):
    served = ask("plugin/images/tags")
    assert {run: set(tags) for run, tags in served.items()} == {"meta/tensorboard": documented("image")}
    pictures = ask("plugin/images/images", run="meta/tensorboard", tag="hypergradient/D", sample="0")
    assert [picture["step"] for picture in pictures] == [5, 10]
    for picture in pictures:
        assert ask(f"plugin/images/individualImage?{picture['query']}").startswith(b"\x89PNG")


def test_text_of_the_configuration(ask):
    served = ask("plugin/text/tags")
    assert {tag.removesuffix("/text_summary") for tag in served["meta/tensorboard"]} == documented("text")
    (entry,) = ask("plugin/text/text", run="meta/tensorboard", tag="config/text_summary")
    assert "alpha: 0.05" in entry["text"]


def test_one_chart_holds_all_tasks(ask):
    layout = ask("plugin/custom_scalars/layout")
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
    titles = {
        f"{split} {value}" for split, value in product(("support", "query", "validation"), ("loss", "accuracy", "r2"))
    }
    assert set(charts) == {"task weights", "lambda"} | titles
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
