"""Proof of files: a SHA256SUMS beside what is written whole, and a chain through the lines of what grows.

SHA256SUMS has the format of coreutils: ``sha256sum -c SHA256SUMS`` checks a folder, wherever it was moved to. Its first
line, a comment, proves the rest of it. A line of a growing file ends with ``"chain"``: sixteen hex digits of the sha256
over those of the line before and the line itself, so that none can be changed, left out, repeated or moved, and what a
kill left of the last one is told from damage. Tensor files prove themselves (:mod:`lossrag.tensors`).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossrag.files import GIB, MIB, UnfitFile, read_file, write_atomic
from lossrag.leases import leased

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_HEAD = "# LossRAG: sha256 of the lines below "
_LINE = re.compile(r"([0-9a-f]{64})  ([^\0\n]+)")
_CHAIN = re.compile(rb'^(.*), "chain": "([0-9a-f]{16})"\}$', re.DOTALL)
_UNPROVEN: set[Path] = set()
PATIENCE = 60.0
"""Seconds that another process may take to write into the same folder."""
MOST_LINES = 4 * GIB
"""Bytes of a file of lines, which is read as a whole."""
Sums = dict[str, set[str]]
"""By file, named relative to the folder: its sha256; two while it is replaced."""


class DamagedFile(Exception):  # noqa: N818 - what it says, not what it is
    """A file that is foreign or does not match its proof; the text is the reason alone."""


def read_sums(folder: Path) -> Sums | None:
    """The sums of a folder's files, None where it has none; raises DamagedFile for a file of sums that is damaged."""
    path = folder / SUMS
    if not path.exists():
        return None
    try:
        head, _, rest = read_file(path, MIB, folder).decode().partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"it cannot be read ({error})") from None
    if head != _HEAD + hashlib.sha256(rest.encode()).hexdigest():
        raise DamagedFile("its content does not match the checksum in its first line")
    sums: Sums = {}
    for number, line in enumerate(rest.splitlines(), start=2):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DamagedFile(f"line {number} is no checksum and name")
        sums.setdefault(match[2], set()).add(match[1])
    return sums


def write_sums(folder: Path, sums: Mapping[str, Iterable[str]]) -> None:
    """Write the sums of a folder's files; raises OSError."""
    lines = "".join(f"{digest}  {name}\n" for name in sorted(sums) for digest in sorted(sums[name]))
    write_atomic(folder / SUMS, f"{_HEAD}{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}".encode())


def write_proven(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write these files of a folder, by name, each whole or not at all, with their sums; others keep theirs.

    A crash at any moment leaves files that match: old and new content are both proven while one replaces the other.
    Raises OSError, UnfitFile for a SHA256SUMS that is damaged, and LeaseHeldError where another process does not end.
    """
    with leased(folder / f".{SUMS}.lease", PATIENCE):
        try:
            sums = read_sums(folder) or {}
        except DamagedFile as reason:
            raise UnfitFile(f"{folder / SUMS} is damaged: {reason}") from None
        new = {name: {sha256(content)} for name, content in files.items()}
        write_sums(folder, sums | {name: sums.get(name, set()) | own for name, own in new.items()})
        for name, content in files.items():
            write_atomic(folder / name, content)
        write_sums(folder, sums | new)


def _sums_beside(path: Path) -> Sums | None:
    try:
        return read_sums(path.parent)
    except DamagedFile as reason:
        raise DamagedFile(f"the {SUMS} beside it proves nothing: {reason}") from None


def replace_proven(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, with its sum where its folder keeps one for it; raises as write_proven."""
    try:
        sums = read_sums(path.parent) or {}
    except DamagedFile as reason:
        raise UnfitFile(f"{path.parent / SUMS} is damaged: {reason}") from None
    if path.name in sums:
        write_proven(path.parent, {path.name: content})
    else:
        write_atomic(path, content)


def read_proven(path: Path, most: int = 64 * MIB) -> bytes:
    """The content of a file that the SHA256SUMS of its folder proves; one without a proof with a warning, once.

    Raises OSError as :func:`lossrag.files.read_file`, DamagedFile where content and sum differ.
    """
    content = read_file(path, most, path.parent)
    known = (_sums_beside(path) or {}).get(path.name)
    if known is None:
        warn_unproven(path)
    elif sha256(content) not in known:
        raise DamagedFile(f"its content does not match its checksum in {SUMS}")
    return content


def sha256(content: bytes) -> str:
    """The hex digits of the sha256."""
    return hashlib.sha256(content).hexdigest()


def warn_unproven(path: Path) -> None:
    """Warn, once in a process, of files that an earlier version wrote without a proof, and name the first."""
    if not _UNPROVEN:
        log.warning("%s has no checksum, as an earlier version wrote it: what is in it cannot be proven.", path)
    _UNPROVEN.add(path)


@dataclass
class Chain:
    """The proof of the lines so far, of which each proves itself and all before it."""

    link: str = ""
    begun: bool = False

    def line(self, values: Mapping[str, Any]) -> bytes:
        """The next line, with its end, of these values."""
        body = json.dumps(values).encode()
        self._follow(body)
        return body[:-1] + f', "chain": "{self.link}"}}\n'.encode()

    def values(self, line: bytes) -> dict[str, Any]:
        """The values of the next line, without its end; raises DamagedFile unless it is that."""
        match = _CHAIN.match(line)
        if match is not None:
            body = match[1] + b"}"
            self._follow(body)
            if self.link != match[2].decode():
                raise DamagedFile("it does not match its checksum, or is not the line that belongs here")
        elif self.begun:
            raise DamagedFile("its checksum is missing")
        else:  # of an earlier version; the first line that has a proof proves those before it
            body = line
            self._digest(body)
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"it is no JSON ({error})") from None
        if not isinstance(values, dict):
            raise DamagedFile("it holds no JSON object")
        return values

    def _follow(self, body: bytes) -> None:
        self.begun = True
        self._digest(body)

    def _digest(self, body: bytes) -> None:
        self.link = hashlib.sha256(self.link.encode() + body).hexdigest()[:16]


def read_lines(path: Path, size: int | None = None, ended: bool = False) -> tuple[list[dict[str, Any]], Chain]:
    """The values of all lines of a growing file, and their chain (:func:`iter_lines`)."""
    chain = Chain()
    return list(iter_lines(path, chain, size, ended)), chain


def iter_lines(path: Path, chain: Chain, size: int | None = None, ended: bool = False) -> Iterator[dict[str, Any]]:
    """The values of the lines of a growing file, without a last one that a kill tore, continuing the ``chain``.

    size: bytes from its beginning to read, which end with a line; None for all. ended: nobody writes it any more, so
        that a torn line is damage.

    Raises OSError as :func:`lossrag.files.read_file`, DamagedFile with the number of the first line that is damaged, or
    missing where the SHA256SUMS of the folder names the file. One without proofs is read with a warning, once.
    """
    content = read_file(path, MOST_LINES, path.parent)[:size]
    lines = io.BytesIO(content)
    number = 1
    for line in lines:
        if not line.endswith(b"\n"):
            if ended or size is not None:
                raise DamagedFile(f"line {number}: it does not end where it should")
            break
        try:
            yield chain.values(line[:-1])
        except DamagedFile as reason:
            raise DamagedFile(f"line {number}: {reason}") from None
        number += 1
    known = (_sums_beside(path) or {}).get(path.name)
    if known is not None and size is None and sha256(content) not in known:  # the chain does not tell a torn end
        raise DamagedFile(f"line {number}: the end is missing, as its checksum in {SUMS} tells")
    if number > 1 and not chain.begun and known is None:
        warn_unproven(path)
