"""Hostile options: a command with some that are good and some that are not."""

from __future__ import annotations

from lossrag.experiments.cli import run
from tests.experiments.hostile import OPTIONS

COMMANDS = (
    ("bank list", ("bank", "library")),
    ("bank show mae", ("bank", "output")),
    ("bank neighbours mae", ("k",)),
    ("bank query", ("bank", "kind", "classes", "encoder", "disagreement", "progress", "k", "run", "task", "step")),
    ("bank check", ()),
    ("bank export", ("bank", "output")),
    ("bank add", ("run", "reference", "bank", "trouble", "clean")),
    ("bank picture", ("bank", "run", "at", "output")),
    ("bank validate", ("bank", "moments", "families", "output")),
    ("predict", ("run", "data", "output", "delimiter", "encoding", "device", "threads")),
    ("evaluate", ("run", "data", "output", "vectors", "device")),
    ("export", ("run", "format", "output", "encoder")),
    ("figures", ("runs", "root", "only", "epochs")),
    ("theory", ("run", "loss", "delta")),
    ("check", ("root", "repair")),
    ("compare", ("experiment", "methods", "seeds")),
    ("ablate nothing", ("rows", "seeds")),
    ("benchmark plot", ()),
)
GOOD = {"run": "table", "data": "new.csv", "bank": "bank.safetensors", "reference": "table"}


def trial_of_options(command, options, folder, here, chance):
    """A command with some good options and one or two that are not."""
    line = command.split()
    for name, good in GOOD.items():
        if name in options and chance.random() < 0.7:
            line.append(f"{name}={folder / good}")
    for _ in range(chance.randint(1, 2)):
        value = chance.choice(OPTIONS)
        named = options and chance.random() < 0.9
        line.append(f"{chance.choice(options)}={value}" if named else value)
    return run(line)
