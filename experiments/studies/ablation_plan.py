"""What an ablation runs: rows of overrides, each with every seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.studies.transfer import Warm

FOLDER = Path(__file__).parent.parent / "conf" / "ablation"


@dataclass(frozen=True)
class Plan:
    """rows: overrides by name. reference: the row that others are compared with. fixed: rows with a single given loss,
    of which the best in hindsight is the second thing to compare with. also: further pairs of rows to compare. warm:
    the row that starts from the bank of another."""

    name: str
    experiment: str
    reference: str
    seeds: tuple[int, ...]
    rows: dict[str, tuple[str, ...]]
    fixed: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    warm: Warm | None = None

    def command(self, row: str, seed: int, root: Path) -> list[str]:
        """The overrides of `lossrag train` for one run."""
        own = [f"experiment={self.experiment}", *self.overrides, *self.rows[row]]
        if self.warm is not None and row == self.warm.row:
            own.append(f"loss.bank={self.bank(seed, root)}")
        return [*own, f"seed={seed}"]

    def bank(self, seed: int, root: Path) -> Path:
        """The folder of the bank that the warm run of this seed starts from."""
        return root / "banks" / f"for-seed-{seed}"

    def teacher(self, seed: int) -> int:
        """The seed whose run fills that bank: the next one of the plan."""
        return self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]


def plan_names() -> list[str]:
    """The ablations that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_plan(name: str, seeds: list[int] | None = None, rows: list[str] | None = None) -> Plan:
    """The plan of this name, or for some of its ``rows`` and other ``seeds``.

    Raises ConfigError for an unknown name or row.

    >>> load_plan("smoke").command("lossrag", 1, Path("runs"))[0]
    'experiment=digits'
    """
    if name not in plan_names():
        raise ConfigError(f"Unknown ablation {name!r}: {did_you_mean(name, plan_names())}")
    values: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    all_rows = {str(row): tuple(overrides) for row, overrides in values["rows"].items()}
    for row in rows or ():
        if row not in all_rows:
            raise ConfigError(f"Ablation {name} has no row {row!r}: {did_you_mean(row, all_rows)}")
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise ConfigError(f"seeds must be distinct numbers, at least one, got {seeds}.")
    reference = values["reference"]
    kept = {row: all_rows[row] for row in all_rows if rows is None or row in rows or row == reference}
    fixed = tuple(row for row in values["fixed"] if row in kept)
    also = tuple((a, b) for a, b in values.get("also", ()) if a in kept and b in kept)
    warm = Warm(**{**values["warm"], "tasks": tuple(values["warm"]["tasks"])}) if "warm" in values else None
    return Plan(
        name,
        values["experiment"],
        reference,
        tuple(seeds or values["seeds"]),
        kept,
        fixed,
        tuple(values.get("overrides", ())),
        also,
        warm if warm and {warm.row, warm.source} <= kept.keys() else None,
    )
