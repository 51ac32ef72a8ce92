"""Options that are lists, checked before OmegaConf, whose error speaks of an AnyNode and not of brackets."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from lossrag import ConfigError

KINDS = {int: "whole numbers", float: "numbers", str: "names"}


def check_lists(cls: Any, values: Mapping[str, Any], where: str, form: str) -> None:
    """Raise ConfigError for a value that is no list where the dataclass ``cls`` has one, or a list of another depth.

    form: how the user sets a key, with {key} and {value}.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     weights: list[float]
    >>> check_lists(Options, {"weights": 1}, "weighting", "weighting.{key}={value}")
    Traceback (most recent call last):
        ...
    lossrag.errors.ConfigError: weighting.weights must be a list of numbers, got 1: write weighting.weights=[1]
    """
    for key, hint in get_type_hints(cls).items():
        if key not in values:
            continue
        options = get_args(hint) if NoneType in get_args(hint) else (hint,)
        found = [option for option in options if get_origin(option) in (list, tuple)]
        value = values[key]
        if not found or (value is None and NoneType in options):
            continue
        item = get_args(found[0])[0]
        deep = get_origin(item) is list
        if not isinstance(value, (list, tuple)):
            shown = "[...]" if value is None else f"[{_text(value)}]"
            shown = f"[{shown}]" if deep else shown
        elif deep and not all(isinstance(each, list) for each in value):
            shown = f"[{_text(value)}]"
        elif item in KINDS and any(isinstance(each, list) for each in value):
            shown = _text([part for each in value for part in (each if isinstance(each, list) else [each])])
        else:
            continue
        written = form.format(key=key, value=shown)
        raise ConfigError(f"{where}.{key} must be {_described(item)}, got {_text(value)}: write {written}")


def _described(item: Any) -> str:
    if get_origin(item) is list:
        return f"a list of lists of {KINDS.get(get_args(item)[0], 'values')}"
    return f"a list of {KINDS[item]}" if item in KINDS else "a list"


def _text(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
