"""Tables in memory as a suite: frames by the digest of their content, by which runs on them are known and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lossrag.errors import ConfigError, did_you_mean
from lossrag.tasks.table.cells import MISSING, Table
from lossrag.tasks.table.frames import frame_table, is_frame
from lossrag.tasks.table.settings import TableConfig, parse_files, parse_targets

PREFIX = "frame:"
"""Begins the name of a table in memory where settings name a file."""


@dataclass(frozen=True)
class FrameSuite:
    """The suite ``table`` on tables in memory, for ``lossrag.train(tasks=...)``: see :func:`suite_from`.

    options: its settings, in which a table stands as ``frame:`` and the digest of its content. tables: by that name.
    """

    options: Mapping[str, Any]
    tables: Mapping[str, Table] = field(repr=False)


def suite_from(data: Any, targets: Any, **options: Any) -> FrameSuite:
    """A suite of a pandas DataFrame or a Hugging Face Dataset, for ``lossrag.train(tasks=...)``: what ``tasks=table``
    makes of a file with this content.

    data: the frame, or frames by part, ``{"train": a, "validation": b, "test": c}``; they are copied, so that later
        changes of them change nothing.
    targets: columns, or by task its options (docs/table.md); a ``data`` there may be a frame too.
    options: the other settings of a table by name, such as ``text="review"`` or ``group="family"``.

    Raises ConfigError for unknown options and values that cannot work, DataError for a frame that is no table.

    >>> import pandas
    >>> suite = suite_from(pandas.DataFrame({"age": [31, 58], "paid": ["yes", "no"]}), targets=["paid"])
    >>> suite.options["targets"], [table.columns for table in suite.tables.values()]
    (['paid'], [{'age': [31, 58], 'paid': ['yes', 'no']}])
    """
    known = [own.name for own in fields(TableConfig) if own.name not in ("data", "targets", "root")]
    for option in options:
        if option not in known:
            raise ConfigError(f"suite_from: a table has no option {option!r}: {did_you_mean(option, known)}")
    TableConfig(data=data, targets=targets, **options)
    for own in parse_targets(targets):
        if own.data is not None:
            parse_files(f"targets.{own.name}.data", own.data)
    if data is not None:
        parse_files("data", data)
    tables: dict[str, Table] = {}

    def named(value: Any) -> Any:
        if is_frame(value):
            table = frame_table(value, options.get("missing", MISSING))
            tables[PREFIX + table.digest] = table
            return PREFIX + table.digest
        return {key: named(part) for key, part in value.items()} if isinstance(value, Mapping) else value

    return FrameSuite({"data": named(data), "targets": named(targets), **options}, tables)


def with_tables(config: TableConfig, tables: Mapping[str, Table]) -> TableConfig:
    """The settings with these tables in place of their names."""

    def found(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: found(part) for key, part in value.items()}
        return tables.get(value, value) if isinstance(value, str) else value

    return replace(config, data=found(config.data), targets=found(config.targets))
