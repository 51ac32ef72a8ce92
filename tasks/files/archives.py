"""Reading named members of archives into memory: nothing is unpacked to disk, and sizes are limited."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lossrag.errors import DataError


@contextmanager
def open_member(path: Path, name: str, limit: int) -> Iterator[IO[bytes]]:
    """Member ``name`` of the zip file (or wheel) at ``path``, as a stream of at most ``limit`` bytes.

    Raises DataError when the archive is damaged, lacks the member, or the member is larger.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(name).file_size
            if size > limit:
                raise DataError(f"{name} in {path} has {size:,} bytes, expected {limit:,} at most.")
            with archive.open(name) as stream:
                yield stream
    except KeyError:
        raise DataError(f"{path} has no {name!r}: delete the file to fetch it again.") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged ({error}). Delete it to fetch it again.") from error


def zip_member(path: Path, name: str, limit: int) -> bytes:
    """The bytes of one member; raises as :func:`open_member` does."""
    with open_member(path, name, limit) as stream:
        return stream.read()


def tar_members(path: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every regular file in the tar archive at ``path``; links and devices are passed over.

    Raises DataError when the archive is damaged or a file has more than ``limit`` bytes.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                if member.size > limit:
                    raise DataError(f"{member.name} in {path}: {member.size:,} bytes, expected {limit:,} at most.")
                stream = archive.extractfile(member)
                if stream is not None:
                    yield member.name, stream.read()
    except tarfile.TarError as error:
        raise DataError(f"{path} is damaged ({error}). Delete it to fetch it again.") from error
