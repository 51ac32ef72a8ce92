"""Flags of `lossrag train` that Hydra's users know, told from the overrides beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossrag.errors import ConfigError

CONFIGS = ("job", "hydra", "all")
FACTS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_SHORT = {
    "-m": "--multirun",
    "-r": "--run",
    "-c": "--cfg",
    "-p": "--package",
    "-i": "--info",
    "-sc": "--shell-completion",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
}
_REFUSED = {
    "--config-path": "the configurations are those of LossRAG: change keys, or take another experiment=PRESET",
    "--config-name": "there is one primary configuration: take another preset with experiment=PRESET",
    "--shell-completion": 'argcomplete completes: eval "$(register-python-argcomplete lossrag)" (docs/shell.md)',
    "--experimental-rerun": "it would execute a pickle. The same command line finds its run again",
}
_COMMANDS = ("--multirun", "--run", "--cfg", "--info", "--hydra-help")


@dataclass(frozen=True)
class Flags:
    """command: one of Hydra's, ``--run`` unless another one is said, and ``value`` what it was given."""

    command: str
    value: str
    package: str | None
    overrides: list[str]


def read_flags(arguments: Sequence[str]) -> Flags:
    """The flags among the arguments of a command line; raises ConfigError for those that do not go together.

    >>> read_flags(["--cfg", "seed=1", "-p", "train"])
    Flags(command='--cfg', value='job', package='train', overrides=['seed=1'])
    """
    commands: dict[str, str] = {}
    overrides: list[str] = []
    package: str | None = None
    resolve = False
    rest = list(arguments)
    while rest:
        given = rest.pop(0)
        name, _, value = given.partition("=") if given.startswith("--") else (given, "", "")
        flag = _SHORT.get(name, name)
        if flag in _REFUSED:
            raise ConfigError(f"{given}: {_REFUSED[flag]}.")
        if flag in ("--cfg", "--info"):
            commands[flag] = _shown(flag, given, value, rest)
        elif flag == "--package":
            package = value or (rest.pop(0) if rest else "")
        elif flag == "--resolve":
            resolve = True
        elif flag == "--config-dir":  # of presets of one's own, which are read where overrides are
            overrides.append(f"{flag}={value or (rest.pop(0) if rest else '')}")
        elif flag in _COMMANDS:
            commands[flag] = ""
        else:
            overrides.append(given)
    if "hydra.mode=MULTIRUN" in overrides:
        commands.setdefault("--multirun", "")
    if len(commands) > 1:
        raise ConfigError(f"Only one of {', '.join(_COMMANDS)} can be said, got {' and '.join(commands)}.")
    command, value = next(iter(commands.items()), ("--run", ""))
    if command != "--cfg" and (package is not None or resolve):
        raise ConfigError(f"{'--resolve' if resolve else '--package'} goes with --cfg, which shows the configuration.")
    return Flags(command, value, package, overrides)


def _shown(flag: str, given: str, value: str, rest: list[str]) -> str:
    """What of it ``--cfg`` or ``--info`` is to show, taken from the words behind where it stands there."""
    known = CONFIGS if flag == "--cfg" else FACTS
    if not value and rest and rest[0] in known:
        value = rest.pop(0)
    value = value or known[0]
    if value not in known:
        raise ConfigError(f"{given}: {flag} shows one of {', '.join(known)}.")
    return value
