"""Library of a user's own: Python files that register losses, weightings and suites, run before a name is looked up."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from lossrag.errors import ConfigError, LossRAGError
from lossrag.lossbank import LOSSES

FLOORS = ("tasks", "models", "weighting", "lossbank", "experiments")
_loaded: dict[Path, tuple[str, ...]] = {}


def load_library(files: Sequence[str]) -> list[str]:
    """Run these Python ``files``, each once in a process; the names of the losses that they registered.

    Raises ConfigError for a file that is absent, does not run, or registers a loss that is refused.
    """
    names: list[str] = []
    for given in files:
        path = Path(given).expanduser().resolve()
        if path not in _loaded:
            before = set(LOSSES)
            _run(path, given)
            _loaded[path] = tuple(name for name in LOSSES if name not in before)
        names += _loaded[path]
    return names


def _run(path: Path, given: str) -> None:
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(
            f"loss.library: {given!r} is no Python file: give files of losses, metrics, weightings or suites."
        )
    # a name of its own, so that two files called losses.py do not meet
    name = f"lossrag_library_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except LossRAGError as error:
        raise ConfigError(f"loss.library={given}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's own code may raise
        old = error.name if isinstance(error, ModuleNotFoundError) and error.name in FLOORS else None
        advice = f" Import it as lossrag.{old}: from lossrag.{old} import ..." if old else ""
        raise ConfigError(f"loss.library: {given} does not run ({type(error).__name__}: {error}).{advice}") from error
