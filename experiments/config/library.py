"""Library of a user's own: Python files that register suites, encoders, weightings, losses and metrics.

Every command runs them before it looks a name up, and so does every process that it starts. They are trusted code. A
run is known by their content, not by where they lie, and its directory keeps both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError, LossRAGError
from lossrag.experiments.config.groups import GROUPS, check_entry
from lossrag.files import expanded
from lossrag.lossbank import LOSSES, Loss
from lossrag.models import ENCODERS
from lossrag.registry import Registry
from lossrag.tasks import METRICS, SUITES, Metric
from lossrag.weighting import WEIGHTINGS

FLOORS = ("tasks", "models", "weighting", "lossbank", "experiments")
REGISTRIES: tuple[Registry[Any], ...] = (SUITES, ENCODERS, WEIGHTINGS, LOSSES, METRICS)
KINDS: tuple[tuple[Registry[Any], type, str], ...] = (
    (LOSSES, Loss, "register_loss"),
    (METRICS, Metric, "register_metric"),
)
"""Registries of what a decorator of their own makes."""


@dataclass(frozen=True)
class Loaded:
    """A file that was run: the sha256 of what it held then, and what it registered."""

    digest: str
    names: tuple[tuple[Registry[Any], str], ...]


_loaded: dict[Path, Loaded] = {}


def library_files(value: object) -> list[str]:
    """The files that ``library=`` names: one, a list, or by file the sha256 that it must have.

    Raises ConfigError for anything else, and for a file that is not what it was.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        for name, digest in value.items():
            path = expanded(str(name), "library")
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ConfigError(f"library: {name} is not what it was: its sha256 is not {digest!s:.12}.")
        return [str(name) for name in value]
    if isinstance(value, list) and all(isinstance(file, str) for file in value):
        return list(value)
    raise ConfigError(f"library takes Python files of yours, got {value!r:.80}: write library=[my.py]")


def load_library(files: Iterable[str]) -> dict[str, str]:
    """Run these Python ``files``, each once in a process, and again when it has changed; the sha256 of each by path.

    What a file registered is taken back when it changes, or breaks off half-way. One that the process has imported is
    not run a second time. Raises ConfigError for a file that is absent, does not run, or registers what is refused.
    """
    digests: dict[str, str] = {}
    for given in files:
        try:
            path = expanded(given, "library").resolve()
            if path.suffix != ".py" or not path.is_file():
                what = "is no Python file" if path.exists() else f"is not there (looked for in {path.parent})"
                raise ConfigError(
                    f"library: {given!r} {what}: give files (.py) that register suites, encoders, weightings, losses "
                    "or metrics."
                )
            source = path.read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round
            raise ConfigError(
                f"library: {given!r:.200} cannot be read ({getattr(error, 'strerror', error)})."
            ) from None
        digest = hashlib.sha256(source).hexdigest()
        known = _loaded.get(path)
        if known is None or known.digest != digest:
            _forget(path)
            _loaded[path] = Loaded(digest, () if _imported(path) else _run(path, given, source))
        digests[str(path)] = digest
    return digests


def check_loaded(recorded: Mapping[str, object]) -> None:
    """Raise ConfigError unless files of these paths and sha256s were run, or others of their names in their place."""
    names, digests = {path.name for path in _loaded}, {own.digest for own in _loaded.values()}
    missing = [path for path, digest in recorded.items() if digest not in digests and Path(path).name not in names]
    if missing:
        raise ConfigError(f"It was trained with files of your own that are not loaded: add {_written(missing)}.")


def changes(recorded: Mapping[str, object]) -> list[str]:
    """A line for each of these files in whose place one with other content was run."""
    now = {path.name: own.digest for path, own in _loaded.items()}
    digests = {own.digest for own in _loaded.values()}
    return [
        f"{Path(path).name} is not as it was in training (sha256 {digest!s:.12}, now {now[Path(path).name]:.12})"
        for path, digest in recorded.items()
        if digest not in digests and Path(path).name in now
    ]


def needed(recorded: Mapping[str, object]) -> str:
    """Clause that says which option registers what these files did."""
    files = [path for path, digest in recorded.items() if digest not in {own.digest for own in _loaded.values()}]
    return f"add {_written(files)}" if files else "name the file of yours that registers it: library=[my.py]"


def _written(files: Iterable[str]) -> str:
    return f"library=[{','.join(files)}]"


def place_of(error: BaseException) -> str | None:
    """Where in a file of the library an exception comes from, as "my.py, line 3, in forward"; None: from elsewhere."""
    own = {str(path) for path in _loaded}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else None


def _imported(path: Path) -> bool:
    own = f"{path.stem}.py"
    files = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    return any(file.endswith(own) and Path(file).resolve() == path for file in files)


def _forget(path: Path) -> None:
    """Take back what an earlier content of the file registered."""
    known = _loaded.pop(path, None)
    sys.modules.pop(_module_name(path), None)
    for registry, name in known.names if known else ():
        if name in registry:
            registry.remove(name)


def _module_name(path: Path) -> str:
    # a name of its own, so that two files called losses.py do not meet
    return f"lossrag_library_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _run(path: Path, given: str, source: bytes) -> tuple[tuple[Registry[Any], str], ...]:
    specification = importlib.util.spec_from_file_location(_module_name(path), path)
    assert specification is not None
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    before = [(registry, set(registry)) for registry in REGISTRIES]

    def new() -> tuple[tuple[Registry[Any], str], ...]:
        return tuple((registry, name) for registry, known in before for name in registry if name not in known)

    try:
        # not by its loader, which may take bytecode of a content of the same second for that of this one
        exec(compile(source, str(path), "exec"), module.__dict__)
        for registry, name in new():
            _check(registry, name)
    except (Exception, SystemExit) as error:  # whatever a user's own code may raise
        _loaded[path] = Loaded("", new())
        _forget(path)
        raise ConfigError(_words(error, path, given)) from error
    return new()


def _check(registry: Registry[Any], name: str) -> None:
    for group, own in GROUPS.items():
        if own is registry:
            check_entry(group, name)
    for kinds, kind, decorator in KINDS:
        if kinds is registry and not isinstance(registry[name], kind):
            raise ConfigError(f"The {registry.kind} {name!r} is no {kind.__name__}: register it with @{decorator}.")


def _words(error: BaseException, path: Path, given: str) -> str:
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else own[-1] if own else None
    where = f"library: {given}" if line is None else f"library: {given}, line {line}"
    if isinstance(error, LossRAGError):
        return f"{where}: {error}"
    if isinstance(error, SystemExit):
        return f"{where}: it ends the program (SystemExit: {error.code}): leave that to the command."
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    old = error.name if isinstance(error, ModuleNotFoundError) and error.name in FLOORS else None
    advice = f" Import it as lossrag.{old}: from lossrag.{old} import ..." if old else ""
    return f"{where} does not run ({type(error).__name__}: {text:.300}).{advice}"
