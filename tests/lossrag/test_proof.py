"""Proof of files: sums beside what is written whole, a chain through the lines of what grows."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lossrag.proof
from lossrag.files import UnfitFile
from lossrag.proof import (
    SUMS,
    Chain,
    DamagedFile,
    read_lines,
    read_proven,
    read_sums,
    replace_proven,
    write_proven,
    write_sums,
)

VALUES = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9), st.floats(allow_nan=False)))


def written(path, lines):
    chain = Chain()
    path.write_bytes(b"".join(chain.line(line) for line in lines))
    return path


LINES = [{"step": step, "loss": step / 7, "name": "a\nb"} for step in range(6)]


def test_what_is_read_is_what_was_written(tmp_path):
    path = written(tmp_path / "a.jsonl", LINES)
    assert read_lines(path)[0] == LINES
    first = json.loads(path.read_text().splitlines()[0])
    assert {key: first[key] for key in LINES[0]} == LINES[0], "other tools read it as before, with one key more"
    assert len(first["chain"]) == 16


def test_the_link_is_the_sha256_of_the_link_before_and_the_line():
    import hashlib

    chain = Chain()
    (one, two) = (json.loads(chain.line({"a": number}))["chain"] for number in (1, 2))
    assert one == hashlib.sha256(b'{"a": 1}').hexdigest()[:16]
    assert two == hashlib.sha256(one.encode() + b'{"a": 2}').hexdigest()[:16]


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES.filter(bool), min_size=1, max_size=5), st.data())
def test_every_change_of_a_line_is_found(tmp_path_factory, lines, data):
    """Flipped, left out, repeated, swapped, inserted: the line is named; a torn end is no damage."""
    path = written(tmp_path_factory.mktemp("chain") / "a.jsonl", lines)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    line = content[:place].count(10) + 1
    last = place >= len(content) - len(content.splitlines(keepends=True)[-1])
    if last and (place == len(content) - 1 or len(lines) == 1):
        # its end is gone, so that it looks torn; or the only line has lost its proof, and looks old
        with contextlib.suppress(DamagedFile):
            assert read_lines(path)[0] == lines[:-1] or lossrag.proof._UNPROVEN
    else:  # a first line that has lost its proof looks old, until the second one is read
        with pytest.raises(DamagedFile, match="line [12]:" if line == 1 else f"line {line}:"):
            read_lines(path)
    lost = data.draw(st.integers(1, len(content)))
    path.write_bytes(content[:-lost])
    assert read_lines(path)[0] == lines[: content[:-lost].count(10)]


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 0, 1, 2, 3], [0, 2, 1, 3, 4]])
def test_lines_left_out_repeated_or_moved(tmp_path, order):
    path = written(tmp_path / "a.jsonl", LINES)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    wrong = next(number for number, place in enumerate(order) if number != place)
    with pytest.raises(DamagedFile, match=f"line {wrong + 1}: it does not match"):
        read_lines(path)


def test_old_lines_without_a_proof(tmp_path, caplog, monkeypatch):
    """They are read with a warning, once; what is appended to them proves them as well."""
    monkeypatch.setattr(lossrag.proof, "_UNPROVEN", set())
    path = tmp_path / "a.jsonl"
    old = b"".join(json.dumps(line).encode() + b"\n" for line in LINES[:3])
    path.write_bytes(old)
    with caplog.at_level(logging.WARNING):
        lines, chain = read_lines(path)
        read_lines(path)
    assert lines == LINES[:3]
    assert caplog.text.count("has no checksum") == 1
    path.write_bytes(old + chain.line(LINES[3]))
    assert read_lines(path)[0] == LINES[:4]
    path.write_bytes(old.replace(b'"step": 1', b'"step": 7') + path.read_bytes()[len(old) :])
    with pytest.raises(DamagedFile, match="line 4"):
        read_lines(path)
    path.write_bytes(chain.line(LINES[3]) + old)
    with pytest.raises(DamagedFile, match="line 1"):
        read_lines(path)


def test_a_line_whose_proof_was_taken_away(tmp_path):
    path = written(tmp_path / "a.jsonl", LINES)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = json.dumps(LINES[3]).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(DamagedFile, match="line 4: its checksum is missing"):
        read_lines(path)


def test_the_first_bytes_alone(tmp_path):
    path = written(tmp_path / "a.jsonl", LINES)
    size = len(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert read_lines(path, size)[0] == LINES[:4]
    with pytest.raises(DamagedFile, match="line 4: it does not end where it should"):
        read_lines(path, size - 3)


def test_sums_are_those_of_coreutils(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    write_proven(folder, {"one": b"1", "two words": b"2"})
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert read_proven(moved / "one") == b"1"
    if shutil.which("sha256sum"):
        checked = subprocess.run(
            ["sha256sum", "--strict", "-c", SUMS], cwd=moved, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked
        assert checked.stdout == "one: OK\ntwo words: OK\n"


def test_every_flipped_bit_of_the_sums_is_found(tmp_path):
    write_sums(tmp_path, {"one": {"0" * 64}, "two": {"1" * 64, "2" * 64}})
    path = tmp_path / SUMS
    content = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile):
            read_sums(tmp_path)
    path.write_bytes(content)
    assert read_sums(tmp_path) == {"one": {"0" * 64}, "two": {"1" * 64, "2" * 64}}


def test_a_file_that_differs_or_has_no_sum(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(lossrag.proof, "_UNPROVEN", set())
    write_proven(tmp_path, {"one": b"1"})
    (tmp_path / "one").write_bytes(b"2")
    with pytest.raises(DamagedFile, match=f"does not match its checksum in {SUMS}"):
        read_proven(tmp_path / "one")
    (tmp_path / "two").write_bytes(b"2")
    with caplog.at_level(logging.WARNING):
        assert read_proven(tmp_path / "two") == b"2"
    assert "two has no checksum" in caplog.text
    (tmp_path / SUMS).write_bytes(b"x")
    for use in (lambda: read_proven(tmp_path / "one"), lambda: write_proven(tmp_path, {"one": b"3"})):
        with pytest.raises((DamagedFile, UnfitFile), match="in its first line"):
            use()
    assert (tmp_path / "one").read_bytes() == b"2", "nothing is written beside sums that prove nothing"


@pytest.mark.parametrize("crash", range(5))
def test_a_crash_at_any_moment_leaves_what_matches(tmp_path, monkeypatch, crash):
    write_proven(tmp_path, {"one": b"old", "two": b"old", "other": b"kept"})
    left = crash
    replace = os.replace

    def crashes(*names):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(*names)

    monkeypatch.setattr(os, "replace", crashes)
    if crash < 4:
        with pytest.raises(KeyboardInterrupt):
            write_proven(tmp_path, {"one": b"new", "two": b"new"})
    else:
        write_proven(tmp_path, {"one": b"new", "two": b"new"})
    monkeypatch.undo()
    assert [read_proven(tmp_path / name) for name in ("one", "two", "other")] == [
        b"new" if crash > 1 else b"old",
        b"new" if crash > 2 else b"old",
        b"kept",
    ]
    write_proven(tmp_path, {"one": b"newer"})
    assert read_proven(tmp_path / "one") == b"newer"


def test_a_listed_file_keeps_its_sum_up_to_date(tmp_path):
    write_proven(tmp_path, {"one": b"1"})
    replace_proven(tmp_path / "one", b"2")
    replace_proven(tmp_path / "two", b"2")
    assert read_proven(tmp_path / "one") == b"2"
    assert (read_sums(tmp_path) or {}).keys() == {"one"}
