"""Scored triples in columns: in this context, this loss contributed so much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.errors import ConfigError

Codes = NDArray[np.int32]
Floats = NDArray[np.float32]

MAX_NAME = 200
"""Characters of the name of a run, a task or a loss at most."""


@dataclass(frozen=True, eq=False)
class Records:
    """n scored triples, a column each.

    ``runs``, ``tasks`` and ``losses`` are sorted distinct names, and ``run``, ``task`` and ``loss`` (n,) int32
    positions in them; ``step`` (n,) int64 from 0; ``context`` (n, C) and ``contribution`` (n,) are float32.
    """

    runs: tuple[str, ...]
    tasks: tuple[str, ...]
    losses: tuple[str, ...]
    run: Codes
    task: Codes
    loss: Codes
    step: NDArray[np.int64]
    context: Floats
    contribution: Floats

    def __len__(self) -> int:
        return len(self.step)


def make_records(
    contexts: ArrayLike,
    losses: Sequence[str],
    contributions: ArrayLike,
    *,
    run: str | Sequence[str],
    task: str | Sequence[str],
    step: int | ArrayLike,
) -> Records:
    """Records from ``contexts`` (n, C), the names ``losses`` (n) and ``contributions`` (n,), any unit.

    ``run``, ``task`` and ``step`` hold for all, or are given one by one, (n).

    Raises ConfigError for sizes that do not match, numbers that float32 cannot hold, a negative step, or a
    name that is empty, longer than 200 characters or not printable.

    >>> records = make_records([[0.1, 2.0]] * 2, ["mae", "brier"], [0.5, -0.5], run="r", task="REC", step=3)
    >>> records.losses, records.loss.tolist(), records.step.tolist()
    (('brier', 'mae'), [1, 0], [3, 3])
    """
    if isinstance(losses, str):
        raise ConfigError(f"The losses are a list of names, one a record, not the string {losses!r}.")
    count = len(losses)
    context = finite_floats("contexts", contexts)
    if context.ndim != 2 or len(context) != count:
        raise ConfigError(f"The contexts must be (n, C) with n = {count} records, got the shape {context.shape}.")
    runs, run_codes = _encode("run", run, count)
    tasks, task_codes = _encode("task", task, count)
    names, loss_codes = _encode("loss", losses, count)
    contribution = finite_floats("contributions", contributions)
    if contribution.shape != (count,):
        raise ConfigError(f"The contributions must be ({count},), one a record, got the shape {contribution.shape}.")
    steps = _steps(step, count)
    return Records(runs, tasks, names, run_codes, task_codes, loss_codes, steps, context, contribution)


def no_records(context_size: int) -> Records:
    """No record, of contexts with ``context_size`` numbers."""
    return make_records(np.empty((0, context_size)), [], [], run=[], task=[], step=np.empty(0, np.int64))


def concatenate(parts: Sequence[Records]) -> Records:
    """The records of all parts (one at least) one after the other, their names put together."""
    runs, run = _join([part.runs for part in parts], [part.run for part in parts])
    tasks, task = _join([part.tasks for part in parts], [part.task for part in parts])
    losses, loss = _join([part.losses for part in parts], [part.loss for part in parts])
    step = np.concatenate([part.step for part in parts])
    context = np.concatenate([part.context for part in parts])
    contribution = np.concatenate([part.contribution for part in parts])
    return Records(runs, tasks, losses, run, task, loss, step, context, contribution)


def take(records: Records, rows: NDArray[np.int64]) -> Records:
    """The records at ``rows``, with the names that still occur."""
    runs, run = _used(records.runs, records.run[rows])
    tasks, task = _used(records.tasks, records.task[rows])
    losses, loss = _used(records.losses, records.loss[rows])
    columns = records.step[rows], records.context[rows], records.contribution[rows]
    return Records(runs, tasks, losses, run, task, loss, *columns)


def check_name(kind: str, name: object) -> None:
    """Raises ConfigError unless ``name`` is a printable string of 1 to 200 characters."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        shown = repr(name)[:60]
        raise ConfigError(f"The name of a {kind} is a printable string of 1 to {MAX_NAME} characters, not {shown}.")


def finite_floats(what: str, values: ArrayLike) -> Floats:
    """``values`` as float32, equal values with equal bits.

    Raises ConfigError for what is no number or not finite in float32.
    """
    try:
        wide = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The {what} must be numbers: {error}.") from None
    if not bool((np.abs(wide) <= np.finfo(np.float32).max).all()):  # false for NaN
        raise ConfigError(f"The {what} must be finite float32 numbers: leave out what diverged.")
    return wide.astype(np.float32) + np.float32(0.0)  # zero has two bit patterns


def _encode(kind: str, names: str | Sequence[str], count: int) -> tuple[tuple[str, ...], Codes]:
    if isinstance(names, str):
        check_name(kind, names)
        return (names,) if count else (), np.zeros(count, dtype=np.int32)
    if len(names) != count:
        raise ConfigError(f"Give one {kind} for all records or one each: {count} expected, got {len(names)}.")
    distinct = set(names)
    for name in distinct:
        check_name(kind, name)
    vocabulary = sorted(distinct)
    codes = {name: code for code, name in enumerate(vocabulary)}
    return tuple(vocabulary), np.array([codes[name] for name in names], dtype=np.int32)


def _join(names: Sequence[tuple[str, ...]], codes: Sequence[Codes]) -> tuple[tuple[str, ...], Codes]:
    vocabulary = sorted({name for part in names for name in part})
    code = {name: position for position, name in enumerate(vocabulary)}
    maps = {part: np.array([code[name] for name in part], dtype=np.int32) for part in set(names)}
    joined = [maps[part][column] for part, column in zip(names, codes, strict=True)]
    return tuple(vocabulary), np.concatenate(joined)


def _used(names: tuple[str, ...], codes: Codes) -> tuple[tuple[str, ...], Codes]:
    used = np.bincount(codes, minlength=len(names)) > 0
    positions = (np.cumsum(used) - 1).astype(np.int32)
    return tuple(name for name, kept in zip(names, used, strict=True) if kept), positions[codes]


def _steps(step: int | ArrayLike, count: int) -> NDArray[np.int64]:
    steps = np.asarray(step)
    if steps.dtype.kind not in "iu" or steps.shape not in ((), (count,)):
        raise ConfigError(f"Steps are whole numbers, one for all records or ({count},), got {step!r:.60}.")
    if bool((steps < 0).any()) or bool((steps > np.iinfo(np.int64).max).any()):
        raise ConfigError("Steps count from 0 and fit in 63 bits: give the global step of the run.")
    return np.array(np.broadcast_to(steps, (count,)), dtype=np.int64)
