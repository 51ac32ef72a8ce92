"""`lossrag bank collect`: the parts of a plan in shards, resumable, by as many processes as there are."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from lossrag.checks import check_least
from lossrag.errors import ConfigError, RunDirectoryError, did_you_mean
from lossrag.experiments.bank.collect.plan import CollectPlan, Squares, Stacked, load_collect_plan, shard_path
from lossrag.experiments.bank.collect.squares import RUN_COLUMNS, collect_squares
from lossrag.experiments.bank.collect.stacked import collect_case
from lossrag.experiments.bank.collect.table import cases_csv
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.library import load_library
from lossrag.experiments.record.progress import say
from lossrag.files import expanded
from lossrag.lossbank.experience.files import load_experience, save_experience
from lossrag.lossbank.experience.trials import Experience
from lossrag.proof import DamagedFile, read_proven, write_proven

IGNORED = (signal.SIGINT, signal.SIG_IGN)
"""Ctrl-C goes to the processes of a collection as well, which leave it to the one that started them."""


@dataclass(frozen=True)
class CollectOptions:
    """root: where shards, runs and tables go, in a folder of the plan's name. parts: some of the plan's alone.
    processes: side by side, of one thread each. library: Python files of one's own."""

    root: str = "runs/collect"
    parts: list[str] | None = None
    processes: int = 2
    library: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_least(self, 1, "processes")


def collect(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank collect PLAN` with these options; the exit code."""
    options = build(CollectOptions, values, "collect")
    plan = load_collect_plan(given[0])
    for name in options.parts or ():
        if name not in plan.parts:
            raise ConfigError(f"The plan {plan.name} has no part {name!r}: {did_you_mean(name, plan.parts)}")
    folder = expanded(options.root, "root") / plan.name
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    for name in options.parts or plan.parts:
        part = plan.parts[name]
        if isinstance(part, Squares):
            collect_squares(plan, name, part, folder, options.processes, console, options.library)
        else:
            _collect_stacked(plan, name, part, folder, options, console)
    return _end(plan, folder, console)


def _collect_stacked(
    plan: CollectPlan, name: str, part: Stacked, folder: Path, options: CollectOptions, console: Console
) -> None:
    waiting = [n for n in range(part.shards) if not shard_path(folder, name, n).exists()]
    done = part.shards - len(waiting)
    if options.processes == 1 or len(waiting) < 2:
        for number in waiting:
            collect_shard(plan, name, number, folder)
            done += 1
            say(console, f"{name}: {done} of {part.shards} shards")
        return
    own = (options.library,)
    with ProcessPoolExecutor(options.processes, get_context("spawn"), _begin, own) as executor:
        futures = [executor.submit(collect_shard, plan, name, number, folder) for number in waiting]
        try:
            for future in as_completed(futures):
                future.result()
                done += 1
                say(console, f"{name}: {done} of {part.shards} shards")
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            # a shard is whole or not there: nobody waits for one
            for child in active_children():
                child.terminate()
            raise


def _begin(library: Sequence[str]) -> None:
    """What a process of its own begins with: Ctrl-C is for its parent to answer, own losses are registered."""
    signal.signal(*IGNORED)
    load_library(library)


def collect_shard(plan: CollectPlan, name: str, number: int, folder: Path) -> None:
    """Make a shard of a stacked part, unless it is there, or another process is at it."""
    part = plan.parts[name]
    assert isinstance(part, Stacked)
    torch.set_num_threads(1)
    path = shard_path(folder, name, number)
    try:
        with FileLock(path.with_suffix(".lock")).acquire(timeout=0):
            if not path.exists():
                cases = range(number * part.per_shard, min((number + 1) * part.per_shard, part.cases))
                save_experience(path, Experience.of(collect_case(plan, name, part, case) for case in cases))
    except Timeout:
        pass


def _end(plan: CollectPlan, folder: Path, console: Console) -> int:
    """Join the shards of all parts; the exit code."""
    whole = Experience()
    numbers = [(name, n) for name, part in plan.parts.items() for n in range(part.shards)]
    paths = [shard_path(folder, name, n) for name, n in numbers]
    there = [path for path in paths if path.exists()]
    for path in there:
        whole = whole.joined(load_experience(path))
    tables = [table for path in there if (table := path.with_suffix(".csv")).exists()]
    lines = [line for table in tables for line in _lines(table)[1:]]
    runs = "\n".join([",".join(RUN_COLUMNS), *lines, ""])
    write_proven(folder, {"cases.csv": cases_csv(whole).encode(), "runs.csv": runs.encode()})
    save_experience(folder / "experience.safetensors", whole)
    say(
        console,
        f"{len(there)} of {len(paths)} shards: {len(whole):,} cases, {len(whole.gain):,} trials\n"
        f"written to {folder}: experience.safetensors, cases.csv, runs.csv",
    )
    return 0


def _lines(table: Path) -> list[str]:
    try:
        return read_proven(table).decode().splitlines()
    except (OSError, DamagedFile, ValueError) as reason:
        raise RunDirectoryError(
            f"{table} is damaged ({reason}): delete it and {table.with_suffix('.safetensors').name}, and the same "
            "command makes both anew."
        ) from None
