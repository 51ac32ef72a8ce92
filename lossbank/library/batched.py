"""Batched evaluation of many losses: those that differ in hyperparameters only are computed in one call.

A loss on a small batch costs what launching its operations costs. Variants of one function launch them once: its
hyperparameters become tensors (V,) and torch.func.vmap goes over them, so that what does not depend on them (the
softmax, say) is computed once. Which hyperparameters a function takes as tensors is found once per function, by
:func:`stackable`; losses that differ in another one are computed one by one.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from lossrag.errors import LossError, LossRAGError
from lossrag.lossbank.library.contract import Loss, LossFunction, read_labels
from lossrag.lossbank.library.inputs import LabelledInputs, LossInputs
from lossrag.lossbank.library.probe import probes

AT_ONCE = 2**20
"""Numbers of one intermediate result of the variants that are computed together."""

_KNOWN: dict[LossFunction, frozenset[str]] = {}


Groups = Sequence[Sequence[int]]
"""Positions of the losses that are computed together."""


@contextmanager
def named(losses: Sequence[Loss]) -> Iterator[None]:
    """Within: what raises is told as a LossError of these losses, with the place in the file of its author."""
    try:
        yield
    except (LossRAGError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # anybody's function
        names = [loss.name for loss in losses]
        (*_, at) = traceback.extract_tb(error.__traceback__)
        said = " ".join(str(error).split()) or "no word"
        raise LossError(
            names,
            f"The loss {' or '.join(names)} raised {type(error).__name__}: {said.rstrip('.')} ({at.filename}, line "
            f"{at.lineno}).",
        ) from error


def loss_values(losses: Sequence[Loss], inputs: LossInputs, groups: Groups | None = None) -> Tensor:
    """Per-sample values (L, B) of ``losses`` (L, one or more), 0 for rows without a label; they differ from those of
    each loss by rounding."""
    rows = read_labels(inputs, losses)
    return rows.finished(values_of(losses, rows, groups))


def values_of(losses: Sequence[Loss], rows: LabelledInputs, groups: Groups | None = None) -> Tensor:
    """:func:`loss_values` before they are :meth:`LabelledInputs.finished`."""
    groups = groups or _groups(losses, rows)
    parts = []
    for group in groups:
        members = [losses[i] for i in group]
        stacked = _stacks(members, rows.logits)
        with named(members):
            if stacked:
                parts.append(vmap(partial(members[0].of, rows))(stacked))
            else:
                parts.append(members[0].of(rows)[None].expand(len(members), -1))
    return _in_order(torch.cat(parts), groups)


def loss_gradients(
    losses: Sequence[Loss], inputs: LossInputs, groups: Groups | None = None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the summed values of each loss: on the logits (L, B, K), and on the features (L, B, F) where
    ``inputs`` has any and a loss reads them. Those of half precision are float32."""
    _, on_logits, on_features = _pulls(losses, read_labels(inputs, losses), groups)
    return on_logits, on_features


def _pulls(
    losses: Sequence[Loss], rows: LabelledInputs, groups: Groups | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Summed values (L,), and their gradients."""
    groups = groups or _groups(losses, rows)
    leaves = [rows.logits] if rows.features is None else [rows.logits, rows.features]
    wanted = [leaf.detach().expand(len(losses), *leaf.shape).requires_grad_() for leaf in leaves]
    total: list[Tensor] = []
    with torch.enable_grad():
        # one split and one backward pass for all: every loss has logits of its own, and so a gradient of its own
        parts = [torch.split(leaf, [len(group) for group in groups]) for leaf in wanted]
        for number, group in enumerate(groups):
            members = [losses[i] for i in group]
            with named(members):
                total.append(_sums(members, rows, *(part[number] for part in parts)))
        sums = torch.cat(total)
        with named(losses):
            gradients = list(torch.autograd.grad(sums.sum(), wanted, materialize_grads=True))
    if rows.missing is not None:  # what stands in for a row without a label pulls at nothing
        gradients = [gradient.masked_fill(rows.missing[:, None], 0) for gradient in gradients]
    values, on_logits, *rest = [_in_order(part, groups) for part in (sums.detach(), *gradients)]
    return values, on_logits, rest[0] if rest else None


def gradient_sizes(inputs: LossInputs, losses: Sequence[Loss], per_feature: Tensor) -> tuple[Tensor, Tensor]:
    """Strength of each loss's pull at the samples it acts on (L,), float64, in units of a gradient on the logits.

    With g_i the gradient of the mean loss at sample i of B: sqrt(B) sum |g_i|^2 / sum |g_i|. That is the length of the
    gradient for a loss that pulls at all samples alike, and more for one that acts on few (a truncated loss, say):
    brought to the same length it would pull at these few beyond all measure. ``per_feature`` (): what a gradient on the
    features counts, in units of one on the logits.

    And the share of the samples that each acts on (L,), (sum |g_i|)^2 / (B sum |g_i|^2), in [0, 1]; 0 without gradient.
    Samples are those that have a label. The size of a loss with a value or a gradient that is no finite number is NaN.
    """
    rows = read_labels(inputs, losses)
    values, on_logits, on_features = _pulls(losses, rows)
    number = rows.labelled.sum().clamp(min=1)
    pull = on_logits.norm(dim=2)
    if on_features is not None:
        pull = torch.hypot(pull, on_features.norm(dim=2) * per_feature)
    pull = pull.to(rows.logits.dtype).double() / number
    total, squares = pull.sum(dim=1), pull.square().sum(dim=1)
    sizes = torch.where(total > 0, squares / total, total) * number.double().sqrt()
    coverage = torch.where(squares > 0, total.square() / squares, total) / number
    return torch.where(values.isfinite() & sizes.isfinite(), sizes, float("nan")), coverage


def stackable(loss: Loss) -> frozenset[str]:
    """Hyperparameters that the function of ``loss`` takes as tensors under vmap, with the values and gradients that it
    has for numbers. Found on small probes at the first call for a function, then known.

    A function that decides by a hyperparameter (``if alpha == 0``) or computes with it outside torch
    (``math.log(beta)``) cannot have it as a tensor.

    >>> from lossrag.lossbank import LOSSES
    >>> sorted(stackable(LOSSES["focal_2"])), sorted(stackable(LOSSES["truncated_generalised_ce"]))
    (['gamma'], ['q'])
    >>> stackable(LOSSES["barron_1"])
    frozenset()
    """
    known = _KNOWN.get(loss.function)
    if known is None:
        alone = {name for name in loss.hyperparameters if _agrees(loss, [name])}
        known = frozenset(alone if len(alone) < 2 or _agrees(loss, sorted(alone)) else ())
        _KNOWN[loss.function] = known
    return known


def _groups(losses: Sequence[Loss], rows: LabelledInputs) -> Groups:
    alike: dict[object, list[int]] = {}
    by_function = Counter(loss.function for loss in losses)
    for i, loss in enumerate(losses):
        if by_function[loss.function] == 1:
            alike[i] = [i]
            continue
        may = stackable(loss)
        rest = tuple(sorted((name, value) for name, value in loss.hyperparameters.items() if name not in may))
        alike.setdefault((loss.function, rest), []).append(i)
    B, K = rows.logits.shape
    groups = []
    for group in alike.values():
        most = max(1, AT_ONCE // max(B * max(K, B if losses[group[0]].relational else 1), 1))
        groups += [group[start : start + most] for start in range(0, len(group), most)]
    return groups


def _stacks(members: Sequence[Loss], like: Tensor) -> dict[str, Tensor]:
    """The hyperparameters (V,) in which V losses of one group differ."""
    first = members[0].hyperparameters
    differ = [name for name in first if any(loss.hyperparameters[name] != first[name] for loss in members)]
    return {name: like.new_tensor([loss.hyperparameters[name] for loss in members]) for name in differ}


def _sums(members: Sequence[Loss], rows: LabelledInputs, logits: Tensor, features: Tensor | None = None) -> Tensor:
    """The summed values (V,) of losses of one group, each with logits (V, B, K) and features of its own."""
    stacked = _stacks(members, logits)

    def one(chosen: dict[str, Tensor], z: Tensor, f: Tensor | None) -> Tensor:
        own = LabelledInputs(z, rows.targets, f, rows.class_counts, rows.missing)
        values = members[0].of(own, chosen)
        # a row without a label would pull at others
        return (own.finished(values) if members[0].relational else values).sum()

    if len(members) == 1:
        return one({}, logits[0], None if features is None else features[0])[None]
    return vmap(one, in_dims=(0, 0, None if features is None else 0))(stacked, logits, features)


def _in_order(values: Tensor, groups: Groups) -> Tensor:
    """``values`` (L, ...) of the losses group by group, by position."""
    positions = [i for group in groups for i in group]
    if positions == list(range(len(positions))):
        return values
    back = sorted(range(len(positions)), key=positions.__getitem__)
    return values[torch.tensor(back, device=values.device)]


def _agrees(loss: Loss, names: Sequence[str]) -> bool:
    """True where the loss and one with other hyperparameters ``names`` come out of one call as they do of two."""
    other = {name: (0.9 * value or 0.1) if name in names else value for name, value in loss.hyperparameters.items()}
    pair = [loss, replace(loss, hyperparameters=other)]
    try:
        # what torch warns of is an operation that vmap has no rule for, which would be slow
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return all(_alike(pair, probe) for probe in probes(loss.target_kind, torch.float64))
    except Exception:  # anybody's function: it may object to a tensor in any way
        return False


def _alike(pair: Sequence[Loss], inputs: LossInputs) -> bool:
    joint, apart = [
        [loss_values(pair, inputs, groups), *loss_gradients(pair, inputs, groups)] for groups in ([[0, 1]], [[0], [1]])
    ]
    return all(
        one is None or two is None or torch.allclose(one, two, rtol=1e-10, atol=1e-12, equal_nan=True)
        for one, two in zip(joint, apart, strict=True)
    )
