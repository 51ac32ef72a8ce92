"""Plan of a collection: parts of stacked trainings and of Latin squares, from a YAML file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lossrag.checks import check_choice, check_least, check_positive, require
from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.bank.collect.pools import sources_of
from lossrag.experiments.bank.collect.troubles import CLASS_TROUBLES, VALUE_TROUBLES
from lossrag.experiments.config.compose import MAX_SEED, build
from lossrag.experiments.config.groups import CONF_DIR
from lossrag.experiments.config.identity import Settings
from lossrag.experiments.config.paths import SUFFIXES
from lossrag.experiments.config.yaml_file import read_yaml
from lossrag.files import expanded
from lossrag.lossbank import LOSSES
from lossrag.lossbank.library.contract import TARGET_KINDS
from lossrag.streams import Stream, generator

SECTIONS = ("stacked", "squares")
FOLDER = CONF_DIR / "collect"


@dataclass(frozen=True)
class Stacked:
    """Trainings with all losses of the library that work row by row, side by side on fixed features.

    cases: tasks with a trouble each. encoder: ``mlp`` with ``hidden`` units, or ``bert_frozen``, a linear head.
    sources: how often each comes, by name; troubles: the same. classes: a range of how many a case takes out of a
    source with more than three. repeats: pairs of starts and batches, the same for all losses. per_shard: cases in a
    file.
    """

    cases: int = 0
    encoder: str = "mlp"
    kind: str = "classification"
    sources: dict[str, float] = field(default_factory=dict)
    troubles: dict[str, float] = field(default_factory=dict)
    classes: list[int] = field(default_factory=lambda: [2, 10])
    repeats: int = 3
    steps: int = 360
    batch_size: int = 64
    hidden: int = 64
    lr: float = 0.003
    per_shard: int = 10

    def __post_init__(self) -> None:
        check_choice(self, "encoder", ("mlp", "bert_frozen"))
        check_choice(self, "kind", TARGET_KINDS)
        check_least(self, 1, "cases", "repeats", "steps", "batch_size", "hidden", "per_shard")
        check_positive(self, "lr")
        _check_range(self, "classes", 1, math.inf)
        _check_weights(self, "sources", sources_of(self.encoder, self.kind))
        _check_weights(self, "troubles", CLASS_TROUBLES if self.kind == "classification" else VALUE_TROUBLES)

    @property
    def shards(self) -> int:
        return -(-self.cases // self.per_shard)


@dataclass(frozen=True)
class Squares:
    """Latin squares of `lossrag train`: L runs in which every task meets each of L losses once, under a trouble of its
    own.

    experiment: the preset. tasks: how many it has. losses: the reference first. squares: how many. overrides: of all.
    troubles: how often each comes, by name. rates, ratios: the ranges of their strengths.
    """

    squares: int = 0
    experiment: str = ""
    losses: list[str] = field(default_factory=list)
    troubles: dict[str, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=lambda: [0.2, 0.4])
    ratios: list[float] = field(default_factory=lambda: [5.0, 20.0])
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_least(self, 1, "squares")
        for name in self.losses:
            LOSSES[name]
        require(len(self.losses) > 1, self, "{losses} needs two at least, the reference first.")
        _check_range(self, "rates", 0, 1)
        _check_range(self, "ratios", 1, math.inf)
        _check_weights(self, "troubles", CLASS_TROUBLES)

    @property
    def shards(self) -> int:
        return self.squares


def _check_range(options: Stacked | Squares, field: str, above: float, below: float) -> None:
    given = getattr(options, field)
    fits = len(given) == 2 and above < given[0] <= given[1] < below
    require(fits, options, f"{{{field}}} is a range, [lowest, highest] between {above} and {below}, got {given}.")


def _check_weights(options: Stacked | Squares, field: str, known: Iterable[str]) -> None:
    weights = getattr(options, field)
    require(sum(weights.values()) > 0 and min(weights.values()) >= 0, options, f"{{{field}}} needs positive weights.")
    for name in weights:
        require(name in known, options, f"{{{field}}} has {name!r}, which there is not: {did_you_mean(name, known)}")


Part = Stacked | Squares


@dataclass(frozen=True)
class CollectPlan:
    """seed: of every draw. parts: by name."""

    name: str
    seed: int
    parts: Mapping[str, Part]

    def chance(self, part: str, *place: int) -> np.random.Generator:
        """Random numbers of a part at a place; other parts, and how many there are, make no difference."""
        own = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big")
        return generator(self.seed, Stream.COLLECT, own, *place)


def load_collect_plan(name: str) -> CollectPlan:
    """The plan in experiments/conf/collect of this name, or of a file ``mine.yaml``; raises ConfigError for what is
    none."""
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    path = expanded(name, "plan") if name.endswith(SUFFIXES) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and name not in known:
        raise ConfigError(
            f"Unknown plan of a collection {name!r} (one of your own ends in .yaml): {did_you_mean(name, known)}"
        )
    values = read_yaml(path, "The plan")
    if not set(values) <= {"seed", *SECTIONS}:
        raise ConfigError(f"The plan {path} has a seed, and parts by name under {' and '.join(SECTIONS)}.")
    seed = values.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"The plan {path}: seed must be a whole number from 0 to {MAX_SEED}, got {seed!r}.")
    parts: dict[str, Part] = {}
    for section in SECTIONS:
        entries = values.get(section) or {}
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values() if entry):
            raise ConfigError(f"The plan {path}: {section} holds parts by name, and a part its settings.")
        for part, entry in entries.items():
            if part in parts:
                raise ConfigError(f"The plan {path} has two parts called {part}.")
            parts[str(part)] = _part(section, entry or {}, f"plan {path.stem}: {part}")
    return CollectPlan(path.stem, seed, parts)


def _part(section: str, entry: Settings, where: str) -> Part:
    return build(Stacked, entry, where) if section == "stacked" else build(Squares, entry, where)


def shard_path(folder: Path, part: str, number: int) -> Path:
    """The file of a shard of a part: an experience of a few cases."""
    return folder / "shards" / f"{part}-{number:04d}.safetensors"
