"""Mixtures: weighted sums of losses, sample by sample, that tasks are trained with."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lossrag.checks import require
from lossrag.lossbank.library.batched import named, values_of
from lossrag.lossbank.library.contract import Loss, read_labels
from lossrag.lossbank.library.inputs import Labelled, LossInputs


@dataclass(frozen=True, eq=False)
class Computed:
    """Values (L, B) that losses had when a mixture was computed last, without a graph.

    rows: (B,) those that count, None for all.
    """

    losses: tuple[Loss, ...]
    values: Tensor
    rows: Tensor | None

    def broken(self) -> list[str]:
        """The losses with a value that is no finite number (reads the device)."""
        fine = self.values.isfinite() if self.rows is None else self.values.isfinite() | ~self.rows
        return [loss.name for loss, own in zip(self.losses, fine.all(dim=1).tolist(), strict=True) if not own]


@dataclass(frozen=True)
class Mixture:
    """sum_k coefficients[k] * losses[k].

    coefficients: (k,), or None for a single loss as it is; they follow the logits to their device.
    class_counts: (K,) training samples per class of the task, for the losses that ask for them.
    last: the values of several losses when they were computed last, for whoever looks for one that is no number.

    Raises OptionError when a loss asks for class counts and there are none.
    """

    losses: tuple[Loss, ...]
    coefficients: Tensor | None = None
    class_counts: Tensor | None = None
    last: list[Computed] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        asking = next((loss.name for loss in self.losses if "class_counts" in loss.needs), None)
        text = f"{{losses}} holds {asking!r}, which needs {{class_counts}}, and there are none: give those of the task."
        require(asking is None or self.class_counts is not None, self, text)

    @property
    def row_by_row(self) -> bool:
        """True where all of its losses are: see :attr:`Loss.row_by_row`."""
        return all(loss.row_by_row for loss in self.losses)

    def __call__(
        self, logits: Tensor, targets: Tensor, features: Tensor | None = None, labelled: Labelled = None
    ) -> Tensor:
        """Per-sample losses (B,), 0 for a row without a label: see :meth:`Loss.__call__`.

        >>> import torch
        >>> from lossrag.lossbank import LOSSES
        >>> mixed = Mixture((LOSSES["mae"], LOSSES["one_minus_p"]), torch.tensor([0.5, 2.0]))
        >>> mixed(torch.zeros(1, 4), torch.tensor([2])).tolist()  # mae is 1.5, one_minus_p 0.75
        [2.25]
        """
        rows = read_labels(LossInputs(logits, targets, features, self.class_counts, labelled), self.losses)
        if self.coefficients is None:
            with named(self.losses):
                return rows.finished(self.losses[0].of(rows))
        values = values_of(self.losses, rows)
        known = None if rows.missing is None else ~rows.missing
        self.last[:] = [Computed(self.losses, values.detach(), known)]
        return rows.finished((self.coefficients.to(values)[:, None] * values).sum(dim=0))


def joined_mixture(
    mixtures: list[Mixture], logits: Tensor, targets: Tensor, task: Tensor, labelled: Labelled = None
) -> Tensor:
    """Per-sample losses (N,) of the joined rows of several tasks whose mixtures work row by row.

    task: (N,) int64, which of the mixtures a row belongs to. labelled: see :meth:`Loss.__call__`.
    """
    first = mixtures[0]
    if all(m.losses == first.losses and m.coefficients is None for m in mixtures):
        return first(logits, targets, labelled=labelled)
    union = list(dict.fromkeys(loss for mixture in mixtures for loss in mixture.losses))
    rows = read_labels(LossInputs(logits, targets, labelled=labelled), union)
    table = rows.logits.new_zeros(len(mixtures), len(union))
    for row, mixture in enumerate(mixtures):
        places = [union.index(loss) for loss in mixture.losses]
        table[row, places] = 1.0 if mixture.coefficients is None else mixture.coefficients.to(table)
    weights = table[task].T
    values = values_of(union, rows)
    for row, mixture in enumerate(mixtures):
        own = [union.index(loss) for loss in mixture.losses]
        if len(own) > 1:
            mixture.last[:] = [Computed(mixture.losses, values.detach()[own], (task == row) & rows.labelled)]
    # what a loss makes of the rows of other tasks is none of theirs, were it not a number
    return rows.finished((weights * values).masked_fill(weights == 0, 0).sum(dim=0))
