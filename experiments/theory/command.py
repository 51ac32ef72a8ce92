"""`lossrag theory run=DIR`: the paper's theorems beside the measured gaps of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from lossrag.checks import check_choice, check_least, require
from lossrag.errors import CheckpointError, ConfigError
from lossrag.experiments.config.compose import build, build_config
from lossrag.experiments.config.library import changes, load_library
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.record.checkpoint import load_checkpoint, unpack
from lossrag.experiments.record.descent import descent_sentence
from lossrag.experiments.record.finished import load_runs
from lossrag.experiments.record.progress import say
from lossrag.experiments.run.build import build_problem, build_suite, trains_on_query
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.theory.measure import BOUNDED, bounded_losses, classifications, estimate_complexity
from lossrag.experiments.theory.report import theory_report, theory_sentences, theory_table
from lossrag.files import expanded
from lossrag.proof import write_proven


@dataclass(frozen=True)
class TheoryOptions:
    """run: a finished run's directory. loss: ``one_minus_p`` or ``zero_one``. delta: how often a bound may fail.

    draws: of the random signs, with a model each. epochs: of training on them.
    library: Python files of one's own that the run was trained with.
    """

    run: str = ""
    loss: str = "one_minus_p"
    delta: float = 0.05
    draws: int = 2
    epochs: int = 10
    library: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.run:
            raise ConfigError("lossrag theory needs a finished run: say run=DIR, e.g. run=runs/RUN.")
        check_choice(self, "loss", BOUNDED)
        require(0 < self.delta < 1, self, f"{{delta}} must be in (0, 1), got {self.delta}.")
        check_least(self, 1, "draws", "epochs")


def theory(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag theory` with these arguments; the exit code."""
    options: TheoryOptions = build(TheoryOptions, plain_values(arguments), "theory")
    load_library(options.library)
    path = expanded(options.run, "run")
    runs, _ = load_runs([path])
    if not runs:
        raise ConfigError(f"{path} is not finished: resume it with the command that started it.")
    (run,) = runs
    config = build_config(run.settings)
    for note in changes(run.settings.get("library") or {}):
        say(console, note)
    device, _ = apply_machine(config.machine)
    suite = build_suite(config)
    if suite.edition != run.summary["edition"]:
        raise CheckpointError(
            f"{path} was trained on other data:\n  then: {run.summary['edition']}\n  now:  {suite.edition}\n"
            "Restore the data."
        )
    problem = build_problem(config, suite, device)
    tensors, _ = load_checkpoint(path / "checkpoints" / "best.safetensors")
    problem.model.load_state_dict(unpack("model", tensors))
    tasks = classifications(suite)
    losses = {split: bounded_losses(problem, split, options.loss) for split in ("support", "query", "test")}
    draws = estimate_complexity(config, suite, device, options.loss, options.draws, options.epochs)
    theorems = theory_report(
        [suite.task_names[t] for t in tasks],
        {split: [float(own.mean()) for own in values] for split, values in losses.items()},
        {split: [len(own) for own in values] for split, values in losses.items()},
        draws,
        options.delta,
        suite.shared_input,
        trains_on_query(config),
    )
    first = run.summary.get("theorem_1")
    report = {"run_id": run.summary["run_id"], "loss": options.loss, "theorem_1": first, **theorems}
    write_proven(path, {"theory.json": json.dumps(report, indent=2).encode() + b"\n"})
    console.print(theory_table(report))
    lines = theory_sentences(report)
    lines.insert(0, descent_sentence(first) if first else "theorem 1 is about runs with an outer problem: none here")
    if left_out := [name for t, name in enumerate(suite.task_names) if t not in tasks]:
        lines.append(f"left out: {', '.join(left_out)}, whose loss has no bound")
    if config.train.refit:
        lines.append("the model is that of the chosen epoch, before the refit")
    for line in [*lines, f"numbers   {path}/theory.json"]:
        say(console, line)
    return 0
