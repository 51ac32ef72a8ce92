from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lossrag.files
import lossrag.lossbank.experience.memory
import lossrag.lossbank.experience.storage
from lossrag import BankError
from lossrag.lossbank.experience.memory import MAX_CAPACITY, Memory
from lossrag.lossbank.experience.storage import MANIFEST, load_files, save_memory

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def example(count: int = 12, version: str = "v1", run: str = "läuft") -> Memory:
    rng = np.random.default_rng(count)
    memory = Memory(3, version, capacity=100)
    memory.add(
        rng.normal(size=(count, 3)),
        [f"loss{i % 4}" for i in range(count)],
        rng.normal(size=count),
        run=run,
        task=["REC", "TALK"] * (count // 2) + ["REC"] * (count % 2),
        step=np.arange(count),
    )
    return memory


def load(folder: Path, version: str) -> Memory:
    return load_files(folder, version)[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def data_file(folder: Path) -> Path:
    (path,) = folder.glob("memory-*.safetensors")
    return path


@RELAXED
@given(st.integers(0, 40))
def test_round_trip_is_bit_for_bit(tmp_path, count):
    folder = tmp_path / str(count) / "bank"
    memory = example(count)
    save_memory(memory, folder)
    assert load(folder, "v1").fingerprint() == memory.fingerprint()


def test_the_newer_bank_takes_the_place_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "memory-of-mine.safetensors").write_text("mine")
    save_memory(example(5), tmp_path)
    (tmp_path / ".memory-0123456789abcdef.safetensors.77.tmp").write_text("left by a killed process")
    save_memory(example(9), tmp_path)
    save_memory(example(9), tmp_path)
    assert len(load(tmp_path, "v1")) == 9
    names = {path.name for path in tmp_path.iterdir()} - {".lock", "notes.txt", "memory-of-mine.safetensors"}
    assert len(names) == 2


@pytest.mark.parametrize("which", ["manifest", "data"])
def test_every_damage_is_noticed_and_harms_nothing(tmp_path, which):
    save_memory(example(), tmp_path)
    path = tmp_path / MANIFEST if which == "manifest" else data_file(tmp_path)
    content = path.read_bytes()

    @RELAXED
    @given(st.integers(0, len(content) - 1), st.integers(1, 255), st.sampled_from(["flip", "cut", "longer", "lost"]))
    def damage(position, change, how):
        damaged = bytearray(content)
        if how == "flip":
            damaged[position] ^= change
        elif how == "cut":
            del damaged[position:]
        elif how == "longer":
            damaged.insert(position, change)
        else:
            del damaged[position]
        path.write_bytes(bytes(damaged))
        before = snapshot(tmp_path)
        with pytest.raises(BankError):
            load(tmp_path, "v1")
        assert snapshot(tmp_path) == before

    damage()
    path.write_bytes(content)
    load(tmp_path, "v1")


def test_every_single_byte_of_the_manifest_counts(tmp_path):
    save_memory(example(2), tmp_path)
    content = (tmp_path / MANIFEST).read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / MANIFEST).write_bytes(bytes(damaged))
        with pytest.raises(BankError):
            load(tmp_path, "v1")


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("survivor", ["nothing", "older"])
@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_bank(tmp_path, monkeypatch, step, survivor):
    old, new = example(5), example(9)
    if survivor == "older":
        save_memory(old, tmp_path)
    left = step

    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync"):
            patch.setattr(lossrag.files.os, name, dying(getattr(os, name)))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        patch.setattr(
            lossrag.lossbank.experience.storage,
            "write_manifest",
            dying(lossrag.lossbank.experience.storage.write_manifest),
        )
        try:
            save_memory(new, tmp_path)
            finished = True
        except KilledError:
            finished = False
    prints = {memory.fingerprint() for memory in ((new,) if finished else (old, new))}
    if survivor == "older" or finished or (tmp_path / MANIFEST).exists():
        assert load(tmp_path, "v1").fingerprint() in prints
    else:
        with pytest.raises(BankError, match="holds no bank"):
            load(tmp_path, "v1")
    save_memory(new, tmp_path)
    assert load(tmp_path, "v1").fingerprint() == new.fingerprint()
    assert len(list(tmp_path.glob("memory-*"))) == 1


def test_killed_while_saving(tmp_path):
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from lossrag.lossbank.experience.memory import Memory\n"
        "from lossrag.lossbank.experience.storage import save_memory\n"
        "folder = Path(sys.argv[1]); memory = Memory(64, 'v1')\n"
        "for step in range(10_000):\n"
        "    n = 300; memory.add(np.full((n, 64), step), [f'l{i}' for i in range(n)], np.ones(n),\n"
        "                        run='r', task='t', step=step)\n"
        "    save_memory(memory, folder); print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    for pause in (0.0, 0.017):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        assert len(load(tmp_path, "v1")) >= 600


def test_another_embedding_version_names_both_and_is_not_overwritten(tmp_path):
    save_memory(example(version="geometry-1"), tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(BankError, match=r"version 'geometry-1' .* this program has 'geometry-2'"):
        load(tmp_path, "geometry-2")
    with pytest.raises(BankError, match="geometry-1"):
        save_memory(example(version="geometry-2"), tmp_path)
    assert snapshot(tmp_path) == before


def test_a_bank_of_an_older_format_is_refused_with_what_to_do(tmp_path):
    save_memory(example(), tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    del manifest["sha256"]
    lossrag.lossbank.experience.storage.write_manifest(tmp_path, {**manifest, "format": "lossrag-memory-1"})
    before = snapshot(tmp_path)
    for use in (lambda: load(tmp_path, "v1"), lambda: save_memory(example(), tmp_path)):
        with pytest.raises(BankError, match=r"'lossrag-memory-1'.*name another folder, start with an empty bank"):
            use()
    assert snapshot(tmp_path) == before


def test_absent_and_foreign_folders(tmp_path):
    with pytest.raises(BankError, match="does not exist"):
        load(tmp_path / "nowhere", "v1")
    with pytest.raises(BankError, match="holds no bank"):
        load(tmp_path, "v1")
    for content in ("[]", "{}", '{"name": "an extension"}', "", "[" * 100_000, "\x00"):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(BankError, match=r"damaged|not of a LossRAG bank"):
            load(tmp_path, "v1")
        with pytest.raises(BankError):
            save_memory(example(), tmp_path)
        assert (tmp_path / MANIFEST).read_text() == content
    (tmp_path / "file").write_text("")
    with pytest.raises(BankError, match="cannot be written"):
        save_memory(example(), tmp_path / "file")
    with pytest.raises(BankError, match="cannot be read"):
        load(tmp_path / "file", "v1")


@pytest.mark.parametrize(
    "changes",
    [
        {"records": MAX_CAPACITY + 1, "capacity": MAX_CAPACITY + 1},
        {"records": 11},
        {"records": True},
        {"context_size": 1 << 40},
        {"context_size": 2},
        {"losses": ["loss0"]},
        {"losses": ["b", "a", "c", "d"]},
        {"runs": [3]},
        {"files": {}},
        {"files": {"../memory-0123456789abcdef.safetensors": {"bytes": 1, "sha256": ""}}},
        {"files": {"memory-0123456789abcdef.safetensors": {"bytes": 1, "sha256": ""}}},
        {"embedding_version": ""},
    ],
)
def test_a_forged_manifest_with_a_true_checksum(tmp_path, changes):
    """Nobody's disk does this; another program, or a bug of a later version, may."""
    save_memory(example(), tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    del manifest["sha256"]
    lossrag.lossbank.experience.storage.write_manifest(tmp_path, {**manifest, **changes})
    with pytest.raises(BankError):
        load(tmp_path, "v1")


def test_a_file_of_absurd_size_is_not_read(tmp_path, monkeypatch):
    save_memory(example(), tmp_path)
    with open(data_file(tmp_path), "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BankError, match=r"1,099,511,627,776 bytes"):
        load(tmp_path, "v1")
    with open(tmp_path / MANIFEST, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BankError, match="which no bank has"):
        load(tmp_path, "v1")


def test_a_reader_follows_a_writer_that_comes_between(tmp_path, monkeypatch):
    save_memory(example(5), tmp_path)
    read = lossrag.lossbank.experience.storage._read_data

    def overtaken(folder, manifest):
        monkeypatch.setattr(lossrag.lossbank.experience.storage, "_read_data", read)
        save_memory(example(9), tmp_path)
        return read(folder, manifest)

    monkeypatch.setattr(lossrag.lossbank.experience.storage, "_read_data", overtaken)
    assert len(load(tmp_path, "v1")) == 9
    data_file(tmp_path).unlink()
    with pytest.raises(BankError, match="is missing"):
        load(tmp_path, "v1")


def test_two_writers_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(lossrag.lossbank.experience.storage, "_PATIENCE", 0.05)
    with FileLock(tmp_path / ".lock"), pytest.raises(BankError, match="Another process"):
        save_memory(example(), tmp_path)
