"""Numbers that are none at every tensor of a run: named with task or tensor and step, nothing of it in a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.lossbank import LOSSES
from lossrag.weighting import MultiTaskStep
from tests.weighting.test_poison import METHODS, VALUES, Spoiled

PLACES = ("target", "loss", "gradient", "parameter", "optimiser", "weights")
NAMED = {"parameter": "encoders.0", "optimiser": "exp_avg", "weights": "weights"}
AT = 3


def spoil(patch, place, value, calls):
    """Have the task centre, or a tensor of the run, meet the value at step ``AT``; calls: of its loss in a step."""
    loss, step = LOSSES["squared_error"], MultiTaskStep.__call__
    steps, seen = [0], [0]

    def function(logits, targets):
        seen[0] += 1
        now = steps[0] == AT and seen[0] == 1
        if place == "gradient" and now:
            logits = Spoiled.apply(logits, value)
        if place == "target" and now:
            targets = torch.where(torch.arange(len(targets))[:, None] == 1, value, targets)
        values = loss.function(logits, targets)
        return values * value if place == "loss" and now else values

    def taken(self, *arguments, **options):
        steps[0] += 1
        seen[0] = 0
        if steps[0] == AT:
            first = self.parameters[0]
            tensor = {
                "parameter": first.data,
                "optimiser": self.optimizer.state[first]["exp_avg"],
                "weights": self.state["weights"],
            }.get(place)
            if tensor is not None:
                tensor.view(-1)[1] = value
        return step(self, *arguments, **options)

    patch.setitem(LOSSES._entries, "squared_error", replace(loss, function=function))
    patch.setattr(MultiTaskStep, "__call__", taken)


def wrong(lossrag, monkeypatch, folder, method, place, kind, *more):
    """What is wrong, None where nothing is."""
    with monkeypatch.context() as patch:
        spoil(patch, place, VALUES[kind], 1)
        result = lossrag(
            *("train", "experiment=digits", "train.epochs=2", "train.batch_size=512", "run.checkpoint_seconds=0"),
            *("log.tensorboard=false", f"weighting={method}", f"run.dir={folder}", *more),
        )
    for path in folder.glob("checkpoints/*"):
        tensors, _ = load_checkpoint(path)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            return f"{path.name} is poisoned"
    if result.code == 0:
        return None if kind == "huge" or place == "weights" else "nothing was said"
    told = result.err
    if result.code != 2 or not told.startswith(f"error: Step {AT}: ") or "Traceback" in told:
        return f"code {result.code}: {told}"
    named = NAMED.get(place, "centre")
    others = [task for task in ("digit", "parity", "loops") if f"for {task}" in told or f", {task} (" in told]
    if kind != "huge" and (named not in told or (place not in NAMED and others)):
        return f"{named} is not named alone: {told}"
    return None


CASES = [(method, place, kind) for method in METHODS for place in PLACES for kind in VALUES]
FEW = [
    *[("metaweighting", place, "nan") for place in PLACES],
    *[("uniform", place, "huge") for place in ("gradient", "optimiser")],
    ("uniform", "gradient", "nan"),
    ("gradnorm", "loss", "inf"),
]


@pytest.mark.parametrize("case", FEW, ids="-".join)
def test_runs(case, lossrag, monkeypatch, tmp_path):
    assert wrong(lossrag, monkeypatch, tmp_path / "run", *case) is None


@pytest.mark.parametrize("kind", ["nan", "huge"])
def test_in_little_memory(kind, lossrag, monkeypatch, tmp_path):
    case = ("metaweighting", "gradient", kind, "train.memory=low")
    assert wrong(lossrag, monkeypatch, tmp_path / "run", *case) is None


@pytest.mark.slow
def test_runs_in_full(lossrag, monkeypatch, tmp_path, capsys):
    found = {case: wrong(lossrag, monkeypatch, tmp_path / str(number), *case) for number, case in enumerate(CASES)}
    bad = {case: why for case, why in found.items() if why is not None}
    with capsys.disabled():
        print(f"\nnumbers that are none, command line: {len(CASES) - len(bad)} of {len(CASES)}")
    assert not bad


def test_a_checkpoint_refuses_what_the_step_did_not_see(lossrag, monkeypatch, tmp_path):
    """A buffer that no normalisation owns, say: the last good checkpoint stays."""
    with monkeypatch.context() as patch:
        original = MultiTaskStep.__call__

        def taken(self, *arguments, **options):
            record = original(self, *arguments, **options)
            if self.count == 2:
                self.optimizer.state[self.parameters[1]]["exp_avg_sq"].view(-1)[0] = math.inf
            return record

        patch.setattr(MultiTaskStep, "__call__", taken)
        line = ["train", "experiment=digits", "train.epochs=1", "train.batch_size=512", "log.tensorboard=false"]
        error = lossrag(*line, f"run.dir={tmp_path}/run", "run.checkpoint_seconds=0").error
    assert error.startswith("Step 2: the optimiser's exp_avg_sq of encoders.0.layers.1.bias is not finite after it")
    assert error.endswith("The last good checkpoint was kept.\n")
    tensors, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert int(tensors["step/count"]) == 1
