"""The three editions of a newsgroup message: raw, stripped, normalised."""

from __future__ import annotations

import re

EDITIONS = {
    "raw": "whole messages, headers kept",
    "stripped": "headers, footers and quotes removed",
    "normalised": "subject + body, letters only",
}
"""Edition name to what it holds, in words."""

_SUBJECT = re.compile(r"^subject:(.*)$", re.IGNORECASE | re.MULTILINE)
_NOT_LETTERS = re.compile(r"[^A-Za-z]+")
_QUOTE = re.compile(r"writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^\||^>")


def letters_only(text: str) -> str:
    """Lower-cased ASCII letters, every run of anything else one space.

    >>> letters_only("Re: It's 3.5\\" -- OK?")
    're it s ok'
    """
    return _NOT_LETTERS.sub(" ", text).lower().strip()


def normalised(message: str) -> str:
    """Subject and body of a message, letters only.

    >>> normalised("From: a@b\\nSubject: Re: Mac IIsi\\n\\nIt works!")
    're mac iisi it works'
    """
    head, _, body = message.partition("\n\n")
    subject = _SUBJECT.search(head)
    return letters_only(f"{subject.group(1) if subject else ''} {body}")


def without_header(message: str) -> str:
    """What follows the first empty line."""
    return message.partition("\n\n")[2]


def without_quotes(text: str) -> str:
    """The lines that neither quote somebody nor announce a quotation."""
    return "\n".join(line for line in text.split("\n") if not _QUOTE.search(line))


def without_footer(text: str) -> str:
    """The text above its last line that is empty or made of dashes: a signature follows such a line."""
    lines = text.strip().split("\n")
    last = max((i for i, line in enumerate(lines) if not line.strip().strip("-")), default=0)
    return "\n".join(lines[:last]) if last else text


def stripped(message: str) -> str:
    """A message as scikit-learn's ``remove=("headers", "footers", "quotes")`` leaves it."""
    return without_quotes(without_footer(without_header(message)))


def edit(message: str, edition: str) -> str:
    """``message`` in ``edition``, a key of :data:`EDITIONS`. Line ends are unified first."""
    message = message.replace("\r\n", "\n")
    if edition == "raw":
        return message
    return normalised(message) if edition == "normalised" else stripped(message)
