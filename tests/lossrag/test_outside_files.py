"""Files from outside: kinds and sizes that are refused, before anything waits or fills the memory."""

from __future__ import annotations

import os
import socket

import pytest

from lossrag.files import UnfitFile, check_file, check_target, read_file, read_json, write_atomic
from lossrag.proof import DamagedFile
from lossrag.schema import Unfit, check_schema, fits
from lossrag.tensors import load_tensors

SPECIAL = ["pipe", "socket", "device", "folder", "loop", "nul", "long"]


def special(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nul":
        return tmp_path / "a\0b"
    else:
        return tmp_path / ("a" * 5000)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = special(tmp_path, kind)
    for read in (read_file, read_json, check_file):
        with pytest.raises(OSError, match=r".+"):
            read(path)
    with pytest.raises(DamagedFile):
        load_tensors(path)
    with pytest.raises(OSError, match=r".+"):
        write_atomic(path, b"x")
    left = {"pipe", "socket", "device", "folder", "loop"} & {kind}
    assert {each.name for each in tmp_path.iterdir()} == left, "nothing was made or replaced"


def test_sizes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(UnfitFile, match=r"5 bytes, more than the 4 bytes that are read"):
        read_file(path, 4)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # as large as a disk, without taking any of it
    with pytest.raises(UnfitFile, match="more than the 64 MiB"):
        read_file(path)
    with pytest.raises(DamagedFile, match="more than the"):
        load_tensors(path)


def test_links(tmp_path):
    """What is written to is never replaced or followed; what is read may lie elsewhere, but not out of its folder."""
    real = tmp_path / "real"
    real.write_bytes(b"kept")
    inside = tmp_path / "run"
    inside.mkdir()
    link = inside / "link"
    link.symlink_to(real)
    with pytest.raises(UnfitFile, match=rf"link is a symbolic link \(to {real}\), which is not written to"):
        write_atomic(link, b"new")
    assert (link.is_symlink(), real.read_bytes()) == (True, b"kept")
    assert read_file(link) == b"kept"
    with pytest.raises(UnfitFile, match="a link out of its folder"):
        read_file(link, within=inside)
    near = inside / "near"
    near.symlink_to(inside / "own")
    with pytest.raises(UnfitFile, match="symbolic link"):
        check_target(near)
    (inside / "own").write_bytes(b"1")
    assert read_file(near, within=inside) == b"1"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 100_000, b"nul"])
def test_no_json(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UnfitFile, match="is no JSON"):
        read_json(tmp_path / "a")


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        (1, str, "it must be a text, not 1"),
        (True, int, "it must be a whole number, not True"),
        (True, float, "it must be a number, not True"),
        (10**30, int, "it must be a whole number, not a number beyond 64 bits"),
        ({"a": [1, "x"]}, {"a": [int]}, "a.1 must be a whole number, not 'x'"),
        ({"a": {"b": None}}, {"a": {str: (float, str)}}, "a.b must be a number or a text, not None"),
        ({}, {"a": int}, "a is missing"),
        ({"a": {}}, {"a": {"b": int}}, "a.b is missing"),
        ({1: 2}, {str: int}, "it must be a text for a key, not 1"),
        ("ab", [str], "it must be a list, not 'ab'"),
        ([], {"a?": int}, "it must be a mapping, not a list"),
    ],
)
def test_schemas(value, schema, expected):
    with pytest.raises(Unfit) as caught:
        check_schema(value, schema)
    assert str(caught.value) == expected
    assert not fits(value, schema)


def test_what_fits():
    check_schema({"a": 1, "more": object()}, {"a": float, "b?": str})
    check_schema([None, True, {}], [object])
    check_schema((1.5, 2), [float])
    check_schema(None, (int, None))
