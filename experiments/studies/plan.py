"""What a comparison runs: methods with the settings that each may choose from, suites and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.compose import MAX_SEED, build

FOLDER = Path(__file__).parent.parent / "conf" / "compare"
Setting = tuple[str, ...]
"""The overrides that tuning chooses; empty for the preset's own values."""


@dataclass(frozen=True)
class TuningFile:
    """seed: of the tuning runs. runs: how many every method gets. learning_rates: with knobs, and without."""

    seed: int
    runs: int
    learning_rates: list[float]
    learning_rates_without_knobs: list[float]


@dataclass(frozen=True)
class MethodFile:
    """weighting: unless it is the method's name. overrides: what it needs. suites: what it needs on one of the
    experiments alone, as a number for each task. knobs: its own options to be tuned."""

    weighting: str | None = None
    overrides: list[str] = field(default_factory=list)
    suites: dict[str, list[str]] = field(default_factory=dict)
    knobs: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanFile:
    """A file in experiments/conf/compare, or of one's own (docs/compare.md), but for its methods and its tuning."""

    experiments: list[str]
    seeds: list[int]
    reference: str = "uniform"
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Method:
    """A row of the table: its overrides, those for a suite alone, and the settings it is tuned over."""

    name: str
    overrides: tuple[str, ...]
    suites: Mapping[str, tuple[str, ...]]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Plan:
    """suites: experiment presets. reference: the method that others are compared with. methods: by name, in order.
    tuning_runs: 0 for a plan without tuning, whose methods have no settings to choose from."""

    name: str
    suites: tuple[str, ...]
    reference: str
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    tuning_seed: int
    tuning_runs: int
    overrides: tuple[str, ...] = ()

    def command(self, suite: str, method: str, setting: Setting, seed: int) -> list[str]:
        """The overrides of `lossrag train` for one run."""
        own = self.methods[method]
        needs = (*self.overrides, *own.overrides, *own.suites.get(suite, ()))
        return [f"experiment={suite}", *needs, *setting, f"seed={seed}"]


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


def plan_names() -> list[str]:
    """The comparisons that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_plan(name: str, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> Plan:
    """The plan of this name (or of a file of one's own, ``mine.yaml``), or for some of its methods and other seeds.

    The reference always stays. Raises ConfigError for unknown names, and for a plan that does not give every method
    the same number of tuning runs.

    >>> load_plan("smoke").command("digits", "uniform", ("optimizer.lr=0.01",), 1)[0]
    'experiment=digits'
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and name not in plan_names():
        raise ConfigError(
            f"Unknown comparison {name!r} (a plan of your own ends in .yaml): {did_you_mean(name, plan_names())}"
        )
    file, tuning, methods_file = _read(path)
    found = {method: _method(method, entry, tuning, path) for method, entry in methods_file.items()}
    for method, entry in methods_file.items():
        for suite in entry.suites:
            if suite not in file.experiments:
                raise ConfigError(
                    f"The plan {path}: {method} has overrides for {suite!r}, which is none of its experiments: "
                    f"{did_you_mean(suite, file.experiments)}"
                )
    for method in (file.reference, *(methods or ())):
        if method not in found:
            raise ConfigError(f"Comparison {path.stem} has no method {method!r}: {did_you_mean(method, found)}")
    chosen = file.seeds if seeds is None else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= seed <= MAX_SEED for seed in chosen):
        raise ConfigError(f"seeds must be distinct numbers from 0 to {MAX_SEED}, at least one, got {chosen}.")
    kept = {name: found[name] for name in found if methods is None or name in methods or name == file.reference}
    return Plan(
        path.stem,
        tuple(file.experiments),
        file.reference,
        kept,
        tuple(chosen),
        tuning.seed if tuning else 0,
        tuning.runs if tuning else 0,
        tuple(file.overrides),
    )


def _read(path: Path) -> tuple[PlanFile, TuningFile | None, dict[str, MethodFile]]:
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML and OmegaConf have many ways to stumble over a file
        raise ConfigError(f"The plan {path} cannot be read: {' '.join(str(error).split())}") from None
    where = f"plan {path.stem}"
    if not isinstance(values, dict) or not isinstance(values.get("methods"), dict):
        raise ConfigError(f"The plan {path} must name its methods, see docs/compare.md.")
    for key in ("experiments", "seeds"):
        if values.get(key) in (None, []):
            raise ConfigError(f"The plan {path} must have {key}, see docs/compare.md.")
    methods = {
        str(name): build(MethodFile, entry or {}, f"{where}: {name}") for name, entry in values["methods"].items()
    }
    tuning = build(TuningFile, values["tuning"] or {}, f"{where}: tuning") if "tuning" in values else None
    rest = {key: value for key, value in values.items() if key not in ("methods", "tuning")}
    return build(PlanFile, rest, where), tuning, methods


def _method(name: str, entry: MethodFile, tuning: TuningFile | None, path: Path) -> Method:
    overrides = (f"weighting={entry.weighting or name}", *entry.overrides)
    suites = {suite: tuple(own) for suite, own in entry.suites.items()}
    if tuning is None:
        if entry.knobs:
            raise ConfigError(f"The plan {path}: {name} has knobs, but the plan has no tuning, see docs/compare.md.")
        return Method(name, overrides, suites, ())
    rates = tuning.learning_rates if entry.knobs else tuning.learning_rates_without_knobs
    columns = [[f"optimizer.lr={rate:g}" for rate in rates]]
    columns += [[f"{key}={_written(value)}" for value in values] for key, values in entry.knobs.items()]
    settings = tuple(dict.fromkeys(itertools.product(*columns)))
    if len(settings) != tuning.runs:
        raise ConfigError(
            f"The plan {path}: every method gets tuning.runs={tuning.runs} settings, but {name} has {len(settings)} "
            "(learning rates times values of its knobs)."
        )
    return Method(name, overrides, suites, settings)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
