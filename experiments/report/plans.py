"""Plans among the runs of a folder: what `lossrag compare` and `ablate` call their rows, and which is the reference."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lossrag.experiments.report.reading import UNREADABLE, LeftOut, ReportedRun, named


@dataclass(frozen=True)
class Plans:
    """names: of the row that a run is of, by run id. references: the names of rows that others are compared with."""

    names: dict[str, str]
    references: list[str]

    def told(self, runs: Sequence[ReportedRun]) -> list[ReportedRun]:
        """The runs with their names."""
        return [named(run, self.names.get(run.id, "")) for run in runs]


def plans_below(root: Path) -> tuple[Plans, list[LeftOut]]:
    """The plans of a folder, and those of their files that cannot be read."""
    plans, damaged = Plans({}, []), []
    for path in sorted([*root.rglob("compare.json"), *root.rglob("ablation.json")]):
        table = path.with_name("runs.csv")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if path.name == "compare.json":
                plans.references.extend(str(suite["reference"]) for suite in report["suites"])
            else:
                rows = [row["vs reference"]["row"] for row in report["rows"] if "vs reference" in row]
                plans.references.extend(map(str, rows))
            with table.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if row.get("run_id"):
                        plans.names[str(row["run_id"])] = row.get("method") or row.get("row") or ""
        except (*UNREADABLE, csv.Error) as error:
            damaged.append(
                LeftOut(path, f"it or its runs.csv is damaged ({type(error).__name__}): its rows go unnamed")
            )
    return plans, damaged
