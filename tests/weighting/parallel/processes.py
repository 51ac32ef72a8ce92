"""Processes on this machine that run a function together, and what they return."""

from __future__ import annotations

import datetime
import tempfile
import traceback
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def together(function, size, *arguments, seconds=60.0, timeout=20.0):
    """``function(rank, size, *arguments)`` in so many processes that know each other: what each returns, by rank; an
    exception's text where it raised, None where it ended without a word."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        started = [
            context.Process(target=_work, args=(function, rank, size, folder, timeout, queue, arguments), daemon=True)
            for rank in range(size)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(seconds)
            if process.is_alive():
                process.kill()
                process.join()
        found = [None] * size
        for rank in range(size):
            path = Path(folder) / f"answer{rank}"
            found[rank] = torch.load(path, weights_only=False) if path.exists() else None
        return found


def _work(function, rank, size, folder, timeout, queue, arguments):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        answer = function(rank, size, *arguments)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    torch.save(answer, Path(folder) / f"answer{rank}.part")
    (Path(folder) / f"answer{rank}.part").rename(Path(folder) / f"answer{rank}")
    distributed.destroy_process_group()
