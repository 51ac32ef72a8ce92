"""Plan of a study: rows of settings by experiments by seeds, and the command line of every run in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.compose import MAX_SEED, build
from lossrag.experiments.config.groups import yaml_names
from lossrag.experiments.config.overrides import written
from lossrag.experiments.config.paths import SUFFIXES, library_override
from lossrag.experiments.config.presets import flag_of
from lossrag.experiments.config.yaml_file import read_yaml
from lossrag.files import expanded

FOLDER = Path(__file__).parent.parent / "conf"
Setting = tuple[str, ...]
"""The overrides that tuning chooses; empty for the preset's own values."""
MOST_SETTINGS = 10_000
"""Settings of a method that are made before they are counted."""


@dataclass(frozen=True)
class Tuning:
    """seed: of the tuning runs. runs: how many every row gets. learning_rates: with knobs, and without."""

    seed: int
    runs: int
    learning_rates: list[float]
    learning_rates_without_knobs: list[float]


@dataclass(frozen=True)
class RowFile:
    """weighting: of a method, unless it is its name. overrides: what it needs. suites: what it needs on one of the
    experiments alone, as a number for each task. knobs: its own options to be tuned."""

    weighting: str | None = None
    overrides: list[str] = field(default_factory=list)
    suites: dict[str, list[str]] = field(default_factory=dict)
    knobs: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanFile:
    """A file in experiments/conf/compare, or of one's own (docs/compare.md), but for its rows and its tuning. library:
    Python files of one's own, which all of its runs run first."""

    experiments: list[str]
    seeds: list[int]
    reference: str = "uniform"
    overrides: list[str] = field(default_factory=list)
    library: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AblationFile(PlanFile):
    """A file in experiments/conf/ablation, or of one's own, with one experiment. fixed: rows with a single given loss,
    of which the best in hindsight is the second thing to compare with. also: further pairs of rows to compare."""

    fixed: list[str] = field(default_factory=list)
    also: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A row of the table: its overrides, those for a suite alone, and the settings it is tuned over."""

    overrides: tuple[str, ...]
    suites: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run of a plan: a row on a suite, with a setting that tuning tries or has chosen, and a seed."""

    suite: str
    row: str
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """For its log."""
        parts = (self.suite, self.row, label(self.setting) if self.setting else "", f"s{self.seed}")
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Plan:
    """folder: where runs and tables go. suites: experiment presets; "" is the default one. reference: the row that
    others are compared with. rivals: the rows of which the best is the second thing to compare with. also: as in an
    :class:`AblationFile`. source: its file."""

    name: str
    folder: Path
    suites: tuple[str, ...]
    rows: Mapping[str, Row]
    seeds: tuple[int, ...]
    reference: str = ""
    overrides: tuple[str, ...] = ()
    tuning: Tuning | None = None
    rivals: Sequence[str] = ()
    also: Sequence[Sequence[str]] = ()
    library: Sequence[str] = ()
    source: Path | None = None

    def content(self) -> bytes | None:
        """What its file holds now, None where it has none."""
        return self.source.read_bytes() if self.source is not None and self.source.is_file() else None

    def command(self, run: Run) -> list[str]:
        """The overrides of `lossrag train` for one run."""
        row = self.rows[run.row]
        line = [f"experiment={run.suite}"] if run.suite else []
        line += [*self.overrides, *row.overrides, *row.suites.get(run.suite, ()), *run.setting]
        return [*line, f"seed={run.seed}"]


def label(setting: Setting) -> str:
    """A setting for people: without the sections of its keys.

    >>> label(("optimizer.lr=0.001", "weighting.alpha=0.1"))
    'lr=0.001 alpha=0.1'
    >>> label(())
    'preset'
    """
    return " ".join(map(_short, setting)) or "preset"


def _short(override: str) -> str:
    key, _, value = override.partition("=")
    section, _, option = key.rpartition(".")
    return f"{'weighting.' if (section, option) == ('weighting', 'lr') else ''}{option}={value}"


def plan_names(kind: str) -> list[str]:
    """The plans that there are of a kind, ``compare`` or ``ablation``."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.yaml"))


def distinct(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """These values of a list option; raises ConfigError for none, or for one that comes twice."""
    if not values or len(set(map(str, values))) < len(values):
        raise ConfigError(f"{name} must be distinct, and at least one: write {name}=[...], got {list(values)}.")
    return tuple(values)


def distinct_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """These seeds; raises ConfigError unless they are distinct, at least one, and each possible."""
    if not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise ConfigError(f"seeds must be numbers from 0 to {MAX_SEED}, got {list(seeds)}.")
    return distinct("seeds", seeds)


def load_plan(
    kind: str,
    name: str,
    root: str = "runs",
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    library: Sequence[str] = (),
    folder: Path | None = None,
) -> Plan:
    """The ``compare`` or ``ablation`` plan of this name, or of a file ``mine.yaml``, for all or some of its rows, and
    its own or other seeds; its folder lies in ``root``. library, folder: as in every run's ``library=`` and
    ``--config-dir``.

    The reference always stays. Raises ConfigError for unknown names, and for a plan that does not give every row the
    same number of tuning runs.

    >>> load_plan("compare", "smoke").command(Run("digits", "uniform", ("optimizer.lr=0.01",), 1))[0]
    'experiment=digits'
    """
    own = yaml_names(folder / kind) if folder is not None else []
    if name.endswith(SUFFIXES):
        path = expanded(name, "plan")
    elif folder is not None and name in own:
        path = folder / kind / f"{name}.yaml"
    else:
        path = FOLDER / kind / f"{name}.yaml"
        if name not in plan_names(kind):
            hint = did_you_mean(name, [*plan_names(kind), *own])
            raise ConfigError(f"Unknown {kind} plan {name!r} (one of your own ends in .yaml): {hint}")
    plan = _read(path, AblationFile if kind == "ablation" else PlanFile)
    for row in (plan.reference, *(rows or ())):
        if row not in plan.rows:
            noun = "row" if kind == "ablation" else "method"
            raise ConfigError(f"The plan {path.stem} has no {noun} {row!r}: {did_you_mean(row, plan.rows)}")
    kept = {row: own for row, own in plan.rows.items() if rows is None or row in rows or row == plan.reference}
    return replace(
        plan,
        folder=expanded(root, "root") / path.stem,
        overrides=(*library_override([*plan.library, *library]), *flag_of(folder), *plan.overrides),
        rows=kept,
        seeds=distinct_seeds(plan.seeds if seeds is None else seeds),
        rivals=[row for row in plan.rivals if row in kept],
        also=[pair for pair in plan.also if set(pair) <= kept.keys()],
    )


def _read(path: Path, kind: type[PlanFile]) -> Plan:
    values: Any = read_yaml(path, "The plan")
    where, noun = f"plan {path.stem}", "rows" if kind is AblationFile else "methods"
    if not isinstance(values.get(noun), dict):
        raise ConfigError(f"The plan {path} must name its {noun}, see docs/compare.md.")
    for key in ("experiments", "seeds"):
        if values.get(key) in (None, []):
            raise ConfigError(f"The plan {path} must have {key}, see docs/compare.md.")

    tuned = "tuning" in values and kind is PlanFile
    tuning = build(Tuning, values.pop("tuning") or {}, f"{where}: tuning") if tuned else None
    entries = values.pop(noun)
    file = build(kind, values, where)
    rows = {}
    for name, entry in entries.items():
        own = entry if isinstance(entry, dict) else {"overrides": entry or []}
        # a method has a weighting, most often the one that it is called by
        full = own if kind is AblationFile else {"weighting": str(name), **own}
        rows[str(name)] = _row(name, build(RowFile, full, f"{where}: {name}"), file, tuning, path)
    suites, seeds, overrides = tuple(file.experiments), tuple(file.seeds), tuple(file.overrides)
    if isinstance(file, AblationFile) and (len(file.experiments) != 1 or any(len(pair) != 2 for pair in file.also)):
        raise ConfigError(f"The plan {path}: an ablation has one experiment, and also holds pairs of rows.")
    rivals, also = (file.fixed, file.also) if isinstance(file, AblationFile) else (list(rows), [])
    shape = (suites, rows, seeds, file.reference, overrides, tuning, rivals, also, file.library)
    return Plan(path.stem, path.parent, *shape, path)


def _row(name: str, entry: RowFile, file: PlanFile, tuning: Tuning | None, path: Path) -> Row:
    for suite in entry.suites:
        if suite not in file.experiments:
            raise ConfigError(
                f"The plan {path}: {name} has overrides for {suite!r}, which is none of its experiments: "
                f"{did_you_mean(suite, file.experiments)}"
            )
    overrides = (*([f"weighting={entry.weighting}"] if entry.weighting else []), *entry.overrides)
    if tuning is None:
        if entry.knobs:
            raise ConfigError(f"The plan {path}: {name} has knobs, but the plan has no tuning, see docs/compare.md.")
        return Row(overrides, entry.suites)
    rates = tuning.learning_rates if entry.knobs else tuning.learning_rates_without_knobs
    columns = [[f"optimizer.lr={rate:g}" for rate in rates]]
    columns += [[f"{key}={written(value)}" for value in values] for key, values in entry.knobs.items()]
    count = math.prod(map(len, columns))
    settings = tuple(dict.fromkeys(itertools.product(*columns))) if count <= MOST_SETTINGS else ()
    if len(settings) != tuning.runs:
        raise ConfigError(
            f"The plan {path}: every method gets tuning.runs={tuning.runs} settings, but {name} has "
            f"{len(settings) or count} (learning rates times values of its knobs)."
        )
    return Row(overrides, entry.suites, settings)
