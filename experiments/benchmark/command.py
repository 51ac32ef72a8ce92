"""Run the benchmark of a subject, print its table, write benchmark.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from experiments.benchmark.frank_wolfe import FrankWolfeBenchmark, run_frank_wolfe
from experiments.benchmark.result import Result
from experiments.benchmark.step import StepBenchmark, run_step
from experiments.benchmark.textcnn import TextCNNBenchmark, run_textcnn
from experiments.checkpoint import write_atomic
from experiments.config.compose import build
from lossrag import ConfigError, Registry


@dataclass(frozen=True)
class Subject:
    """The options of a benchmark and the function that runs it."""

    options: type[Any]
    run: Callable[[Any], list[Result]]


SUBJECTS: Registry[Subject] = Registry("benchmark subject")
SUBJECTS.add("step", Subject(StepBenchmark, run_step))
SUBJECTS.add("textcnn", Subject(TextCNNBenchmark, run_textcnn))
SUBJECTS.add("frank_wolfe", Subject(FrankWolfeBenchmark, run_frank_wolfe))


def benchmark(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag benchmark` with these arguments; the exit code."""
    if not arguments or not {"-h", "--help"}.isdisjoint(arguments):
        console.print(_help(), highlight=False, markup=False)
        return 0
    subject = SUBJECTS[arguments[0]]
    values = _values(arguments[1:])
    output = Path(str(values.pop("output", "benchmark.json")))
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigError(f"Cannot write output={output}: name a file in a folder that exists and can be written.")
    for option in fields(subject.options):
        # one number will do for a list of them
        if isinstance(option.default, tuple) and isinstance(values.get(option.name), int):
            values[option.name] = [values[option.name]]
    results = subject.run(build(subject.options, values, arguments[0]))
    console.print(_table(arguments[0], results))
    write_atomic(output, json.dumps([result.as_dict() for result in results], indent=2).encode() + b"\n")
    console.print(f"written to {output}", highlight=False)
    return 0


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"Cannot read {override!r}: write key=value, e.g. pairs=5")
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"Cannot read the overrides: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _table(subject: str, results: Sequence[Result]) -> Table:
    table = Table(title=f"benchmark {subject}: medians of paired ratios")
    columns = list(dict.fromkeys(key for result in results for key in result.more))
    for name in ("case", "ratio", "spread", "unit", *columns):
        table.add_column(name.replace("_", " "), justify="left" if name in ("case", "unit") else "right")
    for result in results:
        more = [str(result.more.get(key, "")) for key in columns]
        table.add_row(result.case, f"{result.ratio:.3f}", f"{result.spread:.3f}", result.unit, *more)
    return table


def _help() -> str:
    lines = ["lossrag benchmark SUBJECT [key=value ...] [output=benchmark.json]", ""]
    for name, subject in SUBJECTS.items():
        defaults = "  ".join(f"{name}={value}".replace(" ", "") for name, value in asdict(subject.options()).items())
        lines.append(f"  {name}: {(subject.run.__doc__ or '').splitlines()[0]}\n      {defaults}")
    return "\n".join(lines)
