"""Storage of an experience: the file comes back as it was, hostile ones are refused, nothing on disk is harmed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lossrag.files
from lossrag.errors import BankError
from lossrag.leases import leased
from lossrag.lossbank.experience import files
from lossrag.lossbank.experience.files import FORMAT, add_experience, load_experience, save_experience
from lossrag.lossbank.experience.trials import Experience
from lossrag.tensors import load_tensors, save_tensors
from tests.lossbank.experiences import random_experience, same


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "bank.safetensors"


def test_an_experience_comes_back_bit_for_bit(path):
    known = random_experience(20)
    save_experience(path, known)
    assert same(load_experience(path), known)
    save_experience(path, Experience())
    assert same(load_experience(path), Experience())


def test_a_part_of_an_experience_comes_back(path):
    part = random_experience(20).without(["source 1"])
    save_experience(path, part)
    assert same(load_experience(path), part)


def test_adding_joins_and_makes_the_file(path):
    first, second = random_experience(4), random_experience(6)
    assert same(add_experience(path.parent / "new" / path.name, first), first)
    add_experience(path, first)
    assert same(add_experience(path, second), first.joined(second))
    assert same(load_experience(path), first.joined(second))
    assert len(load_experience(path)) == 6  # the first four are the same


ADDING = """
import sys
from pathlib import Path
from lossrag.lossbank.experience.files import add_experience, load_experience
add_experience(Path(sys.argv[1]), load_experience(Path(sys.argv[2])))
"""


def test_two_programs_may_add_at_once(path, tmp_path):
    parts = [tmp_path / f"part {seed}" for seed in range(3)]
    for seed, part in enumerate(parts):
        save_experience(part, random_experience(5, seed))
    programs = [subprocess.Popen([sys.executable, "-c", ADDING, path, part]) for part in parts]
    assert [program.wait() for program in programs] == [0, 0, 0]
    assert len(load_experience(path)) == 15


def test_a_file_that_another_program_keeps(path, monkeypatch):
    save_experience(path, random_experience(2))
    before = path.read_bytes()
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    with leased(Path(f"{path}.lease")), pytest.raises(BankError, match="Another program has kept the bank"):
        add_experience(path, random_experience(3))
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_dying_while_saving_leaves_the_old_file(path, monkeypatch, call):
    def dying(*_):
        raise KeyboardInterrupt

    save_experience(path, random_experience(2))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(lossrag.files.os, call, dying)
        with pytest.raises(KeyboardInterrupt):
            add_experience(path, random_experience(4))
    assert path.read_bytes() == before
    add_experience(path, random_experience(4))


def test_absent_and_unwritable_files(path, tmp_path):
    with pytest.raises(BankError, match="does not exist"):
        load_experience(path)
    with pytest.raises(BankError, match="is a folder"):
        load_experience(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BankError, match="cannot be written"):
        save_experience(path / "inside", random_experience(1))


@pytest.mark.parametrize("content", [b"", b"[]", b"\x00" * 100, b"\xff" * 8 + b"{}"])
def test_what_is_no_bank_is_neither_read_nor_overwritten(path, content):
    path.write_bytes(content)
    for use in (save_experience, add_experience):
        with pytest.raises(BankError, match="damaged"):
            use(path, random_experience(1))
    assert path.read_bytes() == content


def test_no_flipped_bit_goes_unnoticed(path):
    save_experience(path, random_experience(3))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        place, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(BankError):
            load_experience(path)
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BankError):
            load_experience(path)


def rewritten(path: Path, tensors=None, meta=None, drop=()) -> None:
    """The file with other content and a true checksum: of somebody who means it, or of a version with a bug."""
    old, old_meta = load_tensors(path)
    new = {**old, **(tensors or {})}
    save_tensors(path, {name: new[name] for name in new if name not in drop}, {**old_meta, **(meta or {})})


def test_other_formats_and_contexts_are_told(path):
    save_experience(path, random_experience(3))
    rewritten(path, meta={"format": "lossrag-experience-2"})
    with pytest.raises(BankError, match=f"'lossrag-experience-2', this program reads '{FORMAT}'"):
        load_experience(path)
    save_tensors(path, {"x": torch.ones(2)}, {"format": "lossrag-bank-2"})
    with pytest.raises(BankError, match="'lossrag-bank-2'"):
        load_experience(path)
    path.unlink()
    save_experience(path, random_experience(3))
    rewritten(path, meta={"contexts": ["progress"]})
    with pytest.raises(BankError, match="other entries than those of this program"):
        load_experience(path)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


CASES, MOMENTS, RESULTS = 4, 8, 12
NAN = float("nan")
HOSTILE = {
    "other types": {"gain": torch.zeros(RESULTS, dtype=torch.float64)},
    "complex": {"gain": torch.zeros(RESULTS, dtype=torch.complex64)},
    "half": {"contexts": torch.zeros(MOMENTS, 53, dtype=torch.bfloat16)},
    "one more": {"towers": torch.zeros(1)},
    "scalar": {"seed": torch.zeros(1)},
    "matrix": {"gain": torch.zeros(RESULTS, 1)},
    "wide contexts": {"contexts": torch.zeros(MOMENTS, 54)},
    "flat contexts": {"contexts": torch.zeros(MOMENTS)},
    "short": {"progress": torch.zeros(MOMENTS - 1)},
    "no cases": {"case/seed": ints()},
    "text beyond": {"case/source": ints(0, 1, 2, 99)},
    "text before": {"case/source": ints(0, 1, 2, -1)},
    "no samples": {"case/samples": ints(1, 1, 1, 0)},
    "unknown score": {"case/reference": torch.tensor([0.5, 0.5, 0.5, NAN])},
    "case beyond": {"moment_case": ints(0, 0, 1, 1, 2, 2, 3, 4)},
    "case before": {"moment_case": ints(-1, 0, 1, 1, 2, 2, 3, 3)},
    "disorder": {"moment_case": ints(1, 1, 0, 0, 2, 2, 3, 3)},
    "no moment": {"moment_case": ints(0, 0, 1, 1, 2, 2, 2, 2)},
    "no outcome": {"outcome_case": ints(*[0] * 3, *[1] * 3, *[2] * 6)},
    "loss beyond": {"outcome_loss": ints(*[0, 1, 7] * 4)},
    "twice": {"outcome_loss": ints(*[0, 1, 1] * 4)},
    "unknown gain": {"gain": torch.full((RESULTS,), NAN)},
    "endless gain": {"gain": torch.full((RESULTS,), float("inf"))},
    "unknown context": {"contexts": torch.full((MOMENTS, 53), NAN)},
    "late": {"progress": torch.full((MOMENTS,), 1.5)},
    "no time": {"progress": torch.full((MOMENTS,), NAN)},
    "error below 0": {"error": torch.full((RESULTS,), -1.0)},
    "never": {"repeats": ints(*[0] * RESULTS)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_columns_are_refused(path, name):
    save_experience(path, random_experience(CASES))
    rewritten(path, HOSTILE[name])
    before = path.read_bytes()
    with pytest.raises(BankError, match="damaged"):
        load_experience(path)
    with pytest.raises(BankError):
        add_experience(path, random_experience(1))
    assert path.read_bytes() == before


def names(**changes):
    known = {name: list(texts) for name, texts in random_experience(CASES).names.items()}
    return {"names": {**known, **changes}}


@pytest.mark.parametrize(
    "meta",
    [
        {"names": None},
        {"names": []},
        {"names": {}},
        {"format": None},
        names(more=["x"]),
        names(source=None),
        names(source=[1, 2, 3]),
        names(source=["a", "a", "b"]),
        names(source=["a", "b", "x" * 10_000_000]),
        names(source=["a", "b", "c\x1b[2J"]),
        names(source=["a"]),
        names(target_kind=["ranking"]),
    ],
)
def test_hostile_metadata_is_refused(path, meta):
    save_experience(path, random_experience(CASES))
    rewritten(path, meta=meta)
    with pytest.raises(BankError, match="damaged"):
        load_experience(path)


def test_metadata_that_is_no_object_or_too_deep(path):
    deep: list = []
    for _ in range(900):
        deep = [deep]
    for meta in ([], "text", deep):
        save_tensors(path, {"x": torch.ones(1)}, meta)
        with pytest.raises(BankError, match="damaged"):
            load_experience(path)


def test_a_file_too_large_is_not_read(path, monkeypatch):
    with open(path, "wb") as file:
        os.truncate(file.fileno(), files.MOST_BYTES + 1)
    monkeypatch.setattr(files, "load_tensors", None)
    with pytest.raises(BankError, match="more than the 1 GiB that are read"):
        load_experience(path)


def test_columns_may_not_be_missing(path):
    save_experience(path, random_experience(CASES))
    rewritten(path, drop=("gain",))
    with pytest.raises(BankError, match="other columns"):
        load_experience(path)


def test_what_could_not_be_read_again_is_not_written(path):
    known = random_experience(CASES)
    known.gain[0] = NAN
    with pytest.raises(BankError, match=r"cannot be saved.*gain"):
        save_experience(path, known)
    assert not path.exists()
