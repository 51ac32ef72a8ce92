"""Exit codes of the command line: 128 and the number of a signal for what it ends by, as a shell tells them."""

from __future__ import annotations

import signal

MISTAKE = 2
INTERRUPTED = 130
UNREAD = 141
TERMINATED = 143
SIGNALS = {signal.SIGINT: ("Interrupted", INTERRUPTED), signal.SIGTERM: ("Stopped by SIGTERM", TERMINATED)}
"""By signal that asks a command to stop: what is said, and the exit code."""


class Stopped(BaseException):
    """A run was told to stop; ``code`` is the exit code, the text says how to go on."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Stopped], tuple[str, int]]:
        """For engines that hand it from one process to another."""
        return type(self), (str(self), self.code)
