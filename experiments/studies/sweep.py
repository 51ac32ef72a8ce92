"""`lossrag sweep`: one key of the configuration over several values and seeds, runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values, written
from lossrag.experiments.config.paths import library_override
from lossrag.experiments.config.presets import flag_of, split_flags
from lossrag.experiments.studies.launchers.options import with_launcher
from lossrag.experiments.studies.plan import Plan, Row, Run, distinct, distinct_seeds
from lossrag.experiments.studies.report import means_table
from lossrag.experiments.studies.results import Results, runs_csv
from lossrag.experiments.studies.study import Study, StudyOptions
from lossrag.files import expanded


@dataclass(frozen=True)
class SweepOptions(StudyOptions):
    """key: a dotted key of the configuration. values: what it is set to. seeds: of every value.

    root: where the runs go, in a folder of the key's name.
    """

    key: str = ""
    values: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    root: str = "runs/sweep"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.key:
            raise ConfigError("lossrag sweep needs a key, e.g. key=tasks.rho")
        if self.key == "library":
            raise ConfigError("key=library: files of your own hold for all runs of a sweep, library=[my.py].")
        if self.key == "seed" and not all(isinstance(value, int) for value in self.values):
            raise ConfigError(f"key=seed takes whole numbers, got values={self.values}: write values=[0,1]")


def sweep(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag sweep` with these arguments; the exit code, 1 when a run failed."""
    names = {option.name for option in fields(SweepOptions)}
    own = [argument for argument in arguments if argument.partition("=")[0].partition(".")[0] in names]
    options: SweepOptions = build(SweepOptions, plain_values(with_launcher(own)), "sweep")
    words, folder = split_flags([argument for argument in arguments if argument not in own])
    overrides = [*library_override(options.library), *flag_of(folder), *words]
    plan = sweep_plan(options, overrides)
    study = Study(plan, options, console)
    pairs = [(row, seed) for row in plan.rows for seed in plan.seeds]
    if options.key == "seed":  # each of them is a row of one run
        pairs = [(row, seed) for row, seed in pairs if row == str(seed)]
    jobs = study.jobs([Run("", row, (), seed) for row, seed in pairs])
    if study.shown(jobs):
        return 0
    with study.claimed():
        summaries = study.run(jobs)
    runs = {(run.row, run.seed): summary for run, summary in summaries.items() if summary is not None}
    results = Results(list(plan.rows), plan.seeds, runs)
    scores = {row: list(by_seed.values()) for row, by_seed in results.scores.items()}
    table = means_table("value", scores, options.key)
    text = runs_csv([options.key, "seed"], [((run.row, run.seed), summary) for run, summary in summaries.items()])
    code = study.end({"sweep.csv": text}, [table])
    study.say(f"figures   lossrag figures root={plan.folder}")
    return code


def sweep_plan(options: SweepOptions, overrides: Sequence[str]) -> Plan:
    """A row for each value, named by it; ``overrides`` go to every run, the experiment among them."""
    values = map(written, distinct("values", options.values))
    rows = {value: Row((f"{options.key}={value}",)) for value in values}
    folder = expanded(options.root, "root") / options.key
    seeds = options.values if options.key == "seed" else options.seeds
    return Plan(options.key, folder, ("",), rows, distinct_seeds(seeds), overrides=tuple(overrides))
