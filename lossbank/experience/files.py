"""Storage of an experience: one file of proven tensors. What is read is checked before it is believed, and two programs
may add to a file at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossrag.errors import BankError, LeaseHeldError
from lossrag.files import check_file
from lossrag.leases import Lease
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.trials import REAL, TEXTS, WHOLE, Experience, is_name
from lossrag.lossbank.library.contract import TARGET_KINDS
from lossrag.proof import DamagedFile
from lossrag.tensors import load_tensors, save_tensors

FORMAT = "lossrag-experience-1"
MOST_BYTES = 1 << 30
"""Of a file: some millions of moments."""
PATIENCE = 120.0
"""Seconds to wait for another program that adds to the same file."""

_CASE = "case/"
_MOMENTS = ("moment_case", "progress", "contexts")
_OUTCOMES = ("outcome_case", "outcome_loss", "gain", "error", "repeats")
_TYPES: Mapping[str, type[np.generic]] = {
    **{_CASE + name: np.int32 for name in (*TEXTS, *WHOLE)},
    **{_CASE + name: np.float32 for name in REAL},
    _CASE + "clean": np.bool_,
    **dict.fromkeys(("moment_case", "outcome_case", "outcome_loss", "repeats"), np.int32),
    **dict.fromkeys(("progress", "contexts", "gain", "error"), np.float32),
}
_ANEW = "it was made by another version of LossRAG. Collect the trials anew, or use that version"
_ADVICE = "restore it from a copy, or name another file"
Columns = Mapping[str, NDArray[Any]]


def save_experience(path: Path, experience: Experience) -> None:
    """Write an experience to ``path``, whole or not at all, in place of the one that may be there.

    Raises BankError, and changes nothing, when the file is there and is no experience that this program can read, or
    cannot be written.
    """
    with _locked(path):
        if path.exists():
            load_experience(path)
        _write(path, experience)


def add_experience(path: Path, experience: Experience) -> Experience:
    """Add the cases to those of the file, which is made when it is absent; what it then holds.

    A case that is there already counts once. Other programs that add wait for each other. Raises BankError as
    :func:`save_experience`, and when another program keeps the file for long.
    """
    with _locked(path):
        joined = load_experience(path).joined(experience) if path.exists() else experience
        _write(path, joined)
    return joined


def load_experience(path: Path) -> Experience:
    """The experience of a file. Raises BankError when there is none, when it is damaged, of another format or of other
    contexts, and when anything in it is out of range; the file stays as it is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_experience(Path(folder, "mine.safetensors"), Experience())
    ...     len(load_experience(Path(folder, "mine.safetensors")))
    0
    """
    try:
        check_file(path, MOST_BYTES)
    except FileNotFoundError:
        raise BankError(f"The bank {path} does not exist: name a file that a bank was saved to.") from None
    except OSError as error:
        raise BankError(f"The bank cannot be read: {error}. Name a file that a bank was saved to.") from None
    try:
        tensors, meta = load_tensors(path)
        if not isinstance(meta, dict) or not isinstance(meta.get("format"), str):
            raise DamagedFile("it does not say what it is")
        if meta["format"] != FORMAT:
            raise BankError(
                f"The bank {path} has the format {meta['format']!r:.100}, this program reads {FORMAT!r}: {_ANEW}."
            )
        if meta.get("contexts") != list(CONTEXT_NAMES):
            raise BankError(f"The contexts of the bank {path} have other entries than those of this program: {_ANEW}.")
        columns = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.dtype in _READABLE}
        return _believed(columns, len(tensors), meta.get("names"))
    except (DamagedFile, OSError) as error:
        raise BankError(f"The bank {path} is damaged ({error}): {_ADVICE}.") from None


_READABLE = (torch.int32, torch.float32, torch.bool)


def _write(path: Path, experience: Experience) -> None:
    columns = {_CASE + name: column for name, column in experience.columns.items()}
    columns |= {name: getattr(experience, name) for name in (*_MOMENTS, *_OUTCOMES)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    names = {name: list(texts) for name, texts in experience.names.items()}
    try:
        _believed(columns, len(columns), names)
    except DamagedFile as error:
        raise BankError(f"This experience cannot be saved, as nobody could read it again: {error}.") from None
    try:
        save_tensors(path, tensors, {"format": FORMAT, "contexts": list(CONTEXT_NAMES), "names": names})
    except OSError as error:
        raise BankError(f"The bank cannot be written to {path} ({error}): name a file you may write to.") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lease = Lease(Path(f"{path}.lease"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lease.acquire(PATIENCE)
    except LeaseHeldError as held:
        raise BankError(
            f"Another program has kept the bank {path} for {PATIENCE:.0f} seconds, {held}: end it, or name another."
        ) from None
    except OSError as error:
        raise BankError(f"The bank cannot be written to {path} ({error}): name a file you may write to.") from None
    try:
        yield
    finally:
        lease.release()


def _believed(columns: Columns, count: int, names: Any) -> Experience:
    """The experience of these columns; raises DamagedFile for anything that an :class:`Experience` never holds."""
    if set(columns) != set(_TYPES) or count != len(_TYPES):
        raise DamagedFile("it has other columns than a bank has")
    for name, kind in _TYPES.items():
        _require(columns[name].dtype == kind, f"{name} has the type {columns[name].dtype}")
        _require(columns[name].ndim == (2 if name == "contexts" else 1), f"{name} has the wrong shape")
    _check_names(names)
    cases = _one_length(columns, [name for name in _TYPES if name.startswith(_CASE)])
    for name in TEXTS:
        _require(_within(columns[_CASE + name], len(names[name])), f"{name} points beyond its names")
    for name in ("outputs", "samples", "steps"):
        _require(bool((columns[_CASE + name] >= 1).all()), f"{name} has a number below 1")
    _require(bool(np.isfinite(columns[_CASE + "reference"]).all()), "reference has a score that is not finite")
    for group, owner in ((_MOMENTS, "moment_case"), (_OUTCOMES, "outcome_case")):
        _one_length(columns, group)
        _require(_within(columns[owner], cases), f"{owner} points beyond the cases")
        steps = np.diff(columns[owner])
        _require(bool((steps >= 0).all()), f"{owner} is not in the order of the cases")
        _require(np.count_nonzero(steps) + bool(len(columns[owner])) == cases, f"a case is missing in {owner}")
    _require(columns["contexts"].shape[1] == len(CONTEXT_NAMES), "contexts have another size")
    for name in ("contexts", "progress", "gain"):
        ends = [columns[name].min(initial=0), columns[name].max(initial=0)]  # one that is no number is both
        _require(bool(np.isfinite(ends).all()), f"{name} has numbers that are not finite")
    _require(bool(((columns["progress"] >= 0) & (columns["progress"] <= 1)).all()), "progress is not within [0, 1]")
    _require(_within(columns["outcome_loss"], len(names["loss"])), "outcome_loss points beyond its names")
    pairs = np.sort(columns["outcome_case"].astype(np.int64) * len(names["loss"]) + columns["outcome_loss"])
    _require(bool((np.diff(pairs) > 0).all()), "a case has two outcomes of one loss")
    _require(not bool((columns["error"] < 0).any() or np.isinf(columns["error"]).any()), "error is out of range")
    _require(bool((columns["repeats"] >= 1).all()), "repeats has a number below 1")
    rest = {name: columns[name] for name in (*_MOMENTS, *_OUTCOMES)}
    own = {name.removeprefix(_CASE): column for name, column in columns.items() if name.startswith(_CASE)}
    return Experience({name: tuple(texts) for name, texts in names.items()}, own, **rest)


def _check_names(names: Any) -> None:
    fits = isinstance(names, dict) and set(names) == {*TEXTS, "loss"}
    _require(fits and all(isinstance(texts, list) for texts in names.values()), "it has no lists of names")
    for column, texts in names.items():
        fits = all(is_name(text) for text in texts) and len(set(texts)) == len(texts)
        _require(fits, f"the names of {column} are no short, different texts")
    _require(set(names["target_kind"]) <= set(TARGET_KINDS), "it has target kinds that do not exist")


def _one_length(columns: Columns, group: tuple[str, ...] | list[str]) -> int:
    lengths = {len(columns[name]) for name in group}
    _require(len(lengths) == 1, f"{group[0]} and the columns beside it differ in length")
    return lengths.pop()


def _within(numbers: NDArray[Any], count: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < count)


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise DamagedFile(why)
