"""Checkpoint files: what goes in comes out, and nothing damaged is ever taken for good."""

from __future__ import annotations

import os
import random

import pytest
import torch
from safetensors.torch import save_file

from lossrag import CheckpointError
from lossrag.experiments.record.checkpoint import load_checkpoint, pack_optimizer, unpack_optimizer
from lossrag.files import write_atomic
from lossrag.tensors import save_tensors

META = {"epoch": 3, "nested": {"list": [1, 0.1, None, "é"]}}


def tensors():
    return {
        "a/weight": torch.arange(6.0).view(2, 3),
        "b": torch.tensor([1, -2], dtype=torch.int64),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, tensors(), META)
    return path


def test_round_trip(file):
    loaded, meta = load_checkpoint(file)
    assert meta == META
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_tensors_that_are_transposed_or_share_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    save_tensors(path, {"t": weight.T, "part": weight[:, 1], "same": weight, "again": weight}, {})
    loaded, _ = load_checkpoint(path)
    assert torch.equal(loaded["again"], weight.detach())
    assert torch.equal(loaded["t"], weight.detach().T)
    assert torch.equal(loaded["part"], weight.detach()[:, 1])


def test_single_flipped_bits_are_noticed(file):
    """Each is refused, or did not change the content."""
    content = file.read_bytes()
    bits = range(8 * len(content))
    refused = 0
    for bit in random.Random(0).sample(bits, 600):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            loaded, meta = load_checkpoint(file)
        except CheckpointError:
            refused += 1
            continue
        assert meta == META
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors().items())
    assert refused > 550


def test_truncated_files(file):
    content = file.read_bytes()
    for size in [0, 1, 7, 8, 9, len(content) // 2, len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError):
        load_checkpoint(file)


def test_foreign_files(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not of LossRAG"):
        load_checkpoint(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            load_checkpoint(missing)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(file, monkeypatch, broken):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(OSError, match="No space"):
            save_tensors(file, {"a": torch.zeros(1)}, {})
    assert load_checkpoint(file)[1] == META
    assert os.listdir(file.parent) == [file.name]


def test_write_atomic_replaces(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam([{"params": p[:1]}, {"params": p[1:], "lr": 0.3}], lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_bit_for_bit(name, tmp_path):
    def train(parameters, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            sum((p * p).sum() * 0.3 for p in parameters).backward()
            optimizer.step()

    def fresh():
        parameters = [torch.nn.Parameter(torch.linspace(-1, 1, n)) for n in (3, 2)]
        return parameters, OPTIMIZERS[name](parameters)

    whole, optimizer = fresh()
    train(whole, optimizer, 5)

    half, optimizer = fresh()
    train(half, optimizer, 2)
    state, groups = pack_optimizer(optimizer)
    path = tmp_path / "x.safetensors"
    save_tensors(path, state, {"groups": groups})

    resumed, optimizer = fresh()
    with torch.no_grad():
        for new, old in zip(resumed, half, strict=True):
            new.copy_(old)
    state, meta = load_checkpoint(path)
    unpack_optimizer(optimizer, state, meta["groups"])
    train(resumed, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
