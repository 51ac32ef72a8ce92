"""Progress of a transfer on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

Advance = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0: not known)."""

LINE_EVERY_SECONDS = 10.0


@contextmanager
def transfer(title: str) -> Iterator[Advance]:
    """Shows the progress of what ``title`` says, for as long as the context lasts."""
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
