"""Files: the one atomic writer, the one reader of what comes from outside, with limits on its kind and size, and paths
as users write them."""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError

MIB, GIB = 1 << 20, 1 << 30
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnfitFile(OSError):  # noqa: N818 - what it says, not what it is
    """A path that leads to no regular file, or to one that is too large or holds something else; the text says so."""


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` so that a reader, or a crash, sees the old or the new file, never a mix.

    The new file outlasts a loss of power as well. Raises OSError when the folder cannot be written, and UnfitFile for a
    path that is something else than a file, such as a device or a link, which would be replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "a"), b"whole")
    ...     Path(folder, "a").read_bytes()
    b'whole'
    """
    check_target(path)
    # processes of two machines may have one number
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        # The new name is an entry of the folder, which has a cache of its own.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def expanded(given: str | os.PathLike[str], name: str) -> Path:
    """The path that a user gave as ``name``, with ``~`` and ``~user`` written out; raises ConfigError for a user that
    there is not, and for what cannot be a path.

    >>> expanded("runs", "run.root").name
    'runs'
    """
    if "\0" in str(given):
        raise ConfigError(f"{name}={str(given)!r:.80} is no path: it holds a zero byte.")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigError(f"{name}={given}: there is no such user, so no such folder: write the path out.") from None


def check_target(path: Path) -> None:
    """Raise UnfitFile where something lies at ``path`` that is no regular file: writing would destroy it, or go
    elsewhere."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except ValueError as error:  # a NUL in the name
        raise UnfitFile(f"{str(path)!r} is no name of a file ({error})") from None
    if not stat.S_ISREG(mode):
        leads = f" (to {os.readlink(path)})" if stat.S_ISLNK(mode) else ""
        raise UnfitFile(f"{path} is {_kind(mode)}{leads}, which is not written to: name a file")


def check_file(path: Path, most: int = GIB, within: Path | None = None) -> None:
    """Raise UnfitFile unless ``path`` is a regular file of at most ``most`` bytes, and OSError where there is none.

    within: the folder that it has to lie in, links followed. What a library opens by name is checked so before: a named
    pipe would keep it waiting, and a device has no end.
    """
    try:
        found = path.stat()
        if within is not None and not path.resolve().is_relative_to(within.resolve()):
            raise UnfitFile(f"{path} is a link out of its folder, to {path.resolve()}")
    except (ValueError, RuntimeError) as error:  # a NUL in the name; links that go round
        raise UnfitFile(f"{str(path)!r} is no name of a file ({error})") from None
    _check(path, found, most)


def read_file(path: Path, most: int = 64 * MIB, within: Path | None = None) -> bytes:
    """The content of a regular file of at most ``most`` bytes; raises OSError, and UnfitFile as :func:`check_file`."""
    check_file(path, most, within)
    # what was put there in between is not waited for either
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(number, "rb") as file:
        _check(path, os.fstat(number), most)
        content = file.read(most + 1)
    if len(content) > most:
        raise UnfitFile(f"{path} grew beyond {_size(most)} while it was read")
    return content


def read_json(path: Path, most: int = 64 * MIB, within: Path | None = None) -> Any:
    """The value in a file of JSON; raises as :func:`read_file`, and UnfitFile for what is no JSON or too deep."""
    content = read_file(path, most, within)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnfitFile(f"{path} is no JSON ({error})") from None


def _check(path: Path, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFile(f"{path} is {_kind(found.st_mode)}, no file")
    if found.st_size > most:
        raise UnfitFile(f"{path} has {found.st_size:,} bytes, more than the {_size(most)} that are read")


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def _size(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB" if size >= MIB else f"{size:,} bytes"
