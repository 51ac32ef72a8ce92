"""Choosing a setting for every method: the same number of runs for each, judged on validation by one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossrag.experiments.record.cells import csv_text
from lossrag.experiments.studies.plan import Plan, Setting, label


@dataclass(frozen=True)
class Trial:
    """A setting that was tried, and the summary of its run, None when it failed."""

    setting: Setting
    summary: Mapping[str, Any] | None

    @property
    def validation(self) -> float | None:
        """The mean validation score of the run's best epoch."""
        return None if self.summary is None else float(self.summary["validation_score_mean"])


def choose(trials: Sequence[Trial]) -> Setting | None:
    """The setting of the best validation score, the first of equal ones; None when every run failed."""
    done = [(validation, trial.setting) for trial in trials if (validation := trial.validation) is not None]
    return max(done, key=lambda one: one[0])[1] if done else None


Tuning = Mapping[str, Sequence[Trial]]
"""By method: all that was tried; empty without tuning."""


def tuning_report(plan: Plan, tuning: Tuning) -> dict[str, Any] | None:
    """For compare.json: the table of every method's trials, or None without tuning."""
    if not tuning:
        return None
    tried = {
        method: [
            {
                "setting": list(trial.setting),
                "validation": trial.validation,
                "run_id": trial.summary and trial.summary["run_id"],
                "chosen": trial.setting == choose(trials),
            }
            for trial in trials
        ]
        for method, trials in tuning.items()
    }
    return {"seed": plan.tuning_seed, "runs": plan.tuning_runs, "methods": tried}


TUNING_COLUMNS = ("suite", "method", "setting", "seed", "validation", "chosen", "run_id")


def tuning_csv(plan: Plan, suites: Mapping[str, Tuning]) -> str:
    """One line per setting of every method and suite; failed ones without a score."""
    rows = [
        [
            suite,
            method,
            label(trial.setting),
            plan.tuning_seed,
            "failed" if trial.summary is None else f"{trial.validation:.6f}",
            "yes" if trial.setting == choose(trials) else "",
            "" if trial.summary is None else trial.summary["run_id"],
        ]
        for suite, tuning in suites.items()
        for method, trials in tuning.items()
        for trial in trials
    ]
    return csv_text(TUNING_COLUMNS, rows)
