"""The device of these tests: CUDA, or the CPU where LOSSRAG_TEST_DEVICE says so, which tries the tests themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

WANTED = os.environ.get("LOSSRAG_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder need a GPU, and what libraries warn of on one is no failure."""
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker("gpu")
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def device(monkeypatch) -> Iterator[torch.device]:
    """The device, its convolutions in full float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA on this machine")
    torch.manual_seed(0)
    yield torch.device(WANTED)
    if WANTED == "cuda":
        torch.cuda.synchronize()


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path) -> None:
    """Nothing is written into the checkout, and no data of this machine is read."""
    monkeypatch.delenv("LOSSRAG_DATA", raising=False)
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
