"""Compiled graphs: what torch.compile leaves of a model does not tell which parameters a loss depends on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

REACH = 64
"""Nodes above a compiled part, heads and losses, that are looked at."""


def is_compiled(losses: Sequence[Tensor]) -> bool:
    """True where the graph of a loss has a compiled part."""
    waiting = [loss.grad_fn for loss in losses]
    seen: set[object] = set()
    while waiting and len(seen) < REACH:
        node = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CompiledFunction" in node.name():
            return True
        waiting += [above for above, _ in node.next_functions]
    return False


def donates(error: RuntimeError) -> bool:
    """True for the error of a compiled graph that gave its buffers away, so that it can be walked only once."""
    return "donated" in str(error)
