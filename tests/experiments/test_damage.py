"""Damage at random places of every file of a run, a bank and a cache: it is found, or the results are the same."""

from __future__ import annotations

import contextlib
import random
import shutil
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from rich.console import Console

from lossrag.errors import BankError, LossRAGError
from lossrag.experiments.check.findings import check_run, check_tensor_file
from lossrag.experiments.cli import run
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.composition_log import read_events
from lossrag.experiments.record.contexts import load_contexts
from lossrag.experiments.record.finished import load_runs
from lossrag.experiments.train import train_run
from lossrag.experiments.trained.loaded import load_run
from lossrag.lossbank.experience.files import load_experience
from lossrag.tasks.text.cache import read_encoded, write_encoded
from lossrag.tensors import digest_of
from tests.experiments.banks import write_bank

HOW = ("flip", "truncate", "insert", "duplicate", "swap", "zero")
SETTINGS = [
    "experiment=digits",
    "train.epochs=2",
    "train.batch_size=256",
    "loss.policy=retrieval",
    "log.contexts=true",
]


def damaged(content, how, chance):
    """The content with one kind of damage at a random place; never as it was."""
    size = len(content)
    a, b = sorted((chance.randrange(size), chance.randrange(size)))
    length = chance.randint(1, max(1, min(64, size)))
    if how == "flip":
        made = bytearray(content)
        made[a] ^= 1 << chance.randrange(8)
    elif how == "truncate":
        made = content[:a]
    elif how == "insert":
        made = content[:a] + chance.randbytes(length) + content[a:]
    elif how == "duplicate":
        made = content[: a + length] + content[a : a + length] + content[a + length :]
    elif how == "swap":
        made = content[:a] + content[b : b + length] + content[a + length : b] + content[a : a + length]
        made += content[b + length :]
    else:
        made = content[:a] + bytes(length) + content[a + length :]
    return bytes(made) if bytes(made) != content else content + b"\0"


@dataclass
class Tally:
    """What became of trials: refused where the file was read, found by `lossrag check` alone, harmless."""

    refused: int = 0
    checked: int = 0
    harmless: int = 0

    def told(self, what, capsys):
        total = self.refused + self.checked + self.harmless
        with capsys.disabled():
            print(
                f"\n{total} of {total} damaged {what} found or harmless: {self.refused} refused, {self.checked} found "
                f"by `lossrag check`, {self.harmless} harmless"
            )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run that composed losses, and the same before it ended."""
    folder = tmp_path_factory.mktemp("damage")
    bank = write_bank(folder / "bank.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        line = ["train", *SETTINGS, f"loss.bank={bank}", f"run.dir={folder / 'half'}"]
        with pytest.MonkeyPatch.context() as broken:

            def break_off(*_args, **_more):
                raise OSError("the power is gone")

            broken.setattr("lossrag.experiments.record.directory.RunDirectory.finish", break_off)
            assert run(line) == 2
        shutil.copytree(folder / "half", folder / "whole")
        assert run([*line[:-1], f"run.dir={folder / 'whole'}"]) == 0
    return folder


def results(directory):
    """All that a run says, as others read it."""
    (found,), _ = load_runs([directory])
    loaded = load_run(directory)
    assert loaded.preprocessing is not None
    rows = [{column.name: float(value) for column in loaded.preprocessing.columns} for value in range(3)]
    predicted = [own.outputs.tolist() for own in loaded.predict(rows).tasks]
    contexts = {at: own.tolist() for at, own in load_contexts(directory).moments.items()}
    return repr((found.settings, found.summary, found.points, read_events(directory), predicted, contexts))


def shake(directory, use, check, count, chance, tally):
    """Damage files of a folder ``count`` times, each put back afterwards."""
    every = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    files = sorted(path for path in every if path.stat().st_size)
    before = use(directory)
    assert not check(directory)
    for number in range(count):
        path, how = files[number % len(files)], HOW[number // len(files) % len(HOW)]
        content = path.read_bytes()
        path.write_bytes(damaged(content, how, chance))
        try:
            after = use(directory)
        except LossRAGError:
            tally.refused += 1
        else:
            assert after == before, (path.name, how, number)
            if check(directory):
                tally.checked += 1
            else:
                tally.harmless += 1
        finally:
            path.write_bytes(content)


def damage_of(directory):
    return check_run(directory).damage


def shake_runs(runs, tmp_path, count, capsys):
    shutil.copytree(runs / "whole", tmp_path / "run")
    tally = Tally()
    shake(tmp_path / "run", results, damage_of, count, random.Random(count), tally)
    tally.told("files of a finished run", capsys)
    assert tally.harmless == 0, "every byte of a finished run is proven"


def resumed(directory, bank):
    """The end of a run that goes on, bit for bit."""
    last = directory.parent / "again"
    shutil.rmtree(last, ignore_errors=True)
    shutil.copytree(directory, last)
    settings = load_config([*SETTINGS, f"loss.bank={bank}", f"run.dir={last}"])[1]
    summary = train_run(settings, Console(quiet=True))
    told = {key: value for key, value in summary.items() if key not in ("seconds", "directory")}
    return repr((told, digest_of(load_checkpoint(last / "checkpoints" / "last.safetensors")[0]).hexdigest()))


def shake_resumed(runs, tmp_path, count, capsys, monkeypatch):
    for picture in ("record.composition_log.draw_compositions", "record.composition_log.draw_bank"):
        monkeypatch.setattr(f"lossrag.experiments.{picture}", lambda *_: None)
    monkeypatch.setattr("lossrag.experiments.train.plot_trajectories", lambda *_: None)
    shutil.copytree(runs / "half", tmp_path / "half")
    for made_at_the_end in ("*.png", "model.json", "tensorboard/*", "preprocessing.json", "contexts.safetensors"):
        for path in (tmp_path / "half").glob(made_at_the_end):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    tally = Tally()
    shake(
        tmp_path / "half",
        partial(resumed, bank=runs / "bank.safetensors"),
        damage_of,
        count,
        random.Random(count),
        tally,
    )
    tally.told("files of a run that is resumed", capsys)


def shake_tensors(tmp_path, count, capsys):
    bank = write_bank(tmp_path / "bank.safetensors")
    cache = tmp_path / "encoded" / "suite.safetensors"
    write_encoded(cache, {"a": torch.arange(400).view(20, 20), "b": torch.rand(7)}, "made up")
    for path, read in ((bank, load_experience), (cache, read_encoded)):
        chance, content = random.Random(count), path.read_bytes()
        tally = Tally()
        for number in range(count):
            path.write_bytes(damaged(content, HOW[number % len(HOW)], chance))
            with contextlib.suppress(BankError):
                assert read(path) is None, number  # a cache that is damaged is built anew
            assert check_tensor_file(path).damage
            tally.refused += 1
        path.write_bytes(content)
        assert not check_tensor_file(path).findings
        tally.told(f"{path.parent.name if path is cache else 'bank'} files", capsys)


def test_a_finished_run(runs, tmp_path, capsys):
    shake_runs(runs, tmp_path, 44, capsys)


def test_a_run_that_is_resumed(runs, tmp_path, capsys, monkeypatch):
    shake_resumed(runs, tmp_path, 6, capsys, monkeypatch)


def test_a_bank_and_a_cache(tmp_path, capsys):
    shake_tensors(tmp_path, 30, capsys)


@pytest.mark.slow
def test_a_finished_run_1800_times(runs, tmp_path, capsys):
    shake_runs(runs, tmp_path, 1800, capsys)


@pytest.mark.slow
def test_a_run_that_is_resumed_200_times(runs, tmp_path, capsys, monkeypatch):
    shake_resumed(runs, tmp_path, 200, capsys, monkeypatch)


@pytest.mark.slow
def test_a_bank_and_a_cache_1000_times(tmp_path, capsys):
    shake_tensors(tmp_path, 500, capsys)
