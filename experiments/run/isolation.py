"""Isolation of a run that a program of its user's own has started: torch's state is that of a fresh process within, and
the user's again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Within, nothing of torch's state that would change a run on this device is the caller's: default dtype and
    device, modes without gradients, autocast. Afterwards it is again, threads and random numbers of the CPU and of CUDA
    included.

    Of these, default dtype, threads and generators belong to the process: other threads see them change.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    # looking at a GPU that nobody uses would start it
    used = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                # without a cache: one that lives as long as the run would hold weights of its first step
                stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        stack.callback(torch.set_num_threads, threads)
        torch.set_default_dtype(torch.float32)
        yield
