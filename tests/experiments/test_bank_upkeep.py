"""`lossrag bank check`, `merge` and `export`, and banks that two commands add to at once."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict

import pytest

from lossrag.experiments.cli import run
from lossrag.lossbank.experience.files import load_experience, save_experience
from lossrag.lossbank.experience.trials import Experience
from lossrag.tensors import load_tensors, save_tensors
from tests.experiments.banks import write_bank
from tests.lossbank.experiences import random_experience, record, same
from tests.processes import forked


def saved(path, experience):
    save_experience(path, experience)
    return path


def test_check_of_a_bank_that_is_well(lossrag, tmp_path):
    """Of two sources, with twenty cases at least of either encoder."""
    halves = [random_experience(30, seed, encoder=encoder) for seed, encoder in ((0, "mlp"), (1, "textcnn"))]
    result = lossrag("bank", "check", str(saved(tmp_path / "bank", halves[0].joined(halves[1]))))
    assert result.code == 0
    assert result.out == "60 cases, 120 moments, 180 trials\nall is well\n"


FINDINGS = {
    "nothing": (Experience(), ["knows nothing"]),
    "one source": (
        random_experience(24, source="here"),
        ["All cases of classification come from here: without that source nothing is known."],
    ),
    "few": (random_experience(12), ["12 cases of classification have the encoder mlp, fewer than the 20 that answer."]),
    "strangers": (
        random_experience(30).joined(Experience.of([record({"my_loss": 0.1, "mae": 0.1}, source="elsewhere")])),
        ["Not registered here, so not offered: my_loss. library=[FILE] registers your own."],
    ),
    "unsure": (
        random_experience(30).joined(random_experience(4, 1, clean=False)),
        ["4 cases were scored on labels that may be wrong."],
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_check_tells_what_there_is_to_know(lossrag, tmp_path, name):
    experience, lines = FINDINGS[name]
    result = lossrag("bank", "check", str(saved(tmp_path / "bank", experience)))
    assert result.code == 1
    for line in lines:
        assert line in " ".join(result.out.split())


def test_check_of_what_cannot_be_read(lossrag, tmp_path):
    path = saved(tmp_path / "bank", random_experience(3))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    result = lossrag("bank", "check", str(path))
    assert (result.code, "is damaged" in result.out) == (1, True)
    assert path.read_bytes() == whole[:-40]
    path.write_bytes(whole)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, "contexts": meta["contexts"][1:]})
    other = lossrag("bank", "check", str(path))
    assert (other.code, "was made by another version of LossRAG" in " ".join(other.out.split())) == (1, True)
    assert "bank check takes 1 name, got 0. Write: lossrag bank check FILE" in lossrag("bank", "check").error


def test_names_of_a_foreign_bank_are_shown_as_they_are(lossrag, tmp_path):
    """Brackets mean styles to what draws the tables."""
    odd = "[/red]odd"
    changes = {"encoder": odd, "metric": odd}
    cases = [
        record({"mae": 0.1, "brier": 0.0}, seed=n, source=f"{odd} {n % 2}", trouble=odd, **changes) for n in range(24)
    ]
    bank = saved(tmp_path / "bank", Experience.of(cases))
    for command in (["check", str(bank)], *([name, f"bank={bank}"] for name in ("list", "query", "validate"))):
        result = lossrag("bank", *command)
        assert (result.code, result.err) == (0, "")
        assert odd in result.out or command[0] == "check"
    assert lossrag("bank", "show", "mae", f"bank={bank}").out.count(odd) == 1


def test_merge_counts_the_same_case_once(lossrag, tmp_path):
    mine, yours = random_experience(5, seed=1), random_experience(4, seed=2).joined(random_experience(3, seed=1))
    first, second = (saved(tmp_path / name, own) for name, own in (("mine", mine), ("yours", yours)))
    before = [path.read_bytes() for path in (first, second)]
    target = tmp_path / "both"
    result = lossrag("bank", "merge", str(first), str(second), f"output={target}")
    assert (result.code, result.out) == (0, f"{target} remembers 9 cases; 3 were in both\n")
    assert same(load_experience(target), mine.joined(yours))
    assert [path.read_bytes() for path in (first, second)] == before


def test_merge_harms_no_file(lossrag, tmp_path):
    bank = saved(tmp_path / "bank", random_experience(3))
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no bank at all")
    target = tmp_path / "new"

    def error(*arguments):
        return lossrag("bank", "merge", *map(str, arguments)).error

    for there in (bank, garbage):
        content = there.read_bytes()
        assert "exists already: name a new file" in error(bank, bank, f"output={there}")
        assert there.read_bytes() == content
    assert "garbage is damaged" in error(bank, garbage, f"output={target}")
    assert "does not exist" in error(tmp_path / "nowhere", bank, f"output={target}")
    assert "needs output=" in error(bank, bank)
    assert "takes 2 names, got 1" in error(bank, f"output={target}")
    assert "output=builtin is no bank of yours" in error(bank, bank, "output=builtin")
    assert "name a file in a folder that exists" in error(bank, bank, f"output={tmp_path}/no/where")
    assert not target.exists()


def test_export_is_a_line_a_trial(lossrag, tmp_path):
    experience = random_experience(4).joined(Experience.of([record({"mae": 0.125}, strength=0.25, clean=False)]))
    bank, target = saved(tmp_path / "bank", experience), tmp_path / "trials.csv"
    result = lossrag("bank", "export", f"bank={bank}", f"output={target}")
    assert (result.code, result.out.split()[:2]) == (0, ["13", "trials"])
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(experience.gain) == 13
    for row, case, loss, gain in zip(
        rows, experience.outcome_case, experience.outcome_loss, experience.gain, strict=True
    ):
        own = asdict(experience.case(case))
        assert row["loss"] == experience.names["loss"][loss]
        assert float(row["gain"]) == pytest.approx(gain, rel=1e-6)
        assert (row["error"], row["repeats"]) == ("", "1")
        for key, value in own.items():
            if isinstance(value, float):
                assert row[key] == "" if math.isnan(value) else float(row[key]) == pytest.approx(value, rel=1e-6)
            else:
                assert row[key] == str(value)
    assert (rows[-1]["strength"], rows[-1]["clean"], rows[-1]["gain"]) == ("0.25", "False", "0.125")


def test_mistakes_of_an_export(lossrag, tmp_path):
    bank = f"bank={write_bank(tmp_path / 'bank')}"
    assert "needs output=" in lossrag("bank", "export", bank).error
    assert "needs bank=" in lossrag("bank", "export", "output=a.csv").error
    assert "name a file that ends in .csv" in lossrag("bank", "export", bank, "output=a.json").error
    assert "Cannot write output=" in lossrag("bank", "export", bank, "output=no/where.csv").error
    assert "bank=none knows nothing" in lossrag("bank", "export", "bank=none", "output=a.csv").error


def add(rank, size, lines):
    return run(lines[rank])


def test_two_commands_may_add_at_once(quick, tmp_path):
    """Each process a trial of its own to one file that is new to both."""
    seen = ["weighting=uniform", "train.query_for_baselines=support", "log.contexts=true"]
    reference = quick(*seen)
    losses = ("mae", "focal_2", "brier")
    runs = [quick(*seen, f"loss.tasks.parity={loss}") for loss in losses]
    bank = tmp_path / "mine.safetensors"
    call = ["bank", "add", f"reference={reference}", f"bank={bank}"]
    assert forked(add, 3, [[*call, f"run={made}"] for made in runs], seconds=120) == [0, 0, 0]
    known = load_experience(bank)
    assert len(known) == 1
    assert {known.names["loss"][loss] for loss in known.outcome_loss} == set(losses)


def test_a_bank_that_was_added_to_answers(quick, lossrag, tmp_path):
    """From a pair of runs to the next run."""
    seen = ["weighting=uniform", "train.query_for_baselines=support", "log.contexts=true"]
    both = [quick(*seen), quick(*seen, "loss.classification=mae")]
    bank = tmp_path / "mine.safetensors"
    line = ["bank", "add", f"reference={both[0]}", f"run={both[1]}"]
    assert lossrag(*line, f"bank={bank}").code == 0
    assert "bank=builtin is no bank of yours" in lossrag(*line, "bank=builtin").error
    assert "Cannot write bank=" in lossrag(*line, f"bank={tmp_path}/no/where").error
    assert "mae" in lossrag("bank", "query", f"bank={bank}", "classes=2").out
    quick("loss.policy=retrieval", f"loss.bank={bank}", "train.epochs=1")
