"""`lossrag check`: damage is told by file, with what it can be had from, and rebuilt from that."""

from __future__ import annotations

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossrag.experiments.check.records import check_records
from lossrag.experiments.record.board_tags import PICTURES, RESULT, place_of
from lossrag.experiments.record.jsonl import read_points
from lossrag.proof import SUMS, DamagedFile, write_proven
from tests.experiments.banks import write_bank

pytestmark = pytest.mark.pictures


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of a finished run, at another place."""
    return shutil.copytree(finished, tmp_path / "run")


def flip(path, place=-20):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def summary_of(directory):
    summary = json.loads((directory / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in ("seconds", "directory")}


def test_whole(directory, lossrag):
    result = lossrag("check", str(directory))
    assert (result.code, result.err) == (0, "")
    assert "15 files, whole" in result.out


def test_what_training_ended_with_is_made_anew_from_the_last_checkpoint(directory, lossrag):
    before, picture = summary_of(directory), (directory / "trajectories.png").read_bytes()
    predictor = (directory / "model.json").read_bytes()
    flip(directory / "summary.json")
    flip(directory / "model.json")
    flip(directory / "preprocessing.json")
    (directory / "trajectories.png").unlink()
    result = lossrag("check", str(directory))
    assert result.code == 1
    assert "4 of 15 files damaged or missing" in result.out
    for name in ("summary.json", "model.json", "preprocessing.json"):
        assert f"damaged   {name}: it does not match its checksum in {SUMS}; to be had from the last" in result.out
    assert "missing   trajectories.png: it is not there; to be had from the last checkpoint" in result.out
    result = lossrag("check", str(directory), "repair=true")
    assert result.code == 0, result
    assert "after the repair" in result.out
    assert summary_of(directory) == before
    assert (directory / "trajectories.png").read_bytes() == picture
    assert (directory / "model.json").read_bytes() == predictor
    kept = {path.name for path in (directory / "damaged").iterdir()}
    assert kept == {"summary.json", "model.json", "preprocessing.json"}
    assert lossrag("check", str(directory)).code == 0


def test_curves_are_made_anew_from_the_points(directory, lossrag):
    (events,) = directory.glob("tensorboard/*digit/events.*")
    flip(events, 300)
    result = lossrag("check", f"root={directory.parent}", "repair=true")
    assert result.code == 0, result
    assert "its CRC does not match; to be had from metrics.jsonl" in result.out
    (again,) = directory.glob("tensorboard/*digit/events.*")
    assert again.name != events.name
    read = EventAccumulator(str(again), size_guidance={"scalars": 0}).Reload()
    points = [point for point in read_points(directory / "metrics.jsonl") if "weight/digit" in point]
    run, tag = place_of("weight/digit")
    assert run == "digit"
    assert [event.step for event in read.Scalars(tag)] == [point["step"] for point in points]
    values = [event.value for event in read.Scalars(tag)]
    assert values == pytest.approx([point["weight/digit"] for point in points])
    (overall,) = directory.glob("tensorboard/*all_tasks/events.*")
    whole = EventAccumulator(str(overall), size_guidance={"scalars": 0}).Reload().Tags()
    assert RESULT in {tag.removesuffix("/text_summary") for tag in whole["tensors"]}
    assert PICTURES.keys() & set(whole["images"])


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "checkpoints/last.safetensors"])
def test_what_only_a_copy_gives_back_is_left_as_it_is(directory, lossrag, name):
    flip(directory / name, 200)
    damaged = (directory / name).read_bytes()
    result = lossrag("check", str(directory), "repair=true")
    assert result.code == 1
    assert f"damaged   {name}:" in result.out
    assert "to be had from a copy alone" in result.out
    assert (directory / name).read_bytes() == damaged
    assert lossrag("check", str(directory)).code == 1, "the repair has not made it right by a new sum"


def test_a_rebuilding_that_fails_leaves_everything_in_place(directory, lossrag):
    before = (directory / "summary.json").read_bytes()
    (directory / "trajectories.png").unlink()
    (directory / "checkpoints" / "last.safetensors").unlink()
    result = lossrag("check", str(directory), "repair=true")
    assert result.code == 1
    assert "not rebuilt  trajectories.png: there is no last checkpoint" in result.out
    assert (directory / "summary.json").read_bytes() == before


def test_sums_that_are_damaged_or_absent(directory, lossrag):
    flip(directory / SUMS)
    assert f"{SUMS} beside it proves nothing" in lossrag("predict", f"run={directory}", "data=x.csv").error
    result = lossrag("check", str(directory), "repair=true")
    assert (result.code, "damaged   SHA256SUMS" in result.out) == (0, True)
    (directory / SUMS).unlink()
    result = lossrag("check", str(directory))
    assert result.code == 0
    assert "whole, but not all proven" in result.out
    assert lossrag("check", str(directory), "repair=true").code == 0
    assert "15 files, whole" in lossrag("check", str(directory)).out


def test_a_run_that_has_not_ended(directory, lossrag):
    (directory / "summary.json").unlink()
    (directory / SUMS).unlink()
    lines = (directory / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])
    assert lossrag("check", str(directory)).code == 0, "a kill tore the last line"
    (directory / "metrics.jsonl").write_bytes(b"".join([lines[0], *lines[2:]]))
    result = lossrag("check", str(directory))
    assert "damaged   metrics.jsonl" in result.out
    assert "line 2: it does not match its checksum" in result.out


def test_a_tree(directory, lossrag, tmp_path):
    bank = write_bank(tmp_path / "banks" / "bank.safetensors") if (tmp_path / "banks").mkdir() is None else None
    (tmp_path / "study").mkdir()
    write_proven(tmp_path / "study", {"runs.csv": b"a,b\n"})
    assert "3 of 3 are whole" in lossrag("check", f"root={tmp_path}").out
    flip(bank)
    flip(tmp_path / "study" / "runs.csv", 1)
    result = lossrag("check", f"root={tmp_path}")
    assert result.code == 1
    assert "damaged   bank.safetensors: its content does not match its checksum" in result.out
    assert "damaged   runs.csv" in result.out
    assert "to be had from the command that wrote it" in result.out
    assert "1 of 3 are whole" in result.out


def test_mistakes(lossrag, tmp_path):
    assert "needs runs or banks" in lossrag("check", "repair=true").error
    assert "is not there" in lossrag("check", "nowhere").error
    assert "For all that is in it say root=" in lossrag("check", str(tmp_path)).error
    (tmp_path / "empty").mkdir()
    assert "There is nothing to check" in lossrag("check", f"root={tmp_path / 'empty'}").error
    assert "did you mean 'repair'" in lossrag("check", "repai=true").error


def test_records(finished):
    (events,) = finished.glob("tensorboard/*all_tasks/events.*")
    assert check_records(events, ended=True) > 20


def test_records_that_are_damaged(finished, tmp_path):
    (events,) = finished.glob("tensorboard/*all_tasks/events.*")
    content = events.read_bytes()
    path = tmp_path / "events"
    path.write_bytes(content[:-3])
    whole = check_records(events)
    assert check_records(path) == whole - 1, "a kill may tear the last record"
    with pytest.raises(DamagedFile, match=f"record {whole}: it breaks off"):
        check_records(path, ended=True)
    for place in (0, 9, 14, 5000):
        path.write_bytes(content)
        flip(path, place)
        with pytest.raises(DamagedFile, match="record"):
            check_records(path)
