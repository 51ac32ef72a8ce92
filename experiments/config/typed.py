"""Types of values: whether plain values are of those that a dataclass declares, in whatever depth.

OmegaConf converts what a structured configuration declares, but lets a list or a mapping pass in the place of a number
within a list, and anything in that of a list within a mapping.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from lossrag.schema import Schema

PLAIN = (bool, int, float, str)


def schema_of(cls: Any) -> Schema:
    """The schema of the fields of a dataclass as plain values; fields of other types than those of a configuration may
    hold anything.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     knobs: dict[str, list[float]]
    ...     name: str | None = None
    >>> schema_of(Options)
    {'knobs?': {<class 'str'>: [<class 'float'>]}, 'name?': (<class 'str'>, None)}
    """
    hints = get_type_hints(cls)
    return {f"{field.name}?": _schema(hints[field.name]) for field in fields(cls)}


def _schema(hint: Any) -> Schema:
    origin, parts = get_origin(hint), get_args(hint)
    if NoneType in parts:
        return (*(_schema(part) for part in parts if part is not NoneType), None)
    if origin in (list, tuple):
        return [_schema(parts[0])]
    if origin is dict:
        return {str: _schema(parts[1])}
    if is_dataclass(hint):
        return schema_of(hint)
    return hint if hint in PLAIN else object
