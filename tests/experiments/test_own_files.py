"""Files of one's own: suite, encoder, weighting, loss and metric by name, here and in the processes of a study."""

from __future__ import annotations

import csv
import hashlib
import json
import re

import numpy as np
import pytest

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.config.library import REGISTRIES, _loaded, load_library

OWN = """
from dataclasses import dataclass
import torch
from lossrag import ENCODERS, SPLITS, WEIGHTINGS, DenseInputs, Examples, Suite, Task, Weighting
from lossrag import register_loss, register_metric, register_suite

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

@register_metric("own_metric", kind="classification")
def own_metric(targets, outputs):
    return 0.25

class Own(torch.nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.layer, self.features = torch.nn.Linear(inputs, width), width

    def forward(self, x):
        return self.layer(x).sin()

@ENCODERS.register("own_encoder")
@dataclass(frozen=True)
class OwnEncoder:
    width: int = 4

    def build(self, vectors, input_shape):
        return Own(input_shape[0], self.width)
"""
NAMES = [
    *("~experiment", "tasks=own_suite", "model=own_encoder", "weighting=own_weighting", "loss.tasks.left=own_loss"),
    *("outer.classification=own_loss", "outer.metric=own_metric"),
]


@pytest.fixture
def forgotten(monkeypatch):
    """What files register is gone after the test."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry))
    before = dict(_loaded)
    _loaded.clear()
    yield
    _loaded.clear()
    _loaded.update(before)


@pytest.fixture
def own(tmp_path, forgotten):
    """Overrides that choose everything of one's own by name."""
    (tmp_path / "own.py").write_text(OWN)
    return [*NAMES, "library=[own.py]", "train.epochs=1", "train.batch_size=40", "log.tensorboard=false"]


def test_everything_of_ones_own_by_name(lossrag, own, tmp_path):
    done = lossrag("train", *own, "weighting.first=3", "tasks.samples=90", "model.width=5", "run.dir=run")
    assert done.code == 0, done
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task_weights"] == {"left": 3.0, "up": 1.0}
    assert summary["metric"] == {"left": "own_metric", "up": "own_metric"}
    assert summary["test_score_mean"] == 0.25
    digest = hashlib.sha256(OWN.encode()).hexdigest()
    for name in ("config.yaml", "model.json"):
        text = (tmp_path / "run" / name).read_text()
        assert f"{tmp_path / 'own.py'}" in text
        assert digest in text
    assert f"library=[{tmp_path / 'own.py'}]" in done.out, "how to use it"


PLAN = """
experiments: [./mine.yaml]
seeds: [0]
reference: {reference}
overrides: [log.tensorboard=false]
{rows}
"""
PRESET = """
defaults:
  - override /tasks: own_suite
  - override /model: own_encoder
  - override /weighting: own_weighting
loss: {tasks: {left: own_loss}}
outer: {metric: own_metric}
train: {epochs: 1, batch_size: 40}
"""


def test_the_processes_of_a_sweep_know_it(lossrag, own, tmp_path):
    done = lossrag("sweep", *own, "key=weighting.first", "values=[2.0]", "seeds=[0]", "root=sweep")
    assert done.code == 0, done
    (row,) = csv.DictReader((tmp_path / "sweep" / "weighting.first" / "sweep.csv").read_text().splitlines())
    assert row["weighting.first"] == "2.0"
    assert "0.250000" in row.values(), "what the metric says"


@pytest.mark.slow
def test_the_processes_of_a_comparison_know_it(lossrag, own, tmp_path):
    (tmp_path / "mine.yaml").write_text(PRESET)
    (tmp_path / "plan.yaml").write_text(PLAN.format(reference="own_weighting", rows="methods: {own_weighting: }"))
    done = lossrag("compare", "experiment=./plan.yaml", "library=[own.py]", "root=compared")
    assert done.code == 0, done
    assert "own_weighting" in (tmp_path / "compared" / "plan" / "runs.csv").read_text()


def test_an_ablation_by_path_whose_plan_names_the_library(lossrag, own, tmp_path, runs_here):
    (tmp_path / "mine.yaml").write_text(PRESET)
    rows = "rows: {one: [weighting.first=2], two: [weighting=uniform]}\nlibrary: [own.py]"
    (tmp_path / "plan.yaml").write_text(PLAN.format(reference="one", rows=rows))
    with runs_here():
        done = lossrag("ablate", "./plan.yaml", "root=ablated")
    assert done.code == 0, done
    assert json.loads((tmp_path / "ablated" / "plan" / "ablation.json").read_text())["failed"] == []


def test_a_name_without_its_file(lossrag):
    assert "Unknown tasks 'own_suite'" in lossrag("train", *NAMES).error


def test_names_of_ones_own_are_meant(lossrag, own):
    assert "did you mean 'own_encoder'" in lossrag("train", *own, "model=own_encodr").error
    assert "did you mean 'own_loss'" in lossrag("train", *own, "loss.tasks.up=own_los").error
    assert "did you mean 'own_metric'" in lossrag("train", *own, "outer.metric=own_metrik").error


def test_the_run_is_known_by_the_content(own, tmp_path):
    first = run_id(load_config(own)[1])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.py").rename(tmp_path / "elsewhere" / "own.py")
    moved = ["library=[elsewhere/own.py]" if word.startswith("library") else word for word in own]
    for registry in REGISTRIES:
        for name in [name for name in registry if name.startswith("own_")]:
            registry.remove(name)
    assert run_id(load_config(moved)[1]) == first
    (tmp_path / "elsewhere" / "own.py").write_text(OWN.replace("0.25", "0.75"))
    assert run_id(load_config(moved)[1]) != first, "and what it registered before is replaced"


def test_the_model_of_such_a_run(lossrag, own, tmp_path):
    from lossrag import load_run

    assert lossrag("train", *own, "run.dir=run").code == 0
    kept = dict(_loaded)
    for path in list(_loaded):
        for registry, name in _loaded.pop(path).names:
            registry.remove(name)
    with pytest.raises(ConfigError, match=r"Unknown model 'own_encoder': add library=\[.*own.py\]"):
        load_run(tmp_path / "run")
    assert "library=[" in lossrag("theory", "run=run").error
    (tmp_path / "own.py").write_text(OWN + "# another word\n")
    load_library(["own.py"])
    assert load_run(tmp_path / "run").predict(np.zeros((2, 3))).columns
    assert kept.keys() == _loaded.keys()


BROKEN = {
    "": None,
    "1 +": "line 1 does not run (SyntaxError",
    "x = 1\nraise ValueError('two\\nlines')": "line 2 does not run (ValueError: two lines)",
    "import sys\nsys.exit(0)": "line 2: it ends the program",
    "\0": "does not run",
    "import nothing_of_this_name": "line 1 does not run (ModuleNotFoundError",
    "from lossrag import WEIGHTINGS\n@WEIGHTINGS.register\nclass A: pass": 'register("my_name")',
    "from lossrag import WEIGHTINGS\n@WEIGHTINGS.register('a')\nclass A: pass": "has no options that can be set",
    "from lossrag import WEIGHTINGS, MLPOptions\nWEIGHTINGS.add('a', MLPOptions)": "is no weighting",
    "from lossrag import ENCODERS, Uniform\nENCODERS.add('a', Uniform)": "has no build",
    "from lossrag import LOSSES\nLOSSES.add('a', max)": "register it with @register_loss",
    "from lossrag import METRICS\nMETRICS.add('a', max)": "register it with @register_metric",
    "from lossrag import SUITES\nSUITES.add('a', max)": "register its function with @register_suite",
    "from lossrag import WEIGHTINGS, Uniform\nWEIGHTINGS.add('uniform', Uniform)": "is taken",
}


@pytest.mark.parametrize("text", BROKEN)
def test_files_that_do_not_run_are_one_line_and_leave_nothing(lossrag, forgotten, tmp_path, text):
    before = [set(registry) for registry in REGISTRIES]
    (tmp_path / "mine.py").write_text(text)
    part = BROKEN[text]
    if part is None:
        assert load_library(["mine.py"])
        return
    error = lossrag("train", "experiment=digits", "library=[mine.py]", "run.dir=run").error
    assert part in error
    assert error.startswith("library: mine.py")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert [set(registry) for registry in REGISTRIES] == before


@pytest.mark.parametrize("value", ["[nowhere.py]", "nowhere.py", "[3]", "{a: 1}", ".", "[~nobodyhere/x.py]"])
def test_no_files(lossrag, value):
    assert lossrag("train", "experiment=digits", f"library={value}").error.startswith("library")


WRONG = {
    "must return a torch module": ("return Own(input_shape[0], self.width)", "return None"),
    "in `features`": ("self.layer, self.features", "self.layer, self.width"),
    "of 2 rows of shape (3,) it makes (2, 2)": ("self.layer(x)", "self.layer(x)[:, :2]"),
}


@pytest.mark.parametrize("part", WRONG)
def test_an_encoder_that_is_none(lossrag, own, tmp_path, part):
    (tmp_path / "own.py").write_text(OWN.replace(*WRONG[part]))
    assert part in lossrag("train", *own, "run.dir=run").error
    assert not (tmp_path / "run").exists()


def test_the_old_key_names_the_new_one(lossrag):
    assert "write library=[my.py]" in lossrag("train", "experiment=digits", "loss.library=[a.py]").error


@pytest.mark.parametrize(
    ("old", "new"), [("return Own(", "return 1 / 0 + Own("), ("return self.layer(x)", "return x.no")]
)
def test_an_error_in_ones_own_function_names_file_and_line(lossrag, own, tmp_path, old, new):
    (tmp_path / "own.py").write_text(OWN.replace(old, new))
    error = lossrag("train", *own, "run.dir=run").error
    assert str(tmp_path / "own.py") in error
    assert re.search(r"line \d+, in (build|forward): (ZeroDivisionError|AttributeError)", error)
