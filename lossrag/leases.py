"""Lease: a lock file for folders that several machines share, which no dead holder keeps for ever.

filelock's SoftFileLease: the file is made exclusively, names process and machine, and is touched by its holder as long
as that lives. A dead holder on this machine is known at once; one on another machine by a file that stays untouched for
``LEASE_SECONDS`` of the clock of whoever waits, so that clocks need not agree, and ``flock`` need not work.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from lossrag.errors import LeaseHeldError, LeaseLostError

log = logging.getLogger(__name__)

LEASE_SECONDS = 90.0
HEARTBEAT_SECONDS = 15.0
"""Three quarters of a minute of a file server's cache may hide a touch."""
POLL_SECONDS = 0.25


class Lease:
    """The lease of ``path``, a file that is there while somebody has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # not of a thread: a checkpoint may be written by another one than took it
        options = {"lease_duration": LEASE_SECONDS, "heartbeat_interval": HEARTBEAT_SECONDS, "thread_local": False}
        self._lock = SoftFileLease(path, **options)  # type: ignore[arg-type]

    def acquire(self, patience: float = 0.0) -> None:
        """Take it; raises LeaseHeldError when the holder still lives after ``patience`` seconds, which of one on
        another machine is seen after ``LEASE_SECONDS`` at the latest; OSError where the file cannot be made."""
        began = time.monotonic()
        first, holder, told = self._touched(), self.holder, False
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except LeaseSettingsMismatch as error:
                raise LeaseHeldError(f"one of another version of LossRAG ({error})") from None
            except Timeout:
                lives = self._is_here() or self._touched() != first
                if lives and time.monotonic() - began >= patience:
                    raise LeaseHeldError(self.holder or "one that has just ended") from None
                if not lives and not told:
                    told = True
                    log.warning("%s is held by %s: watching for a sign of life.", self.path, holder)
            time.sleep(POLL_SECONDS)
        if holder is not None:
            log.warning("%s was left by %s, which is gone: taken over.", self.path, holder)

    @property
    def holder(self) -> str | None:
        """Process and machine that have it, None for nobody."""
        owner = self._lock.owner
        return None if owner is None else f"process {owner.pid} on {_machine(owner.hostname)}"

    @property
    def machine(self) -> str | None:
        """The machine that has it, None for nobody."""
        owner = self._lock.owner
        return None if owner is None else _machine(owner.hostname)

    def check(self) -> None:
        """Raise LeaseLostError when another process has taken it from this one: what it guards is not to be written."""
        if self._lock.compromise is not None:
            raise LeaseLostError(
                f"This process stood still for more than {LEASE_SECONDS:.0f} seconds, and {self.holder or 'another'} "
                f"has taken {self.path.parent} over: it writes nothing any more. Wait for the other one."
            )

    def release(self) -> None:
        """Give it back; nothing to do where it is not held."""
        self._lock.release()

    def _is_here(self) -> bool:
        """True where the holder is on this machine: filelock has seen that it lives."""
        owner = self._lock.owner
        return owner is not None and owner.hostname == _here()

    def _touched(self) -> tuple[float, int] | None:
        with suppress(OSError):
            state = self.path.stat()
            return state.st_mtime, state.st_ino
        return None


@contextmanager
def leased(path: Path, patience: float = 0.0) -> Iterator[Lease]:
    """Hold the lease of ``path``; raises as :meth:`Lease.acquire`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, leased(Path(folder, "a.lease")) as lease:
    ...     (lease.path.exists(), lease.holder is None)
    (True, False)
    """
    lease = Lease(path)
    lease.acquire(patience)
    try:
        yield lease
    finally:
        lease.release()


@cache
def _here() -> str:
    """How filelock calls this machine, by its name and, in a container, its numbering of processes."""
    with tempfile.TemporaryDirectory() as folder, SoftFileLease(Path(folder, "own")) as lock:
        owner = lock.owner
    assert owner is not None
    return str(owner.hostname)


def _machine(name: str) -> str:
    return name.partition("?")[0] or "a machine without a name"
