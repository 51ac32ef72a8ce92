"""Files that a crash leaves whole, and paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from lossrag.errors import ConfigError


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` so that a reader, or a crash, sees the old or the new file, never a mix.

    The new file outlasts a loss of power as well. Raises OSError when the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "a"), b"whole")
    ...     Path(folder, "a").read_bytes()
    b'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
