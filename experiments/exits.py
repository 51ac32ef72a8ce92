"""Exit codes of the command line, and the signal that ends a run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


class Stopped(BaseException):
    """A run was told to stop; ``code`` is the exit code, the text says how to go on."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def on_sigterm(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, SIGTERM calls ``handle``; but in the main thread alone, as others can have no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        # None: one that was not set from Python, which Python cannot set again
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
