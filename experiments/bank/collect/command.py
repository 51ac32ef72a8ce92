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
from rich.console import Console

from lossrag.checks import check_least
from lossrag.errors import ConfigError, LeaseHeldError, RunDirectoryError, did_you_mean
from lossrag.experiments.bank.collect.plan import CollectPlan, Squares, Stacked, load_collect_plan, shard_path
from lossrag.experiments.bank.collect.squares import RUN_COLUMNS, collect_squares
from lossrag.experiments.bank.collect.stacked import collect_case
from lossrag.experiments.bank.collect.table import cases_csv
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.library import load_library
from lossrag.experiments.config.paths import SUFFIXES, library_override
from lossrag.experiments.record.progress import say
from lossrag.experiments.studies.jobs import run_tasks
from lossrag.experiments.studies.launchers.base import Launcher, Standing, Task
from lossrag.experiments.studies.launchers.opening import LOCAL_PROCESSES, opened
from lossrag.experiments.studies.launchers.options import LauncherOptions
from lossrag.experiments.studies.states import States
from lossrag.files import expanded
from lossrag.leases import leased
from lossrag.lossbank.experience.files import load_experience, save_experience
from lossrag.lossbank.experience.trials import Experience
from lossrag.proof import DamagedFile, read_proven, write_proven

IGNORED = (signal.SIGINT, signal.SIG_IGN)
"""Ctrl-C goes to the processes of a collection as well, which leave it to the one that started them."""


@dataclass(frozen=True)
class CollectOptions:
    """root: where shards, runs and tables go, in a folder of the plan's name. parts: some of the plan's alone.
    shard: this one of a stacked part alone. processes: side by side, of one thread each; None for two, and on a cluster
    for what it takes. launcher: where they go (docs/many-runs.md). library: Python files of one's own."""

    root: str = "runs/collect"
    parts: list[str] | None = None
    shard: int | None = None
    processes: int | None = None
    launcher: LauncherOptions = field(default_factory=LauncherOptions)
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
    names = options.parts or list(plan.parts)
    if options.shard is not None:
        _one_shard(plan, names, options.shard, folder)
        return 0
    shown = options.launcher.dry_run
    logs = folder / "logs"
    states, failed = States(logs), False
    with opened(options.launcher, options.processes, logs) as launcher:
        for name in names:
            part = plan.parts[name]
            if isinstance(part, Squares):
                collect_squares(plan, name, part, folder, launcher, states, shown, console, options.library)
            elif shown or options.launcher.name != "local":
                missing = _missing(part, folder, name)
                tasks = [_shard_task(given[0], options, name, number, logs, folder) for number in missing]
                failed |= _launch_shards(name, tasks, part.shards, launcher, states, shown, console)
            else:
                _collect_stacked(plan, name, part, folder, options, console)
    return 0 if shown else _end(plan, folder, console) or int(failed)


def _one_shard(plan: CollectPlan, names: Sequence[str], number: int, folder: Path) -> None:
    part = plan.parts[names[0]]
    if len(names) != 1 or not isinstance(part, Stacked) or not 0 <= number < part.shards:
        raise ConfigError(f"shard={number} is one of a single stacked part: say parts=[NAME], and one that it has.")
    collect_shard(plan, names[0], number, folder)


def _missing(part: Stacked, folder: Path, name: str) -> list[int]:
    return [n for n in range(part.shards) if not shard_path(folder, name, n).exists()]


def _shard_task(plan: str, options: CollectOptions, name: str, number: int, logs: Path, folder: Path) -> Task:
    where = expanded(plan, "the plan").absolute() if plan.endswith(SUFFIXES) else plan
    root = f"root={expanded(options.root, 'root').absolute()}"
    own = library_override(options.library)
    command = ("bank", "collect", str(where), root, f"parts=[{name}]", f"shard={number}", *own)
    return Task(f"{name}-{number:04d}", command, logs / f"{name}-{number:04d}.log", folder / "shards" / f"{number}")


def _launch_shards(
    name: str, tasks: Sequence[Task], shards: int, launcher: Launcher, states: States, shown: bool, console: Console
) -> bool:
    """Make shards by a launcher, or show what would be; true when one failed."""
    if shown:
        for task in tasks:
            print(launcher.script(task))
        return False
    failed, done = False, shards - len(tasks)
    for task, standing in run_tasks(tasks, launcher, states):
        good = standing.code == 0
        why = "" if good else standing.why or f"see {task.log}"
        states.tell(task.name, Standing("finished" if good else "failed", standing.where, why=why))
        failed |= not good
        done += good
        say(console, f"{name}: {done} of {shards} shards" if good else f"failed: {task.name}: {why}")
    return failed


def _collect_stacked(
    plan: CollectPlan, name: str, part: Stacked, folder: Path, options: CollectOptions, console: Console
) -> None:
    waiting = _missing(part, folder, name)
    done = part.shards - len(waiting)
    processes = options.processes or LOCAL_PROCESSES
    if processes == 1 or len(waiting) < 2:
        for number in waiting:
            collect_shard(plan, name, number, folder)
            done += 1
            say(console, f"{name}: {done} of {part.shards} shards")
        return
    own = (options.library,)
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, own) as executor:
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
        with leased(path.with_suffix(".lease")):
            if not path.exists():
                cases = range(number * part.per_shard, min((number + 1) * part.per_shard, part.cases))
                save_experience(path, Experience.of(collect_case(plan, name, part, case) for case in cases))
    except LeaseHeldError:
        pass  # another one is at it


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
