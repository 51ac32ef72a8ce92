"""Tensor files that prove their content."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lossrag.proof import DamagedFile
from lossrag.tensors import digest_of, load_tensors, save_tensors

TENSORS = {
    "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "one": torch.tensor(3.25, dtype=torch.float64),
    "none": torch.zeros(0, 4),
    "mask": torch.tensor([[True], [False]]),
    "expanded": torch.arange(3, dtype=torch.int32)[:, None].expand(3, 2),
    "strided": torch.arange(12.0).view(3, 4).t()[::2],
    "trained": torch.ones(2, requires_grad=True),
}
SHARED = torch.arange(6.0)


def test_what_is_read_is_what_was_written(tmp_path):
    tensors = {**TENSORS, "whole": SHARED, "part": SHARED[2:4]}
    meta = {"epoch": 3, "words": ["é", '"'], "nothing": None}
    save_tensors(tmp_path / "file", tensors, meta)
    found, told = load_tensors(tmp_path / "file")
    assert told == meta
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_damaged_bit_is_found(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, {"x": torch.tensor([0.0, 1.0])}, {"step": 1})
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(DamagedFile):
                load_tensors(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFile):
            load_tensors(path)
    path.write_bytes(content)
    assert load_tensors(path)[1] == {"step": 1}


def test_files_of_others(tmp_path):
    with pytest.raises(DamagedFile, match="cannot be read"):
        load_tensors(tmp_path / "absent")
    with pytest.raises(DamagedFile, match="cannot be read"):
        load_tensors(tmp_path)
    torch.save({"x": torch.ones(2)}, tmp_path / "pickle")
    with pytest.raises(DamagedFile, match="cannot be read"):
        load_tensors(tmp_path / "pickle")
    save_file({"x": torch.ones(2)}, tmp_path / "plain", metadata={"format": "pt"})
    with pytest.raises(DamagedFile, match="no checksum, so it is not of LossRAG"):
        load_tensors(tmp_path / "plain")
    save_file({"x": torch.ones(2)}, tmp_path / "forged", metadata={"meta": "{}", "sha256": "0" * 64})
    with pytest.raises(DamagedFile, match="does not match its checksum"):
        load_tensors(tmp_path / "forged")


def test_the_digest_is_of_names_dtypes_shapes_and_bytes():
    def digest(**tensors):
        return digest_of(tensors).hexdigest()

    x = torch.tensor([1.0, 2.0])
    others = [
        {"y": x},
        {"x": x.double()},
        {"x": x.view(torch.int32)},
        {"x": x[:, None]},
        {"x": x.flip(0)},
        {"x": x, "y": x[:0]},
    ]
    assert len({digest(x=x), *(digest(**tensors) for tensors in others)}) == 1 + len(others)
    assert digest(x=x, y=x) == digest(y=x, x=x.clone())
    assert digest(x=x[:1].expand(4)) == digest(x=torch.ones(4))
