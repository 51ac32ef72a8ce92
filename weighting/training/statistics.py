"""Running statistics of normalisations: kept as they were, where a pass is not to move them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Statistics:
    """The running statistics ``buffers``, as they are now, to be restored."""

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._kept = [(buffer, buffer.clone()) for buffer in buffers]

    def restore(self) -> None:
        """Put the statistics back."""
        with torch.no_grad():
            for buffer, value in self._kept:
                buffer.copy_(value)


def buffers_of(model: nn.Module) -> list[Tensor]:
    """The running statistics that a model keeps."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def buffers_in_graph(losses: Sequence[Tensor]) -> list[Tensor]:
    """Running means and variances of the normalisations that losses were computed with, where the model is not known;
    those inside a compiled part are not seen."""
    found: dict[int, Tensor] = {}
    seen: set[object] = set()
    waiting = [loss.grad_fn for loss in losses]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "BatchNorm" in node.name():
            for name in ("_saved_running_mean", "_saved_running_var"):
                buffer = getattr(node, name, None)
                if isinstance(buffer, Tensor):
                    found.setdefault(buffer.data_ptr(), buffer)
        waiting += [above for above, _ in node.next_functions]
    return list(found.values())
