"""Schemas of plain values: what JSON, YAML or the metadata of a tensor file have to hold before they are believed.

A schema is a type (``object``: anything), :class:`Within` for a number with bounds, :class:`OneOf` for a text among
some, a tuple of schemas of which one has to fit, ``[schema]`` for a list, ``{str: schema}`` for a mapping of any keys,
or a mapping of keys to schemas, where ``key?`` may be absent; what else a mapping has is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Any


class Unfit(ValueError):  # noqa: N818 - what it says, not what it is
    """A value that is not of its schema; the text says where, what was expected and what came."""


@dataclass(frozen=True)
class Within:
    """Schema of a finite number from ``least`` to ``most``, without a fraction where it is ``whole``."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether a plain value is such a number."""
        if not isinstance(value, (int, float)) or not _is(value, int if self.whole else float):
            return False
        return self.least <= value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        noun = "a whole number" if self.whole else "a finite number"
        if self.most < math.inf and self.least > -math.inf:
            return f"{noun} from {self.least:g} to {self.most:g}"
        return f"{noun} of {self.least:g} or more" if self.least > -math.inf else noun


@dataclass(frozen=True)
class OneOf:
    """Schema of a text that is one of ``texts``."""

    texts: tuple[str, ...]

    def holds(self, value: object) -> bool:
        """Whether a plain value is one of them."""
        return isinstance(value, str) and value in self.texts

    def __str__(self) -> str:
        return f"one of {', '.join(self.texts)}"


FINITE = Within()
COUNT, POSITIVE = Within(0, whole=True), Within(1, whole=True)
SHARE = Within(0, 1 + 1e-6)
"""Up to rounding."""


def check_schema(value: object, schema: Schema, where: str = "it") -> None:
    """Raise Unfit unless a plain value is of a schema.

    >>> check_schema({"seed": 1, "scores": {"a": 0.5}}, {"seed": int, "scores": {str: float}, "note?": str})
    >>> check_schema({"seed": 1, "scores": {"a": "x"}}, {"seed": int, "scores": {str: float}})
    Traceback (most recent call last):
    lossrag.schema.Unfit: scores.a must be a number, not 'x'
    """
    if isinstance(schema, tuple):
        if not any(fits(value, own) for own in schema):
            alike = [own for own in schema if isinstance(value, _container(own))]
            if len(alike) == 1:
                check_schema(value, alike[0], where)  # says where in it
            raise Unfit(f"{where} must be {_names(schema)}, not {_shown(value)}")
    elif isinstance(schema, list):
        _require(isinstance(value, (list, tuple)), value, "a list", where)
        for number, entry in enumerate(value):  # type: ignore[arg-type, var-annotated]
            check_schema(entry, schema[0], f"{_in(where)}{number}")
    elif isinstance(schema, Mapping):
        _require(isinstance(value, Mapping), value, "a mapping", where)
        assert isinstance(value, Mapping)
        if str in schema:
            for key, entry in value.items():
                _require(_is(key, str), key, "a text for a key", where)
                check_schema(entry, schema[str], f"{_in(where)}{key}")
            return
        for name, own in schema.items():
            key = name.removesuffix("?")
            if key in value:
                check_schema(value[key], own, f"{_in(where)}{key}")
            elif key == name:
                raise Unfit(f"{_in(where)}{key} is missing")
    elif not _is(value, schema):
        _require(False, value, _name(schema), where)


def fits(value: object, schema: Schema) -> bool:
    """Whether a plain value is of a schema."""
    try:
        check_schema(value, schema)
    except Unfit:
        return False
    return True


def _container(schema: Schema) -> tuple[type, ...]:
    """The types of the lists or mappings that a schema is about."""
    if isinstance(schema, list):
        return (list, tuple)
    return (Mapping,) if isinstance(schema, Mapping) else ()


def _is(value: object, kind: type | Within | OneOf | None) -> bool:
    if isinstance(kind, (Within, OneOf)):
        return kind.holds(value)
    if kind is None or kind is object:
        return kind is object or value is None
    if kind is str:
        return isinstance(value, str) and _can_be_written(value)
    if kind is float:  # a number written without a fraction is one, too
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not _is_huge(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) and not _is_huge(value)


def _can_be_written(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON may name and no file or terminal takes."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_huge(value: object) -> bool:
    """Whether it is a whole number that no float and no tensor can hold."""
    return isinstance(value, int) and abs(value) >= 2**63


def _in(where: str) -> str:
    return "" if where == "it" else f"{where}."


def _require(holds: bool, value: object, expected: str, where: str) -> None:
    if not holds:
        raise Unfit(f"{where} must be {expected}, not {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return f"{value!r:.60}" if not _is_huge(value) else "a number beyond 64 bits"
    return f"a {type(value).__name__}"


def _names(schemas: tuple[Schema, ...]) -> str:
    return " or ".join(dict.fromkeys(_name(own) for own in schemas))


def _name(schema: Schema) -> str:
    if isinstance(schema, (Within, OneOf)):
        return str(schema)
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", None: "nothing"}
    if isinstance(schema, (list, Mapping)):
        return "a list" if isinstance(schema, list) else "a mapping"
    return _names(schema) if isinstance(schema, tuple) else words[schema]
