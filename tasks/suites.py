"""Suites by name: those of the package, and the door for one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from lossrag.errors import ConfigError, did_you_mean
from lossrag.registry import Registry
from lossrag.tasks.digits import DigitsConfig, load_digits
from lossrag.tasks.suite import Suite
from lossrag.tasks.table.settings import TableConfig
from lossrag.tasks.table.suite import load_table
from lossrag.tasks.text.domains import DomainsConfig, load_domains
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
"""All suites by name; add your own with :func:`register_suite`."""
SUITES.add("newsgroups", SuiteEntry(NewsgroupsConfig, load_newsgroups, load_newsgroups))
SUITES.add("sentiment", SuiteEntry(SentimentConfig, load_sentiment, load_sentiment))
SUITES.add("domains", SuiteEntry(DomainsConfig, load_domains, load_domains))
SUITES.add("digits", SuiteEntry(DigitsConfig, load_digits))
SUITES.add("table", SuiteEntry(TableConfig, load_table, load_table))

Settings = TypeVar("Settings")
Load = Callable[[Settings], Suite]


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


def register_suite(name: str) -> Callable[[Load[Settings]], Load[Settings]]:
    """Decorator of ``load(config: MyConfig) -> Suite`` that puts the suite among SUITES, as docs/own-suite.md shows.

    The annotation of its one argument says which dataclass holds its settings; each of them has a default.
    Raises ConfigError for another signature and a name that is taken, and :func:`load_suite` for a result that is no
    Suite.

    >>> @dataclass(frozen=True)
    ... class Easy:
    ...     seed: int = 0
    >>> @register_suite("easy")
    ... def easy(config: Easy) -> Suite:
    ...     return load_digits(DigitsConfig(seed=config.seed))
    >>> load_suite("easy", seed=1).name, SUITES.remove("easy").config.__name__
    ('digits', 'Easy')
    """

    def add(load: Load[Settings]) -> Load[Settings]:
        config = _settings_of(name, load)

        @wraps(load)
        def checked(options: Settings) -> Suite:
            suite = load(options)
            if not isinstance(suite, Suite):
                raise ConfigError(f"Suite {name!r}: its function must return a Suite, not {suite!r:.60}.")
            return suite

        SUITES.add(name, SuiteEntry(config, checked))
        return load

    return add


def _settings_of(name: str, load: Callable[..., Any]) -> type[Any]:
    """The dataclass that ``load`` takes, by its annotation; raises ConfigError for a function that cannot be used."""
    example = "write def load(config: MyConfig) -> Suite, MyConfig being a dataclass."
    try:
        arguments = list(inspect.signature(load).parameters.values())
        hints = get_type_hints(load)
    except (TypeError, NameError, ValueError) as error:
        raise ConfigError(f"Suite {name!r}: cannot read the arguments of {load!r} ({error}): {example}") from None
    if len(arguments) != 1:
        raise ConfigError(
            f"Suite {name!r}: its function takes its settings alone, not {len(arguments)} arguments: {example}"
        )
    config = hints.get(arguments[0].name)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise ConfigError(f"Suite {name!r}: the argument {arguments[0].name} has no dataclass as annotation: {example}")
    try:
        config()
    except TypeError as error:
        raise ConfigError(f"Suite {name!r}: every field of {config.__name__} needs a default ({error}).") from None
    return config
