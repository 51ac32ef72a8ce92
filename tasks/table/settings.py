"""Settings of a table as a suite: its files, columns and targets, checked before any data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lossrag.checks import check_choice, check_inside, require
from lossrag.errors import ConfigError, OptionError, did_you_mean
from lossrag.tasks.metrics import METRICS
from lossrag.tasks.table.cells import MISSING, Table
from lossrag.tasks.table.frames import is_frame
from lossrag.tasks.text.suite import TextConfig

KINDS = ("binary", "classification", "multilabel", "regression")
FILES = ("train", "validation", "test")
_NAME = re.compile(r"[^\W_][\w\-]*")  # what TensorBoard leaves as it is


@dataclass(frozen=True)
class Target:
    """One task of a table: the ``columns`` that it predicts, several for a regression of several outputs.

    kind: one of KINDS, None for what the column looks like. positive: the class that counts as positive of two.
    metric: its score among METRICS, None for the usual one. labels: those of a multi-label column that are tasks, None
    for all; separator: between them in a text. member: the one of them that a target is about.
    where: rows of the task alone, by column the value that they have. data: a file of its own instead of the table's.
    """

    name: str
    columns: tuple[str, ...]
    kind: str | None = None
    positive: str | None = None
    metric: str | None = None
    labels: tuple[str, ...] | None = None
    separator: str | None = None
    member: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    data: Any = None

    def __post_init__(self) -> None:
        if self.kind is not None:
            check_choice(self, "kind", KINDS)
        if self.metric is not None:
            check_choice(self, "metric", tuple(METRICS))
        several = len(self.columns) < 2 or self.kind in (None, "regression")
        require(several, self, f"several {{columns}} are the outputs of a regression, not of a {self.kind}.")


@dataclass(frozen=True)
class TableConfig(TextConfig):
    """Settings of a table, beside those of every text suite (:class:`TextConfig`), which matter for a column of texts.

    data: a file, or files by part: ``{train: a.csv, validation: b.csv, test: c.csv}``. In Python a pandas DataFrame or
        a Hugging Face data set takes the place of a file.
    targets: names of columns, or by task its options (:class:`Target`; ``column`` or ``columns`` where the task has
        another name).
    text: the column of the texts that all tasks read. vectors_file: a .npy file (N, F) of the rows' inputs, in the
        order of the table; by part where ``data`` is.
    columns: numeric and categorical inputs otherwise; None for all that are nothing else. numeric, categorical: those
        of them that do not hold what they look like. ignore: columns to leave out.
    split: a column that says train, validation or test. group: a column whose rows stay together in one split.
    validation, test: shares of the rows, where the data do not say it.
    missing: cells that stand for nothing, beside empty ones. delimiter, encoding: of CSV files.

    Raises OptionError for a value that cannot work.
    """

    data: Any = None
    targets: Any = None
    text: str | None = None
    vectors_file: Any = None
    columns: list[str] | None = None
    numeric: list[str] = field(default_factory=list)
    categorical: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    split: str | None = None
    group: str | None = None
    validation: float = 0.15
    test: float = 0.15
    missing: list[str] = field(default_factory=lambda: list(MISSING))
    delimiter: str | None = None
    encoding: str = "utf-8"
    vectors: str = "glove_or_random"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inside(self, "validation", "test")
        fits = self.validation + self.test < 1
        require(fits, self, f"{{validation}}={self.validation} and {{test}}={self.test} leave nothing to train on.")
        inputs = [f"{{{name}}}" for name in ("text", "vectors_file", "columns") if getattr(self, name) is not None]
        require(len(inputs) < 2, self, f"{' and '.join(inputs)} are inputs of different kinds: give one of them.")


def parse_files(where: str, given: Any) -> dict[str, Any]:
    """Files, or frames, by part; a single one is that of ``train``. Raises ConfigError for anything else."""
    example = f"write {where}=my.csv, or '{where}={{train: a.csv, validation: b.csv, test: c.csv}}'."
    if (isinstance(given, str) and given) or _in_memory(given):
        return {"train": given}
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where} names no file of a table: {example}")
    for part, path in given.items():
        if part not in FILES:
            raise ConfigError(f"{where}: unknown part {part!r}: {did_you_mean(str(part), FILES)}")
        if not _in_memory(path) and (not isinstance(path, str) or not path):
            raise ConfigError(f"{where}.{part} takes the name of a file, not {path!r:.60}: {example}")
    if "train" not in given:
        raise ConfigError(f"{where} has no part train: {example}")
    return {part: given[part] for part in FILES if part in given}


def _in_memory(given: Any) -> bool:
    return isinstance(given, Table) or is_frame(given)


def parse_targets(given: Any) -> tuple[Target, ...]:
    """Targets from a list of columns, one column, or a mapping of tasks to their options.

    Raises ConfigError, naming the task, for unknown options and names that cannot stand in keys and tags.

    >>> parse_targets({"where": {"columns": ["x", "y"]}, "paid": None})[0].columns
    ('x', 'y')
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, (list, tuple)):
        counted = [str(name) for name in given]
        for name in counted:
            if counted.count(name) > 1:
                raise ConfigError(f"tasks.targets names {name!r} twice: once is enough.")
        given = dict.fromkeys(given)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError("tasks.targets names no column to predict: write 'tasks.targets=[income,hours]'.")
    return tuple(_target(name, options) for name, options in given.items())


def _target(name: Any, options: Any) -> Target:
    if not isinstance(name, str):
        raise ConfigError(f"tasks.targets: {name!r} is no name: quote it, '\"{str(name).lower()}\"'.")
    where = f"tasks.targets.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: a task is called by letters, digits, - and _: name it otherwise, "
            f"'tasks.targets={{my_task: {{column: \"{name}\"}}}}'."
        )
    known = ["column", *(own.name for own in fields(Target) if own.name not in ("name", "member"))]
    if options is None:
        options = {}
    if isinstance(options, str):
        options = {"kind": options}
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where} takes options such as {{kind: regression}}, not {options!r:.60}.")
    for option in options:
        if option not in known:
            raise ConfigError(f"{where} has no option {option!r}: {did_you_mean(str(option), known)}")
    columns = options.get("columns", options.get("column", name))
    columns = (columns,) if isinstance(columns, str) else columns
    if not isinstance(columns, (list, tuple)) or not columns or not all(isinstance(own, str) for own in columns):
        raise ConfigError(f"{where}: columns are names, not {columns!r:.60}: write {{columns: [x, y]}}.")
    rows = options.get("where") or {}
    if not isinstance(rows, Mapping) or any(isinstance(value, (Mapping, list)) for value in rows.values()):
        raise ConfigError(f"{where}.where takes a value for each column, such as {{domain: books}}, not {rows!r:.60}.")
    rest = {key: value for key, value in options.items() if key in ("kind", "positive", "metric", "separator", "data")}
    if options.get("labels") is not None:
        rest["labels"] = _several(where, options["labels"])
    if rest.get("positive") is not None:
        rest["positive"] = _word(rest["positive"])
    try:
        return Target(name, tuple(columns), where={str(k): _word(v) for k, v in rows.items()}, **rest)
    except OptionError as error:
        raise ConfigError(error.by_key(f"{where}.")) from None


def _several(where: str, labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, (list, tuple)) or not labels:
        raise ConfigError(f"{where}.labels takes a list of labels, not {labels!r:.60}.")
    return tuple(dict.fromkeys(map(_word, labels)))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
