from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lossrag.tasks.text.newsgroups_corpus import (
    edit,
    letters_only,
    normalised,
    stripped,
    without_footer,
    without_header,
    without_quotes,
)

LINES = st.lists(st.sampled_from(["", "  ", "--", "-", "> quoted", "| quoted", "In article <1>", "x writes:", "word"]))
TEXT = st.one_of(st.text(), LINES.map("\n".join))


@given(TEXT)
def test_strip_rules_are_those_of_scikit_learn(text):
    from sklearn.datasets import _twenty_newsgroups as oracle

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
