"""`lossrag benchmark`: the subjects, their tables, and benchmark.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lossrag.errors import ConfigError
from lossrag.experiments.benchmark.bank import BankBenchmark, run_bank
from lossrag.experiments.benchmark.bert import BertBenchmark, run_bert
from lossrag.experiments.benchmark.devices import DevicesBenchmark, run_devices
from lossrag.experiments.benchmark.frank_wolfe import FrankWolfeBenchmark, run_frank_wolfe
from lossrag.experiments.benchmark.loops import LoopsBenchmark, markdown, run_loops
from lossrag.experiments.benchmark.lossbank import LossbankBenchmark, run_lossbank
from lossrag.experiments.benchmark.memory import MemoryBenchmark, run_memory
from lossrag.experiments.benchmark.paired import Result
from lossrag.experiments.benchmark.peers import PeersBenchmark, run_peers
from lossrag.experiments.benchmark.plots import plot_costs
from lossrag.experiments.benchmark.runs import RunsBenchmark, run_runs
from lossrag.experiments.benchmark.scaling import ScalingBenchmark, run_scaling
from lossrag.experiments.benchmark.step import StepBenchmark, run_step
from lossrag.experiments.benchmark.textcnn import TextCNNBenchmark, run_textcnn
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.run.machine import apply_machine
from lossrag.files import check_target, expanded, write_atomic
from lossrag.registry import Registry

SUBJECTS: Registry[tuple[type[Any], Callable[[Any], list[Result]]]] = Registry("benchmark subject")
"""The options of each benchmark, and the function that runs it."""

SUBJECTS.add("step", (StepBenchmark, run_step))
SUBJECTS.add("textcnn", (TextCNNBenchmark, run_textcnn))
SUBJECTS.add("memory", (MemoryBenchmark, run_memory))
SUBJECTS.add("scaling", (ScalingBenchmark, run_scaling))
SUBJECTS.add("peers", (PeersBenchmark, run_peers))
SUBJECTS.add("loops", (LoopsBenchmark, run_loops))
SUBJECTS.add("frank_wolfe", (FrankWolfeBenchmark, run_frank_wolfe))
SUBJECTS.add("lossbank", (LossbankBenchmark, run_lossbank))
SUBJECTS.add("bank", (BankBenchmark, run_bank))
SUBJECTS.add("bert", (BertBenchmark, run_bert))
SUBJECTS.add("devices", (DevicesBenchmark, run_devices))
SUBJECTS.add("runs", (RunsBenchmark, run_runs))


def benchmark(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag benchmark` with these arguments; the exit code."""
    if arguments[0] == "plot":
        return _plot(arguments[1:], console)
    subject, run = SUBJECTS[arguments[0]]
    values = plain_values(arguments[1:])
    output = _writable(values.pop("output", "benchmark.json"))
    for option in fields(subject):
        # one number will do for a list of them
        if isinstance(option.default, tuple) and isinstance(values.get(option.name), int):
            values[option.name] = [values[option.name]]
    options = build(subject, values, arguments[0])
    apply_machine(MachineConfig(getattr(options, "device", "cpu"), options.threads))
    results = run(options)
    rows = [result.as_dict() for result in results]
    if arguments[0] == "loops":
        console.print(markdown(rows), markup=False, highlight=False, soft_wrap=True)
    else:
        for unit in dict.fromkeys(result.unit for result in results):
            console.print(_table(arguments[0], [result for result in results if result.unit == unit]))
    write_atomic(output, json.dumps(rows, indent=2).encode() + b"\n")
    console.print(f"written to {output}", highlight=False)
    return 0


def _plot(arguments: Sequence[str], console: Console) -> int:
    files = [Path(argument) for argument in arguments if "=" not in argument]
    values = plain_values([argument for argument in arguments if "=" in argument])
    output = _writable(values.pop("output", "cost.png"))
    if not files or values:
        problem = f"it has no option {next(iter(values))!r}" if values else "it got no file"
        raise ConfigError(f"benchmark plot: {problem}. Write: lossrag benchmark plot scaling.json output=cost.png")
    plot_costs(files, output)
    console.print(f"written to {output}", highlight=False)
    return 0


def _writable(name: object) -> Path:
    output = expanded(str(name), "output")
    try:
        if output.is_dir() or not os.access(output.parent, os.W_OK):
            raise ConfigError(f"Cannot write output={output}: name a file in a folder that exists and can be written.")
        check_target(output)
    except OSError as error:
        raise ConfigError(f"Cannot write output={output}: {error}.") from None
    return output


def _table(subject: str, results: Sequence[Result]) -> Table:
    table = Table(title=f"benchmark {subject}: medians of paired ratios, {results[0].unit}")
    columns = list(dict.fromkeys(key for result in results for key in result.more))
    for name in ("case", "ratio", "spread", *columns):
        table.add_column(name.replace("_", " "), justify="left" if name == "case" else "right")
    for result in results:
        more = [str(result.more.get(key, "")) for key in columns]
        timed = ["" if value is None else f"{value:.3f}" for value in (result.ratio, result.spread)]
        table.add_row(result.case, *timed, *more)
    return table
