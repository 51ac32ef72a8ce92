"""Suite of a table: from its settings to tasks, splits, inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import ConfigError, DataError
from lossrag.labels import labelled
from lossrag.tasks.metrics import check_metric
from lossrag.tasks.suite import SPLITS, DenseInputs, Examples, Inputs, Suite, select
from lossrag.tasks.table.cells import Cell, Table, joined, name_of
from lossrag.tasks.table.columns import Column, fit_column
from lossrag.tasks.table.division import divide
from lossrag.tasks.table.files import read_table
from lossrag.tasks.table.frames import frame_table, is_frame
from lossrag.tasks.table.in_memory import PREFIX
from lossrag.tasks.table.preprocessing import TablePreprocessing, documents_of
from lossrag.tasks.table.settings import TableConfig, Target, parse_files, parse_targets
from lossrag.tasks.table.targets import expanded, read_target, standardised
from lossrag.tasks.table.vectors import read_vectors
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.pieces import encode_pieces
from lossrag.tasks.text.suite import vocabulary
from lossrag.tasks.text.vectors import available_vectors

NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}
"""What splits are also called in a split column."""
SHOWN = 8
"""Input columns that are named when a run starts."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Source:
    """The rows of all files: the part (N,) that each is of, train, validation or test, and its set of files (N,)."""

    table: Table
    part: list[str]
    source: NDArray[np.int64]

    @staticmethod
    def read(config: TableConfig, targets: Sequence[Target]) -> _Source:
        own = [
            parse_files(f"tasks.targets.{target.name}.data", target.data)
            for target in targets
            if target.data is not None
        ]
        everyone = [] if len(own) == len(targets) and config.data is None else [parse_files("tasks.data", config.data)]
        tables, part, source = [], [], []
        for number, files in enumerate([*everyone, *own], start=1 - len(everyone)):
            for name, path in files.items():
                tables.append(_table(path, config))
                part += [name] * len(tables[-1])
                source += [number] * len(tables[-1])
        optional = {column for target in targets for column in target.columns} if own else set()
        return _Source(joined(tables, optional), part, np.array(source))


def _table(data: Any, config: TableConfig) -> Table:
    """A file or a frame; a table that was made before stays as it is."""
    if isinstance(data, Table):
        return data
    if is_frame(data):
        return frame_table(data, config.missing)
    if data.startswith(PREFIX):
        raise DataError(
            f"{data} was a table in memory when its run was started, and is in no file: give it again in Python, "
            "lossrag.train(tasks=lossrag.suite_from(frame, targets=...), ...). A finished run is used without."
        )
    return read_table(data, config.missing, config.delimiter, config.encoding)


def load_table(config: TableConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite of a table; its texts in the word pieces of ``encoder`` where there is one.

    Raises ConfigError for settings that do not go together and DataError, naming file, line and column, for a table
    that cannot be used.
    """
    said = parse_targets(config.targets)
    read = _Source.read(config, said)
    table = read.table
    pairs = [
        (one, mask) for own, mask in zip(said, _masks(read, said), strict=True) for one in expanded(table, own, mask)
    ]
    targets, masks = [target for target, _ in pairs], [mask for _, mask in pairs]
    shared = all(target.data is None and not target.where for target in targets)
    columns = [read_target(table, target, mask) for target, mask in zip(targets, masks, strict=True)]
    for column in columns:
        check_metric(f"tasks.targets.{column.name}.metric", column.task.metric, column.task)
    values = [column.encode(table, mask) for column, mask in zip(columns, masks, strict=True)]
    known = [labelled(own).numpy() for own in values]
    # a row that all tasks share may lack some labels, a row of a task alone is of no use without one
    used = np.any(masks if shared else known, axis=0)
    texts, documents = documents_of(table, config.text) if config.text is not None else ([], [])
    split = _split(config, read, used, values, known, texts)
    support = split == "support"
    if not support.any():
        raise DataError(f"{', '.join(table.files)}: no row is left to train on.")
    columns = [standardised(table, column, own & support) for column, own in zip(columns, known, strict=True)]
    values = [column.encode(table, mask) for column, mask in zip(columns, masks, strict=True)]
    made = _inputs(config, encoder, read, targets, split, texts, documents)
    reading = {key: getattr(config, key) for key in ("missing", "delimiter", "encoding")}

    splits = {}
    for name in SPLITS:
        rows = [torch.from_numpy(np.flatnonzero((split == name) & (used if shared else own))) for own in known]
        everyones = select(made.inputs, rows[0]) if shared else None
        splits[name] = tuple(
            Examples(everyones or select(made.inputs, index), own[index])
            for index, own in zip(rows, values, strict=True)
        )
    sizes = " / ".join(f"{int((split == name).sum()):,}" for name in SPLITS)
    names = ", ".join(dict.fromkeys(Path(name).name for name in table.files))
    told = [
        f"{column.said()}; {int(own.sum()):,} of {int(mask.sum()):,} rows have one"
        for column, own, mask in zip(columns, known, masks, strict=True)
    ]
    return Suite(
        name="table",
        # nothing that changes with the seed: runs of several seeds are on one edition
        edition=f"{names} (sha256 {table.digest}), {len(table):,} rows{made.source}",
        tasks=tuple(column.task for column in columns),
        shared_input=shared,
        splits=splits,
        vectors=made.vectors,
        input_shape=tuple(made.inputs.values.shape[1:]) if isinstance(made.inputs, DenseInputs) else (),
        encoder=made.folder,
        notes=(f"{sizes} rows ({' / '.join(SPLITS)}), {made.content}", made.note, *told, *_copies(table, split)),
        preprocessing=replace(made.fitted, targets=tuple(columns), reading=reading),
    )


@dataclass(frozen=True)
class _Made:
    """Inputs of all rows, what was fitted for them, and both in words; ``source`` is part of the edition."""

    inputs: Inputs
    fitted: TablePreprocessing
    content: str
    note: str
    source: str = ""
    vectors: Tensor | None = None
    folder: Path | None = None


def _inputs(
    config: TableConfig,
    encoder: EncoderFiles | None,
    read: _Source,
    targets: Sequence[Target],
    split: NDArray[np.str_],
    texts: list[str],
    documents: list[list[str]],
) -> _Made:
    fitted = TablePreprocessing(text=config.text, max_tokens=config.max_tokens if config.text is not None else 0)
    if encoder is not None:
        if config.text is None:
            raise ConfigError("model=bert reads texts: name their column with tasks.text=COLUMN, or use model=mlp.")
        pieces = encode_pieces(encoder, texts, config.max_tokens)
        fitted = replace(fitted, encoder=encoder.name, encoder_digest=encoder.digest)
        content = f"at most {config.max_tokens} word pieces of {encoder.name} (sha256 {encoder.digest[:12]})"
        return _Made(
            pieces, fitted, content, f"input: the text of {config.text}", f", {content}", folder=encoder.folder
        )
    if config.text is not None:
        rows = np.flatnonzero((split == "support") | (split == "query"))
        chosen = replace(config, vectors=available_vectors(config.vectors, config.dim, config.root))
        words, array = vocabulary(chosen, [documents[row] for row in rows])
        if not words:
            name, least = read.table.files[0], config.min_df
            raise DataError(
                f"{name}, column {config.text!r}: no word is in min_df={least} rows: lower it, or add rows."
            )
        fitted = replace(fitted, words=tuple(words))
        source = f"{'GloVe 6B' if chosen.vectors == 'glove' else 'random'} {config.dim}-d vectors"
        content = f"{source} of {len(words):,} words"
        return _Made(
            fitted.tokens(documents),
            fitted,
            content,
            f"input: the text of {config.text}",
            f", {source}",
            torch.from_numpy(array),
        )
    if config.vectors_file is not None:
        vectors = read_vectors(config.vectors_file, read.part)
        width = vectors.values.shape[1]
        return _Made(vectors, fitted, f"vectors of {width}", f"input: vectors of {width} from a file")
    columns = _fit(config, read.table, targets, np.flatnonzero(split == "support"))
    fitted = replace(fitted, columns=columns)
    dense = fitted.dense(read.table)
    content = f"{dense.values.shape[1]} inputs of {len(columns)} columns"
    more = f" ... ({len(columns)})" if len(columns) > SHOWN else ""
    return _Made(dense, fitted, content, f"inputs: {', '.join(own.said() for own in columns[:SHOWN])}{more}")


def _masks(read: _Source, targets: Sequence[Target]) -> list[Mask]:
    """The rows (N,) that each task is about."""
    masks, number = [], 0
    for target in targets:
        number += target.data is not None
        mask = read.source == (number if target.data is not None else 0)
        for name, value in target.where.items():
            cells = read.table.column(name, f"the rows of {target.name}")
            mask &= np.array([cell is not None and name_of(cell) == value for cell in cells])
        if not mask.any():
            conditions = ", ".join(f"{name}={value}" for name, value in target.where.items())
            raise DataError(f"{', '.join(read.table.files)}: no row of the target {target.name} has {conditions}.")
        masks.append(mask)
    return masks


def _split(
    config: TableConfig,
    read: _Source,
    used: Mask,
    values: Sequence[Tensor],
    known: Sequence[Mask],
    texts: Sequence[str],
) -> NDArray[np.str_]:
    """The split (N,) of every row, empty for a row that no task uses."""
    table = read.table
    given = list(read.part) if config.split is None else _said(table, config.split)
    split = np.array([name if use else "" for name, use in zip(given, used, strict=True)], dtype="<U10")
    free = np.flatnonzero(split == "train").tolist()
    shares = {"support": 1.0}
    for name, share in (("validation", config.validation), ("test", config.test)):
        if not (split == name).any():
            shares[name] = share
    shares["support"] -= sum(share for name, share in shares.items() if name != "support")
    if not (split == "query").any():
        shares["query"] = config.rho * shares["support"]
        shares["support"] -= shares["query"]
    groups: list[Cell] = table.column(config.group, "the group of a row") if config.group is not None else []
    for row in free:
        if groups and groups[row] is None:
            raise table.error(row, config.group or "", "no group here: every row needs one.")
    units = [name_of(groups[row]) if groups else texts[row] if texts else row for row in free]
    if len(set(units)) < len(shares):
        what = f"groups in {config.group!r}" if groups else f"texts in {config.text!r}" if texts else "rows"
        raise DataError(
            f"{', '.join(table.files)}: {len(set(units))} different {what}, which stay together, for {len(shares)} "
            f"splits ({', '.join(shares)}): each needs one."
        )
    labels = [
        [(t, int(own[row]) if own.ndim == 1 else 0) for t, own in enumerate(values) if known[t][row]] for row in free
    ]
    split[free] = divide(labels, units, shares, config.seed)
    return split


def _copies(table: Table, split: NDArray[np.str_]) -> list[str]:
    """A line for each of validation and test that has copies of training rows, which files or a column put there."""
    rows = list(zip(*(map(str, column) for column in table.columns.values()), strict=True))
    known = {row for row, name in zip(rows, split, strict=True) if name in ("support", "query")}
    counts = {
        name: sum(row in known for row, own in zip(rows, split, strict=True) if own == name)
        for name in ("validation", "test")
    }
    return [f"{count:,} {name} rows are copies of training rows" for name, count in counts.items() if count]


def _said(table: Table, column: str) -> list[str]:
    """The splits (N,) that a column names."""
    said = []
    for row, cell in enumerate(table.column(column, "the split of a row")):
        name = "" if cell is None else name_of(cell).lower()
        name = NAMES.get(name, name)
        if name not in ("train", *SPLITS):
            raise table.error(row, column, f"{cell!r:.40} is no split: say train, validation or test in every row.")
        said.append(name)
    return said


def _fit(
    config: TableConfig, table: Table, targets: Sequence[Target], support: NDArray[np.int64]
) -> tuple[Column, ...]:
    taken = {name for target in targets for name in (*target.columns, *target.where)}
    taken |= {name for name in (config.split, config.group) if name is not None}
    for option in ("columns", "numeric", "categorical", "ignore"):
        for name in getattr(config, option) or ():
            table.column(name, f"tasks.{option}")
            if option != "ignore" and name in taken:
                raise ConfigError(f"tasks.{option} names {name!r}, which is a target, group or split: it is no input.")
    chosen = config.columns if config.columns is not None else [name for name in table.columns if name not in taken]
    chosen = [name for name in chosen if name not in config.ignore]
    if not chosen:
        raise ConfigError("No column is left as an input: name some in tasks.columns, or a text column in tasks.text.")
    kinds = {**dict.fromkeys(config.numeric, "numeric"), **dict.fromkeys(config.categorical, "categorical")}
    fitted = tuple(fit_column(table, name, support, kinds.get(name)) for name in chosen)
    if not sum(column.width for column in fitted):
        raise DataError(f"{', '.join(table.files)}: no input column has a value in the support rows.")
    return fitted
