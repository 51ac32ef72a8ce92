"""Run directories: never overwritten, never shared, and every obstacle has a message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from lossrag.errors import RunDirectoryError
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.directory import sums_of
from lossrag.experiments.record.jsonl import read_points
from lossrag.proof import Chain, write_sums
from lossrag.tensors import save_tensors


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run, and the overrides that made it."""
    directory = shutil.copytree(finished, tmp_path / "copy")
    return directory, ["experiment=digits", "train.epochs=2", "train.batch_size=256", f"run.dir={directory}"]


def test_a_finished_run_is_shown_not_repeated(copied, lossrag):
    directory, overrides = copied
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    result = lossrag("train", *overrides)
    assert result.code == 0
    assert "finished" in result.out
    assert "run.again=true" in result.out
    assert "mean" in result.out
    assert f"results   {directory}/summary.json" in result.out, "it was moved: where it is now"
    after = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    assert before == after


def test_again_makes_another_directory(train, tmp_path, assert_same_run):
    first = train("train.epochs=1")
    second = train("train.epochs=1", "run.again=true")
    third = train("train.epochs=1", "run.again=true")
    assert (second.name, third.name) == (f"{first.name}-2", f"{first.name}-3")
    assert_same_run(first, second)


def test_again_without_an_earlier_run_is_a_first_run(train):
    assert not train("train.epochs=1", "run.again=true").name.endswith("-2")


def test_another_configuration_in_the_directory(copied, lossrag):
    directory, overrides = copied
    before = (directory / "config.yaml").read_bytes()
    error = lossrag("train", *overrides, "train.epochs=3", "weighting.alpha=0.07", "log.every_steps=2").error
    assert "train.epochs: 2 -> 3" in error
    assert "weighting.alpha: 0.05 -> 0.07" in error
    assert "log.every_steps" not in error
    assert (directory / "config.yaml").read_bytes() == before


def test_a_folder_with_other_content_is_refused_untouched(tmp_path, lossrag):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("all my work")
    error = lossrag("train", "experiment=digits", f"run.dir={folder}").error
    assert "not a run of LossRAG" in error
    assert "thesis.tex" in error
    assert os.listdir(folder) == ["thesis.tex"]


def test_an_empty_folder_will_do(tmp_path, lossrag):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert lossrag("train", "experiment=digits", "train.epochs=1", f"run.dir={folder}").code == 0


def test_rests_of_a_killed_process_are_no_obstacle(tmp_path, lossrag):
    """Killed while it wrote its very first file."""
    folder = tmp_path / "killed"
    (folder / "checkpoints").mkdir(parents=True)
    for rest in (folder / ".config.yaml.123.tmp", folder / "checkpoints" / ".last.safetensors.123.tmp"):
        rest.write_bytes(b"half a fi")
    assert lossrag("train", "experiment=digits", "train.epochs=1", f"run.dir={folder}").code == 0
    assert not list(folder.rglob("*.tmp"))


def test_a_directory_in_use(copied, lossrag):
    directory, overrides = copied
    hold = (
        "import sys, pathlib\nfrom lossrag.leases import Lease\n"
        "lease = Lease(pathlib.Path(sys.argv[1]))\nlease.acquire()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    line = [sys.executable, "-c", hold, str(directory / ".lease")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        error = lossrag("train", *overrides).error
        assert "in use by another process" in error
        assert "run.again=true" in error
        holder.stdin.close()
    assert lossrag("train", *overrides).code == 0


def test_a_file_in_place_of_the_folder(tmp_path, lossrag):
    (tmp_path / "runs").write_text("a file")
    for override in (f"run.root={tmp_path / 'runs'}", f"run.dir={tmp_path / 'runs'}"):
        error = lossrag("train", "experiment=digits", override).error
        assert "cannot be written" in error
        assert "run.root=FOLDER" in error


def test_no_write_permission(tmp_path, lossrag, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    error = lossrag("train", "experiment=digits", f"run.root={tmp_path / 'sealed'}").error
    assert "cannot be written (Permission denied)" in error
    assert str(tmp_path / "sealed") in error


def test_a_full_disk_while_running(tmp_path, lossrag, monkeypatch):
    def refuse(_path, _content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lossrag.tensors.write_atomic", refuse)
    error = lossrag("train", "experiment=digits", "train.epochs=1", f"run.root={tmp_path}/runs").error
    assert "No space left on device" in error
    assert "resume" in error


@pytest.mark.parametrize("content", [b"", b"a: [", b"\xff\xfe\x00", b"- 1\n- 2\n", b"seed: 1\n", b"a: ${b}\n", b"3"])
def test_damaged_config(copied, lossrag, content):
    directory, overrides = copied
    (directory / "config.yaml").write_bytes(content)
    error = lossrag("train", *overrides).error
    assert "config.yaml is damaged" in error or "These keys differ" in error


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"{}", b"null", b'{"run_id": "x"}'])
def test_damaged_summary(copied, lossrag, content):
    directory, overrides = copied
    good = json.loads((directory / "summary.json").read_text())
    (directory / "summary.json").write_bytes(content)
    error = lossrag("train", *overrides).error
    assert "summary.json is damaged: delete it" in error
    if content != b"{":
        return
    # and the advice is good
    (directory / "summary.json").unlink()
    assert lossrag("train", *overrides).code == 0
    again = json.loads((directory / "summary.json").read_text())
    assert again["test_accuracy"] == good["test_accuracy"]


def forged(directory, name, change):
    """A file of JSON changed, its checksum right."""
    made = json.loads((directory / name).read_text())
    change(made)
    (directory / name).write_text(json.dumps(made))
    write_sums(directory, sums_of(directory))


STEADY = {"asked_at": 0, "composed_at": 0, "moved": {}}
DEMANDED = ("preset", "best_epoch", "epochs", "refit", "edition", "test_score_mean", "validation_score_mean")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *((lambda made, key=key: made.pop(key), f"{key} is missing") for key in DEMANDED),
        (lambda made: made["test_accuracy"].update(digit=None), "test_accuracy.digit must be a finite number, not N"),
        (lambda made: made["test_loss"].update(digit=float("nan")), "test_loss.digit must be a finite number, not n"),
        (lambda made: made["task_weights"].pop("digit"), "task_weights must be of the tasks digit, parity, loops"),
        (lambda made: made["metric"].clear(), "it names no task"),
        (lambda made: made.update(compositions={"digit": {}}), "compositions must be of its tasks, and off of those"),
        (lambda made: made.update(seed=True), "seed must be a whole number from 0 to"),
        (lambda made: made.update(best_epoch=10**400), "best_epoch must be a whole number of 1 or more, not a"),
        (lambda made: made.update(suite="\ud800"), "suite must be a text, not"),
        (
            lambda made: made.update(steadiness=STEADY),
            "bank_sources is missing",
        ),
    ],
)
def test_forged_summary(copied, lossrag, change, said):
    """Right checksums prove no content."""
    directory, overrides = copied
    forged(directory, "summary.json", change)
    error = lossrag("train", *overrides).error
    assert "summary.json is damaged: delete it" in error
    assert said in error


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"epoch": 1}, "step is missing"),
        ({"step": -1}, "step must be a whole number of 0 or more, not -1"),
        ({"step": 10**30}, "step must be a whole number of 0 or more, not a number beyond 64 bits"),
        ({"step": 1, "epoch": 0.5}, "epoch must be a whole number"),
        ({"step": 1, "weight/a": "1"}, "weight/a must be a number, not '1'"),
        ({"step": 1, "weight/a": True}, "weight/a must be a number, not True"),
        ({"step": 1, "weight/a": [[1.0]]}, "weight/a must be a number, not a list"),
        ({"step": 1, "weight/a": 10**400}, "weight/a must be a number, not a number beyond 64 bits"),
        ({"step": 1, "hypergradient/D": [[1.0], [2.0, 1.0]]}, "hypergradient/D must be a matrix, not lists of several"),
        ({"step": 1, "hypergradient/D": 1.0}, "hypergradient/D must be a list, not 1.0"),
        ({"step": 1, "theory/common_descent": 1.0}, "theory/min_norm and theory/common_descent must both be there"),
    ],
)
def test_forged_points(tmp_path, point, said):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(Chain().line({"step": 1, "weight/a": 1, "hypergradient/D": [[0.5]]}))
    assert read_points(path)[0]["weight/a"] == 1
    path.write_bytes(Chain().line(point))
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl is damaged, line 1: ") as error:
        read_points(path)
    assert said in str(error.value)


def break_off(directory):
    """As if the run had been killed after its last checkpoint."""
    (directory / "summary.json").unlink()
    return directory / "checkpoints" / "last.safetensors", directory / "checkpoints" / "best.safetensors"


def test_damaged_checkpoint(copied, lossrag):
    directory, overrides = copied
    last, _ = break_off(directory)
    content = bytearray(last.read_bytes())
    content[-5] ^= 4
    last.write_bytes(content)
    error = lossrag("train", *overrides).error
    assert str(last) in error
    assert "Delete it to start this run over" in error
    last.unlink()
    assert lossrag("train", *overrides).code == 0


def test_missing_best_checkpoint(copied, lossrag):
    directory, overrides = copied
    _, best = break_off(directory)
    best.unlink()
    assert str(best) in lossrag("train", *overrides).error


def test_checkpoint_in_place_of_another(copied, lossrag):
    directory, overrides = copied
    last, best = break_off(directory)
    good = last.read_bytes()
    last.write_bytes(best.read_bytes())
    assert "is not the last one of run" in lossrag("train", *overrides).error
    last.write_bytes(good)
    best.write_bytes(good)
    assert "is not that of epoch" in lossrag("train", *overrides).error


def test_checkpoints_of_no_such_run(copied, lossrag):
    """Of an epoch that it does not have, and without a best one."""
    directory, overrides = copied
    last, best = break_off(directory)
    tensors, told = load_checkpoint(best)
    save_tensors(best, tensors, {**told, "epoch": 99})
    assert "is not that of epoch" in lossrag("train", *overrides).error
    save_tensors(best, tensors, told)
    tensors, told = load_checkpoint(last)
    save_tensors(last, tensors, {**told, "best": {**told["best"], "epoch": 0}})
    assert "that no run of these tasks can have" in lossrag("train", *overrides).error


def test_checkpoint_of_another_run(copied, train, lossrag):
    directory, overrides = copied
    last, _ = break_off(directory)
    other = train("seed=5", "train.epochs=1")
    shutil.copy(other / "checkpoints" / "last.safetensors", last)
    assert "is not the last one of run digits-metaweighting-s0" in lossrag("train", *overrides).error


def test_metrics_shorter_than_the_checkpoint_remembers(copied, lossrag):
    directory, overrides = copied
    break_off(directory)
    (directory / "metrics.jsonl").write_bytes(b"")
    error = lossrag("train", *overrides).error
    assert "metrics.jsonl has 0 bytes" in error
    assert "start the run over" in error


def test_data_that_changed_under_an_unfinished_run(copied, lossrag, monkeypatch):
    from dataclasses import replace

    from lossrag.tasks import SUITES, SuiteEntry

    directory, overrides = copied
    break_off(directory)
    entry = SUITES["digits"]
    changed = SuiteEntry(entry.config, lambda config: replace(entry.load(config), edition="another scan"))
    monkeypatch.setitem(SUITES._entries, "digits", changed)
    error = lossrag("train", *overrides).error
    assert "was trained on other data" in error
    assert "another scan" in error


def test_settings_that_do_not_count_may_change(copied, lossrag):
    directory, overrides = copied
    break_off(directory)
    assert lossrag("train", *overrides, "log.every_steps=3", "run.checkpoint_seconds=0").code == 0
