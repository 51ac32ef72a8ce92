"""FDU-MTL: reviews of 16 domains in the published train, dev and test parts, and which of them stand in two parts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lossrag import DataError

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
    train = {(review.domain, review.words) for review in reviews["train"]}
    known = train | {(review.domain, review.words) for review in reviews["dev"]}
    return {
        "dev": [(review.domain, review.words) in train for review in reviews["dev"]],
        "test": [(review.domain, review.words) in known for review in reviews["test"]],
    }
