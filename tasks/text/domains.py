"""The domains suite: what a review of FDU-MTL is about, four tasks that tell four domains apart each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lossrag.tasks.files.fetch import in_root, resolve
from lossrag.tasks.files.sources import SENTIMENT, sentiment_sources
from lossrag.tasks.splits import split_train
from lossrag.tasks.suite import Suite, Task
from lossrag.tasks.text.cache import Encoded
from lossrag.tasks.text.documents import of_texts
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.sentiment import OTHERWISE, PARTS, Review, read_reviews
from lossrag.tasks.text.suite import Part, TextConfig, encode, load_texts, part_of

DOMAIN_GROUPS = {
    "MEDIA": ("books", "dvd", "music", "magazines"),
    "TECHNIQUE": ("electronics", "camera_photo", "software", "kitchen_housewares"),
    "BODY": ("apparel", "health_personal_care", "baby", "sports_outdoors"),
    "PLAY": ("toys_games", "video", "imdb", "MR"),
}
"""Task to its classes."""
_PLACES = {name: (task, label) for task, names in enumerate(DOMAIN_GROUPS.values()) for label, name in enumerate(names)}


@dataclass(frozen=True)
class DomainsConfig(TextConfig):
    """Settings of the domains suite: those of every text suite (:class:`TextConfig`)."""


def load_domains(config: DomainsConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite, from the cache of encoded suites when it is there; with an ``encoder``, in its word pieces.

    It has the splits of the sentiment suite, and its name: the reviews are the same. One that stands several times, be
    it in another domain, is kept where it stands first. Raises DataError as that suite does.
    """
    in_root(sentiment_sources(), config.root)  # damaged data are an error even if nothing is read
    tasks = [Task(name, "classification", len(names), names) for name, names in DOMAIN_GROUPS.items()]
    prepared = partial(of_texts, tasks, "white_space")
    return load_texts("sentiment", config, encoder, f"domains of {SENTIMENT.sha256}", tasks, _build, prepared)


def _build(config: TextConfig, encoder: EncoderFiles | None) -> Encoded:
    (path,) = resolve(sentiment_sources(), config.root, OTHERWISE)
    reviews = read_reviews(path)
    seen: set[tuple[str, ...]] = set()
    parts = {part: _part(_first(reviews[part], seen), config) for part in PARTS}
    train = parts["train"]
    index = split_train(train.keys, (train.tasks * 4 + train.classes).tolist(), config.rho, config.seed)
    split = {name: train.at(index[name].tolist()) for name in index}
    tensors, content = encode(
        config, {**split, "validation": parts["dev"], "test": parts["test"]}, tuple(DOMAIN_GROUPS), encoder
    )
    return tensors, f"FDU-MTL, what reviews are about, each once, 4 tasks of 4 domains, {content}"


def _first(reviews: list[Review], seen: set[tuple[str, ...]]) -> list[Review]:
    """Those whose words were not ``seen``, which are from now on."""
    kept = []
    for review in reviews:
        if review.words not in seen:
            seen.add(review.words)
            kept.append(review)
    return kept


def _part(reviews: list[Review], config: TextConfig) -> Part:
    rows = [(*_PLACES[review.domain], " ".join(review.words)) for review in reviews]
    rows.sort(key=lambda row: row[:2])  # stable: the file's order in a domain
    return part_of(rows, str.split, config)
