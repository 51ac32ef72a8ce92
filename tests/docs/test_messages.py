"""Advice in messages: commands that it names are there and are understood, and so are keys of the configuration."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from lossrag.experiments.cli import COMMANDS
from lossrag.experiments.config.groups import GROUPS, SECTIONS, defaults_of, key_of
from lossrag.experiments.config.identity import flatten
from lossrag.experiments.config.overrides import OPEN
from tests.docs.lines import ROOT, words_of

FLOORS = ("lossrag", "tasks", "models", "weighting", "lossbank", "experiments")
HOLE = "…"
"""A value that a message fills in when it is raised."""
LINE = re.compile(r"(?:`|Write: |')(lossrag [a-z][^`;']*)")
SUFFIXES = ("safetensors", "csv", "json", "png", "pt2", "load_state_dict")
"""Of files and attributes that are called like a group."""
KEY = re.compile(rf"(?<![\w./{HOLE}])({'|'.join((*SECTIONS, *GROUPS))})\.([a-z_]+)(=[\w.+-]+)?(?![\w./(])")


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a module that are no docstrings, f-strings with holes, adjacent ones joined as Python joins them."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | bare:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def said() -> list[tuple[str, str]]:
    """All messages of the package, and where they are."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", text)
        for floor in FLOORS
        for path in sorted((ROOT / floor).rglob("*.py"))
        if path.name != "help.py"
        for number, text in messages(path)
    ]


def test_there_are_messages(said):
    assert len([text for _, text in said if "lossrag " in text]) > 20
    assert len([text for _, text in said if KEY.search(text)]) > 30


@pytest.mark.parametrize("floor", FLOORS)
def test_commands_are_understood(floor, said, understands):
    wrong = {}
    for where, text in said:
        for line in LINE.findall(text) if where.startswith(floor) else ():
            for words in words_of(line.rstrip(" .:,").replace("<run id>", "RUN")):
                name = words[0].rstrip(",.:")
                if HOLE in name:
                    continue
                if name not in COMMANDS:
                    wrong[where] = line
                elif len(words) > 1 and HOLE not in line and (message := understands(words)):
                    wrong[where] = f"{line}: {message}"
    assert not wrong


def test_keys_are_those_of_the_configuration(said):
    known = {f"{name}.{key_of(option)}" for name, cls in SECTIONS.items() for option in fields(cls)}
    known |= {f"{name}.{key}" for name, cls in SECTIONS.items() for key in flatten(vars(cls()))}
    known |= {f"{group}.{key}" for group in GROUPS for name in GROUPS[group] for key in defaults_of(group, name)}
    known |= {*OPEN}
    wrong = {
        where: match[0]
        for where, text in said
        if where.startswith("experiments") and "overrides.py" not in where  # what is gone is named there
        for match in KEY.finditer(text)
        if f"{match[1]}.{match[2]}" not in known and match[2] not in SUFFIXES
    }
    assert not wrong
