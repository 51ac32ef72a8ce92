"""Group of processes that take one step together: the plain collectives of torch.distributed, and no wrapper.

Sums are formed in the order of the ranks and by every process alike, so that all hold the same numbers to the bit,
whatever order a backend would add in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from lossrag.checks import check_choice, check_least
from lossrag.errors import ConfigError, GroupError

TEXT = 400
"""Bytes of an error message that the other processes get to see."""


@dataclass(frozen=True)
class Group:
    """Processes of ``torch.distributed`` that take every step together, ``MultiTaskStep(..., group=Group())``.

    split: what they divide among them: ``rows``, each has a share of every task's rows, or ``tasks``, each computes
        some of the tasks, those of :meth:`own`.
    check_every: after so many steps, and before the first, all compare what they hold; 0 for never.
    processes: a process group, None for all processes.

    Raises ConfigError where ``torch.distributed`` is not initialised.
    """

    split: str = "rows"
    check_every: int = 100
    processes: Any = None

    def __post_init__(self) -> None:
        check_choice(self, "split", ("rows", "tasks"))
        check_least(self, 0, "check_every")
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ConfigError(
                "Group: the processes do not know each other yet: start them with torchrun and call "
                "torch.distributed.init_process_group('gloo', timeout=...) first, 'nccl' on GPUs."
            )

    @property
    def rank(self) -> int:
        """Number of this process in the group, from 0."""
        return distributed.get_rank(self.processes)

    @property
    def size(self) -> int:
        """Number R of processes."""
        return distributed.get_world_size(self.processes)

    def own(self, tasks: int) -> list[list[int]]:
        """The tasks that each process computes, by rank: consecutive ones where tasks are divided, else all."""
        if self.split == "rows":
            return [list(range(tasks)) for _ in range(self.size)]
        return [[t for t in range(tasks) if t * self.size // tasks == rank] for rank in range(self.size)]

    def swap(self, pieces: Tensor) -> Tensor:
        """Piece r of ``pieces`` (R, n) goes to process r: what all have sent here (R, n), by rank. Sends (R - 1) n."""
        got = torch.empty_like(pieces)
        self._run(partial(distributed.all_to_all_single, got, pieces))
        return got

    def gather(self, value: Tensor) -> Tensor:
        """The values (R, *shape) of all processes, by rank. Sends (R - 1) times its size."""
        got = value.new_empty((self.size, *value.shape))
        self._run(partial(distributed.all_gather_single, got.view(-1), value.contiguous().view(-1)))
        return got

    def first(self, value: Tensor) -> Tensor:
        """The value of process 0."""
        got = value.clone()
        source = 0 if self.processes is None else distributed.get_global_rank(self.processes, 0)
        self._run(partial(distributed.broadcast, got, source))
        return got

    def any(self, here: bool) -> bool:
        """True where it is so in one of the processes."""
        return bool(self.gather(torch.tensor([here], dtype=torch.uint8, device=self.device)).any())

    def agree(self, error: Exception | None, where: str) -> None:
        """Raise the ``error`` of this process, or GroupError where another one has met one: none goes on alone."""
        if not self.any(error is not None):
            return
        text = torch.zeros(TEXT, dtype=torch.uint8)
        told = b"" if error is None else f"{type(error).__name__}: {error}".encode()[:TEXT]
        text[: len(told)] = torch.tensor(list(told), dtype=torch.uint8)
        every = self.gather(text.to(self.device)).cpu()
        if error is not None:
            raise error
        rank = int(every.any(dim=1).nonzero()[0])
        message = bytes(every[rank].tolist()).rstrip(b"\0").decode(errors="replace")
        raise GroupError(f"Process {rank} of {self.size} failed in {where}, so that all stop: {message}")

    def compare(self, digests: dict[str, int], hint: str) -> None:
        """Raise GroupError, in all processes, for what differs between them, with the ranks that are not as most."""
        mine = torch.tensor(list(digests.values()), dtype=torch.int64, device=self.device)
        every = self.gather(mine).cpu()
        for what, column in zip(digests, every.unbind(1), strict=True):
            usual = column.mode().values if self.size > 2 else column[0]
            ranks = (column != usual).nonzero().flatten().tolist()
            if ranks:
                named = ", ".join(map(str, ranks))
                raise GroupError(
                    f"The {what} of process {named} of {self.size} differ from those of the others: {hint}"
                )

    @property
    def device(self) -> torch.device:
        """Where the backend can read what is not on a device yet."""
        return torch.device("cuda", torch.cuda.current_device()) if self.backend == "nccl" else torch.device("cpu")

    @property
    def backend(self) -> str:
        """Of the processes: gloo, nccl."""
        return str(distributed.get_backend(self.processes))

    def _run(self, collective: Callable[..., Any]) -> None:
        try:
            collective(group=self.processes)
        except RuntimeError as error:
            raise GroupError(
                f"Process {self.rank} of {self.size} lost the others: one of them ended, or did not answer in time. "
                f"Look at its output, and start all again from the last checkpoint. ({str(error).splitlines()[0]})"
            ) from error
