"""The sentiment suite of the MetaWeighting paper: reviews of 14 product domains (or all 16 of FDU-MTL), two classes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lossrag.checks import check_choice
from lossrag.errors import DataError
from lossrag.tasks.files.fetch import in_root, resolve
from lossrag.tasks.files.sources import SENTIMENT, sentiment_sources
from lossrag.tasks.splits import split_train
from lossrag.tasks.suite import Suite, Task
from lossrag.tasks.text.cache import Encoded
from lossrag.tasks.text.documents import of_texts
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.suite import Part, TextConfig, encode, load_texts, part_of

PARTS = ("train", "dev", "test")
PRODUCTS = (
    "books",
    "electronics",
    "dvd",
    "kitchen_housewares",
    "apparel",
    "camera_photo",
    "health_personal_care",
    "music",
    "toys_games",
    "video",
    "baby",
    "magazines",
    "software",
    "sports_outdoors",
)
"""The 14 Amazon product domains."""
DOMAINS = (*PRODUCTS, "imdb", "MR")
"""All 16, in the order of the file: MR are sentences from film reviews."""
LABELS = ("negative", "positive")
CHOICES = {"products": PRODUCTS, "all": DOMAINS}
EDITIONS = ("published", "deduplicated")
OTHERWISE = (
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

    Raises OptionError for a value that cannot work.
    """

    domains: str = "products"
    edition: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "domains", tuple(CHOICES))
        check_choice(self, "edition", EDITIONS)


def load_sentiment(config: SentimentConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite, from the cache of encoded suites when it is there; with an ``encoder``, in its word pieces.

    The published train part is split into support and query by ``rho``, copies kept together; dev is the validation
    split. Raises DataError when the data cannot be had or are damaged, or a split lacks a class.
    """
    in_root(sentiment_sources(), config.root)  # damaged data are an error even if nothing is read
    tasks = [Task(name, "classification", len(LABELS), LABELS) for name in CHOICES[config.domains]]
    prepared = partial(of_texts, tasks, "white_space")
    return load_texts("sentiment", config, encoder, SENTIMENT.sha256, tasks, _build, prepared)


def _build(config: SentimentConfig, encoder: EncoderFiles | None) -> Encoded:
    (path,) = resolve(sentiment_sources(), config.root, OTHERWISE)
    names = CHOICES[config.domains]
    reviews = {part: [row for row in rows if row.domain in names] for part, rows in read_reviews(path).items()}
    again = repeats(reviews)
    counts = {part: f"{sum(again[part]):,} of {len(again[part]):,} {part}" for part in again}
    if config.edition == "deduplicated":
        for part, mask in again.items():
            reviews[part] = [review for review, repeated in zip(reviews[part], mask, strict=True) if not repeated]
    parts = {part: _part(rows, names, config) for part, rows in reviews.items()}
    train = parts["train"]
    strata = (train.tasks * len(LABELS) + train.classes).tolist()
    index = split_train(train.keys, strata, config.rho, config.seed)
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
    rows = [(names.index(review.domain), review.label, " ".join(review.words)) for review in reviews]
    rows.sort(key=lambda row: row[0])  # stable: the file's order in a task
    return part_of(rows, str.split, config)


class Review(NamedTuple):
    """One review: its domain, 1 for a positive and 0 for a negative one, its words in lower case.

    The texts come tokenised: words and marks are what white space parts.
    """

    domain: str
    label: int
    words: tuple[str, ...]


Reviews = dict[str, list[Review]]
"""Reviews by part, in the order of the file."""


def read_reviews(path: Path) -> Reviews:
    """The reviews of the JSON-lines file at ``path``; raises DataError when it holds something else.

    Lines end with a line feed only: some texts hold other characters that Unicode counts as line ends.
    """
    reviews: Reviews = {part: [] for part in PARTS}
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for line in lines:
                row = json.loads(line)
                words = tuple(row["text"].lower().split())
                reviews[row["split"]].append(Review(row["domain"], int(row["label"]), words))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"Cannot read {path} as sentiment reviews: {error!r}.") from error
    return reviews


def repeats(reviews: Mapping[str, Sequence[Review]]) -> dict[str, list[bool]]:
    """For every dev review whether its words stand in its own domain's train part, for every test review whether they
    do in train or dev; in the order of ``reviews``.

    Texts that two domains have in common do not count: they are other tasks.

    >>> a, b = Review("books", 1, ("fine",)), Review("dvd", 1, ("fine",))
    >>> repeats({"train": [a], "dev": [b, a], "test": [a, b]})
    {'dev': [False, True], 'test': [True, True]}
    """
    keys = {part: [(review.domain, review.words) for review in reviews[part]] for part in PARTS}
    train = set(keys["train"])
    known = train.union(keys["dev"])
    return {"dev": [key in train for key in keys["dev"]], "test": [key in known for key in keys["test"]]}
