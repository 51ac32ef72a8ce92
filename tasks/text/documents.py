"""Preprocessing of a suite of texts: what other texts go through, in a table with a column of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossrag.tasks.suite import Task
from lossrag.tasks.table.preprocessing import TablePreprocessing
from lossrag.tasks.table.targets import TargetColumn
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.suite import TextConfig

TEXT, TASK, LABEL = "text", "task", "label"
"""Columns of such a table: a text, the task that it is of, its class."""


def of_texts(
    tasks: Sequence[Task],
    tokeniser: str,
    config: TextConfig,
    encoder: EncoderFiles | None,
    words: tuple[str, ...],
) -> TablePreprocessing:
    """The preprocessing of a suite with this vocabulary, or with the word pieces of ``encoder``.

    No text stands for nothing but the empty one, whatever it says.
    """
    targets = tuple(
        TargetColumn(task.name, (LABEL,), "classification", task.labels, where={TASK: task.name}) for task in tasks
    )
    name, digest = ("", "") if encoder is None else (encoder.name, encoder.digest)
    reading: dict[str, Any] = {"missing": [], "delimiter": None, "encoding": "utf-8"}
    return TablePreprocessing(targets, (), TEXT, words, config.max_tokens, tokeniser, name, digest, reading)
