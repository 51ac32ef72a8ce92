"""Digests of what all processes must hold alike, as numbers that are compared between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def of_text(text: str) -> int:
    """Of a text, in 63 bits.

    >>> of_text("a") == of_text("a"), of_text("a") == of_text("b")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def of_tensors(tensors: Iterable[Tensor]) -> int:
    """Of the bits of tensors, in their order; on their device, of which one number is read back.

    >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    >>> of_tensors([one]) == of_tensors([one.clone()]), of_tensors([one]) == of_tensors([other])
    (True, False)
    """
    sums = []
    for tensor in tensors:
        bits = tensor.detach().contiguous().view(-1).view(torch.uint8)
        words = bits.view(torch.int32) if bits.numel() % 4 == 0 else bits
        # places count, so that what was exchanged is seen: odd factors lose nothing modulo 2^64
        places = torch.arange(1, 2 * words.numel(), 2, device=words.device)
        sums.append((words.to(torch.int64) * places).sum())
    if not sums:
        return 0
    every = torch.stack(sums)
    return int((every * torch.arange(1, 2 * len(sums), 2, device=every.device)).sum())
