"""A suite, a weighting and a loss of one's own from the command line, in this process and in those of a study."""

from __future__ import annotations

import csv
import json

import pytest

from lossrag import LOSSES, SUITES, WEIGHTINGS
from lossrag.experiments.config.library import _loaded

OWN = """
from dataclasses import dataclass
import torch
from lossrag import SPLITS, WEIGHTINGS, DenseInputs, Examples, Suite, Task, Weighting, register_loss, register_suite

@WEIGHTINGS.register("own_weighting")
@dataclass(frozen=True)
class Own(Weighting):
    first: float = 1.0

    def weigh(self, state, signals):
        weights = torch.ones_like(state["weights"])
        weights[0] = self.first
        return weights, state

@dataclass(frozen=True)
class Config:
    samples: int = 80
    seed: int = 0

@register_suite("own_suite")
def load(config: Config) -> Suite:
    x = torch.randn(config.samples, 3, generator=torch.Generator().manual_seed(config.seed))
    columns = (x[:, 0] > 0).long(), (x[:, 1] > 0).long()
    inputs = DenseInputs(x)
    examples = tuple(Examples(inputs, column) for column in columns)
    tasks = Task("left", "classification", 2), Task("up", "classification", 2)
    splits = dict.fromkeys(SPLITS, examples)
    return Suite("own_suite", f"{config.samples} points", tasks, True, splits, input_shape=(3,))

@register_loss("own_loss", family="noise-robust", target_kind="classification", reference="mine")
def own_loss(logits, targets):
    return 1 - logits.softmax(1).gather(1, targets[:, None]).squeeze(1)
"""
NAMES = ["~experiment", "tasks=own_suite", "model=mlp", "weighting=own_weighting", "loss.classification=own_loss"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The file; what it registers is gone after the test."""
    for registry in (LOSSES, SUITES, WEIGHTINGS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    for path in list(_loaded):
        monkeypatch.delitem(_loaded, path)
    path = tmp_path / "own.py"
    path.write_text(OWN)
    yield [*NAMES, f"library=[{path}]", "train.epochs=1", "train.batch_size=40", "log.tensorboard=false"]
    _loaded.pop(path, None)


def test_everything_of_ones_own_by_name(lossrag, own, tmp_path):
    assert lossrag("train", *own, "weighting.first=3", "tasks.samples=90", f"run.root={tmp_path / 'runs'}").code == 0
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    assert json.loads(summary.read_text())["task_weights"] == {"left": 3.0, "up": 1.0}
    assert "90 points" in summary.read_text()


def test_the_processes_of_a_study_know_it(lossrag, own, tmp_path):
    line = ["sweep", *own, "key=weighting.first", "values=[2.0]", "seeds=[0]", f"root={tmp_path / 'sweep'}"]
    assert lossrag(*line).code == 0
    (table,) = (tmp_path / "sweep").rglob("sweep.csv")
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert row["weighting.first"] == "2.0"


def test_a_name_without_its_file(lossrag):
    assert "Unknown tasks 'own_suite'" in lossrag("train", *NAMES).error
