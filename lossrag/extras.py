"""Optional dependencies: imported where they are first needed, and missing ones name their install line."""

from __future__ import annotations

import importlib
from typing import Any

from lossrag.errors import ConfigError


def load_extra(module: str, extra: str, purpose: str) -> Any:
    """The module of that name, which the extra of that name installs.

    Raises ConfigError, naming ``purpose`` and the install line, when it cannot be imported.

    >>> load_extra("no_such_module", "bert", "model=bert")
    Traceback (most recent call last):
    lossrag.errors.ConfigError: model=bert needs no_such_module, which is not installed: pip install 'lossrag[bert]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = error.name == module.partition(".")[0]
        reason = "which is not installed" if absent else f"which does not load ({error})"
        raise ConfigError(f"{purpose} needs {module}, {reason}: pip install 'lossrag[{extra}]'") from None
