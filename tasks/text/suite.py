"""Suites of texts: their settings, the vocabulary with its vectors, encoding, decoding, the cache between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.checks import check_choice, check_inside, check_least, require
from lossrag.schema import Unfit
from lossrag.streams import Stream, generator
from lossrag.tasks.files.fetch import in_root
from lossrag.tasks.files.sources import glove_sources
from lossrag.tasks.splits import Index, stratified_mask
from lossrag.tasks.suite import SPLITS, Examples, Preprocessing, Suite, Task, TokenInputs
from lossrag.tasks.text.cache import Encoded, encoded_path, read_encoded, write_encoded
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.pieces import encode_pieces
from lossrag.tasks.text.vectors import available_vectors, glove, table
from lossrag.tasks.text.words import document_frequency, encode_words, packed, ranked, unpacked

GLOVE_DIMS = (50, 100, 200, 300)
VECTORS = ("glove", "random", "glove_or_random")
_OF_WORDS = ("min_df", "vectors", "dim", "oov", "oov_min_df", "max_words")
"""Settings without a meaning for word pieces."""


@dataclass(frozen=True)
class TextConfig:
    """Settings of every suite of texts.

    ``root``: folder with the data, else LOSSRAG_DATA, the cache, the network.
    ``rho``: |query| / |support + query|, in (0, 1). ``max_tokens``: words, or word pieces, a document is cut to.
    ``min_df``: documents a word must occur in. ``vectors``: "glove", "random" of any ``dim``, or "glove_or_random":
    random where GloVe cannot be reached, which the suite's ``edition`` then says. ``oov``: whether words without GloVe
    vector get a random one, if they occur in ``oov_min_df`` documents. ``max_words``: the most frequent words only.
    ``limit``: at most so many documents a task in every published part (train, dev, test).

    Raises OptionError for a value that cannot work.
    """

    root: str | None = None
    rho: float = 0.1
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
        check_inside(self, "rho")
        check_least(self, 0, "seed")
        check_least(self, 1, "max_tokens", "min_df", "dim", "oov_min_df", "max_words", "limit")
        check_choice(self, "vectors", VECTORS)
        require(
            self.vectors == "random" or self.dim in GLOVE_DIMS,
            self,
            f"GloVe 6B has vectors of 50, 100, 200 and 300 dimensions, not {{dim}}={self.dim}: take one of these, or "
            "{vectors}=random.",
        )


Config = TypeVar("Config", bound=TextConfig)


@dataclass(frozen=True)
class Part:
    """N documents with their task and class numbers (N,), as words and as they were read."""

    words: list[list[str]]
    texts: list[str]
    tasks: Index
    classes: Index

    @property
    def keys(self) -> list[str]:
        """One a document: copies are documents of the same words."""
        return [" ".join(words) for words in self.words]

    def at(self, index: Sequence[int]) -> Part:
        """The documents at these positions."""
        at = list(index)
        return Part([self.words[i] for i in at], [self.texts[i] for i in at], self.tasks[at], self.classes[at])


def part_of(rows: Sequence[tuple[int, int, str]], words_of: Callable[[str], list[str]], config: TextConfig) -> Part:
    """The documents, given as (task, class, text), of every task ``config.limit`` at most, its classes in proportion.

    words_of: the words of a text.
    """
    numbers = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    tasks, classes = numbers.T
    keep = np.ones(len(rows), dtype=np.bool_)
    for task in np.unique(tasks).tolist():
        mine = np.flatnonzero(tasks == task)
        if config.limit is not None and len(mine) > config.limit:
            rng = generator(config.seed, Stream.LIMIT, task)
            keep[mine] = stratified_mask(classes[mine], config.limit / len(mine), rng)
    texts = [row[2] for row, kept in zip(rows, keep, strict=True) if kept]
    return Part([words_of(text) for text in texts], texts, tasks[keep], classes[keep])


def load_texts(
    name: str,
    config: Config,
    encoder: EncoderFiles | None,
    corpus: str,
    tasks: Sequence[Task],
    build: Callable[[Config, EncoderFiles | None], Encoded],
    prepared: Callable[[Config, EncoderFiles | None, tuple[str, ...]], Preprocessing],
) -> Suite:
    """The suite ``name``, in the word pieces of ``encoder`` if given: from the cache of encoded suites, or built.

    corpus: what its documents are, beside the settings. build: makes it with :func:`encode`. prepared: what makes
    inputs of other texts, given the vocabulary.
    Raises DataError when GloVe vectors are wanted and those in the data root are damaged, read or not.
    """
    if encoder is None:
        config = replace(config, vectors=available_vectors(config.vectors, config.dim, config.root))
        if config.vectors == "glove":
            in_root(glove_sources(config.dim), config.root)
        settings = {**asdict(config), "holds": ["words"]}
    else:
        settings = {key: value for key, value in asdict(config).items() if key not in _OF_WORDS}
        settings |= {"encoder": encoder.name, "pieces": encoder.digest}
    path = encoded_path(name, {**settings, "root": None, "corpus": corpus})
    rows = None if encoder is None else encoder.config.get("vocab_size")
    encoded = read_encoded(path, partial(_check_encoded, tasks=tasks, pieces=rows))
    if encoded is None:
        encoded = build(config, encoder)
        write_encoded(path, *encoded)
    words = unpacked(encoded[0]["words"]) if encoder is None else ()
    return _decode(name, encoded, tasks, encoder, prepared(config, encoder, words))


def _check_encoded(tensors: Mapping[str, Tensor], tasks: Sequence[Task], pieces: int | None) -> None:
    """Raise Unfit for tensors that are not those of a suite of ``tasks``; pieces: the word pieces there are."""
    rows = len(tensors["vectors"]) if "vectors" in tensors else None if pieces is None else pieces + 1
    for name, task in ((f"{split}.{task.name}", task) for split in SPLITS for task in tasks):
        ids, offsets, targets = (tensors.get(f"{name}.{part}") for part in ("ids", "offsets", "targets"))
        if ids is None or offsets is None or targets is None:
            raise Unfit(f"it has no {name}")
        whole = all(own.dim() == 1 and not own.is_floating_point() for own in (ids, offsets, targets))
        if not whole or len(offsets) != len(targets) + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
            raise Unfit(f"{name} has other numbers of texts than of targets")
        if bool((offsets.diff() < 0).any()) or _outside(ids, rows) or _outside(targets, task.outputs):
            raise Unfit(f"{name} has numbers out of range")
    if "words" in tensors and not (
        tensors["words"].dtype == torch.uint8 and len(unpacked(tensors["words"])) + 1 == rows
    ):
        raise Unfit("its words are not those of its vectors")


def _outside(numbers: Tensor, most: int | None) -> bool:
    return len(numbers) > 0 and (int(numbers.min()) < 0 or (most is not None and int(numbers.max()) >= most))


def _decode(
    name: str,
    encoded: Encoded,
    tasks: Sequence[Task],
    encoder: EncoderFiles | None,
    preprocessing: Preprocessing,
) -> Suite:
    tensors, edition = encoded

    def examples(key: str) -> Examples:
        inputs = TokenInputs(tensors[f"{key}.ids"].long(), tensors[f"{key}.offsets"])
        return Examples(inputs, tensors[f"{key}.targets"])

    return Suite(
        name=name,
        edition=edition,
        tasks=tuple(tasks),
        shared_input=False,
        splits={split: tuple(examples(f"{split}.{task.name}") for task in tasks) for split in SPLITS},
        vectors=tensors.get("vectors"),
        encoder=None if encoder is None else encoder.folder,
        preprocessing=preprocessing,
    )


def encode(
    config: TextConfig, parts: Mapping[str, Part], tasks: Sequence[str], encoder: EncoderFiles | None = None
) -> Encoded:
    """The tensors of a suite from its ``parts``, one a split, and in words how many documents and which vectors.

    The vocabulary is that of the support and query documents, or that of the ``encoder`` whose word pieces are made.
    """
    sizes = " / ".join(f"{len(parts[split].words):,}" for split in SPLITS)
    counted = f"{sizes} documents ({' / '.join(SPLITS)})"
    if encoder is not None:
        pieces = f"at most {config.max_tokens} word pieces of {encoder.name} (sha256 {encoder.digest[:12]})"
        tensors = _tensors(parts, tasks, lambda part: encode_pieces(encoder, part.texts, config.max_tokens))
        return tensors, f"{counted}, {pieces}"
    words, vectors = vocabulary(config, parts["support"].words + parts["query"].words)
    tensors = _tensors(parts, tasks, lambda part: encode_words(words, part.words, config.max_tokens))
    source = "GloVe 6B" if config.vectors == "glove" else "random"
    content = f"{source} {config.dim}-d vectors of {len(words):,} words"
    return {"vectors": torch.from_numpy(vectors), "words": packed(words), **tensors}, f"{counted}, {content}"


def _tensors(
    parts: Mapping[str, Part], tasks: Sequence[str], encode_part: Callable[[Part], TokenInputs]
) -> dict[str, Tensor]:
    tensors = {}
    for split, part in parts.items():
        for task, name in enumerate(tasks):
            mine = part.at(np.flatnonzero(part.tasks == task).tolist())
            inputs = encode_part(mine)
            tensors[f"{split}.{name}.ids"] = inputs.ids.to(torch.int32)
            tensors[f"{split}.{name}.offsets"] = inputs.offsets
            tensors[f"{split}.{name}.targets"] = torch.from_numpy(mine.classes)
    return tensors


def vocabulary(config: TextConfig, documents: list[list[str]]) -> tuple[list[str], NDArray[np.float32]]:
    """Words of these documents in the order of their ids, and their vectors (1 + V, dim)."""
    counts = document_frequency(documents)
    words = ranked(counts, config.min_df)
    known = {}
    if config.vectors == "glove":
        known = glove(words, config.dim, config.root)
        words = [word for word in words if word in known or (config.oov and counts[word] >= config.oov_min_df)]
    words = words[: config.max_words]
    known = {word: known[word] for word in words if word in known}
    return words, table(words, known, config.dim, config.seed)
