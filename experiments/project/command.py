"""`lossrag new FOLDER`: a small project that runs, to be changed into one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.record.progress import say
from lossrag.files import expanded, write_atomic

TEMPLATE = Path(__file__).with_name("template")
SUFFIX = ".txt"
"""Behind the name of every file of the template, so that nothing takes its Python files for some of the package."""
ROWS = 240


def new(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag new` with these arguments; the exit code."""
    if len(arguments) != 1 or not arguments[0] or arguments[0].startswith("-") or "=" in arguments[0]:
        raise ConfigError(f"lossrag new takes the folder to make, got {' '.join(arguments)!r}: lossrag new my_project")
    folder = expanded(arguments[0], "folder")
    files = {path.name.removesuffix(SUFFIX): path.read_bytes() for path in sorted(TEMPLATE.iterdir())}
    files["data.csv"] = table_csv().encode()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is there already, and not empty: name a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError as error:
        raise ConfigError(f"Cannot write to {folder}: {error.strerror or error}.") from None
    say(console, f"written to {folder}: {', '.join(files)}")
    say(console, f"cd {folder} && lossrag train experiment=./experiment.yaml")
    return 0


def table_csv() -> str:
    """A made-up table of visitors: whether they renew, and what they spend, which a few have not told."""
    chance = np.random.default_rng(0)
    age, hours = chance.integers(18, 80, ROWS), chance.gamma(2.0, 3.0, ROWS)
    city = chance.choice(["Bergen", "Lagos", "Quito"], ROWS)
    liking = 0.4 * (hours - 6) + (city == "Quito") + chance.normal(0, 0.7, ROWS)
    spend = 10 + 4 * hours + 0.3 * (age - 40) + chance.normal(0, 4, ROWS)
    lines = ["age,hours,city,renews,spend"]
    for row in range(ROWS):
        told = "" if row % 17 == 5 else f"{spend[row]:.2f}"
        lines.append(f"{age[row]},{hours[row]:.2f},{city[row]},{'yes' if liking[row] > 0 else 'no'},{told}")
    return "\n".join(lines) + "\n"
