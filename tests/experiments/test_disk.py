"""A disk that is full, read-only, over quota or gone while a command writes: one line, exit code 2, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = ["train", "experiment=digits", "train.epochs=4", "train.batch_size=512", "run.checkpoint_seconds=0"]
# A limit on the size of a file stands in for a quota, one on open files for a system that has no more, and /dev/full
# for an output that cannot be written; a disk of its own of some kilobytes is for root alone. Nothing is imported in
# vain: the fault comes before the n-th call of a function.
PROGRAM = """
import os, resource, shutil, signal, sys
import torch
from lossrag.experiments import train as training
from lossrag.experiments.cli import run
from lossrag.experiments.record.jsonl import JsonLines
from lossrag.weighting import MultiTaskStep

fault, place, number, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with torch.autograd.profiler.record_function("loaded"):  # later it would tell at length that there are no files left
    pass

def happens():
    if fault == "gone":
        shutil.rmtree(folder)
    elif fault == "quota":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    elif fault == "open files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    elif fault == "file in the way":
        shutil.rmtree(folder)
        open(folder, "w").close()
    elif fault == "full":
        with open(os.path.join(folder, "filler"), "wb") as filler:
            try:
                while True:
                    filler.write(b"0" * 4096)
            except OSError:
                pass
    elif fault == "read-only":  # over the folder: a disk with a file that is being written is not made so from outside
        disk = os.path.dirname(folder)
        assert os.system(f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk}") == 0

PLACES = {
    "build": (training, "build_suite"),
    "step": (MultiTaskStep, "__call__"),
    "test": (training.Problem, "evaluate"),
    "figure": (training, "plot_trajectories"),
    "summary": (training, "write_summary"),
}
owner, attribute = PLACES[place]
original, calls = getattr(owner, attribute), [0]

def faulty(*arguments, **options):
    calls[0] += 1
    if calls[0] == number:
        happens()
    return original(*arguments, **options)

setattr(owner, attribute, faulty)
sys.exit(run(sys.argv[5:]))
"""
FAULTS = ("gone", "quota", "open files", "file in the way")
PLACES = [("build", 1), ("step", 2), ("test", 2), ("figure", 1), ("summary", 1)]


def told(fault, place, number, folder, *arguments):
    line = [sys.executable, "-c", PROGRAM, fault, place, str(number), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False, env=environment)
    return done.returncode, done.stderr


def wrong(code, said):
    """What is wrong with an exit code and a message, None where nothing is."""
    lines = said.strip().splitlines()
    fine = code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in said
    return None if fine else f"{code}: {said[-600:]}"


@pytest.mark.parametrize(
    ("fault", "place", "board"),
    [
        ("gone", ("step", 2), True),
        pytest.param("quota", ("step", 2), True, marks=pytest.mark.slow),
        pytest.param("open files", ("test", 2), False, marks=pytest.mark.slow),
    ],
)
def test_while_training(fault, place, board, tmp_path):
    folder = tmp_path / "run"
    arguments = [*RUN, f"run.dir={folder}", f"log.tensorboard={str(board).lower()}"]
    assert wrong(*told(fault, *place, folder, *arguments)) is None


@pytest.fixture
def disk(tmp_path):
    """A disk of 600 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", folder], check=False)
    if mounted.returncode:
        pytest.skip("a disk of its own can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_at_every_moment(tmp_path, disk, capsys):
    cases = [
        (fault, place, number, board)
        for fault in (*FAULTS, "full", "read-only")
        for place, number in PLACES
        for board in (True, False)
    ]
    bad = {}
    for count, (fault, place, number, board) in enumerate(cases):
        own = fault in ("full", "read-only")
        folder = (disk if own else tmp_path) / f"run{count}"
        arguments = [*RUN, f"run.dir={folder}", f"log.tensorboard={str(board).lower()}"]
        if (why := wrong(*told(fault, place, number, folder, *arguments))) is not None:
            bad[fault, place, board] = why
        if own:
            while not os.access(disk, os.W_OK):
                subprocess.run(["umount", "-l", disk], check=True)
            for path in sorted(disk.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    with capsys.disabled():
        print(f"\ndisk full, read-only, over quota, gone: {len(cases) - len(bad)} of {len(cases)}")
    assert not bad


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "experiment=smoke"],
        ["ablate", "smoke"],
        ["sweep", "experiment=digits", "key=tasks.rho", "values=[0.1]", "seeds=[0]"],
        ["bank", "collect", "builtin"],
    ],
)
@pytest.mark.parametrize("root", ["/dev/null", "/etc/passwd"])
def test_folders_that_are_none(arguments, root, lossrag):
    assert "Not a directory" in lossrag(*arguments, f"root={root}").error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
@pytest.mark.parametrize("arguments", [["--help"], ["bank", "show", "mae"]])
def test_an_output_that_cannot_be_written(arguments):
    line = [sys.executable, "-c", "from lossrag.experiments.cli import main; main()", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert wrong(done.returncode, done.stderr) is None
    assert "No space left on device" in done.stderr


def test_an_output_that_nobody_reads():
    line = [sys.executable, "-c", "from lossrag.experiments.cli import main; main()", "--help"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
