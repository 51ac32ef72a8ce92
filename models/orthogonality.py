"""The orthogonality penalty between shared and private features (Bousmalis et al., NIPS 2016; Liu et al., ACL 2017)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lossrag import ConfigError, did_you_mean

PENALTIES = ("paper", "unit")
_SMALLEST = 1e-6


def orthogonality(shared: Tensor, private: Tensor, scale: str = "paper") -> Tensor:
    """||S^T P||_F^2 () of the features S (B, F) and P (B, G) that two encoders give for the same B rows.

    scale: ``paper`` as Liu et al. write it: it grows with the square of the batch and with the fourth power of the
        features' size. ``unit``: on rows centred over the batch and scaled to length 1, divided by B^2, which lies in
        [0, 1]; of a single row it is 0. Centred unit rows are what the code of Bousmalis et al. takes, which divides by
        F G instead.

    Raises ConfigError for another scale.

    >>> import torch
    >>> orthogonality(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])).item()  # 3^2 + 6^2
    45.0
    >>> same = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> orthogonality(same, same, "unit").item()
    1.0
    """
    if scale not in PENALTIES:
        raise ConfigError(f"Unknown model.penalty {scale!r}: {did_you_mean(scale, PENALTIES)}")
    if scale == "paper":
        return (shared.mT @ private).square().sum()
    rows = [F.normalize(part - part.mean(dim=0), dim=1, eps=_SMALLEST) for part in (shared, private)]
    return (rows[0].mT @ rows[1]).square().sum() / len(shared) ** 2
