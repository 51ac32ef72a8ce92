"""The embedding of a loss: its geometry, its gradient pattern in this run, and its history, block by block."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.history import history
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.shape.geometry import GEOMETRY_NAMES, geometry

PATTERN_NAMES = (
    "cosine_to_target",
    "log_norm",
    "sparsity",
    "support_query_agreement",
    "label_flip_change",
    "feature_noise_change",
)
"""What a run may know of a loss's gradient: its cosine with the gradient of the target loss, log10 of its norm over
that one's, the share of logits without gradient, the cosine between its support and query gradients, and its relative
change when labels are flipped and when features are disturbed."""

HISTORY_NAMES = ("mean", "deviation", "log_count")

VECTOR_NAMES: tuple[str, ...] = (
    *(f"geometry_{name}" for name in GEOMETRY_NAMES),
    *(f"pattern_{name}" for name in (*PATTERN_NAMES, "known")),
    *(f"history_{name}" for name in HISTORY_NAMES),
)
"""What each entry of :func:`loss_vectors` is."""

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


def geometry_vectors(losses: Sequence[Loss]) -> Tensor:
    """The geometry of every one of ``losses`` (L), of length 1: (L, G). Their inner products are cosines."""
    if not losses:
        return torch.empty(0, GEOMETRY_SIZE)
    unit: Tensor = torch.nn.functional.normalize(torch.stack([geometry(loss) for loss in losses]), dim=1)
    return unit


def loss_vectors(
    losses: Sequence[Loss], memory: Memory | None = None, pattern: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The embeddings of ``losses`` (L): (L, E), float32 on the CPU, E = ``VECTOR_SIZE``.

    Three blocks, each of length at most 1, so that none drowns another:

    - geometry, of length exactly 1: the part that a loss nobody ever ran has too;
    - gradient pattern: ``pattern`` gives the values of ``PATTERN_NAMES`` (6,) by the name of a loss. They are held to
      [-1, 1] (log_norm as its tanh) and divided by the root of 7 with a flag; a loss without pattern has zeros;
    - history in ``memory``: tanh of mean and deviation of the contributions, log10 of 1 + count (a fifth of it, 1 at
      most), divided by the root of 3; a loss without history has zeros.

    Raises ConfigError for a pattern of another shape or that is not finite.

    >>> from lossrag.lossbank import LOSSES
    >>> vectors = loss_vectors([LOSSES["mae"], LOSSES["brier"]], pattern={"mae": torch.ones(6)})
    >>> vectors.shape == (2, VECTOR_SIZE), vectors[1, GEOMETRY_SIZE:].count_nonzero().item()
    (True, 0)
    """
    names = [loss.name for loss in losses]
    blocks = [geometry_vectors(losses), _pattern_block(names, pattern or {}), _history_block(names, memory)]
    return torch.cat(blocks, dim=1)


def _pattern_block(names: Sequence[str], pattern: Mapping[str, Tensor]) -> Tensor:
    size = len(PATTERN_NAMES)
    block = torch.zeros(len(names), size + 1)
    for row, name in enumerate(names):
        if name not in pattern:
            continue
        given = pattern[name].detach().to("cpu", torch.float32)
        if tuple(given.shape) != (size,) or not bool(given.isfinite().all()):
            raise ConfigError(
                f"The gradient pattern of {name!r} is {size} finite numbers {PATTERN_NAMES}, got "
                f"{given.tolist()!r:.80}: leave out a loss whose pattern is not known."
            )
        block[row, :size] = given.clamp(-1, 1)
        block[row, 1] = given[1].tanh()
        block[row, size] = 1.0
    return block / math.sqrt(size + 1)


def _history_block(names: Sequence[str], memory: Memory | None) -> Tensor:
    if memory is None or not names:
        return torch.zeros(len(names), len(HISTORY_NAMES))
    past = history(memory, names)
    counts = torch.from_numpy(past.counts).double().log1p() / (_MANY * math.log(10))
    columns = [torch.from_numpy(past.means).tanh(), torch.from_numpy(past.deviations).tanh(), counts.clamp(max=1)]
    return (torch.stack(columns, dim=1) / math.sqrt(len(HISTORY_NAMES))).float()
