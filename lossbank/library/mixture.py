"""Mixtures: weighted sums of losses, sample by sample, that tasks are trained with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lossrag.lossbank.library.batched import loss_values
from lossrag.lossbank.library.contract import Loss, LossInputs


@dataclass(frozen=True)
class Mixture:
    """sum_k coefficients[k] * losses[k].

    coefficients: (k,), or None for a single loss as it is.
    class_counts: (K,) training samples per class of the task, for the losses that ask for them.
    """

    losses: tuple[Loss, ...]
    coefficients: Tensor | None = None
    class_counts: Tensor | None = None

    @property
    def row_by_row(self) -> bool:
        """True where all of its losses are: see :attr:`Loss.row_by_row`."""
        return all(loss.row_by_row for loss in self.losses)

    def __call__(self, logits: Tensor, targets: Tensor, features: Tensor | None = None) -> Tensor:
        """Per-sample losses (B,).

        >>> import torch
        >>> from lossrag.lossbank import LOSSES
        >>> mixed = Mixture((LOSSES["mae"], LOSSES["one_minus_p"]), torch.tensor([0.5, 2.0]))
        >>> mixed(torch.zeros(1, 4), torch.tensor([2])).tolist()  # mae is 1.5, one_minus_p 0.75
        [2.25]
        """
        inputs = LossInputs(logits, targets, features, self.class_counts)
        if self.coefficients is None:
            return self.losses[0](**vars(inputs))
        values = loss_values(self.losses, inputs)
        return (self.coefficients.to(values.dtype)[:, None] * values).sum(dim=0)


def joined_mixture(mixtures: list[Mixture], logits: Tensor, targets: Tensor, task: Tensor) -> Tensor:
    """Per-sample losses (N,) of the joined rows of several tasks whose mixtures work row by row.

    task: (N,) int64, which of the mixtures a row belongs to.
    """
    first = mixtures[0]
    if all(m.losses == first.losses and m.coefficients is None for m in mixtures):
        return first(logits, targets)
    union = list(dict.fromkeys(loss for mixture in mixtures for loss in mixture.losses))
    table = logits.new_zeros(len(mixtures), len(union))
    for row, mixture in enumerate(mixtures):
        places = [union.index(loss) for loss in mixture.losses]
        table[row, places] = 1.0 if mixture.coefficients is None else mixture.coefficients.to(table.dtype)
    return (table[task].T * loss_values(union, LossInputs(logits, targets))).sum(dim=0)
