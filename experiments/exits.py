"""Exit codes of the command line."""

from __future__ import annotations

MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


class Stopped(BaseException):
    """A run was told to stop; ``code`` is the exit code, the text says how to go on."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Stopped], tuple[str, int]]:
        """For engines that hand it from one process to another."""
        return type(self), (str(self), self.code)
