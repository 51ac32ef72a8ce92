from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossrag.tasks.text.words import _TOKEN, document_frequency, encode_words, tokenise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't can't DON'T", ["do", "n't", "ca", "n't", "do", "n't"]),
        ("he's we'll rock'n'roll", ["he", "'s", "we", "'ll", "rock", "n", "roll"]),
        ("1,000.5 v2 3.", ["1,000.5", "v", "2", "3", "."]),
        ("a_b-c@d.e", ["a", "b", "c", "d", ".", "e"]),
        ("Gödel ÉTÉ", ["gödel", "été"]),
        ("", []),
    ],
)
def test_tokens(text, words):
    assert tokenise(text) == words


@given(st.lists(st.text("abcnt", min_size=1)).map(" ".join))
def test_words_of_letters_are_split_at_spaces(text):
    assert tokenise(text) == text.split() == _TOKEN.findall(text)


def test_document_frequency_counts_documents_not_words():
    assert document_frequency([["a", "a", "b"], ["a"]]) == {"a": 2, "b": 1}


def test_encoding_drops_unknown_words_before_it_cuts():
    inputs = encode_words(("x", "y"), [["x", "?", "y", "x"], [], ["?"]], max_tokens=2)
    assert inputs.ids.tolist() == [1, 2]
    assert inputs.offsets.tolist() == [0, 2, 2, 2]
