"""Cost of a bank: what a question takes, and how many of the nearest cases it finds, by the number of moments."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import faiss
import numpy as np

from lossrag.checks import check_least
from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.paired import Result
from lossrag.lossbank import CONTEXT_NAMES, LOSSES
from lossrag.lossbank.experience.bank import LossBank
from lossrag.lossbank.experience.files import save_experience
from lossrag.lossbank.experience.neighbours import Moments
from lossrag.lossbank.experience.questions import Question
from lossrag.lossbank.experience.trials import (
    REAL,
    TEXTS,
    WHOLE,
    CaseRecord,
    Experience,
    Outcome,
)

Value = TypeVar("Value")
PER_CASE = 5
"""Moments of a case."""
TRIED = 12
"""Losses that a case was tried with."""
LATENT = 8
"""Dimensions in which contexts truly differ; the rest is noise of half their size."""


@dataclass(frozen=True)
class BankBenchmark:
    """Options of `lossrag benchmark bank`: numbers of moments; a bank of each is asked so many ``questions`` about
    ``losses`` losses, and how many of the ``near`` nearest cases it finds is counted."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    questions: int = 200
    losses: int = 32
    near: int = 15
    threads: int = 1

    def __post_init__(self) -> None:
        check_least(self, 1, "questions", "losses", "near", "threads")
        if not self.sizes or min(self.sizes) < 100 * PER_CASE:
            raise ConfigError(f"bank.sizes must list numbers from {100 * PER_CASE} up, got {self.sizes}.")


def run_bank(options: BankBenchmark) -> list[Result]:
    """A row for every number of moments."""
    return [_measured(options, size) for size in options.sizes]


def _measured(options: BankBenchmark, size: int) -> Result:
    known, asked = made_up(size, 0), made_up(PER_CASE * options.questions, 1)
    names = [name for name, loss in LOSSES.items() if loss.target_kind == "classification"][: options.losses]
    questions = [
        Question(context, float(progress), "mlp", "classification", names)
        for context, progress in zip(asked.contexts[::PER_CASE], asked.progress[::PER_CASE], strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bank.safetensors")
        save_experience(path, known)
        bank, load = _timed(partial(LossBank.load, path))
    _, first = _timed(partial(bank.ask, questions[0]))
    milliseconds = [1000 * _timed(partial(bank.ask, question))[1] for question in questions]
    space = bank.moments("classification", "mlp")
    recall = _recall(space, questions, options.near)
    fresh = CaseRecord(replace(known.case(0), task="new"), {0.05: known.contexts[-1]}, {names[0]: Outcome(0.01)})
    _, adding = _timed(partial(bank.add, [fresh]))
    figures = {
        "p50_ms": round(median(milliseconds), 3),
        "p95_ms": round(float(np.quantile(milliseconds, 0.95)), 3),
        f"recall@{options.near}": round(recall, 4),
        "load_s": round(load, 3),
        "first_s": round(first, 3),
        "add_s": round(adding, 3),
        "built_anew": bank.moments("classification", "mlp") is not space,
    }
    return Result("bank", f"{size:,} moments", None, None, "a bank", figures)


def _timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """What it returns, and the seconds it takes."""
    start = time.perf_counter()
    value = work()
    return value, time.perf_counter() - start


def _recall(space: Moments, questions: list[Question], near: int) -> float:
    """The mean share of the nearest cases, by an exact search, that the space finds."""
    exact = faiss.IndexFlatL2(space.points.shape[1])
    exact.add(space.points)
    points = np.stack([space.point(np.asarray(q.context), q.progress, q.encoder) for q in questions])
    _, found = exact.search(points, PER_CASE * near)
    shares = []
    for point, places in zip(points, found, strict=True):
        cases = list(dict.fromkeys(space.cases[places].tolist()))[:near]
        shares.append(len(set(cases) & set(space.nearest(point, near).cases.tolist())) / len(cases))
    return float(np.mean(shares))


def made_up(moments: int, seed: int) -> Experience:
    """An experience of so many moments, five a case, whose contexts lie near a surface of few dimensions."""
    rng = np.random.default_rng(seed)
    cases = moments // PER_CASE
    surface = np.random.default_rng(0).normal(size=(LATENT, len(CONTEXT_NAMES)))
    late = np.tile(np.array([0.0, 0.01, 0.02, 0.05, 0.15], np.float32), cases)
    latent = np.repeat(rng.normal(size=(cases, LATENT)), PER_CASE, axis=0) + 0.3 * rng.normal(size=(len(late), LATENT))
    contexts = latent @ surface / LATENT + 0.5 * rng.normal(size=(len(late), len(CONTEXT_NAMES))) / LATENT**0.5
    names = dict.fromkeys(TEXTS, ("made up",)) | {
        "source": ("a", "b", "c"),
        "encoder": ("mlp",),
        "target_kind": ("classification",),
        "trouble": ("clean", "imbalance", "pair", "symmetric"),
        "loss": tuple(name for name, loss in LOSSES.items() if loss.target_kind == "classification")[:TRIED],
    }
    columns: dict[str, np.ndarray] = {
        name: rng.integers(len(names[name]), size=cases).astype(np.int32) for name in TEXTS
    }
    columns |= {name: np.full(cases, 100, np.int32) for name in WHOLE} | {"seed": np.arange(cases, dtype=np.int32)}
    columns |= {name: np.full(cases, 0.5, np.float32) for name in REAL} | {"clean": np.ones(cases, np.bool_)}
    trials = cases * TRIED
    return Experience(
        names,
        columns,
        np.repeat(np.arange(cases, dtype=np.int32), PER_CASE),
        late,
        contexts.astype(np.float32),
        np.repeat(np.arange(cases, dtype=np.int32), TRIED),
        np.tile(np.arange(TRIED, dtype=np.int32), cases),
        rng.normal(scale=0.05, size=trials).astype(np.float32),
        np.full(trials, 0.01, np.float32),
        np.full(trials, 3, np.int32),
    )
