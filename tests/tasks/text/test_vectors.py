from __future__ import annotations

import sys

import numpy as np
import pytest

from lossrag import ConfigError, DataError
from lossrag.tasks.files import sources
from lossrag.tasks.files.fetch import cache_folder
from lossrag.tasks.text.vectors import available_vectors, exceptions, glove, table

WORDS = {"car", "the", "unheard"}


def put_into_cache(path) -> None:
    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())


def test_vectors_are_the_same_from_every_source(world):
    first = glove(WORDS, 50, str(world.root))
    assert set(first) == {"car", "the"}
    for path in (world.glove_wheel, world.glove_zip):
        put_into_cache(path)
        other = glove(WORDS, 50)
        (cache_folder() / "downloads" / path.name).unlink()
        assert all(np.array_equal(first[word], other[word]) for word in first)
        assert first.keys() == other.keys()


def test_other_dimensions_come_from_the_zip_only(world):
    assert glove(WORDS, 100, str(world.root))["car"].tolist() == [0.25] * 100
    assert sources.glove_sources(300) == ((sources.GLOVE_ZIP,),)
    with pytest.raises(DataError, match=r"has no 'glove\.6B\.200d\.txt'"):
        glove(WORDS, 200)


def test_other_dimensions_without_the_zip_name_what_works(world, pip):
    world.glove_zip.unlink()
    with pytest.raises(DataError, match=r"\(d\) set dim=50.*vectors='random': with either it is another experiment"):
        glove(WORDS, 300)
    assert not pip.exists()


def test_words_that_the_subset_lacks_have_no_vector_anywhere(world, monkeypatch):
    assert "malley" in exceptions()
    assert len(exceptions()) == 358
    monkeypatch.setattr("lossrag.tasks.text.vectors.exceptions", lambda: {"car"})
    assert set(glove(WORDS, 50, str(world.root))) == {"the"}


def test_pyarrow_that_cannot_be_imported(world, monkeypatch):
    put_into_cache(world.glove_wheel)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"^Reading kumo.*whl needs pyarrow.parquet, .*\[mirror\]'"):
        glove(WORDS, 50)


def test_verified_file_that_is_no_glove(world, monkeypatch):
    path = world.root / "vectors/glove.6B.50d.subset.txt.gz"
    path.write_bytes(b"not gzip")
    monkeypatch.setattr("lossrag.tasks.text.vectors.resolve", lambda *_: (path,))
    with pytest.raises(DataError, match=r"Cannot read .* as GloVe vectors"):
        glove(WORDS, 50)


def test_table_pads_copies_and_draws_with_the_known_deviation():
    rng = np.random.default_rng(0)
    known = {f"k{i}": rng.normal(0, 0.7, 20).astype(np.float32) for i in range(200)}
    words = ["u0", *known, *(f"u{i}" for i in range(1, 200))]
    values = table(words, known, 20, seed=0)
    assert values.shape == (401, 20)
    assert values.dtype == np.float32
    assert not values[0].any()
    assert np.array_equal(values[2], known["k0"])
    assert abs(values[202:].std() - 0.7) < 0.02
    assert np.array_equal(values, table(words, known, 20, seed=0))
    assert not np.array_equal(values[1], table(words, known, 20, seed=1)[1])


def test_table_without_any_known_word():
    values = table(["a", "b"] * 500, {}, 7, seed=0)
    assert abs(values[1:].std() - 0.1) < 0.01
    assert table([], {}, 3, 0).shape == (1, 3)


def test_glove_or_random_says_what_it_came_to(monkeypatch, caplog, tmp_path):
    def unreachable(*_: object) -> None:
        raise DataError("no network")

    monkeypatch.setattr("lossrag.tasks.text.vectors.resolve", unreachable)
    assert available_vectors("glove_or_random", 300, None) == "random"
    assert "GloVe 6B 300-d is not within reach" in caplog.text
    assert available_vectors("glove", 300, None) == "glove"
    monkeypatch.setattr("lossrag.tasks.text.vectors.resolve", lambda *_: (tmp_path,))
    assert available_vectors("glove_or_random", 300, None) == "glove"
