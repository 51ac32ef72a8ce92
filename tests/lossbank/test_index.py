from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import BankError, ConfigError
from lossrag.lossbank.experience.index import Attributes, LossIndex

KINDS, FAMILIES = ("classification", "regression"), ("robust", "margin", "euclidean")
SMALL = st.integers(-2, 2)  # few values: many ties
VECTOR = st.tuples(SMALL, SMALL, SMALL).filter(any)
OPERATION = st.tuples(st.sampled_from(["add", "remove", "update"]), st.sampled_from("abcdefghijkl"), VECTOR)


def attributes(key: str) -> Attributes:
    return Attributes(KINDS[ord(key[0]) % 2], FAMILIES[ord(key[0]) % 3])


def filled(content: dict[str, tuple[float, ...]], **options) -> LossIndex:
    index = LossIndex(len(next(iter(content.values()), (0, 0, 0))), **options)
    index.add(list(content), np.reshape(list(content.values()), (-1, index.dimension)), [*map(attributes, content)])
    return index


def brute_force(content, query, k, allowed) -> list[tuple[str, float]]:
    unit = {key: np.divide(vector, np.linalg.norm(vector)) for key, vector in content.items() if key in allowed}
    scores = {key: round(float(vector @ query / np.linalg.norm(query)), 6) for key, vector in unit.items()}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]


def same(found, expected) -> None:
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=2e-6)


@settings(deadline=None)
@given(st.lists(OPERATION, max_size=40), VECTOR, st.integers(1, 15), st.sampled_from([None, *KINDS]))
def test_any_history_searches_like_brute_force(operations, query, k, kind):
    index, content = LossIndex(3), {}
    for operation, key, vector in operations:
        if operation == "add" and key not in content:
            index.add([key], [vector], [attributes(key)])
        elif operation == "update" and key in content:
            index.update(key, vector)
        elif operation == "remove" and key in content:
            index.remove([key])
            del content[key]
            continue
        else:
            with pytest.raises(ConfigError):
                {"add": lambda k, v: index.add([k], [v], [attributes(k)]), "update": index.update}.get(
                    operation, lambda k, v: index.remove([k])
                )(key, vector)
            continue
        content[key] = vector
    allowed = {key for key in content if kind in (None, attributes(key).target_kind)}
    (found,) = index.search([query], k, target_kind=kind)
    same(found, brute_force(content, query, k, allowed))
    assert index.keys == tuple(sorted(content))
    if content:
        rebuilt = filled(content)
        assert rebuilt.search([query], k, target_kind=kind) == [found]
        assert rebuilt.state()["vectors"].tobytes() == index.state()["vectors"].tobytes()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 99))
def test_answers_do_not_depend_on_batch_threads_or_insertion(count, k, seed):
    rng = np.random.default_rng(seed)
    keys = [f"k{i:02}" for i in range(count)]
    vectors = rng.choice([-1.0, 1.0], size=(count, 40)) if seed % 2 else rng.normal(size=(count, 40))
    queries = rng.normal(size=(45, 40))
    kinds = [attributes("a")] * count
    index, other = LossIndex(40), LossIndex(40)
    index.add(keys, vectors, kinds)
    for i in rng.permutation(count):
        other.add([keys[i]], vectors[i : i + 1], kinds[:1])
    together = index.search(queries, k)
    assert together == [index.search(query[None], k)[0] for query in queries] == other.search(queries, k)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(4)
    try:
        assert index.search(queries, k) == together
    finally:
        faiss.omp_set_num_threads(threads)


def test_ties_across_the_last_place_go_by_key():
    """Ties but for float32 noise, by which FAISS alone would choose others."""
    rng = np.random.default_rng(0)
    keys, base = [f"key{i:03}" for i in range(300)], rng.normal(size=64)
    vectors = base + 1e-7 * rng.normal(size=(300, 64))
    index = LossIndex(64)
    order = rng.permutation(300)
    index.add([keys[i] for i in order], vectors[order], [attributes("a")] * 300)
    for query in (base, base + rng.normal(size=64)):
        (found,) = index.search([query], 5)
        assert [key for key, _ in found] == keys[:5]
        assert len({score for _, score in found}) == 1


@pytest.mark.parametrize("scale", [1e-320, 1e-30, 1e200])
def test_length_does_not_matter(scale):
    index = filled({"a": (scale, 0.0), "b": (0.0, scale)})
    assert index.search([[3 * scale, 0.0]], 2) == [[("a", 1.0), ("b", 0.0)]]


def test_filters_combine_and_may_match_nothing():
    index = filled({key: (1.0, i) for i, key in enumerate("abcdef")})
    assert [key for key, _ in index.search([[1.0, 0.0]], 9, keys=["c", "a", "not there"])[0]] == ["a", "c"]
    want = [key for key in "abcdef" if attributes(key) == Attributes("regression", "margin")]
    assert [key for key, _ in index.search([[1.0, 0.0]], 9, target_kind="regression", family="margin")[0]] == want
    assert index.search([[1.0, 0.0]] * 2, 9, family="no such") == [[], []]
    assert LossIndex(2).search([[1.0, 0.0]], 3) == [[]]
    assert index.search(np.empty((0, 2)), 3) == []


def test_refusals_name_the_cause_and_change_nothing():
    index = filled({"mae": (1.0, 0.0), "brier": (0.0, 1.0)})
    before, kind = index.state(), [attributes("a")]
    for vector in ([np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ConfigError, match="row 0 holds NaN or infinity"):
            index.add(["x"], [vector], kind)
        with pytest.raises(ConfigError, match="NaN"):
            index.search([vector], 1)
        with pytest.raises(ConfigError, match="NaN"):
            index.update("mae", vector)
    with pytest.raises(ConfigError, match="row 1 is zero"):
        index.add(["x", "y"], [[1.0, 1.0], [0.0, 0.0]], kind * 2)
    with pytest.raises(ConfigError, match="2 columns, got 3"):
        index.search([[1.0, 2.0, 3.0]], 1)
    with pytest.raises(ConfigError, match="two axes"):
        index.search([1.0, 2.0], 1)
    with pytest.raises(ConfigError, match="array of numbers"):
        index.search([["a", "b"]], 1)
    with pytest.raises(ConfigError, match=r"holds 'mae' already: use update"):
        index.add(["x", "mae"], [[1.0, 1.0]] * 2, kind * 2)
    with pytest.raises(ConfigError, match="'x' comes twice"):
        index.add(["x", "x"], [[1.0, 1.0]] * 2, kind * 2)
    with pytest.raises(ConfigError, match="1 keys, 2 vectors and 1 attributes"):
        index.add(["x"], [[1.0, 1.0]] * 2, kind)
    with pytest.raises(ConfigError, match=r"no 'brer': did you mean 'brier'\?"):
        index.update("brer", [1.0, 1.0])
    with pytest.raises(ConfigError, match=r"did you mean 'brier'"):
        index.remove(["mae", "breir"])
    with pytest.raises(ConfigError, match="not the string"):
        index.remove("mae")
    with pytest.raises(ConfigError, match="not the string"):
        index.search([[1.0, 1.0]], 1, keys="mae")
    with pytest.raises(ConfigError, match="from 1 up, not 0"):
        index.search([[1.0, 1.0]], 0)
    with pytest.raises(ConfigError, match="is a name"):
        index.add([""], [[1.0, 1.0]], kind)
    with pytest.raises(ConfigError, match="dimension"):
        LossIndex(0)
    assert index.state()["vectors"].tobytes() == before["vectors"].tobytes()
    assert index.keys == ("brier", "mae")
    assert "mae" in index
    assert "x" not in index


def test_lookups():
    index = filled({"mae": (3.0, 4.0), "brier": (0.0, 2.0)})
    assert index.vectors(["brier", "mae"]).tolist() == [[0.0, 1.0], pytest.approx([0.6, 0.8])]
    assert index.attributes("mae") == attributes("mae")
    assert index.vectors([]).shape == (0, 2)


@settings(deadline=None)
@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), VECTOR, max_size=12))
def test_state_round_trip_is_bit_for_bit(content):
    index = filled(content)
    state = index.state()
    again = LossIndex.from_state(state)
    assert again.state()["vectors"].tobytes() == state["vectors"].tobytes()
    assert {key: value for key, value in again.state().items() if key != "vectors"} == {
        key: value for key, value in state.items() if key != "vectors"
    }
    assert again.search([[1, 2, 3]], 5) == index.search([[1, 2, 3]], 5)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"dimension": 3},
        {"dimension": "two"},
        {"keys": ["a", "a"]},
        {"keys": ["a"]},
        {"families": ["x"]},
        {"families": None},
        {"vectors": np.zeros((2, 2), np.float32)},
        {"vectors": np.ones((2, 2), np.float32)},
        {"vectors": np.full((2, 2), np.nan, np.float32)},
        {"vectors": np.eye(2)},
    ],
)
def test_unfit_state_is_refused(change):
    state = {**filled({"a": (1.0, 0.0), "b": (0.0, 1.0)}).state(), **change}
    with pytest.raises(BankError, match="build it anew"):
        LossIndex.from_state(state)
    with pytest.raises(BankError, match="damaged"):
        LossIndex.from_state({key: state[key] for key in ("format", "dimension")} | {"format": 1})


def test_large_index_goes_through_a_graph_and_still_fills_k():
    rng = np.random.default_rng(0)
    keys = [f"k{i:04}" for i in range(1500)]
    vectors, queries = rng.normal(size=(1500, 16)), rng.normal(size=(20, 16))
    kinds = [Attributes(KINDS[i % 2], FAMILIES[i % 3]) for i in range(1500)]
    exact, graph, again = LossIndex(16), LossIndex(16, approximate_from=400), LossIndex(16, approximate_from=400)
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    for index in (exact, graph):
        index.add(keys, vectors, kinds)
    order = rng.permutation(1500)
    again.add([keys[i] for i in order], vectors[order], [kinds[i] for i in order])
    assert (exact.kind, graph.kind) == ("exact", "hnsw")
    for options in ({}, {"target_kind": "regression"}, {"family": "margin", "target_kind": "regression"}):
        truth, found = exact.search(queries, 10, **options), graph.search(queries, 10, **options)
        hits = [len({key for key, _ in a} & {key for key, _ in b}) for a, b in zip(truth, found, strict=True)]
        assert sum(hits) >= 0.95 * 200
        assert all(len(row) == 10 for row in found)
        assert (
            found == again.search(queries, 10, **options) == [graph.search(q[None], 10, **options)[0] for q in queries]
        )
    assert len(graph.search(queries[:1], 2000)[0]) == 1500
    assert len(graph.search(queries[:1], 2000, target_kind="regression")[0]) == 750
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == threads
