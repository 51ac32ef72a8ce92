"""The index of loss embeddings: nearest losses by cosine, filtered, with ties in a fixed order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.errors import BankError, ConfigError, did_you_mean
from lossrag.lossbank.experience.topk import Hits, Rows, exact_top_k, flat_index, graph_index, graph_top_k, unit_rows


@dataclass(frozen=True)
class Attributes:
    """What a search may filter losses by."""

    target_kind: str
    family: str


def matching(
    keys: Sequence[str],
    attributes: Sequence[Attributes],
    target_kind: str | None,
    family: str | None,
    among: Collection[str] | None,
) -> NDArray[np.int64]:
    """Positions (m,), ascending, of the ``keys`` (n) with these attributes and among these names, each where given.

    Raises ConfigError when ``among`` is a single string.

    >>> kinds = [Attributes("classification", "margin"), Attributes("classification", "robust")]
    >>> matching(["hinge", "mae"], kinds, "classification", "robust", None)
    array([1])
    """
    if isinstance(among, str):
        raise ConfigError(f"The keys of a filter are a collection of names, not the string {among!r}.")
    if target_kind is None and family is None and among is None:
        return np.arange(len(keys))
    wanted = None if among is None else set(among)
    return np.array(
        [
            place
            for place, (key, each) in enumerate(zip(keys, attributes, strict=True))
            if (target_kind is None or each.target_kind == target_kind)
            and (family is None or each.family == family)
            and (wanted is None or key in wanted)
        ],
        dtype=np.int64,
    )


def check_keys(keys: Sequence[str]) -> None:
    """Raises ConfigError unless ``keys`` are distinct names."""
    if isinstance(keys, str):
        raise ConfigError(f"An index takes a list of keys, not the string {keys!r}.")
    for key in keys:
        if not isinstance(key, str) or not key:
            raise ConfigError(f"A key of an index is a name, not {key!r}.")
    if len(set(keys)) < len(keys):
        twice = sorted(key for key in set(keys) if list(keys).count(key) > 1)
        raise ConfigError(f"The key {twice[0]!r} comes twice: give each key once.")


FORMAT = 1


class LossIndex:
    """Unit vectors (n, dimension) by key, searched by inner product, which is then the cosine.

    A search is exact below ``approximate_from`` keys, and goes through an HNSW graph from there on; a filter that
    leaves fewer keys than that makes it exact again. All it answers is a function of the content: neither the
    order of insertion nor the other queries nor the number of threads matter. The FAISS index is built by the
    first search after a change (a graph over 50,000 keys takes seconds: change many keys at once).

    Raises ConfigError when ``dimension`` or ``approximate_from`` is less than 1.

    >>> index = LossIndex(2)
    >>> kinds = [Attributes("classification", "margin"), Attributes("classification", "robust")]
    >>> index.add(["hinge", "mae"], [[1.0, 0.0], [0.0, 2.0]], kinds)
    >>> index.search([[3.0, 4.0]], k=5)
    [[('mae', 0.8), ('hinge', 0.6)]]
    >>> index.search([[3.0, 4.0]], k=5, family="margin")
    [[('hinge', 0.6)]]
    """

    def __init__(self, dimension: int, *, approximate_from: int = 50_000) -> None:
        for name, value in (("dimension", dimension), ("approximate_from", approximate_from)):
            if value < 1:
                raise ConfigError(f"The {name} of an index is a whole number from 1 up, not {value!r}.")
        self.dimension = dimension
        self.approximate_from = approximate_from
        # In the order of the keys, so that the lower position is the tie-break.
        self._keys: tuple[str, ...] = ()
        self._place: dict[str, int] = {}
        self._rows: Rows = np.empty((0, dimension), dtype=np.float32)
        self._attributes: tuple[Attributes, ...] = ()
        self._faiss: Any = None

    @property
    def kind(self) -> Literal["exact", "hnsw"]:
        """How a search without a filter goes at the present size."""
        return "exact" if len(self) < self.approximate_from else "hnsw"

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, sorted."""
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def add(self, keys: Sequence[str], vectors: ArrayLike, attributes: Sequence[Attributes]) -> None:
        """Put ``keys`` (n) in with their ``vectors`` (n, dimension), of any length but zero, and attributes (n).

        Raises ConfigError, and changes nothing, for a key that is in already or comes twice, for numbers that do
        not match, and for vectors of another dimension, not finite or zero.
        """
        check_keys(keys)
        rows = unit_rows(vectors, self.dimension, "vectors of the index")
        if not len(keys) == len(rows) == len(attributes):
            raise ConfigError(
                "An index takes as many vectors and attributes as keys, got "
                f"{len(keys)} keys, {len(rows)} vectors and {len(attributes)} attributes."
            )
        taken = sorted(key for key in keys if key in self._place)
        if taken:
            raise ConfigError(f"The index holds {taken[0]!r} already: use update() to give it another vector.")
        self._set((*self._keys, *keys), np.concatenate([self._rows, rows]), (*self._attributes, *attributes))

    def remove(self, keys: Sequence[str]) -> None:
        """Take ``keys`` out. Raises ConfigError, and changes nothing, for an unknown key or one that comes twice."""
        check_keys(keys)
        gone = set(self._places(keys).tolist())
        stay = [place for place in range(len(self)) if place not in gone]
        self._set([self._keys[i] for i in stay], self._rows[stay], [self._attributes[i] for i in stay])

    def update(self, key: str, vector: ArrayLike) -> None:
        """Give ``key`` another ``vector`` (dimension,); its attributes stay.

        Raises ConfigError, and changes nothing, for an unknown key or a vector that :meth:`add` refuses.
        """
        (place,) = self._places([key])
        self._rows[place] = unit_rows(np.asarray(vector)[None], self.dimension, "vectors of the index")[0]
        self._faiss = None

    def vectors(self, keys: Sequence[str]) -> Rows:
        """The stored vectors of ``keys``, (n, dimension) float32, of length 1. Raises ConfigError for unknown keys."""
        return self._rows[self._places(keys)]

    def attributes(self, key: str) -> Attributes:
        """The attributes of ``key``. Raises ConfigError when it is unknown."""
        return self._attributes[int(self._places([key])[0])]

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        target_kind: str | None = None,
        family: str | None = None,
        keys: Collection[str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """For every query (q, dimension) the best min(k, matching) keys with their cosines in [-1, 1], best first.

        A key matches when it has the ``target_kind`` and the ``family`` and is among ``keys``, each where given;
        names that the index does not hold match nothing, and where nothing matches (or the index is empty) the
        list of a query is empty. Cosines are rounded to six places; equal ones come in the order of the keys, also
        across the k-th place (in an exact search).

        Raises ConfigError for k < 1, and for queries of another dimension, not finite or zero.
        """
        unit = unit_rows(queries, self.dimension, "queries of the index")
        if k < 1:
            raise ConfigError(f"A search returns at least one key, so k is a whole number from 1 up, not {k!r}.")
        allowed = matching(self._keys, self._attributes, target_kind, family, keys)
        if not len(unit) or not len(allowed):
            return [[] for _ in unit]
        return [
            [(self._keys[place], float(score)) for place, score in zip(*hit, strict=True)]
            for hit in self._search(unit, k, allowed)
        ]

    def state(self) -> dict[str, Any]:
        """The content as plain values: format, dimension, keys, target_kinds, families (n), vectors (n, dimension).

        The FAISS index is not among them: damaged index files load without an error, so it is always built anew.
        """
        return {
            "format": FORMAT,
            "dimension": self.dimension,
            "keys": list(self._keys),
            "target_kinds": [each.target_kind for each in self._attributes],
            "families": [each.family for each in self._attributes],
            "vectors": self._rows.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, approximate_from: int = 50_000) -> LossIndex:
        """The index that gave ``state``, its vectors bit for bit. Raises BankError when the state is unfit."""
        try:
            if state["format"] != FORMAT:
                raise BankError(f"This index has the format {state['format']!r}, expected {FORMAT}: build it anew.")
            index = cls(state["dimension"], approximate_from=approximate_from)
            kinds = [Attributes(*pair) for pair in zip(state["target_kinds"], state["families"], strict=True)]
            rows = np.asarray(state["vectors"])
            if rows.dtype != np.float32:
                raise BankError(f"The vectors of an index are float32, not {rows.dtype}: build it anew.")
            index.add(state["keys"], rows, kinds)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise BankError(f"The stored index is damaged ({error}): build it anew.") from error
        lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
        if not np.allclose(lengths, 1.0, rtol=0, atol=1e-5):
            raise BankError("The stored index is damaged (vectors not of length 1): build it anew.")
        # Not normalised a second time, which would change the last bits.
        index._rows[index._places(state["keys"])] = rows
        return index

    def _set(self, keys: Sequence[str], rows: Rows, attributes: Sequence[Attributes]) -> None:
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._keys = tuple(keys[i] for i in order)
        self._place = {key: place for place, key in enumerate(self._keys)}
        self._rows = np.ascontiguousarray(rows[order])
        self._attributes = tuple(attributes[i] for i in order)
        self._faiss = None

    def _places(self, keys: Sequence[str]) -> NDArray[np.int64]:
        for key in keys:
            if key not in self._place:
                raise ConfigError(f"The index holds no {key!r}: {did_you_mean(key, self._keys)}")
        return np.array([self._place[key] for key in keys], dtype=np.int64)

    def _search(self, unit: Rows, k: int, allowed: NDArray[np.int64]) -> list[Hits]:
        everything = len(allowed) == len(self)
        if len(allowed) < self.approximate_from and not everything:
            rows = self._rows[allowed]
            hits = exact_top_k(flat_index(rows), rows, unit, k)
            return [(allowed[places], scores) for places, scores in hits]
        if self._faiss is None:
            self._faiss = flat_index(self._rows) if self.kind == "exact" else graph_index(self._rows)
        if self.kind == "exact":
            return exact_top_k(self._faiss, self._rows, unit, k)
        return graph_top_k(self._faiss, self._rows, unit, k, None if everything else allowed)
