from __future__ import annotations

import pytest
import torch

from lossrag.tasks.text.cache import encoded_path, read_encoded, write_encoded

TENSORS = {"a": torch.arange(6, dtype=torch.int32).view(2, 3), "b": torch.tensor([0.5])}


def test_round_trip_and_keys():
    path = encoded_path("s", {"seed": 0, "edition": "raw"})
    assert read_encoded(path) is None
    write_encoded(path, TENSORS, "made up")
    tensors, edition = read_encoded(path)
    assert edition == "made up"
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert path == encoded_path("s", {"edition": "raw", "seed": 0})
    assert path != encoded_path("s", {"edition": "raw", "seed": 1})
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("position", [0, 12, -1])
def test_damaged_file_is_reported_and_not_used(position, caplog):
    path = encoded_path("s", {})
    write_encoded(path, TENSORS, "made up")
    content = bytearray(path.read_bytes())
    content[position] ^= 0x55
    path.write_bytes(content)
    assert read_encoded(path) is None
    assert "is damaged" in caplog.text


def test_foreign_file_and_cut_off_file(caplog):
    path = encoded_path("s", {})
    write_encoded(path, TENSORS, "made up")
    path.write_bytes(path.read_bytes()[:-3])
    assert read_encoded(path) is None
    path.write_bytes(b"")
    assert read_encoded(path) is None
    assert caplog.text.count("is damaged") == 2


def test_cache_that_cannot_be_written_costs_a_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "file"))
    write_encoded(encoded_path("s", {}), TENSORS, "made up")
    assert "Cannot cache the encoded suite" in caplog.text
