"""Choosing rows of inputs and of suites."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lossrag import DataError
from tasks.suite import DenseInputs, Examples, Inputs, Suite, TokenInputs


def select(inputs: Inputs, index: Tensor) -> Inputs:
    """The inputs at the int64 positions ``index`` (m,). Raises DataError for inputs of a kind of one's own.

    >>> select(TokenInputs(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 1, 3, 4])), torch.tensor([1, 2]))
    TokenInputs(ids=tensor([6, 7, 8]), offsets=tensor([0, 2, 3]), min_length=8)
    """
    if isinstance(inputs, DenseInputs):
        return DenseInputs(inputs.values[index])
    if isinstance(inputs, TokenInputs):
        lengths = inputs.offsets.diff()[index]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shift = torch.repeat_interleave(inputs.offsets[index] - offsets[:-1], lengths)
        return TokenInputs(inputs.ids[shift + torch.arange(len(shift))], offsets, inputs.min_length)
    raise DataError(f"Rows of {type(inputs).__name__} cannot be chosen: use DenseInputs or TokenInputs.")


def is_pooled(suite: Suite) -> bool:
    """Whether the support split ends with all rows of the query split, as pool_query leaves it."""
    pairs = list(zip(suite.splits["support"], suite.splits["query"], strict=True))
    return all(
        len(support) > len(query) and torch.equal(support.targets[-len(query) :], query.targets)
        for support, query in pairs
    ) and all(
        _ends_with(support.inputs, query.inputs) for support, query in (pairs[:1] if suite.shared_input else pairs)
    )


def unpool(suite: Suite) -> Suite:
    """What pool_query made ``suite`` of."""
    shared: Inputs | None = None
    heads = []
    for support, query in zip(suite.splits["support"], suite.splits["query"], strict=True):
        head = torch.arange(len(support) - len(query))
        if shared is None or not suite.shared_input:
            shared = select(support.inputs, head)
        heads.append(Examples(shared, support.targets[head]))
    return replace(suite, splits={**suite.splits, "support": tuple(heads)})


def _ends_with(inputs: Inputs, tail: Inputs) -> bool:
    if isinstance(inputs, DenseInputs) and isinstance(tail, DenseInputs):
        return torch.equal(inputs.values[-len(tail) :], tail.values)
    if isinstance(inputs, TokenInputs) and isinstance(tail, TokenInputs):
        lengths = tail.offsets.diff()
        return torch.equal(inputs.offsets.diff()[-len(tail) :], lengths) and torch.equal(
            inputs.ids[len(inputs.ids) - len(tail.ids) :], tail.ids
        )
    return False  # pool_query knows no other
