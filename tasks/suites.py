"""Suites by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from lossrag.errors import ConfigError, did_you_mean
from lossrag.registry import Registry
from lossrag.tasks.digits import DigitsConfig, load_digits
from lossrag.tasks.suite import Suite
from lossrag.tasks.text.encoders import EncoderFiles
from lossrag.tasks.text.newsgroups import NewsgroupsConfig, load_newsgroups
from lossrag.tasks.text.sentiment import SentimentConfig, load_sentiment


@dataclass(frozen=True)
class SuiteEntry:
    """A suite that can be loaded: the dataclass of its settings, and the function that takes one.

    in_pieces: loads the suite in the word pieces of a pre-trained encoder; None for suites without texts.
    """

    config: type[Any]
    load: Callable[[Any], Suite]
    in_pieces: Callable[[Any, EncoderFiles], Suite] | None = None


SUITES: Registry[SuiteEntry] = Registry("suite")
SUITES.add("newsgroups", SuiteEntry(NewsgroupsConfig, load_newsgroups, load_newsgroups))
SUITES.add("sentiment", SuiteEntry(SentimentConfig, load_sentiment, load_sentiment))
SUITES.add("digits", SuiteEntry(DigitsConfig, load_digits))


def load_suite(name: str, **options: Any) -> Suite:
    """The suite ``name`` with ``options``, the fields of its settings.

    Raises ConfigError for an unknown name, option or value, DataError when the data cannot be had.

    >>> load_suite("digits", rho=0.2).task_names
    ('digit', 'parity', 'loops', 'centre')
    """
    entry = SUITES[name]
    known = [field.name for field in fields(entry.config)]
    for option in options:
        if option not in known:
            raise ConfigError(f"The suite {name!r} has no option {option!r}: {did_you_mean(option, known)}")
    return entry.load(entry.config(**options))
