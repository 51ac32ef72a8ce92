"""Rounding of a Gramian: what inner products are known to in the precision they were computed in.

Entry ij of B = G G^T is known to about eps |g_i| |g_j|. Whoever solves on B asks for no more than that, or finds what
is not there: a Gramian that is not definite, constraints that contradict each other. A ridge on the cosines, just above
the rounding, stands for it: B + ridge diag(B) is the Gramian of rows that differ from the given ones by what nobody can
know. It is definite, and so is that of any combinations of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-13
COPIES = 4.0
"""Rows whose inner products agree to this many ridges are copies of one."""


def rounding(dtype: torch.dtype, tasks: int) -> float:
    """The ridge on the cosines between T rows whose inner products were computed in ``dtype``.

    >>> rounding(torch.float64, 4), round(rounding(torch.float32, 4), 9)
    (1e-13, 4.77e-07)
    """
    return max(LEAST, 2 * math.sqrt(tasks) * torch.finfo(dtype).eps)


def definite(gramian: Tensor) -> Tensor:
    """The Gramian (T, T) with its ridge, in float64 (float32 on MPS): positive definite, but for rows that are zero.

    >>> B = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # of opposed rows: 1 and -1 to six or seven digits
    >>> bool(torch.linalg.eigvalsh(definite(B)).min() > 1e-7)
    True
    """
    B = gramian.detach().to(torch.float32 if gramian.device.type == "mps" else torch.float64)
    return B + rounding(gramian.dtype, len(B)) * torch.diag(B.diagonal())
