"""Which settings make two runs the same run."""

from __future__ import annotations

import pytest

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import differing_keys, run_id

BASE = ["experiment=digits"]


def identity_of(*overrides: str) -> str:
    return run_id(load_config([*BASE, *overrides])[1])


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "machine.threads=3",
        "machine.device=cpu",
        "run.root=other",
        "run.dir=other",
        "run.checkpoint_seconds=1",
        "log.every_steps=7",
        "log.tensorboard=false",
        "preset=mine",
    ],
)
def test_where_and_how_does_not_count(override):
    assert identity_of(override) == identity_of()


def test_what_is_computed_counts():
    overrides = [
        "seed=1",
        "tasks.rho=0.2",
        "model.hidden=[65]",
        "model.sharing=none",
        "weighting.alpha=0.06",
        "weighting=uniform",
        "optimizer.lr=0.002",
        "train.epochs=21",
        "train.refit=true",
        "loss.regression=huber",
        "outer.batch_size=32",
    ]
    ids = {identity_of(override) for override in overrides} | {identity_of()}
    assert len(ids) == len(overrides) + 1


def test_a_run_id_can_be_read():
    name = identity_of("seed=3", "weighting=uniform")
    assert name.startswith("digits-uniform-s3-")
    assert len(name.rsplit("-", 1)[-1]) == 8


def test_the_data_root_of_a_suite_does_not_count():
    assert run_id(load_config(["data.root=/a"])[1]) == run_id(load_config(["data.root=/b"])[1])


def test_differing_keys_name_old_and_new():
    old = {"seed": 1, "train": {"epochs": 2}, "tasks": {"name": "digits"}, "run": {"root": "a"}}
    new = {"seed": 1, "train": {"epochs": 3}, "tasks": {"name": "digits", "rho": 0.1}, "run": {"root": "b"}}
    assert differing_keys(old, new) == ["tasks.rho: (absent) -> 0.1", "train.epochs: 2 -> 3"]
