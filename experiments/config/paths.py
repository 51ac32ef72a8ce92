"""Paths on the command line: taken as they are, where Hydra's grammar would want them quoted."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

SUFFIXES = (".yaml", ".yml")
FILES = ("library", "run.dir", "run.root", "data.root", "tasks.data", "tasks.vectors_file", "loss.bank")
"""Keys whose values are paths or names, whatever they look like."""
STARTS = ("~", "/", "./", "../")
"""Beginnings of a value that is a path, whatever its key."""
GRAMMAR = ("[", "{", "'", '"')
"""Beginnings of a value that is written in Hydra's grammar all the same."""


def quoted(text: str) -> str:
    """The text as a value that Hydra reads back unchanged.

    >>> quoted("a, b")
    '"a, b"'
    """
    return str(QuotedString(text=text, quote=Quote.double).with_quotes())


def library_override(files: Sequence[str]) -> list[str]:
    """``library=[...]`` for the command line of another process; nothing for no files."""
    return [f"library=[{','.join(map(quoted, files))}]"] if files else []


def mended(override: str) -> str:
    """The override with its value quoted where that is a path, or a list of paths in brackets.

    >>> mended("run.dir=/a/lr=0.1,wd=0"), mended("seed=0,1"), mended("library=[a b.py,c.py]")
    ('run.dir="/a/lr=0.1,wd=0"', 'seed=0,1', 'library=["a b.py","c.py"]')
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if not equals or value == "null" or "${" in value:
        return override
    if name == "library" and value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & set("'\"[]{}"):
        files = [file.strip() for file in value[1:-1].split(",")]
        return f"{key}=[{','.join(quoted(file) for file in files if file)}]"
    preset = name == "experiment" and value.endswith(SUFFIXES)
    if value and not value.startswith(GRAMMAR) and (preset or name in FILES or value.startswith(STARTS)):
        return f"{key}={quoted(value)}"
    return override
