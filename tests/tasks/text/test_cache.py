from __future__ import annotations

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


def test_damaged_file_is_reported_and_not_used(caplog):
    path = encoded_path("s", {})
    write_encoded(path, TENSORS, "made up")
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x55
    for damaged in (content, content[:-3], b""):
        path.write_bytes(damaged)
        assert read_encoded(path) is None
    assert caplog.text.count("is damaged") == 3


def test_cache_that_cannot_be_written_costs_a_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "file"))
    write_encoded(encoded_path("s", {}), TENSORS, "made up")
    assert "Cannot cache the encoded suite" in caplog.text
