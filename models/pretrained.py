"""The body of a pre-trained encoder from a folder: safetensors only, in float32, its word table taken out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossrag import DataError
from lossrag.extras import load_extra


def load_body(folder: Path, dropout: float | None = None) -> tuple[nn.Module, Tensor, int]:
    """The encoder in ``folder`` without word table and pooler, its table (V, E), and the width of its hidden states.

    It is to be called with ``inputs_embeds`` (B, L, E) and ``attention_mask`` (B, L). ``dropout`` replaces every share
    that its config.json names. What random numbers loading may draw leaves no trace. Raises ConfigError without the
    extra ``bert``, DataError when the folder holds something else.
    """
    transformers = load_extra("transformers", "bert", "model=bert")
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            body, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise DataError(f"Cannot read an encoder from {folder}: {error}") from error
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise DataError(f"{folder}: model.safetensors lacks {len(missing)} weights of its encoder, {missing[0]} first.")
    if body.config.is_encoder_decoder or getattr(body.config, "is_decoder", False):
        raise DataError(f"{folder} holds a decoder ({body.config.model_type}): choose an encoder of the BERT family.")
    table = body.get_input_embeddings().weight.detach()
    body.set_input_embeddings(None)
    if dropout is not None:
        for module in body.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # the head reads the last hidden states, so nothing would train it
    return body, table, int(body.config.hidden_size)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and without the list of weights that are not needed here (those of the pre-training heads)."""
    control = transformers.utils.logging
    level, bars = control.get_verbosity(), control.is_progress_bar_enabled()
    control.set_verbosity_error()
    control.disable_progress_bar()
    try:
        yield
    finally:
        control.set_verbosity(level)
        if bars:
            control.enable_progress_bar()
