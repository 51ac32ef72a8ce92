"""Exit codes of the command line."""

MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


class Stopped(BaseException):
    """A run was told to stop; ``code`` is the exit code, the text says how to go on."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
