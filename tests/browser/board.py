"""TensorBoard's own server, on a free port of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[str]:
    """Serve ``logdir`` while the context lasts; the address, without a slash at its end."""
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*line, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=logdir
    ) as server:
        assert server.stderr is not None
        told = []
        try:
            for text in server.stderr:
                told.append(text)
                if found := re.search(r"http://127\.0\.0\.1:\d+", text):
                    yield found.group()
                    return
            raise AssertionError("".join(told))
        finally:
            server.terminate()
