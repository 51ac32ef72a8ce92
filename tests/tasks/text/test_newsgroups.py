from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import lossrag.tasks.text.newsgroups
import lossrag.tasks.text.vectors
from lossrag import DataError, OptionError
from lossrag.tasks import SPLITS, NewsgroupsConfig, load_suite
from lossrag.tasks.files.fetch import cache_folder
from lossrag.tasks.suite import Suite, TokenInputs
from lossrag.tasks.table.new_rows import read_rows
from lossrag.tasks.text.newsgroups import GROUPS
from lossrag.tasks.text.newsgroups_corpus import edit
from tests.tasks.conftest import messages


def load(world, **options) -> Suite:
    return load_suite("newsgroups", **{"root": str(world.root), "rho": 0.3, "validation": 0.2, **options})


def same(first: Suite, second: Suite) -> bool:
    if not torch.equal(first.vectors, second.vectors):
        return False
    pairs = [(a, b) for split in SPLITS for a, b in zip(first.splits[split], second.splits[split], strict=True)]
    return all(
        torch.equal(x, y)
        for a, b in pairs
        for x, y in ((a.targets, b.targets), (a.inputs.ids, b.inputs.ids), (a.inputs.offsets, b.inputs.offsets))
    )


def test_the_four_tasks_of_the_paper(world):
    suite = load(world)
    assert suite.task_names == ("COMP", "REC", "SCI", "TALK")
    assert [task.labels for task in suite.tasks] == list(GROUPS.values())
    assert not suite.shared_input
    sizes = {split: [len(each) for each in suite.splits[split]] for split in SPLITS}
    assert sizes["test"] == [16] * 4
    assert sum(map(sum, sizes.values())) == 4 * 4 * (12 + 4)
    assert "20 Newsgroups bydate, normalised (subject + body, letters only)" in suite.edition
    assert "GloVe 6B 50-d" in suite.edition
    assert suite.vectors.shape[1] == 50
    assert not suite.vectors[0].any()


def test_same_suite_from_every_source_and_from_the_cache(world, pip, monkeypatch):
    first = load(world)
    assert len(list((cache_folder() / "encoded").iterdir())) == 1
    monkeypatch.setattr(lossrag.tasks.text.newsgroups, "_build", lambda config: pytest.fail("built again"))
    assert same(first, load(world))
    assert same(first, load(world, root=None))  # neither data nor network needed
    monkeypatch.undo()


def test_other_texts_become_the_inputs_of_the_suite(world):
    suite = load(world)
    for task, own in zip(suite.tasks, suite.splits["test"], strict=True):
        texts = [edit(row["text"], "normalised") for row in messages("test") if row["group"] in task.labels]
        tokens, notes = read_rows(texts, suite.preprocessing).tokens()
        assert sorted(words(tokens)) == sorted(words(own.inputs))
        assert not notes


def words(inputs: TokenInputs) -> list[list[int]]:
    return [inputs.ids[a:b].tolist() for a, b in pairwise(inputs.offsets.tolist())]


@pytest.mark.parametrize("wheels", [False, True])
def test_same_suite_from_the_network(world, pip, monkeypatch, tmp_path, wheels):
    first = load(world)
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "other"))
    if wheels:
        world.tarball.unlink()
        world.glove_zip.unlink()
    assert same(first, load(world, root=None))
    assert pip.exists() == wheels


def test_damaged_cache_is_built_anew(world, caplog):
    first = load(world)
    (path,) = (cache_folder() / "encoded").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert same(first, load(world))
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("file", ["newsgroups/train.jsonl.gz", "vectors/glove.6B.50d.subset.txt.gz"])
def test_damaged_data_of_the_user_is_an_error_even_when_cached(world, file):
    load(world)
    (world.root / file).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{file} is damaged"):
        load(world)


@pytest.mark.parametrize("edition", ["raw", "stripped"])
def test_other_editions(world, edition):
    suite = load(world, edition=edition)
    assert f"20 Newsgroups bydate, {edition} (" in suite.edition
    words = suite.splits["test"][0].inputs.lengths.float().mean()
    assert words > 0


def test_raw_without_source_says_where_it_is_found(world, pip):
    world.tarball.unlink()
    with pytest.raises(DataError, match=r"20news-bydate\.tar\.gz(.|\n)*\(d\) set edition='normalised'"):
        load(world, root=None, edition="raw")
    assert not pip.exists()  # the mirror does not have it


def test_options_shape_the_vocabulary(world):
    full = load(world)
    assert len(load(world, oov=False).vectors) < len(full.vectors)
    assert len(load(world, max_words=3).vectors) == 4
    assert max(e.inputs.lengths.max() for e in load(world, max_tokens=2).splits["test"]) == 2
    random = load(world, vectors="random", dim=7)
    assert random.vectors.shape[1] == 7
    assert "random 7-d vectors" in random.edition
    assert not same(full, load(world, seed=1))


def test_limit_keeps_the_classes(world):
    suite = load(world, limit=40)
    for task in range(4):
        assert sum(len(suite.splits[split][task]) for split in SPLITS[:3]) == 40
        assert len(suite.splits["test"][task]) == 16


def test_limit_too_small_for_the_classes(world):
    with pytest.raises(DataError, match=r"task 'COMP' has no sample of class .*enlarge that split"):
        load(world, limit=4)


def test_training_copies_of_test_documents_are_dropped(world, monkeypatch):
    corpus = lossrag.tasks.text.newsgroups.read_corpus
    extra = 0

    def leaky(paths, edition):
        nonlocal extra
        made = corpus(paths, edition)
        copies = [document._replace(group="sci.med") for document in made["test"] if document.group != "alt.atheism"]
        extra = len(copies)
        return {**made, "train": made["train"] + copies}

    monkeypatch.setattr(lossrag.tasks.text.newsgroups, "read_corpus", leaky)
    suite = load(world)
    assert extra == 64
    assert sum(len(each) for split in SPLITS[:3] for each in suite.splits[split]) == 16 * 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edition": "strip"}, "edition='strip' is unknown: did you mean 'stripped'"),
        ({"vectors": "word2vec"}, "vectors='word2vec' is unknown"),
        ({"dim": 64}, "50, 100, 200 and 300 dimensions, not dim=64"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"limit": -3}, "limit must be 1 or more, got -3"),
        ({"rho": 1.0}, r"rho must be in \(0, 1\), got 1.0"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(OptionError, match=f"^NewsgroupsConfig: .*{message}"):
        NewsgroupsConfig(**options)


@pytest.mark.data
def test_real_suite(real_data):
    suite = load_suite("newsgroups", root=real_data)
    assert {split: [len(each) for each in suite.splits[split]] for split in SPLITS} == {
        "support": [1875, 1936, 1913, 1578],
        "query": [209, 214, 212, 176],
        "validation": [231, 239, 236, 195],
        "test": [1557, 1589, 1570, 1297],
    }
    assert suite.vectors.shape == (31415, 50)
