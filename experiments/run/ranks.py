"""Ranks of a run: the processes that torchrun started for it, of which the first alone reads and writes its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from lossrag.errors import ConfigError, LossRAGError
from lossrag.experiments.config.identity import Settings
from lossrag.experiments.config.schema import Config, RunConfig
from lossrag.experiments.record.directory import LEASE, RunDirectory, open_run
from lossrag.experiments.run.problem import Problem
from lossrag.leases import Lease
from lossrag.lossbank import Mixture, labelled
from lossrag.weighting import Group

PATIENCE = timedelta(minutes=10)
"""For a rank that does not answer; one that has ended is noticed at once."""

Found = TypeVar("Found")


def started_together() -> bool:
    """True in one of several processes that torchrun started."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


@dataclass(frozen=True)
class Ranks:
    """Processes that train one run together; ``group`` is None for one alone."""

    group: Group | None = None

    @staticmethod
    def joined(device: str) -> Ranks:
        """Those that torchrun started, each with a GPU of its own where the run is on GPUs; one alone otherwise."""
        if not started_together():
            return Ranks()
        gpus = device != "cpu" and torch.cuda.is_available()
        if gpus:
            if ":" in device:
                raise ConfigError(f"machine.device={device} is one GPU for all ranks: use machine.device=cuda.")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if gpus else "gloo", timeout=PATIENCE)
        return Ranks(Group())

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return 0 if self.group is None else self.group.rank

    @property
    def leads(self) -> bool:
        """True for the process that reads and writes the folder of the run, and speaks."""
        return self.rank == 0

    def any(self, here: bool) -> bool:
        """True where it is so in one of them."""
        return here if self.group is None else self.group.any(here)

    def of_first(self, find: Callable[[], Found]) -> Found:
        """What the first process finds, or the error that it meets, in all of them."""
        if self.group is None:
            return find()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = find()
            except (LossRAGError, OSError) as error:
                told[1] = error
        distributed.broadcast_object_list(told, device=self.group.device)
        if told[1] is not None:
            raise told[1]
        found: Found = told[0]
        return found

    def together(self, make: Callable[[], Found], what: str) -> Found:
        """What ``make`` returns, where it raises in none of them."""
        if self.group is None:
            return make()
        failed: Exception | None = None
        try:
            made = make()
        except Exception as error:
            failed = error
        self.group.agree(failed, what)
        return made

    def leave(self) -> None:
        """End together."""
        if self.group is not None:
            self.group.any(False)
            distributed.destroy_process_group()


ALONE = Ranks()


def open_together(settings: Settings, run: RunConfig, ranks: Ranks) -> RunDirectory:
    """The directory of a run, which the first process has opened and locked."""
    opened: list[RunDirectory] = []

    def open_first() -> tuple[Path, str]:
        opened.append(open_run(settings, run))
        return opened[0].path, opened[0].run_id

    path, name = ranks.of_first(open_first)
    return opened[0] if opened else RunDirectory(path, name, Lease(path / LEASE))


@dataclass(frozen=True)
class Share:
    """Rows of every task that one process computes, and what its losses are divided by."""

    index: tuple[Tensor, ...]
    rows: tuple[float, ...]


def share_of(
    group: Group | None, problem: Problem, split: str, index: Sequence[Tensor], whole: Sequence[bool]
) -> Share:
    """The share of this process of a batch, ``index[t]`` (B,) being the rows of task t.

    whole: (T,) tasks whose loss is no mean over rows: every process computes it on all of them, which is exact too, and
        those that have not a row for each.
    """
    if group is None:
        return Share(tuple(index), ())
    whole = [every or len(rows) < group.size for rows, every in zip(index, whole, strict=True)]
    if problem.suite.shared_input and any(whole):
        whole = [True] * len(index)
    own = [
        rows if all_of else rows.tensor_split(group.size)[group.rank] for rows, all_of in zip(index, whole, strict=True)
    ]
    known = [labelled(e.targets[i]).sum() for e, i in zip(problem.suite.splits[split], own, strict=True)]
    return Share(tuple(own), tuple(float(count) for count in known))


def undivided(problem: Problem, mixtures: Sequence[Mixture], by_class: bool, scored: bool) -> list[bool]:
    """(T,) tasks whose losses relate rows to each other, or are told by class; scored: or whose score does."""
    return [
        by_class or any(loss.relational for loss in mixture.losses) or (scored and task.batch_metric != "accuracy")
        for task, mixture in zip(problem.suite.tasks, mixtures, strict=True)
    ]


def joined_scores(group: Group | None, scores: Tensor, rows: Sequence[float]) -> Tensor:
    """Scores (T,) of all processes: means over their rows, which those of regressions are not, so nearly theirs."""
    if group is None:
        return scores
    counts = scores.new_tensor(rows)
    sums = group.gather(torch.stack([torch.where(counts > 0, scores, 0.0) * counts, counts])).sum(0)
    return sums[0] / sums[1].clamp(min=1e-9)


def check_ranks(config: Config, group: Group | None) -> None:
    """Raise ConfigError for what several processes do not train together."""
    if group is None:
        return
    name, needs = config.weighting.name, config.weighting.options.needs
    refused = {
        "train.memory=low": config.train.memory == "low" and needs.hypergradient is not None,
        "optimizer.vectors=lazy": config.optimizer.vectors == "lazy",
        "model.adversarial": config.model.adversarial > 0,
        "model.orthogonal": config.model.orthogonal > 0,
        f"weighting={name}, which compares gradients at the features": needs.representation is not None,
    }
    found = [what for what, there in refused.items() if there]
    if found:
        raise ConfigError(
            f"Several processes do not train {found[0]} together: leave it out, or start lossrag without torchrun."
        )
