"""Banks as `lossrag bank` finds them on the disk, and files it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError
from lossrag.experiments.studies.results import csv_text
from lossrag.files import write_atomic
from lossrag.lossbank import CONTEXT_NAMES, LossBank
from lossrag.lossbank.experience.storage import holds_bank

COLUMNS = ("run", "task", "step", "loss", "contribution", *CONTEXT_NAMES)


def folder_of(given: object) -> Path:
    """The folder of a bank; a run directory stands for the bank in it."""
    folder = Path(str(given))
    inside = folder / "bank"
    return inside if not holds_bank(folder) and holds_bank(inside) else folder


def open_bank(given: object) -> LossBank:
    """The bank that is meant; raises BankError when there is none or it is damaged."""
    return LossBank.load(folder_of(given))


def writable(name: object) -> Path:
    """The file to write to; raises ConfigError unless its folder exists."""
    target = Path(str(name))
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"Cannot write output={target}: name a file in a folder that exists.")
    return target


def export(bank: LossBank, target: Path) -> None:
    """Write all records of a bank as .csv or .json, by the file's ending."""
    rows = _rows(bank)
    if target.suffix == ".json":
        write_atomic(target, json.dumps(rows, indent=1).encode() + b"\n")
        return
    write_atomic(target, csv_text(COLUMNS, [list(row.values()) for row in rows]).encode())


def _rows(known: LossBank) -> list[dict[str, Any]]:
    records = known.memory.records
    return [
        {
            "run": records.runs[records.run[row]],
            "task": records.tasks[records.task[row]],
            "step": int(records.step[row]),
            "loss": records.losses[records.loss[row]],
            "contribution": float(records.contribution[row]),
            **dict(zip(CONTEXT_NAMES, records.context[row].tolist(), strict=True)),
        }
        for row in range(len(records))
    ]
