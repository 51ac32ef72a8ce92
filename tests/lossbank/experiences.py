"""Small experiences, made by hand: cases whose contexts and outcomes are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.trials import Case, CaseRecord, Experience, Floats, Outcome

SIZE = len(CONTEXT_NAMES)


def context(**entries: float) -> Floats:
    """A context of zeros but for these entries."""
    values = np.zeros(SIZE, np.float32)
    for name, value in entries.items():
        values[CONTEXT_NAMES.index(name)] = value
    return values


def case(**changes) -> Case:
    """A case of a clean classification, with these changes."""
    given = {
        "source": "news",
        "task": "REC",
        "encoder": "mlp",
        "target_kind": "classification",
        "outputs": 4,
        "samples": 500,
        "steps": 360,
        "metric": "macro accuracy",
        "reference": 0.75,
        "trouble": "clean",
    }
    return Case(**{**given, **changes})


def record(gains: Mapping[str, float], moments: Mapping[float, Floats] | None = None, **changes) -> CaseRecord:
    """A case with one moment, unless others are given, and gains by loss."""
    outcomes = {name: Outcome(gain) for name, gain in gains.items()}
    return CaseRecord(case(**changes), {0.05: context()} if moments is None else moments, outcomes)


def random_record(rng: np.random.Generator, number: int, **changes) -> CaseRecord:
    """A case with two moments of random contexts and three losses of random gain."""
    moments = {progress: rng.normal(size=SIZE).astype(np.float32) for progress in (0.01, 0.05)}
    gains = dict(zip(("mae", "focal_1", "brier"), rng.normal(scale=0.05, size=3).tolist(), strict=True))
    return record(gains, moments, **{"task": f"task {number}", "reference": float(rng.random()), **changes})


def random_experience(count: int, seed: int = 0, **changes) -> Experience:
    """So many random cases, of three sources and four troubles by turns."""
    rng = np.random.default_rng(seed)
    troubles = ("clean", "symmetric", "imbalance", "unknown")
    return Experience.of(
        random_record(rng, n, **{"source": f"source {n % 3}", "trouble": troubles[n % 4], **changes})
        for n in range(count)
    )


FOUR = ("mae", "brier", "focal_1", "logit_adjusted_1")


def world(seed: int = 0, cases: int = 36, missing: float = 0.15) -> Experience:
    """Cases of three sources, two encoders and three troubles; each was tried with most of four losses."""
    rng = np.random.default_rng(seed)
    records = []
    for n in range(cases):
        trouble = ("clean", "symmetric", "imbalance")[n // 3 % 3]
        moments = {}
        for progress in (0.01, 0.05, 0.2):
            values = rng.normal(scale=0.3, size=SIZE).astype(np.float32)
            values[20] += trouble == "symmetric"
            values[30] += trouble == "imbalance"
            moments[progress] = values
        usual = {"clean": 0.0, "symmetric": 0.06, "imbalance": -0.05}[trouble]
        gains = {
            name: float(rng.normal(scale=0.02) + usual * (1 if name == "mae" else -1))
            for name in FOUR
            if rng.random() > missing
        }
        encoder = ("mlp", "textcnn")[n % 2]
        records.append(
            record(gains or {"mae": 0.0}, moments, source=f"source {n % 3}", encoder=encoder, trouble=trouble, seed=n)
        )
    return Experience.of(records)


def same(first: Experience, second: Experience) -> bool:
    """True where two experiences are equal bit for bit."""
    columns = [(first.columns[name], second.columns[name]) for name in first.columns]
    rest = ("moment_case", "progress", "contexts", "outcome_case", "outcome_loss", "gain", "error", "repeats")
    columns += [(getattr(first, name), getattr(second, name)) for name in rest]
    alike = all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in columns)
    return alike and dict(first.names) == dict(second.names) and set(first.columns) == set(second.columns)
