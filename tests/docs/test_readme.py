"""The commands of the README and of the start pages run as they stand, in their order, on tiny settings."""

from __future__ import annotations

import io
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lossrag.experiments.cli import run
from lossrag.experiments.studies import jobs, study
from lossrag.experiments.studies.launchers import local
from lossrag.tasks import SPLITS, SUITES, Examples, Suite, SuiteEntry, Task, TokenInputs
from tests.docs.lines import ROOT, console_lines, words_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("start-*.md"))]
TINY = {
    "train": ["train.epochs=1", "train.batch_size=512", "log.tensorboard=false"],
    "compare": ["methods=[uniform]", "seeds=[0]", "tune=false", "processes=1"],
    "ablate": ["seeds=[80]", "rows=[cross_entropy]", "processes=1"],
    "sweep": ["values=[0.1]", "seeds=[0]", "processes=1"],
    "figures": ["only=[accuracy]"],
    "theory": ["draws=1", "epochs=1"],
    "benchmark": ["tasks=[2]", "shared=[]", "pairs=2", "batch=8", "length=12", "vectors=4", "filters=3", "words=50"],
}
"""What makes a command short, after all that it says."""


def corpus(load: Callable[[Any], Suite], tasks: tuple[str, ...], classes: int) -> Callable[[Any], Suite]:
    """A loader of made-up texts in place of a corpus of some megabytes: the same options, tasks and classes."""

    def made_up(options: Any) -> Suite:
        generator = torch.Generator().manual_seed(options.seed)
        rows = {"support": 80, "query": 60, "validation": 40, "test": 40}

        def examples(split: str) -> Examples:
            lengths = torch.randint(8, 12, (rows[split],), generator=generator)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            targets = torch.arange(rows[split]) % classes
            return Examples(
                TokenInputs(torch.randint(1, 20, (int(lengths.sum()),), generator=generator), offsets), targets
            )

        kinds = tuple(Task(name, "classification", classes) for name in tasks)
        splits = {split: tuple(examples(split) for _ in tasks) for split in SPLITS}
        vectors = torch.randn(20, options.dim, generator=generator)
        vectors[0] = 0
        return Suite("newsgroups", "made up", kinds, False, splits, vectors=vectors)

    made_up.__annotations__ = dict(load.__annotations__)
    return made_up


class Here:
    """Stands in for the process of a run of a study: the same command line, without new imports."""

    def __init__(self, line: list[str], **_: Any) -> None:
        self.stdin = io.BytesIO()
        self.returncode = run(line[line.index("train") :])

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def tiny(place, tmp_path, monkeypatch, registered) -> Path:
    """The folder of the commands, with small corpora and studies in this process."""
    folder = tmp_path / "place"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    entry = SUITES["newsgroups"]
    load = corpus(entry.load, ("COMP", "REC", "SCI", "TALK"), 4)
    monkeypatch.setitem(SUITES._entries, "newsgroups", SuiteEntry(entry.config, load))
    reviews = SUITES["sentiment"]
    load = corpus(reviews.load, ("books", "dvd"), 2)
    monkeypatch.setitem(SUITES._entries, "sentiment", SuiteEntry(reviews.config, load))
    for made in ("runs/plain", "runs/mine", "runs/compare", "runs/sweep"):
        shutil.rmtree(folder / made)
    parts = {name: getattr(subprocess, name) for name in ("PIPE", "STDOUT", "TimeoutExpired")}
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=Here, **parts))
    monkeypatch.setattr(study, "make_job", lambda name, said, root: jobs.make_job(name, (*said, *TINY["train"]), root))
    for picture in ("train.plot_trajectories", "record.composition_log.draw_bank"):
        monkeypatch.setattr(f"lossrag.experiments.{picture}", lambda *_: None)
    monkeypatch.setattr("lossrag.experiments.record.composition_log.draw_compositions", lambda *_: None)
    return folder


def commands_of(page: Path) -> dict[str, list[list[str]]]:
    """By line of a console its commands; of a start page those that the README does not have."""
    shared = [] if page == PAGES[0] else console_lines(PAGES[0].read_text())
    bare = {" ".join(line.split()) for line in shared}
    return {line: words_of(line) for line in console_lines(page.read_text()) if line not in bare}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page, tiny, capsys):
    lines = commands_of(page)
    assert any(lines.values())
    for line, commands in lines.items():
        if line.startswith("python "):
            runpy.run_path(str(ROOT / line.removeprefix("python ")))
        for words in commands:
            options = [] if "--help" in words else TINY.get(words[0], [])
            code = run([*words, *options])
            assert code == 0, (line, capsys.readouterr().err)
    for name in re.findall(r"output=(\S+)", "\n".join(lines)):
        assert (tiny / name).stat().st_size > 100
