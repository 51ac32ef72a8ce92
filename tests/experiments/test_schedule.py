"""Learning rates that are scheduled: by hand, in the optimiser's groups, and in whole, resumed and refitted runs."""

from __future__ import annotations

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_optimizer
from lossrag.experiments.run.schedule import Schedule, lr_factor
from lossrag.models import MLP, MultiTaskModel


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 1, [1, 1, 2 / 3, 1 / 3]),
        ("cosine", 0, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
        ("linear", 4, [0.25, 0.5, 0.75, 1]),
    ],
)
def test_factors_by_hand(schedule, warmup, expected):
    assert [lr_factor(schedule, warmup, step, 4) for step in range(4)] == pytest.approx(expected)


def test_linear_is_torchs():
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.4)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 8)
    for step in range(8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 * lr_factor("linear", 0, step, 8))
        optimizer.step()
        theirs.step()


def test_every_group_keeps_its_own_rate():
    model = MultiTaskModel(lambda: MLP((4,), [3]), [2, 3])
    config = OptimizerConfig(lr=0.1, heads_lr_factor=10, schedule="linear")
    optimizer = build_optimizer(config, model)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 1.0])
    heads = {id(parameter) for parameter in model.heads.parameters()}
    assert {id(parameter) for parameter in optimizer.param_groups[1]["params"]} == heads
    assert len([p for group in optimizer.param_groups for p in group["params"]]) == len(list(model.parameters()))
    schedule = Schedule.of(config, optimizer, 4)
    schedule.set(3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.25])
    schedule.set(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 1.0])


SMALL = ["experiment=digits", "train.epochs=2", "train.batch_size=256"]  # as the fixture `train` has it
SCHEDULED = (
    "optimizer.schedule=linear",
    "optimizer.warmup=0.25",
    "optimizer.heads_lr_factor=2",
    "log.tensorboard=false",
)


def rates(directory):
    return [point["optimizer/lr"] for point in read_points(directory / "metrics.jsonl") if "optimizer/lr" in point]


def test_a_run_follows_its_schedule(train):
    found = rates(train(*SCHEDULED, "weighting=uniform"))
    steps = len(found)
    warmup = -(-steps // 4)
    assert found == pytest.approx([1e-3 * lr_factor("linear", warmup, step, steps) for step in range(steps)])
    assert 0 < found[-1] < found[warmup] == 1e-3


def test_a_refit_falls_over_its_own_steps(train, monkeypatch):
    set_to = []

    class Spied(Schedule):
        def set(self, step):
            super().set(step)
            set_to.append((step, self.steps))

    monkeypatch.setattr("lossrag.experiments.run.step.Schedule", Spied)
    monkeypatch.setattr(Spied, "of", staticmethod(lambda c, o, n: Spied(c, o, (1e-3,) * len(o.param_groups), n)))
    train(*SCHEDULED, "train.refit=true")
    run, again = set_to[:10], set_to[10:]
    for part in (run, again):
        assert part == [(step, len(part)) for step in range(len(part))]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"schedule": "linaer"}, "linear"),
        ({"warmup": 1.0}, r"OptimizerConfig: warmup must be in \[0, 1\)"),
        ({"heads_lr_factor": 0.0}, "heads_lr_factor must be a positive number"),
        ({"schedule": "linear", "hypergradient_lr": 1e-4}, "set schedule=constant and warmup=0"),
        ({"warmup": 0.1, "hypergradient_lr": 1e-4}, "warmup=0, or hypergradient_lr=0"),
    ],
)
def test_bad_options(options, part):
    with pytest.raises(ConfigError, match=part):
        OptimizerConfig(**options)
