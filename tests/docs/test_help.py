"""Help texts teach by example: every line of theirs that says what to write is understood as it stands."""

from __future__ import annotations

import re

import pytest

from lossrag.experiments.bank.command import COMMANDS as BANK_COMMANDS
from lossrag.experiments.benchmark import command as benchmarks
from lossrag.experiments.config.completion import SETTING, candidates
from lossrag.experiments.config.groups import experiment_names
from lossrag.experiments.help import COMMANDS_HELP, MAIN_HELP
from lossrag.weighting import WEIGHTINGS
from tests.docs.lines import COMMAND, without_brackets, words_of

BASE = {
    "train": [],
    "ablate": ["smoke"],
    "compare": ["experiment=smoke"],
    "sweep": ["key=tasks.rho", "values=[0.1,0.2]"],
    "figures": ["root=runs"],
    "theory": ["run=runs/RUN"],
    "predict": ["run=runs/RUN", "data=new.csv"],
    "evaluate": ["run=runs/RUN", "data=labelled.csv"],
    "export": ["run=runs/RUN"],
    "report": ["runs/RUN"],
    "check": ["runs/RUN"],
}
"""What a command needs beside the settings of one line."""
SUBJECTS = {*BANK_COMMANDS, *benchmarks.SUBJECTS}


def lines_of(command: str) -> list[list[str]]:
    """Command lines that a help text stands for: examples, usages with all their options, and each line of settings
    with each of its alternatives."""
    found = []
    base = BASE.get(command, [])
    for line in COMMANDS_HELP[command].splitlines():
        if re.search(r"lossrag (?:bank COMMAND|benchmark SUBJECT)|torchrun", line):
            continue
        if COMMAND.match(line.strip().rpartition("&& ")[2]):
            found += words_of(without_brackets(re.sub(r" {2,}\S.*", "", line.strip())))
            continue
        settings = _settings(without_brackets(line))
        if command in ("bank", "benchmark"):  # a name of theirs, and lines of its options
            if named := re.match(r"  ([a-z_]+(?: [A-Z]+)*) ", line):
                base = [*named[1].split(), *(settings[0] if settings and command == "bank" else [])]
                found += words_of(" ".join(["lossrag", command, *base])) if base[0] in SUBJECTS else []
            elif line.startswith("  library="):
                base = ["list"]
        found += [
            words
            for own in settings
            if base or command == "train"
            for words in words_of(" ".join(["lossrag", command, *base, *own]))
        ]
    return found


def _settings(line: str) -> list[list[str]]:
    """The settings of a line as they are said together, and again for every alternative of each."""
    parts = [
        (f"'{key}={first}'", [f"'{key}={other}'" for other in others.split(" | ")[1:]])
        for key, first, others in SETTING.findall(line)
    ]
    first = [word for word, _ in parts]
    return [first] * bool(first) + [
        [*first[:place], other, *first[place + 1 :]] for place, (_, others) in enumerate(parts) for other in others
    ]


@pytest.mark.parametrize("command", COMMANDS_HELP)
def test_every_line_is_understood(command, understands):
    lines = lines_of(command)
    assert len(lines) > 2
    wrong = {" ".join(words): message for words in lines if (message := understands(words))}
    assert not wrong


def test_the_main_help_is_understood(understands):
    lines = [words for line in MAIN_HELP.splitlines() for words in words_of(re.sub(r" {2,}\S.*", "", line.strip()))]
    assert len(lines) > 10
    assert not {
        " ".join(words): message for words in lines if words[0] != "COMMAND" and (message := understands(words))
    }


def test_completion_knows_every_choice():
    assert {*candidates("train", "experiment=")} >= {f"experiment={name}" for name in experiment_names()} - UNNAMED
    assert {*candidates("train", "weighting=")} == {f"weighting={name}" for name in WEIGHTINGS}


UNNAMED = {f"experiment={name}" for name in ("topic_small", "noise", "imbalance", "clean")}
"""Presets of the studies."""
