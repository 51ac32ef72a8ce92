"""Stop signals of a run, Ctrl-C and SIGTERM alike: answered where a checkpoint of this moment can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lossrag.experiments.exits import SIGNALS, Stopped

INSISTENT = 3
"""Signals after which a step is not waited for: programs that pass Ctrl-C on send it twice."""


class StopAsked(BaseException):
    """A signal asked the run to stop, and here is the place to do so."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignals:
    """Handlers of the stop signals while it is entered, in the main thread; a signal that is ignored stays so.

    ``asked`` is the first that arrived. StopAsked is raised once, at once; but while it ``waits``, where the loop asks
    for it after the step. After that all further ones are ignored, so that what is being written is.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.waits = False
        self._raised = False
        self._count = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            # None: one that was not set from Python, which Python cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Within: steps, which are waited for; whoever takes them looks at ``asked`` after each."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within: what can be done again, so that nobody waits for its end."""
        waits, self.waits = self.waits, False
        try:
            self.check()
            yield
        finally:
            self.waits = waits

    def check(self) -> None:
        """Raise StopAsked if a signal has arrived and none was raised for it."""
        if self.asked is not None and not self._raised:
            self.stop(self.asked)

    def stop(self, number: int) -> None:
        """Raise StopAsked."""
        self._raised = True
        raise StopAsked(number)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.asked = self.asked or number
        if not self._raised and (not self.waits or self._count >= INSISTENT):
            self.stop(self.asked)


def stopped(number: int, last: Path | None, done: int, kept: int | None, resume: str) -> Stopped:
    """What a command ends with after this signal: the step that was reached, and what the checkpoint ``last`` holds.

    done: steps that were taken. kept: those that the checkpoint holds, None where this session has none. resume: the
    command that goes on.
    """
    what, code = SIGNALS[signal.Signals(number)]
    if kept is not None and kept == done:
        return Stopped(f"{what} after step {done}; {resume} resumes from the checkpoint of that step.", code)
    if kept is not None:
        return Stopped(f"{what} after step {done}; {resume} resumes from the checkpoint of step {kept}.", code)
    if last is not None and last.exists():
        return Stopped(f"{what} before a further step; {resume} resumes from the last checkpoint.", code)
    if done:
        return Stopped(f"{what} after step {done}, before a checkpoint; {resume} starts the run over.", code)
    return Stopped(f"{what} before the first step: there was nothing to save; {resume} starts the run.", code)
