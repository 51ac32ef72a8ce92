from __future__ import annotations

import numpy as np
import pytest
import torch

from lossrag import BankError, ConfigError
from lossrag.lossbank import LOSSES, LossBank, register_loss
from lossrag.lossbank.bank import check, merge
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.embedding import EMBEDDING_VERSION
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.storage import save_memory
from tests.lossbank.simulated import NAMES, filled, fingerprint, moments

C = len(CONTEXT_NAMES)


def bank(seed: int = 0, count: int = 30, *, steps: int | None = 10) -> LossBank:
    made = LossBank(NAMES, filled(seed, count=count))
    if steps is not None:
        made.fit(steps=steps)
    return made


def same_towers(one: LossBank, two: LossBank) -> bool:
    a, b = one.towers.state_dict(), two.towers.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_create_offers_what_is_registered_and_knows_nothing():
    made = LossBank.create()
    assert set(made.names) == set(LOSSES)
    found = made.predictor().predict(torch.zeros(C), made.names)
    assert (found.mean.unique().tolist(), found.uncertainty.unique().tolist()) == ([0.0], [1.0])
    assert LossBank.create(["mae", "brier"]).names == ("brier", "mae")
    with pytest.raises(ConfigError, match="did you mean 'mae'"):
        LossBank.create(["mea"])
    with pytest.raises(ConfigError, match="twice"):
        LossBank.create(["mae", "mae"])
    with pytest.raises(ConfigError, match="not the string"):
        LossBank.create("mae")


def test_neighbours_are_of_the_same_kind_and_not_itself():
    made = LossBank.create()
    found = made.neighbours("logit_adjusted_1", 3)
    assert {name for name, _ in found} <= {name for name in made.names if LOSSES[name].family == "imbalance"}
    assert len(made.neighbours("l1", 500)) == sum(LOSSES[n].target_kind == "regression" for n in made.names) - 1
    with pytest.raises(ConfigError, match="from 1 up"):
        made.neighbours("l1", 0)
    assert LossBank.create(["l1", "mae"]).neighbours("mae", 3) == []
    with pytest.raises(ConfigError, match="offers no 'no such'"):
        made.neighbours("no such", 3)


def test_round_trip_bit_for_bit(tmp_path):
    made = bank()
    made.save(tmp_path)
    read = LossBank.load(tmp_path, NAMES)
    assert fingerprint(read.memory) == fingerprint(made.memory)
    assert same_towers(read, made)
    context = moments(1, 3)[0][0]
    assert torch.equal(*(each.predictor("towers").predict(context, NAMES).mean for each in (read, made)))
    # a bank without towers takes their place
    bank(steps=None).save(tmp_path)
    assert LossBank.load(tmp_path).towers is None


def test_unfit_towers_are_noticed(tmp_path):
    """Right by their checksum, yet no towers."""
    for state in ({"x": torch.ones(1)}, {"context_first": torch.zeros(1, 2, 3)}):
        save_memory(bank(steps=None).memory, tmp_path, state)
        with pytest.raises(BankError, match="towers"):
            LossBank.load(tmp_path)
        assert "towers" in check(tmp_path)[0]


def test_other_versions_and_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="v1"):
        LossBank(NAMES, Memory(C, "v1"))
    save_memory(Memory(C, "v1"), tmp_path)
    with pytest.raises(BankError, match="'v1'"):
        LossBank.load(tmp_path)
    save_memory(Memory(3, EMBEDDING_VERSION), tmp_path / "small")
    with pytest.raises(BankError, match="contexts of 3"):
        LossBank.load(tmp_path / "small")


def test_merge_commutes_and_drops_the_towers():
    one, two = LossBank(["mae"], filled(0, count=10)), LossBank(["brier"], filled(1, count=20))
    one.fit(steps=2)
    both, other = merge(one, two), merge(two, one)
    assert fingerprint(both.memory) == fingerprint(other.memory)
    assert both.names == other.names == ("brier", "mae")
    assert both.towers is None
    assert torch.equal(both.vectors()["mae"], other.vectors()["mae"])
    assert one.towers is not None


def test_strangers_stay_in_the_memory_and_newcomers_are_offered(tmp_path, monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES))
    made = bank(count=60, steps=None)
    made.memory.add(np.zeros((1, C)), ["from afar"], [0.5], run="r", task="t", step=0)
    made.save(tmp_path)

    @register_loss("my_newcomer", family="mine", target_kind="classification", reference="mae times seven")
    def my_newcomer(logits, targets):
        return 7 * (1 - logits.softmax(dim=1).gather(1, targets[:, None])[:, 0])

    read = LossBank.load(tmp_path)
    assert "from afar" in read.memory.records.losses
    assert "from afar" not in read.names
    assert "my_newcomer" in read.names
    contexts, truth, _ = moments(20, 3)
    context = contexts[truth[:, NAMES.index("mae")].argmax()]
    mean = read.predictor().predict(context, ["my_newcomer", "cross_entropy"]).mean
    assert mean[0] > 0.1 > mean[1]
    read.save(tmp_path)
    assert "from afar" in LossBank.load(tmp_path).memory.records.losses
    findings = " ".join(check(tmp_path))
    assert "not offered: from afar" in findings
    assert "my_newcomer" in findings
    assert "no fitted towers" in findings


def test_check_finds_and_changes_nothing(tmp_path):
    assert "does not exist" in check(tmp_path / "none")[0]
    names = ["mae", "brier"]
    memory = Memory(C, EMBEDDING_VERSION, capacity=2)
    memory.add(np.zeros((2, C)), names, [0.5, 1.5], run="r", task="t", step=0)
    made = LossBank(names, memory)
    made.fit(steps=1)
    made.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    findings = check(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert any("full (2 records)" in finding for finding in findings)
    assert any("1 of 2 contributions" in finding for finding in findings)
    assert not any("towers" in finding for finding in findings)


def test_predictors_by_name():
    made = bank(steps=None)
    with pytest.raises(ConfigError, match=r"call fit\(\) first"):
        made.predictor("towers")
    with pytest.raises(ConfigError, match="'knn' or 'towers'"):
        made.predictor("forest")
    report = made.fit(steps=10)
    assert report.steps == 10
    assert made.predictor("towers").predict(torch.zeros(C), NAMES).mean.shape == (len(NAMES),)
