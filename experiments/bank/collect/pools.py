"""Pools of samples with fixed features: what stacked trainings draw their cases from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossrag.experiments.run.encoded_suites import frozen_features
from lossrag.models import BertOptions
from lossrag.tasks import SPLITS, SUITES, DenseInputs, Inputs, Suite, TokenInputs, encoder_files, load_suite
from lossrag.tasks.digits import centre_of_mass

OPTIONS: Mapping[str, dict[str, Any]] = {
    "newsgroups": {"edition": "stripped"},
    "sentiment": {"edition": "deduplicated", "domains": "all"},
    "domains": {},
}
"""Of the suites of texts; vectors are GloVe's alone."""
PIECES = 64
"""Word pieces of a text that the frozen encoder reads."""
FROZEN: Mapping[str, int] = {"newsgroups": 500, "sentiment": 200, "domains": 400}
"""Documents of a task, in every published part, that the frozen encoder reads at most: it takes a core a second for
some twenty."""


@dataclass(frozen=True, eq=False)
class Pool:
    """N samples of a source: inputs (N, F), and classes (N,) int64 or values (N, K).

    made_up: not what the source was published for.
    """

    source: str
    task: str
    inputs: Tensor
    targets: Tensor
    made_up: bool = False

    @property
    def outputs(self) -> int:
        """Classes, or values."""
        return int(self.targets.max()) + 1 if self.targets.ndim == 1 else self.targets.shape[1]


@cache
def pools(source: str, encoder: str, kind: str) -> tuple[Pool, ...]:
    """The pools of a source, for an encoder, ``mlp`` or ``bert_frozen``, and a kind of target.

    Raises DataError when its data cannot be had.
    """
    if source in OPTIONS:
        return tuple(_texts(source, frozen=encoder == "bert_frozen"))
    return tuple(_classes(source) if kind == "classification" else _values(source))


def sources_of(encoder: str, kind: str) -> tuple[str, ...]:
    """The sources that there are for an encoder and a kind of target."""
    if encoder == "bert_frozen":
        return tuple(OPTIONS) if kind == "classification" else ()
    return (*OPTIONS, "digits", *TABLES) if kind == "classification" else ("digits", "diabetes", *TABLES)


def _texts(name: str, frozen: bool) -> list[Pool]:
    if frozen:
        options = SUITES[name].config(**OPTIONS[name], max_tokens=PIECES, limit=FROZEN[name])
        load = SUITES[name].in_pieces
        assert load is not None
        suite = load(options, encoder_files("minilm"))
        suite = frozen_features(suite, BertOptions(pooling="mean", frozen=True), torch.device("cpu"))
    else:
        suite = load_suite(name, **OPTIONS[name], oov=False)
    by_task = [_all_splits(suite, t) for t in range(len(suite.tasks))]
    if name == "sentiment":
        return [Pool(suite.name, task.name, *own) for task, own in zip(suite.tasks, by_task, strict=True)]
    starts = np.cumsum([0, *(task.outputs for task in suite.tasks)]).tolist()
    inputs = torch.cat([own for own, _ in by_task])
    targets = torch.cat([classes + start for (_, classes), start in zip(by_task, starts, strict=False)])
    return [Pool(suite.name, "domains" if name == "domains" else "groups", inputs, targets)]


def _all_splits(suite: Suite, t: int) -> tuple[Tensor, Tensor]:
    own = [suite.splits[split][t] for split in SPLITS]
    return torch.cat([_dense(part.inputs, suite.vectors) for part in own]), torch.cat([part.targets for part in own])


def _dense(inputs: Inputs, vectors: Tensor | None) -> Tensor:
    """Features (N, F): mean word vectors (N, E) of token sequences; 0 where there is no word."""
    if isinstance(inputs, TokenInputs):
        assert vectors is not None
        lengths = inputs.offsets.diff()
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        sums = torch.zeros(len(lengths), vectors.shape[1]).index_add_(0, row, vectors[inputs.ids])
        return sums / lengths.clamp(min=1)[:, None]
    assert isinstance(inputs, DenseInputs)
    return inputs.values


TABLES = {"breast_cancer": "diagnosis", "wine": "cultivar", "iris": "species"}
"""Tables of scikit-learn with classes, by name: what their classes are."""


def _table(name: str) -> tuple[Tensor, Tensor]:
    # imported when needed: it takes as long as importing torch
    values, targets = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
    return torch.from_numpy(values).float(), torch.from_numpy(targets)


def _classes(name: str) -> list[Pool]:
    inputs, targets = _table(name)
    return [Pool(name, TABLES.get(name, "digits"), inputs, targets.long())]


def _values(name: str) -> list[Pool]:
    """The regression that a table is published for, and those of its columns from the others."""
    inputs, targets = _table(name)
    made = []
    if name == "diabetes":
        made = [Pool(name, "progression", inputs, targets.float()[:, None])]
    if name == "digits":
        made = [Pool(name, "centre", inputs, torch.from_numpy(centre_of_mass(inputs.double().numpy())).float())]
    # a pixel that is nearly always dark is no task
    telling = [c for c in range(inputs.shape[1]) if name != "digits" or inputs[:, c].std() > 4]
    for own in telling:
        rest = [c for c in range(inputs.shape[1]) if c != own]
        made.append(Pool(name, f"column_{own}", inputs[:, rest], inputs[:, [own]], made_up=True))
    return made
