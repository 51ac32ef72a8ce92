"""`lossrag evaluate run=DIR data=FILE`: scores of a finished run on other rows, whose targets are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from lossrag.experiments.record.progress import say
from lossrag.experiments.record.summary import score_table
from lossrag.experiments.trained.options import DataOptions, opened, parsed
from lossrag.experiments.trained.predictions import check_suffix, write_result
from lossrag.files import expanded


@dataclass(frozen=True)
class EvaluateOptions(DataOptions):
    """vectors: the .npy file of the inputs of the rows, of a run that was trained on one."""

    vectors: str | None = None


def evaluate(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag evaluate` with these arguments; the exit code."""
    options = parsed(EvaluateOptions, arguments, "evaluate")
    output = None if options.output is None else expanded(options.output, "output")
    if output is not None:
        check_suffix(output, (".json",))
    run, machine = opened(options, console, options.device)
    vectors = None if options.vectors is None else expanded(options.vectors, "vectors")
    found = run.evaluate(expanded(options.data, "data"), vectors, options.delimiter, options.encoding)
    names = [task.name for task in found.tasks]
    metrics = {task.name: task.metric for task in found.tasks}
    rows = dict(zip(names, found.rows, strict=True))
    scores = dict(zip(names, found.evaluation.scores.tolist(), strict=True))
    losses = dict(zip(names, found.evaluation.losses.tolist(), strict=True))
    mean = found.evaluation.score_mean
    if output is not None:
        about = {"run_id": run.description.run_id, "data": options.data, "metric": metrics, "rows": rows}
        content = {**about, "score": scores, "loss": losses, "score_mean": mean}
        write_result(output, json.dumps(content, indent=2).encode() + b"\n")
    say(console, f"{run.path}, epoch {run.description.epoch}, {machine}")
    for note in found.notes:
        say(console, f"  {note}")
    title = f"{run.summary['weighting']} on {run.summary['suite']}: {options.data}"
    counts = {name: f"{count:,}" for name, count in rows.items()}
    console.print(score_table(title, metrics, scores, losses, mean, rows=counts))
    if output is not None:
        say(console, f"scores   {output}")
    return 0
