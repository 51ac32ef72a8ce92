"""Completion in a shell, by argcomplete: commands, and keys and values as the help texts name them.

Nothing is imported but the help, so that a TAB waits for no torch; a test holds the help to name every choice.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import argcomplete

from lossrag.experiments.help import COMMANDS_HELP

SETTING = re.compile(
    r"(?<![\w.=-])([a-z_]+(?:\.[A-Za-z_]+)*)="
    r"""("[^"]*"|\[[^\s']*|\{.*\}|[^\s\],:;)']+)((?: \| [^\s\],:;)']+)*)"""
)
"""A key of a help text, its value, and the values that can stand in its place, each after " | "."""
NAME = re.compile(r"[a-z][a-z0-9_/]*")
FILES = re.compile(r".*(?:FILE|DIR|FOLDER|RUN)|.*\.[a-z0-9]+|runs\b.*")
"""Values that stand for a file or a folder."""


def settings(command: str) -> dict[str, list[str]]:
    """By key the values that the help of a command names."""
    found: dict[str, list[str]] = {}
    for key, first, others in SETTING.findall(COMMANDS_HELP[command].replace("key=value", "")):
        found.setdefault(key, []).extend([first, *others.split(" | ")[1:]])
    return found


def words(command: str) -> list[str]:
    """First words of the help's lines, which can stand alone: subjects of a benchmark, commands of a bank, plans."""
    lines = re.findall(r"^  ([a-z_]+(?:, [a-z_]+)*)(?= |,|$)", COMMANDS_HELP[command], flags=re.MULTILINE)
    return [word for line in lines for word in line.split(", ") if word != "lossrag"]


def candidates(command: str, prefix: str) -> list[str]:
    """What a word of this command that begins with ``prefix`` may become.

    >>> candidates("train", "weighting=tch")
    ['weighting=tchebycheff']
    >>> candidates("bank", "vali")
    ['validate']
    """
    if command not in COMMANDS_HELP:
        return []
    known = settings(command)
    key, equals, value = prefix.partition("=")
    if not equals:
        offered: Iterable[str] = [f"{name}=" for name in known] + (words(command) if command in PLACED else [])
    else:
        named = known.get(key, ())
        paths = _paths(value) if any(FILES.fullmatch(example) for example in named) else ()
        offered = [f"{key}={name}" for name in (*filter(NAME.fullmatch, named), *paths)]
    return sorted({word for word in offered if word.startswith(prefix)})


PLACED = ("bank", "benchmark", "ablate")
"""Commands that take a name before their settings."""


def _paths(start: str) -> list[str]:
    folder, _, _ = start.rpartition("/")
    beside = Path(folder or ("/" if start.startswith("/") else "."))
    names = sorted(beside.iterdir()) if beside.is_dir() else []
    lead = f"{folder}/" if "/" in start else ""
    return [f"{lead}{path.name}{'/' if path.is_dir() else ''}" for path in names]


def complete() -> None:
    """Answer the shell that asks, and end; without one that asks, nothing."""
    parser = argparse.ArgumentParser("lossrag")
    parser.add_argument("command", choices=[*COMMANDS_HELP])
    rest = parser.add_argument("settings", nargs="*")
    rest.completer = lambda prefix, parsed_args, **_: candidates(parsed_args.command, prefix)  # type: ignore[attr-defined]
    argcomplete.autocomplete(
        parser, always_complete_options=False, validator=lambda word, prefix: word.startswith(prefix)
    )
