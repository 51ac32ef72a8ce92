"""A folder in which every shown command finds what it names, and a command that stops where the work would begin."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark import command as benchmarks
from lossrag.experiments.cli import run
from lossrag.experiments.config import compose, library
from lossrag.experiments.studies.study import Study
from lossrag.lossbank import LOSSES
from lossrag.models import ENCODERS
from lossrag.tasks import METRICS, SUITES
from lossrag.weighting import WEIGHTINGS
from tests.docs.lines import one_run

DOCS = Path(__file__).parents[2] / "docs"
TARGETS = ["income", "hours", "diagnosis", "parity", "REC", "SCI", "TALK", "COMP"]
FIRST = ["experiment=table", "tasks.data=my.csv", f"tasks.targets=[{','.join(TARGETS)}]", "train.epochs=2"]
QUIET = ["log.tensorboard=false", "train.batch_size=512"]
FINISHED = (
    "runs/ONE",
    "runs/TWO",
    "runs/plain",
    "runs/mine",
    "runs/compare/topic_small/runs/one",
    "runs/compare/smoke/runs/one",
    "runs/sweep/one",
    "runs/gaps/one",
    "RUN",
)


BANKS = {
    "FILE": "mine.safetensors",
    "bank=FILE": "bank=mine.safetensors",
    "output=FILE": "output=new.safetensors",
    "reference=runs/RUN": "reference=runs/FIRST",
}
"""What a bank's usage lines name, beside a run."""


class Reached(Exception):  # noqa: N818  (no error: the command got as far as it was to get)
    """A command was understood, and what takes long would begin."""


def reached(*_: Any, **__: Any) -> None:
    raise Reached


def _table(path: Path) -> None:
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["age", "school", "review", *TARGETS, "stars", "useful", "tags", "place", "north", "east"])
        for row in range(96):
            classes = [f"{name}{row % 2}" for name in TARGETS[2:]]
            numbers = rng.normal(size=3).round(3).tolist()
            income = ">50K" if row % 2 else "<=50K"
            texts = [("s", "m", "l")[row % 3], f"word {row % 5}"]
            more = [row % 3, row % 2, "red|blue" if row % 2 else "red", "here", *numbers[1:]]
            writer.writerow([20 + row % 40, *texts, income, numbers[0], *classes, *more])


def _python_of(page: str, name: str) -> str:
    """The first Python block of a page."""
    found = re.search(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


def _python_of(page: str, part: str = "") -> str:
    """The first Python block of a page with this in it."""
    found = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return next(block for block in found if part in block)


def _yaml_of(page: str, start: str) -> str:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if block.startswith(start)]
    return found


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """The folder: tables, files of one's own as the pages have them, finished runs. Nothing in it may be written."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("my.csv", "new.csv", "labelled.csv", "reviews.csv", "cancer.csv", "FILE"):
        _table(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr("lossrag.experiments.train.plot_trajectories", lambda *_: None)
        patch.setattr("lossrag.experiments.record.composition_log.draw_bank", lambda *_: None)
        patch.setattr("lossrag.experiments.record.composition_log.draw_compositions", lambda *_: None)
        for name, more in (
            ("FIRST", ["log.contexts=true"]),
            ("SECOND", ["loss.tasks.REC=symmetric_ce"]),
            ("RUN", ["loss.policy=retrieval"]),
        ):
            assert run(["train", *FIRST, *QUIET, *more, f"run.dir=runs/{name}"]) == 0
        assert run(["bank", "add", "run=runs/SECOND", "reference=runs/FIRST", "bank=mine.safetensors"]) == 0
    shutil.copy(folder / "mine.safetensors", folder / "my_bank.safetensors")
    for copied in FINISHED:
        shutil.copytree(folder / "runs" / "RUN", folder / copied)
    for name in ("FOLDER", "docs/results"):
        (folder / name).mkdir(parents=True)
    for name, page in (
        ("my_losses.py", "losses.md"),
        ("my_method.py", "own-method.md"),
        ("mine.py", "table.md"),
    ):
        (folder / name).write_text(_python_of(page))
    suite = _python_of("own-suite.md") + _python_of("own-suite.md", "@ENCODERS")
    (folder / "my_suite.py").write_text(suite)
    mine = re.sub(r'(?<=[(\s])"(rings|sine|squared_miss)"', '"mine"', suite + _python_of("losses.md"))
    (folder / "my.py").write_text(mine)
    (folder / "mine.yaml").write_text(_yaml_of("own-suite.md", "defaults:"))
    with (folder / "my_losses.py").open("a") as stream:
        stream.write(_python_of("own-loss.md"))
    assert run(["new", str(folder / "project")]) == 0
    shutil.copytree(folder / "project", folder, dirs_exist_ok=True)
    (folder / "compare.yaml").write_text(_yaml_of("compare.md", "# lossrag compare"))
    (folder / "ablate.yaml").write_text(_yaml_of("compare.md", "# lossrag ablate"))
    (folder / "collect.yaml").write_text(_yaml_of("collect.md", "seed:"))
    for path in (DOCS / "results").glob("benchmark_scaling*.json"):
        shutil.copy(path, folder)
        shutil.copy(path, folder / "scaling.json")
    return folder


@pytest.fixture
def registered(monkeypatch) -> None:
    """What an example registers is gone after it."""
    for registry in (LOSSES, SUITES, WEIGHTINGS, ENCODERS, METRICS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    monkeypatch.setattr(library, "_loaded", {})


@pytest.fixture
def understands(place, tmp_path, monkeypatch, capsys, registered, presets_composed_once) -> Callable[..., str]:
    """``understands(words)``: "" when the command takes them, or its message. A run is composed and checked; studies,
    benchmarks, figures and collections stop before their first run."""
    folder = tmp_path / "place"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    first_job = Study.jobs
    monkeypatch.setattr(Study, "jobs", lambda self, runs: first_job(self, list(runs)[:1]))
    for long in (
        "studies.study.opened",
        "figures.command._drawings",
        "theory.command.build_suite",
        "report.command.html",
        "bank.validate.validate",
        "bank.picture.bank_figure",
        "bank.collect.command.opened",
        "benchmark.command.plot_costs",
        "trained.predict.opened",
        "trained.evaluate.opened",
        "trained.export.opened",
    ):
        monkeypatch.setattr(f"lossrag.experiments.{long}", reached)
    subjects = {name: (options, reached) for name, (options, _) in benchmarks.SUBJECTS.items()}
    monkeypatch.setattr(benchmarks.SUBJECTS, "_entries", subjects)
    monkeypatch.setattr(benchmarks, "apply_machine", lambda *_: None)  # a GPU is not here

    def check(words: list[str]) -> str:
        shutil.copy(place / "mine.yaml", folder)
        for name in ("compare", "ablate", "collect"):
            if name in words[:2]:  # mine.yaml is one of theirs, and else a preset
                shutil.copy(folder / f"{name}.yaml", folder / "mine.yaml")
                shutil.copy(folder / f"{name}.yaml", folder / "plan.yaml")
        for path in list(library._loaded):  # every command is a process of its own
            library._forget(path)
        capsys.readouterr()
        if words[0] == "bank":
            words = [BANKS.get(word, word) for word in words]
        if words[:2] == ["bank", "add"]:  # the other run has composed losses, so no trials
            words = [word.replace("run=runs/RUN", "run=runs/SECOND") for word in words]
        if words[0] in ("figures", "report", "check"):
            words = [word.replace("root=FOLDER", "root=runs") for word in words]
        (folder / "new.safetensors").unlink(missing_ok=True)
        if words[0] == "train" and "--help" not in words:
            try:
                compose.load_config(one_run(words[1:]))
            except ConfigError as error:
                return str(error)
            return ""
        try:
            code = run(words)
        except Reached:
            return ""
        printed = capsys.readouterr()
        return printed.err if code == 2 else ""  # 1: something was found, as in a bank that is looked through

    return check
