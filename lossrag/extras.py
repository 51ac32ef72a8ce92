"""Optional dependencies: imported where they are first needed, and missing ones name their install line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError


def install_line(extra: str) -> str:
    """The command that installs an extra: of this checkout by its path, of an installed package by its name.

    pip finds the extras of an installed package in its own metadata: it need not be published anywhere.
    """
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"pip install -e '{checkout}[{extra}]'"
    return f"pip install 'lossrag[{extra}]'"


def load_extra(module: str, extra: str, purpose: str) -> Any:
    """The module of that name, which the extra of that name installs.

    Raises ConfigError, naming ``purpose`` and the install line, when it cannot be imported.

    >>> load_extra("no_such_module", "bert", "The encoder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lossrag.errors.ConfigError: The encoder needs no_such_module, which is not installed: pip install ...[bert]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = error.name == module.partition(".")[0]
        reason = "which is not installed" if absent else f"which does not load ({error})"
        raise ConfigError(f"{purpose} needs {module}, {reason}: {install_line(extra)}") from None
