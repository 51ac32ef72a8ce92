"""Banks for runs of the tests: files of a few cases that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lossrag.lossbank import CONTEXT_NAMES, LossBank
from lossrag.lossbank.experience.snapshots import MOMENTS
from lossrag.lossbank.experience.trials import Case, CaseRecord, Experience, Outcome

CLASS_GAINS = {"mae": 0.04, "brier": 0.02, "focal_2": -0.03, "logit_adjusted_1": 0.01}
VALUE_GAINS = {"huber": 0.05, "l1": -0.02}
SMALL_CLASS_GAINS = {**CLASS_GAINS, "mae": 0.015}
SMALL_VALUE_GAINS = {"huber": 0.02, "l1": -0.02}
"""Such that nothing counts before the first step, where a single case has to gain, but later."""


def records(encoder: str, source: str, gains: Mapping[str, float], kind: str, cases: int = 24) -> list[CaseRecord]:
    """So many cases whose contexts lie all over the place, so that anything is near enough; the gains hardly vary."""
    chance = np.random.default_rng(0)
    made = []
    for number in range(cases):
        moments = {}
        for progress in MOMENTS:
            context = chance.uniform(-1, 1, len(CONTEXT_NAMES)).astype(np.float32)
            context[: CONTEXT_NAMES.index("progress")] = kind == "classification", kind == "regression"
            context[CONTEXT_NAMES.index("progress")] = progress
            moments[progress] = context
        metric = "accuracy" if kind == "classification" else "r2"
        case = Case(
            source, f"task {number}", encoder, kind, 2, 200, 100, metric, 0.5, ("symmetric", "pair")[number % 2]
        )
        outcomes = {name: Outcome(gain + 0.001 * float(chance.normal())) for name, gain in gains.items()}
        made.append(CaseRecord(case, moments, outcomes))
    return made


def write_bank(path: Path, encoder: str = "mlp", values: Mapping[str, float] = VALUE_GAINS) -> Path:
    """A bank that has tried a few losses with this encoder; values: the gains of regressions."""
    both = ((CLASS_GAINS, "classification"), (values, "regression"))
    LossBank(Experience.of([r for gains, kind in both for r in records(encoder, "made up", gains, kind)])).save(path)
    return path
