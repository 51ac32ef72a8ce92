"""Processes on this machine that run a function together, and what they return."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
import time
import traceback
from pathlib import Path

import torch
from torch import distributed

# Processes are forked from one that has imported what they need, which takes longer than most of what they do:
# torch's optimisers load its compiler in their first step, torchjd and scikit-learn all that they have.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pytest", "torch._dynamo", "torchjd.aggregation", "sklearn.datasets", "lossrag.experiments.train"]
)


def forked(function, size, *arguments, seconds=60.0):
    """``function(rank, size, *arguments)`` in so many processes: what each returns, by rank; an exception's text where
    it raised, None where it ended without a word or had not ended after these ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        answers = [Path(folder) / f"answer{rank}" for rank in range(size)]
        started = [
            CONTEXT.Process(target=_work, args=(function, rank, size, arguments, answers[rank]), daemon=True)
            for rank in range(size)
        ]
        for process in started:
            process.start()
        until = time.monotonic() + seconds
        for process in started:
            process.join(max(until - time.monotonic(), 0.0))
            if process.is_alive():
                process.kill()
                process.join()
        return [torch.load(path, weights_only=False) if path.exists() else None for path in answers]


def together(function, size, *arguments, seconds=60.0, timeout=20.0):
    """The same in processes of one group; timeout: seconds after which one that does not answer is given up."""
    with tempfile.TemporaryDirectory() as folder:
        return forked(_joined, size, f"file://{folder}/store", timeout, function, arguments, seconds=seconds)


def _joined(rank, size, store, timeout, function, arguments):
    within = datetime.timedelta(seconds=timeout)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=within)
    answer = function(rank, size, *arguments)
    distributed.destroy_process_group()
    return answer


def _work(function, rank, size, arguments, path):
    torch.set_num_threads(1)
    try:
        answer = function(rank, size, *arguments)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    part = path.with_suffix(".part")
    torch.save(answer, part)
    part.rename(path)
