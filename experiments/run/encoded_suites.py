"""Suites for a pre-trained encoder: texts as its word pieces, or, when it is frozen, as the features it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.machine import choose_device
from lossrag.models import BERT, BertOptions
from lossrag.schema import Unfit
from lossrag.tasks import SUITES, DenseInputs, Examples, Suite, TokenInputs, encoder_files, ordered_batches
from lossrag.tasks.text.cache import encoded_path, read_encoded, write_encoded
from lossrag.tensors import digest_of

ROWS = 128


def load_pieces(config: Config, options: BertOptions) -> Suite:
    """The configured suite in the word pieces of the encoder; for a frozen one, its features of all texts.

    Raises ConfigError when the suite has no texts, and what :func:`tasks.encoder_files` raises.
    """
    entry = SUITES[config.tasks.name]
    if entry.in_pieces is None:
        able = " or ".join(f"tasks={name}" for name, suite in SUITES.items() if suite.in_pieces is not None)
        raise ConfigError(f"model=bert reads texts, but tasks={config.tasks.name} has none: use {able}, or model=mlp.")
    if options.frozen and config.model.sharing == "shared_private":
        raise ConfigError(
            "model.frozen=true leaves nothing to be shared or private: set model.frozen=false or model.sharing=hard."
        )
    encoder = encoder_files(options.encoder, config.data.root)
    suite = entry.in_pieces(config.tasks.options, encoder)
    return frozen_features(suite, options, choose_device(config.machine.device)) if options.frozen else suite


def frozen_features(suite: Suite, options: BertOptions, device: torch.device) -> Suite:
    """The suite with features (N, F) instead of word pieces: computed once, then read from the cache."""
    assert suite.encoder is not None
    pieces = {
        f"{split}.{task.name}": cast(TokenInputs, own.inputs)
        for split, examples in suite.splits.items()
        for task, own in zip(suite.tasks, examples, strict=True)
    }
    parts = {f"{name}/{part}": getattr(own, part) for name, own in pieces.items() for part in ("ids", "offsets")}
    key = {"edition": suite.edition, "pooling": options.pooling, "inputs": digest_of(parts).hexdigest()}
    path = encoded_path(f"{suite.name}-features", key)
    cached = read_encoded(path, partial(_check_features, pieces=pieces))
    if cached is None:
        encoder = _frozen(suite.encoder, options, device)
        cached = {name: _features(encoder, inputs, device) for name, inputs in pieces.items()}, suite.edition
        write_encoded(path, *cached)
    tensors = cached[0]
    splits = {
        split: tuple(
            Examples(DenseInputs(tensors[f"{split}.{task.name}"]), own.targets)
            for task, own in zip(suite.tasks, examples, strict=True)
        )
        for split, examples in suite.splits.items()
    }
    width = next(iter(tensors.values())).shape[1]
    edition = f"{suite.edition}, frozen ({options.pooling})"
    return replace(suite, splits=splits, encoder=None, input_shape=(width,), edition=edition)


def _check_features(tensors: Mapping[str, Tensor], pieces: Mapping[str, TokenInputs]) -> None:
    """Raise Unfit unless these are features (N, F) of all texts, in float32."""
    widths = set()
    for name, inputs in pieces.items():
        own = tensors.get(name)
        if own is None or own.dim() != 2 or len(own) != len(inputs) or own.dtype != torch.float32:
            raise Unfit(f"it holds no features of {name}")
        widths.add(own.shape[1])
    if len(widths) != 1:
        raise Unfit("its features differ in width")


def features_of(inputs: TokenInputs, folder: Path, options: BertOptions, device: torch.device) -> DenseInputs:
    """Features (N, F) that the frozen encoder in ``folder`` gives of texts in its word pieces."""
    return DenseInputs(_features(_frozen(folder, options, device), inputs, device))


def _frozen(folder: Path, options: BertOptions, device: torch.device) -> BERT:
    return BERT(folder, options.pooling, frozen=True).to(device).eval()


def _features(encoder: BERT, inputs: TokenInputs, device: torch.device) -> Tensor:
    batches = ordered_batches(inputs, ROWS)
    with torch.no_grad():
        parts = torch.cat([encoder(inputs.gather(rows).to(device)).cpu() for rows in batches])
    return torch.empty_like(parts).index_copy_(0, torch.cat(batches), parts)
