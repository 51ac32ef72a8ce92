"""Finished runs on disk: the one reader of summary.json, and the groups that belong together in a figure."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError, RunDirectoryError
from lossrag.experiments.config.compose import MAX_SEED
from lossrag.experiments.config.identity import flatten, identity
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.settings import read_settings
from lossrag.experiments.record.versions import refuse_newer
from lossrag.files import MIB
from lossrag.proof import DamagedFile, read_proven
from lossrag.schema import COUNT, FINITE, POSITIVE, SHARE, Unfit, Within, check_schema
from lossrag.tasks import METRICS

Summary = Mapping[str, Any]
"""Content of a summary.json."""
SCHEMA = {
    **dict.fromkeys(("run_id", "suite", "edition", "weighting"), str),
    "preset": (str, None),
    "seed": Within(0, MAX_SEED, whole=True),
    "metric": {str: str},
    **{key: {str: FINITE} for key in ("test_accuracy", "test_r2", "test_loss", "task_weights")},
    "test_accuracy_mean": (FINITE, None),
    **dict.fromkeys(("test_score_mean", "validation_score_mean"), FINITE),
    **dict.fromkeys(("best_epoch", "epochs"), POSITIVE),
    "refit": bool,
    "seconds": Within(0, 1e12),
    "versions": {"lossrag": str},
    "library?": [str],
    "lower_is_better?": [str],
    "compositions?": {str: {str: SHARE}},
    "off?": {str: [str]},
    "reasons?": {str: str},
    "bank_sources?": [str],
    "steadiness?": {"asked_at": (SHARE, None), "composed_at": (SHARE, None), "moved": {str: SHARE}},
    "parent?": {"directory": str, "run_id": str, "epoch": COUNT},
    "theorem_1?": {"steps": Within(0, 1e12), "min_norm": SHARE, "common_descent": SHARE},
}
"""What a summary.json holds: scripts may rely on the keys that end without a question mark. Runs of earlier versions
lack ``library`` and ``lower_is_better``; what else may be absent is of runs that have it."""
LABELS = {
    "single_task": "STL",
    "uniform": "Uniform",
    "mgda": "MGDA",
    "mgda_ub": "MGDA-UB",
    "gradnorm": "GradNorm",
    "uncertainty": "Uncertainty",
    "tchebycheff": "Tchebycheff",
    "bandit_mtl": "BanditMTL",
    "dwa": "DWA",
    "random": "RLW",
    "dtp": "DTP",
    "fixed": "Fixed",
    "pareto_mtl": "Pareto MTL",
    "epo": "EPO",
    "multi_dds": "MultiDDS",
    "metaweighting": "MetaWeighting",
}
"""Names of the methods in figures, in the order of the paper's legends; others stand before MetaWeighting."""
ADVERSARIAL = {"Uniform": "AdvMTL", "Tchebycheff": "TchebycheffAdv"}


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary.json of a run directory, None where its run has not finished; ``directory`` is where it lies now.

    Raises RunDirectoryError for a damaged one, and for one of a newer version.
    """
    path = directory / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(read_proven(path, MIB))
        versions = summary.get("versions") if isinstance(summary, dict) else None
        refuse_newer(path, versions.get("lossrag") if isinstance(versions, dict) else None)
        check_schema(summary, SCHEMA)
        _check_tasks(summary)
    except (OSError, DamagedFile, ValueError, RecursionError) as reason:
        raise RunDirectoryError(
            f"{path} is damaged: delete it, and the same command writes it anew from the last checkpoint ({reason})."
        ) from None
    return {**summary, "directory": str(directory)}


def _check_tasks(summary: Mapping[str, Any]) -> None:
    """Raise Unfit unless a summary tells the same of each of its tasks."""
    tasks = summary["metric"].keys()
    if not tasks:
        raise Unfit("it names no task")
    parts = {key: summary[key].keys() for key in ("test_loss", "task_weights")}
    parts["test_accuracy and test_r2"] = summary["test_accuracy"].keys() | summary["test_r2"].keys()
    for key, names in parts.items():
        if names != tasks:
            raise Unfit(f"{key} must be of the tasks {', '.join(tasks)}, not of {', '.join(names) or 'none'}")
    composed, off = (summary.get(key, {}).keys() for key in ("compositions", "off"))
    if not composed <= tasks or not composed <= off:
        raise Unfit(f"compositions must be of its tasks, and off of those, not of {', '.join(composed ^ off)}")
    steady = summary.get("steadiness")
    if steady is not None and "bank_sources" not in summary:
        raise Unfit("bank_sources is missing, which steadiness is about")
    if steady is not None and steady["asked_at"] is None and steady["moved"]:
        raise Unfit("steadiness.asked_at must be a number where compositions moved")


def method_label(settings: Mapping[str, Any]) -> str:
    """The name of a run's method: the weighting, and what else makes it a method of its own.

    >>> method_label({"weighting": {"name": "mgda"}, "model": {}, "loss": {"policy": "retrieval"}})
    'MGDA, retrieval losses'
    """
    name = str(settings["weighting"]["name"])
    label = LABELS.get(name, name)
    if settings["model"].get("adversarial", 0):
        label = ADVERSARIAL.get(label, f"{label}, adversarial")
    policy = settings["loss"].get("policy", "fixed")
    return label if policy == "fixed" else f"{label}, {policy} losses"


def task_score(summary: Mapping[str, Any], task: str) -> float:
    """The test score of a task, in its own metric."""
    return float({**summary["test_accuracy"], **summary["test_r2"]}[task])


def lower_is_better(summary: Mapping[str, Any], task: str) -> bool:
    """True where the score of a task is an error, such as mae."""
    if "lower_is_better" in summary:
        return task in summary["lower_is_better"]
    # the run is older than the key: a metric of its own was then a score that this process may not know
    name = summary["metric"][task]
    return name in METRICS and not METRICS[name].higher


@dataclass(frozen=True)
class FinishedRun:
    """A run directory that holds a summary: ``settings`` from its config.yaml, ``summary`` from its summary.json."""

    path: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """All logged points of metrics.jsonl, oldest first; none without the file."""
        path = self.path / "metrics.jsonl"
        return read_points(path, ended=True) if path.exists() else []

    @cached_property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide its results, by dotted key, but for its seeds."""
        settings = flatten(identity(self.settings))
        return {key: value for key, value in settings.items() if key.rsplit(".", 1)[-1] != "seed"}

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names, in the order of the suite."""
        return tuple(self.summary["metric"])

    @property
    def method(self) -> str:
        """Its name in figures."""
        return method_label(self.settings)

    @property
    def problem(self) -> tuple[str, ...]:
        """Suite, edition or file if it has several, and encoder: runs of different ones are never in one panel."""
        tasks = self.settings["tasks"]
        data = tasks.get("data")
        data = data.get("train") if isinstance(data, Mapping) else data
        file = Path(data).stem if isinstance(data, str) else ""  # a suite of one's own may have other data
        parts = (tasks["name"], tasks.get("edition") or file, self.settings["model"]["name"])
        return tuple(str(part) for part in parts if part)

    def score(self, task: str) -> float:
        """Its test score in the metric of the task."""
        return task_score(self.summary, task)

    def lower_is_better(self, task: str) -> bool:
        """True where the score of a task is an error, such as mae."""
        return lower_is_better(self.summary, task)


def load_runs(directories: Iterable[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """The finished runs among run directories, one of each configuration, and the directories of the others.

    Raises ConfigError for a folder that is no run directory, RunDirectoryError for a damaged one.
    """
    runs: dict[str, FinishedRun] = {}
    unfinished = []
    for path in directories:
        settings = read_settings(path)
        summary = read_summary(path)
        if summary is None:
            unfinished.append(path)
            continue
        runs.setdefault(str(summary["run_id"]), FinishedRun(path, settings, summary))
    return list(runs.values()), unfinished


def is_begun(directory: Path) -> bool:
    """True where anything was trained in a run directory; a run that broke off before left its config.yaml alone."""
    metrics = directory / "metrics.jsonl"
    return (directory / "summary.json").exists() or (metrics.exists() and metrics.stat().st_size > 0)


def run_directories(root: Path) -> tuple[list[Path], int]:
    """All run directories below ``root``, itself included, in which a run was begun, but for those by which `lossrag
    compare` only chose settings; and how many those are. Raises ConfigError when there is no run."""
    begun = sorted(path.parent for path in root.rglob("config.yaml") if is_begun(path.parent))
    if not begun:
        raise ConfigError(f"There is no run in {root}: name a folder that holds run directories, e.g. root=runs")
    tuning = {table.parent / run for table in root.rglob("tuning.csv") for run in _tuning_only(table)}
    kept = [path for path in begun if path not in tuning]
    return kept, len(begun) - len(kept)


def _tuning_only(table: Path) -> set[str]:
    tested = table.with_name("runs.csv")
    return _run_ids(table) - (_run_ids(tested) if tested.exists() else set())


def _run_ids(table: Path) -> set[str]:
    try:
        text = read_proven(table).decode()
        return {row.get("run_id") or "" for row in csv.DictReader(io.StringIO(text, newline=""))}
    except (OSError, DamagedFile, ValueError, csv.Error) as reason:
        raise RunDirectoryError(f"{table} is damaged ({reason}): the command that wrote it writes it anew.") from None


def by_problem(runs: Iterable[FinishedRun]) -> dict[tuple[str, ...], list[FinishedRun]]:
    """Runs of the same suite, edition and encoder."""
    groups: dict[tuple[str, ...], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.problem, []).append(run)
    return dict(sorted(groups.items()))


def by_method(runs: Iterable[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs of the same method, by seed; the methods in the order of the paper's legends, MetaWeighting last."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.method, []).append(run)
    order = ["STL", "Uniform", "AdvMTL", *LABELS.values()]
    place = {name: order.index(name) for name in order}
    place |= {"TchebycheffAdv": place["Tchebycheff"], "MetaWeighting": len(order) + 1}
    return dict(sorted(groups.items(), key=lambda item: (place.get(item[0], len(order)), item[0])))


def main_setting(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], dict[str, Any], int]:
    """The runs of one setting among those of one method, for figures that compare methods: the setting with most runs
    and, if there are several, that whose values the others share most often, as the middle of a sweep does.

    Also returned: the values of that setting in which others differ, and the number of runs left out.
    """
    keys = varying(runs)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(repr([run.deciding.get(key) for key in keys]), []).append(run)
    shared = {key: Counter(repr(run.deciding.get(key)) for run in runs) for key in keys}

    def rank(group: list[FinishedRun]) -> tuple[int, int]:
        return len(group), sum(shared[key][repr(group[0].deciding.get(key))] for key in keys)

    chosen = max(groups.values(), key=rank)
    return chosen, {key: chosen[0].deciding.get(key) for key in keys}, len(runs) - len(chosen)


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """The dotted keys, seeds aside, in which runs differ."""
    keys = sorted({key for run in runs for key in run.deciding})
    return [key for key in keys if len({repr(run.deciding.get(key)) for run in runs}) > 1]
