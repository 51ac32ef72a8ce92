"""Hostile values, and plain values with some of theirs replaced: what a file or an option may hold that was made by
hand, by another program, or to do harm."""

from __future__ import annotations

import json
import random
from typing import Any

CANARY = "canary"
"""A file that nothing may make."""
CODE = f"__import__('pathlib').Path('{CANARY}').touch()"


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


def deep_mapping(levels: int) -> dict[str, Any]:
    """A mapping in a mapping in a mapping."""
    made: dict[str, Any] = {}
    for _ in range(levels):
        made = {"a": made}
    return made


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    10**400,
    -(2**63) - 1,
    0.5,
    5e-324,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "0",
    "a/b",
    "../../outside",
    "/dev/zero",
    "/etc/passwd",
    "nul\0",
    "\ud800",
    "a\udcff",
    "[/red] [bold",
    "line\nline\r\x1b[31m",
    "\u202e\u2066 right to left",
    "x" * 5000,
    "${oc.env:HOME}",
    "${tasks.name}",
    "!!python/object/apply:os.system [touch canary]",
    CODE,
    [],
    [None],
    [1, "x", None],
    {},
    {"a": {"b": 1}},
    {"": 0},
    {"\ud800": {"nul\0": []}},
    [[]],
    [[[1.0], [2.0]]],
    deep(30),
    deep_mapping(30),
)
KEYS = ("more", "name", "kind", "0", "", "\ud800", "a/b", "../x", "x" * 5000, "step", "metric", "tasks", "items")
"""Keys that are added, or put in the place of another."""
OPTIONS = (
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "nan",
    "inf",
    "9" * 400,
    "''",
    "x",
    "a b",
    "[]",
    "[[x]]",
    "[1,x,null]",
    "{}",
    "{a: 1}",
    "{a: {b: [c]}}",
    "'[1, 2'",
    "[1, 2",
    "!!python/object/apply:os.system ['touch canary']",
    "${oc.env:HOME}",
    "${nowhere}",
    "../../outside",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "~nobodyhere/x",
    "jürgen",
    "\u202eabc",
    "x" * 5000,
    "a=b=c",
    "\\",
    "'",
    '"',
    "%s%n",
    "$(touch canary)",
    "`touch canary`",
    ";touch canary",
)


def twisted(plain: Any, chance: random.Random, changes: int = 1) -> Any:
    """The plain value with some of its parts replaced, left out, added, or of another type."""
    made = json.loads(json.dumps(plain))
    for _ in range(changes):
        holder, key = _place(made, chance)
        if holder is None:
            return chance.choice(VALUES)
        what = chance.random()
        if what < 0.2:
            del holder[key]
        elif what < 0.3 and isinstance(holder, dict):
            holder[chance.choice(KEYS)] = chance.choice(VALUES)
        elif what < 0.35 and isinstance(holder, dict):
            holder[chance.choice(KEYS)] = holder.pop(key)
        elif what < 0.6:
            holder[key] = _retyped(holder[key], chance)
        elif what < 0.65:
            other, place = _place(made, chance)
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            holder[key] = chance.choice(VALUES)
    return made


def _retyped(value: Any, chance: random.Random) -> Any:
    """What is like a value, of another type: a number as a text, a list as a mapping, one of several alone."""
    wrapped = chance.choice([[value], {"a": value}, [value, value]])
    if isinstance(value, bool):
        return chance.choice([int(value), str(value).lower(), wrapped])
    if isinstance(value, (int, float)):
        value = value if abs(value) < 10**300 else 1  # a float can hold it
        return chance.choice([str(value), bool(value), -value, value + 0.5, value * 10**30, float(value), wrapped])
    if isinstance(value, str):
        return chance.choice([list(value), len(value), value.upper(), value + "\ud800", value * 40, wrapped])
    if isinstance(value, list):
        return chance.choice([dict(enumerate(value)), value[:1], value * 2, value[::-1], [], {}, str(value), wrapped])
    if isinstance(value, dict):
        pairs = [[key, part] for key, part in value.items()]
        return chance.choice([pairs, list(value), list(value.values()), dict(pairs[1:]), [], {}, str(value), wrapped])
    return wrapped


def _place(plain: Any, chance: random.Random) -> tuple[Any, Any]:
    """A random part of a plain value: what holds it, and its key there."""
    places: list[tuple[Any, Any]] = []
    waiting = [plain]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            places.append((one, key))
            waiting.append(one[key])
    # parts near the top are few, and matter most
    if places and chance.random() < 0.4 and plain:
        return plain, chance.choice(list(plain) if isinstance(plain, dict) else range(len(plain)))
    return chance.choice(places) if places else (None, None)
