"""Table of a multirun: its jobs by what tells them apart, their seeds aside, and the mean of each over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lossrag.experiments.multirun.job import JobReport
from lossrag.experiments.record.finished import Summary, read_summary
from lossrag.experiments.studies.report import means_table
from lossrag.experiments.studies.results import runs_csv

SEED = "seed="


@dataclass(frozen=True)
class EndedJob:
    """row: its overrides that not all jobs have. why: it has no summary."""

    run_id: str
    row: str
    seed: str
    summary: Summary | None
    why: str = ""

    @property
    def name(self) -> str:
        """For a message."""
        return f"{self.row}{f', seed {self.seed}' if self.seed else ''} ({self.run_id})"


def ended_jobs(planned: Mapping[str, Sequence[str]], reports: Mapping[str, JobReport]) -> list[EndedJob]:
    """What became of the jobs, given by run id and overrides; one without a report broke off."""
    common = set.intersection(*map(set, planned.values())) if planned else set()
    ends = []
    for name, line in planned.items():
        row = " ".join(text for text in line if text not in common and not text.startswith(SEED)) or "preset"
        seed = next((text.removeprefix(SEED) for text in line if text.startswith(SEED)), "")
        report = reports.get(name)
        if report is None:
            ends.append(EndedJob(name, row, seed, None, "it ended without a word, or never began: see the launcher"))
        elif report.why is not None:
            ends.append(EndedJob(name, row, seed, None, report.why))
        else:
            ends.append(EndedJob(name, row, seed, read_summary(Path(report.directory)), "its summary is gone"))
    return ends


def jobs_csv(ends: Sequence[EndedJob]) -> str:
    """runs.csv: a line a job."""
    return runs_csv(["row", "seed"], [((end.row, end.seed), end.summary) for end in ends])


def jobs_table(ends: Sequence[EndedJob]) -> Table:
    """For a terminal: a line a row."""
    scores: dict[str, list[float]] = {end.row: [] for end in ends}
    for end in ends:
        if end.summary is not None:
            scores[end.row].append(float(end.summary["test_score_mean"]))
    return means_table("row", scores, "multirun")
