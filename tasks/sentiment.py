"""The sentiment suite of the MetaWeighting paper: reviews of 14 product domains (or all 16 of FDU-MTL), two classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from lossrag import ConfigError, did_you_mean
from tasks.encoded import encoded_path, read_encoded, write_encoded
from tasks.encoders import EncoderFiles
from tasks.fetch import in_root, resolve
from tasks.sentiment_corpus import DOMAINS, PRODUCTS, Review, Reviews, read_reviews, repeats
from tasks.sources import SENTIMENT, sentiment_sources
from tasks.splits import split_query
from tasks.suite import Suite, Task
from tasks.text_suite import Part, TextConfig, cache_settings, decode, encode, limit_mask
from tasks.vectors import available_vectors

LABELS = ("negative", "positive")
CHOICES = {"products": PRODUCTS, "all": DOMAINS}
EDITIONS = ("published", "deduplicated")
_OTHERWISE = (
    "the reviews themselves: 32 files data/fdu-mtl/DOMAIN.task.{train,test} at https://github.com/ccsasuke/man "
    "(commit b57b4c14340db1ca7bffb5d9737b7c2601dc8df2), or in one archive "
    "https://github.com/FrankWork/fudan_mtl_reviews/raw/master/data/fudan-mtl-dataset.tar.gz; docs/data.md says what "
    "the file is made of."
)


@dataclass(frozen=True)
class SentimentConfig(TextConfig):
    """Settings of the sentiment suite, beside those of every text suite (:class:`TextConfig`).

    ``domains``: the 14 ``products``, or ``all`` 16 with imdb and MR.
    ``edition``: the ``published`` parts as they are, or ``deduplicated``: without the dev reviews that stand in their
    own task's train part, and the test reviews that stand in its train or dev part, word for word.

    Raises ConfigError for a value that cannot work.
    """

    domains: str = "products"
    edition: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domains not in CHOICES:
            raise ConfigError(f"Unknown tasks.domains {self.domains!r}: {did_you_mean(self.domains, CHOICES)}")
        if self.edition not in EDITIONS:
            raise ConfigError(f"Unknown tasks.edition {self.edition!r}: {did_you_mean(self.edition, EDITIONS)}")


def load_sentiment(config: SentimentConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite, from the cache of encoded suites when it is there; with an ``encoder``, in its word pieces.

    The published train part is split into support and query by ``rho``, copies kept together; dev is the validation
    split. Raises DataError when the data cannot be had or are damaged, or a split lacks a class.
    """
    # damaged data of the user's is an error even if nothing is read
    if encoder is None:
        config = replace(config, vectors=available_vectors(config.vectors, config.dim, config.root))
        config.check_vectors()
    in_root(sentiment_sources(), config.root)
    path = encoded_path("sentiment", cache_settings(config, encoder, SENTIMENT.sha256))
    encoded = read_encoded(path)
    if encoded is None:
        encoded = _build(config, encoder)
        write_encoded(path, *encoded)
    tensors, edition = encoded
    tasks = [Task(name, "classification", len(LABELS), LABELS) for name in CHOICES[config.domains]]
    return decode("sentiment", edition, tasks, tensors, encoder)


def _build(config: SentimentConfig, encoder: EncoderFiles | None) -> tuple[dict[str, Tensor], str]:
    (path,) = resolve(sentiment_sources(), config.root, _OTHERWISE)
    names = CHOICES[config.domains]
    found = read_reviews(path)
    reviews: Reviews = {part: [each for each in found[part] if each.domain in names] for part in found}
    again = repeats(reviews)
    counts = {part: f"{sum(again[part]):,} of {len(again[part]):,} {part}" for part in again}
    if config.edition == "deduplicated":
        for part, mask in again.items():
            reviews[part] = [review for review, repeated in zip(reviews[part], mask, strict=True) if not repeated]
    parts = {part: _part(reviews[part], names, config) for part in reviews}
    train = parts["train"]
    strata = (train.tasks * len(LABELS) + train.classes).tolist()
    index = split_query(train.keys, strata, config.rho, config.seed)
    split = {name: train.at(index[name].tolist()) for name in index}
    tensors, content = encode(config, {**split, "validation": parts["dev"], "test": parts["test"]}, names, encoder)
    kept = "left out" if config.edition == "deduplicated" else "kept"
    source = (
        f"FDU-MTL, {config.edition} ({counts['test']} and {counts['dev']} reviews also stand in an earlier part of "
        f"their task: {kept})"
    )
    kind = "product domains" if config.domains == "products" else "domains"
    return tensors, f"{source}, {len(names)} {kind}, {content}"


def _part(reviews: Sequence[Review], names: Sequence[str], config: SentimentConfig) -> Part:
    """The reviews grouped by task, of every task ``config.limit`` at most."""
    reviews = sorted(reviews, key=lambda review: names.index(review.domain))  # stable: the file's order in a task
    tasks = np.array([names.index(review.domain) for review in reviews], dtype=np.int64)
    classes = np.array([review.label for review in reviews], dtype=np.int64)
    keep = limit_mask(tasks, classes, config.limit, config.seed)
    words = [list(review.words) for review, kept in zip(reviews, keep, strict=True) if kept]
    return Part(words, [" ".join(each) for each in words], tasks[keep], classes[keep])
