"""Preprocessing of a table: everything between its cells and a model's inputs and targets, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lossrag.checks import one_of
from lossrag.errors import ConfigError, DataError
from lossrag.schema import Unfit, check_schema
from lossrag.tasks.suite import DenseInputs, TokenInputs
from lossrag.tasks.table.cells import Table
from lossrag.tasks.table.columns import CategoryColumn, Column, NumericColumn
from lossrag.tasks.table.targets import TargetColumn
from lossrag.tasks.text.words import TOKENISERS, encode_words

FORMAT = 2


@dataclass(frozen=True)
class TablePreprocessing:
    """Fitted on the support rows of a table (``words`` on those of support and query).

    columns: numeric and categorical inputs, in order. text: the column of texts, ``words`` its vocabulary, of which a
    text keeps ``max_tokens``; ``tokeniser``: a key of TOKENISERS. encoder, encoder_digest: name and sha256 of the
    pre-trained encoder whose word pieces texts become instead. reading: how its files are read, by the names of
    :class:`TableConfig`.
    """

    targets: tuple[TargetColumn, ...] = ()
    columns: tuple[Column, ...] = ()
    text: str | None = None
    words: tuple[str, ...] = ()
    max_tokens: int = 0
    tokeniser: str = "words"
    encoder: str = ""
    encoder_digest: str = ""
    reading: Mapping[str, Any] | None = None

    def dense(self, table: Table) -> DenseInputs:
        """Inputs (N, F) of the rows from their columns; raises DataError for cells that do not fit."""
        parts = [column.encode(table, table.column(column.name, "an input")) for column in self.columns]
        return DenseInputs(torch.from_numpy(np.hstack(parts).astype(np.float32)))

    def tokens(self, documents: Sequence[Sequence[str]]) -> TokenInputs:
        """Inputs of N documents from their words."""
        return encode_words(self.words, documents, self.max_tokens)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"format": FORMAT, "kind": "table", **asdict(self)}

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> TablePreprocessing:
        """From :meth:`plain`; raises DataError for what is of another format or damaged."""
        try:
            if plain["format"] != FORMAT or plain["kind"] != "table":
                raise DataError(f"The preprocessing is of format {plain['format']!r}, not {FORMAT}.")
            check_schema(plain, PLAIN)
            for own in plain["targets"]:
                _check_target(own)
            return TablePreprocessing(
                tuple(TargetColumn(**_tuples(own)) for own in plain["targets"]),
                tuple(
                    (CategoryColumn if "categories" in own else NumericColumn)(**_tuples(own))
                    for own in plain["columns"]
                ),
                plain["text"],
                tuple(plain["words"]),
                plain["max_tokens"],
                one_of("The tokeniser", plain["tokeniser"], tuple(TOKENISERS)),
                plain["encoder"],
                plain["encoder_digest"],
                plain["reading"],
            )
        except (KeyError, TypeError, AttributeError, Unfit, ConfigError) as error:
            raise DataError(f"The preprocessing cannot be read: {error}.") from None


PLAIN = {
    "targets": [
        {
            "name": str,
            "columns": [str],
            "kind": str,
            "labels?": [str],
            "mean?": [float],
            "scale?": [float],
            "metric?": str,
            "member?": (str, None),
            "separator?": (str, None),
            "where?": {str: str},
        }
    ],
    "columns": [
        (
            {"name": str, "categories": [str]},
            {"name": str, "mean": float, "scale": float, "tells_missing": bool},
        )
    ],
    "text": (str, None),
    "words": [str],
    "max_tokens": int,
    "encoder": str,
    "encoder_digest": str,
    "reading": ({"missing?": [str], "delimiter?": (str, None), "encoding?": (str, None)}, None),
}
"""What plain data of a preprocessing hold."""


def _check_target(own: Mapping[str, Any]) -> None:
    """Raise Unfit for a target that no table has."""
    width = len(own["columns"])
    moments = [len(own.get(name, ())) for name in ("mean", "scale")]
    if (
        own["kind"] not in ("classification", "binary", "regression")
        or not width
        or moments not in ([0, 0], [width, width])
    ):
        raise Unfit(f"the target {own['name']!r:.60} is of no kind, or its columns and moments differ in number")
    if own.get("separator") == "" or 0 in own.get("scale", ()):
        raise Unfit(f"the target {own['name']!r:.60} has an empty separator, or a scale of 0")


def _tuples(own: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}


def documents_of(table: Table, column: str, tokeniser: str = "words") -> tuple[list[str], list[list[str]]]:
    """The texts of a column and their words; raises DataError for a row without one."""
    cells = table.column(column, "the text")
    for row, cell in enumerate(cells):
        if cell is None or not str(cell):
            absent = sum(own is None for own in cells) - 1
            others = f", nor in {absent:,} other rows" if absent else ""
            raise table.error(row, column, f"no text here{others}: fill in what is missing, or drop the rows.")
        if isinstance(cell, list):
            raise table.error(row, column, "a list is no text: join its words.")
    texts = [str(cell) for cell in cells]
    return texts, [TOKENISERS[tokeniser](text) for text in texts]
