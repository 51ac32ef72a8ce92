"""Every `lossrag ...` that a page shows is understood as it stands: composed and checked, or run until work begins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.lines import PAGES, ROOT, command_lines, console_lines, words_of


def shown(page: Path) -> list[list[str]]:
    """Commands of a page, each once; without those of the README's consoles, which test_readme.py runs."""
    text = page.read_text()
    run = console_lines(text) if page.name == "README.md" else []
    found = [words for line in command_lines(text) if line not in run for words in words_of(line)]
    return [words for place, words in enumerate(found) if words not in found[:place]]


SHOWN = {page: words for page in PAGES if (words := shown(page))}


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_commands_are_understood(page, understands):
    wrong = {}
    for words in SHOWN[page]:
        if words and words[0] != "COMMAND" and (message := understands(words)):
            wrong[" ".join(words)] = message
    assert not wrong


TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_other_lines_of_a_console_name_what_is_there(page):
    """Those that are no `lossrag`: make, and files of the checkout."""
    wrong = []
    for line in console_lines(page.read_text()):
        program, *rest = line.split()
        if program == "make" and not {word for word in rest if "=" not in word and "'" not in word} <= TARGETS:
            wrong.append(line)
        if program == "python" and rest[0] != "-m" and not (ROOT / rest[0]).is_file():
            wrong.append(line)
    assert not wrong
