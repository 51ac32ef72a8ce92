"""The one exception family. Every message says what was expected, what came and what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class LossRAGError(Exception):
    """Base of every error that a user of LossRAG can cause or mend."""


class ConfigError(LossRAGError, ValueError):
    """A setting, a name or a combination of them that cannot work."""


class OptionError(ConfigError):
    """A field of an options object with a value that cannot work.

    owner: the class. text: what is wrong with it, every field's name in braces, so that :meth:`by_key` can write the
    key of a configuration in its place.

    >>> error = OptionError("LossConfig", "{outer}=lambda needs {evidence}.")
    >>> str(error), error.by_key("loss.")
    ('LossConfig: outer=lambda needs evidence.', 'loss.outer=lambda needs loss.evidence.')
    """

    def __init__(self, owner: str, text: str) -> None:
        self.owner, self.text = owner, text
        super().__init__(f"{owner}: {self.by_key('')}")

    def by_key(self, prefix: str) -> str:
        """The text with ``prefix`` before every field."""
        return re.sub(r"\{([a-z_][a-z_0-9]*)\}", rf"{prefix}\1", self.text)


class DataError(LossRAGError):
    """Data that is missing, damaged or unfit for the split that was asked for."""


class RunDirectoryError(LossRAGError):
    """A run directory that is in use, not writable, or belongs to another configuration."""


class CheckpointError(LossRAGError):
    """A checkpoint that is damaged, foreign or from another configuration."""


class BankError(LossRAGError):
    """A bank that is absent, damaged, foreign, of another version, or kept by another program."""


class DivergedError(LossRAGError):
    """A loss or a gradient that is no longer finite."""


class LossError(LossRAGError):
    """A loss of the library that raises where it is used; ``losses`` are those that were computed together."""

    def __init__(self, losses: Iterable[str], text: str) -> None:
        self.losses = tuple(losses)
        super().__init__(text)


class LeaseHeldError(LossRAGError):
    """Another process has a lease; the text names it, as the end of a sentence."""


class LeaseLostError(LossRAGError):
    """A lease that another process took, as this one had not touched it for so long."""


class GroupError(LossRAGError):
    """Processes that work together and cannot go on: one is gone, failed, or differs from the others."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Close matches of ``name`` as a clause to append to a message, or the whole list when none is close.

    >>> did_you_mean("unifrom", ["uniform", "metaweighting"])
    "did you mean 'uniform'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'choose from: a, b'
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "choose from: " + ", ".join(known)
