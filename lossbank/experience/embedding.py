"""Embedding of a loss: its geometry and its history, block by block."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.history import history
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.shape.geometry import GEOMETRY_NAMES, geometry_vectors

HISTORY_NAMES = ("mean", "deviation", "log_count")

VECTOR_NAMES: tuple[str, ...] = (
    *(f"geometry_{name}" for name in GEOMETRY_NAMES),
    *(f"history_{name}" for name in HISTORY_NAMES),
)
"""Names of the entries of :func:`loss_vectors`."""

GEOMETRY_SIZE = len(GEOMETRY_NAMES)
VECTOR_SIZE = len(VECTOR_NAMES)

_NUMBER = 1
_MANY = 5.0
"""log10 of a count at which a history is as long as it needs to be."""


def _version() -> str:
    names = repr((CONTEXT_NAMES, VECTOR_NAMES)).encode()
    return f"{_NUMBER}-{hashlib.sha256(names).hexdigest()[:12]}"


EMBEDDING_VERSION = _version()
"""Of contexts and loss vectors: changes with the names of their entries, and with a number when their meaning does."""


def loss_vectors(losses: Sequence[Loss], memory: Memory | None = None) -> Tensor:
    """The embeddings of ``losses`` (L): (L, E), float32 on the CPU, E = ``VECTOR_SIZE``.

    Two blocks, each of length at most 1, so that neither drowns the other:

    - geometry, of length exactly 1: the part that a loss nobody ever ran has too;
    - history in ``memory``: tanh of mean and deviation of the contributions, log10 of 1 + count (a fifth of it, 1 at
      most), divided by the root of 3; a loss without history has zeros.

    >>> from lossrag.lossbank import LOSSES
    >>> vectors = loss_vectors([LOSSES["mae"], LOSSES["brier"]])
    >>> vectors.shape == (2, VECTOR_SIZE), vectors[:, GEOMETRY_SIZE:].count_nonzero().item()
    (True, 0)
    """
    return torch.cat([geometry_vectors(losses), _history_block([loss.name for loss in losses], memory)], dim=1)


def _history_block(names: Sequence[str], memory: Memory | None) -> Tensor:
    if memory is None or not names:
        return torch.zeros(len(names), len(HISTORY_NAMES))
    past = history(memory, names)
    counts = torch.from_numpy(past.counts).double().log1p() / (_MANY * math.log(10))
    columns = [torch.from_numpy(past.means).tanh(), torch.from_numpy(past.deviations).tanh(), counts.clamp(max=1)]
    return (torch.stack(columns, dim=1) / math.sqrt(len(HISTORY_NAMES))).float()
