"""Data parallel wrappers: their hooks average gradients where a step does not pass by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from lossrag.errors import ConfigError


def refuse_wrapped(model: nn.Module) -> None:
    """Raise ConfigError for a model whose own hooks would average gradients behind the step's back."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ConfigError(
            "MultiTaskStep: the model is wrapped in DistributedDataParallel, whose hooks the gradients of single tasks "
            "pass by, so that the ranks would drift apart: call the bare model, model.module, in the losses, and give "
            "the step group=Group(), which averages over the ranks itself."
        )


@contextmanager
def wrapped_refused(look: bool) -> Iterator[None]:
    """Refuse a wrapped model that is called within, where processes work together and ``look`` says so."""
    if not (look and distributed.is_available() and distributed.is_initialized()):
        yield
        return
    handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: refuse_wrapped(module))
    try:
        yield
    finally:
        handle.remove()
