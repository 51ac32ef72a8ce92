"""Overrides of a user, read and checked before Hydra sees them: its own errors do not say what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import cast, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.groups import GROUPS, experiment_names
from lossrag.experiments.config.identity import Settings, flatten
from lossrag.experiments.config.paths import SUFFIXES, mended, quoted
from lossrag.experiments.config.presets import ConfigDir

_MISSING = object()
LONG = 160
"""Characters of what a user wrote that a message repeats."""
OPEN = ("tasks.corrupt", "loss.tasks", "outer.losses")
"""Sections whose keys are the tasks of the suite: what happens to their labels, and the losses of some."""


RETIRED = {
    "loss.learn": "shares stay where they were put with loss.evidence=none",
    "loss.explore": "loss.k alone says how many losses are retrieved",
    "loss.relational": "losses on pairs of samples are offered where loss.candidates names them",
    "loss.policy=knn": "write loss.policy=retrieval",
    "loss.policy=two_tower": "write loss.policy=retrieval",
    "loss.horizon=1": "write loss.evidence=one_step",
    "loss.bank=null": "write loss.bank=none for none",
    "loss.library": "write library=[my.py], which every command takes, for files of losses and all else of your own",
}
"""What was there once, and what there is instead."""


def parse(overrides: Sequence[str | Override]) -> list[Override]:
    """Hydra's parsed form, which overrides from Python have already; raises ConfigError for what is no override."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if isinstance(text, Override):
            parsed.append(text)
            continue
        check_retired(text.partition("=")[0])
        try:
            (override,) = parser.parse_overrides([mended(text)])
            override.value()
        except (HydraException, RecursionError):
            override = None
        if override is None or not override.key_or_group:
            raise ConfigError(f"Cannot read {shortened(text)}: {advice(text)}")
        override.input_line = text
        if override.is_sweep_override():
            key, _, values = text.partition("=")
            lists = f", for a list write {key}=[{values}], for a text with a comma quote it: '{key}=\"{values}\"'"
            raise ConfigError(
                f"{text} names several values, but a run takes one: for a run of each say "
                f"`lossrag train -m {text}`{'' if key == 'seed' else lists}."
            )
        parsed.append(override)
    return parsed


def shortened(text: str) -> str:
    """What a user wrote, quoted, its middle left out where it is long."""
    return repr(text if len(text) <= LONG else f"{text[: LONG // 2]} ... {text[-LONG // 4 :]}")


def advice(text: str) -> str:
    """What to write in place of a text that is no override."""
    key, equals, value = text.partition("=")
    if key and equals and not text.startswith("-") and value:
        return f"write key=value, and quote a value with special characters: '{key}=\"{value}\"'."
    return "write key=value, e.g. weighting.alpha=0.5"


def is_choice(override: Override) -> bool:
    """True where it names a preset or an entry of a group, as in ``weighting=uniform``."""
    return override.key_or_group in (*GROUPS, "experiment")


def check_choice(override: Override, folder: ConfigDir) -> None:
    """Raise ConfigError unless the override chooses one name, of the package or of ``folder``, or a preset in a file
    (or, ``~experiment``, no preset)."""
    group = override.key_or_group
    if override.package is not None or override.is_add():
        raise ConfigError(f"{override.input_line}: {group} takes one name: write {group}=NAME")
    options = [*(experiment_names() if group == "experiment" else GROUPS[group]), *folder.names(group)]
    if override.is_delete():
        if group != "experiment":
            raise ConfigError(f"A run cannot do without {group}: choose from {', '.join(options)}")
        return
    value = override.value()
    if not isinstance(value, str):
        raise ConfigError(f"{override.input_line}: {group} takes one name: choose from {', '.join(options)}")
    if value not in options and not (group == "experiment" and value.endswith(SUFFIXES)):
        own = " (one of your own ends in .yaml)" if group == "experiment" else ""
        raise ConfigError(f"Unknown {group} {value!r:.80}{own}: {did_you_mean(value, options)}")


def check_key(override: Override, known: DictConfig) -> None:
    """Raise ConfigError unless the override sets a single value that ``known`` has."""
    key = override.key_or_group
    section, _, option = key.partition(".")
    if is_open(override) and not override.is_delete():
        return
    for gone in (key, override.input_line or ""):
        check_retired(gone)
    current = OmegaConf.select(known, key, default=_MISSING)
    if current is _MISSING or override.package is not None:
        raise ConfigError(f"Unknown key {key!r}: {_hint(key, known)}")
    if override.is_add():
        raise ConfigError(f"{override.input_line}: {key} is there already: leave out the +.")
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: {key} cannot be deleted: set it to another value, {key}=...")
    if isinstance(current, DictConfig) and current:  # an empty one is a value, which no key is set of yet
        example = f"{key}.{next(iter(current))!s}"
        raise ConfigError(f"{override.input_line}: {key} is a section: set one of its keys, e.g. {example}=...")
    if section in GROUPS and option == "name":
        raise ConfigError(f"{key} is chosen with {section}=NAME: one of {', '.join(GROUPS[section])}")


def check_retired(key: str) -> None:
    """Raise ConfigError for a key, or a key with its value, that was there once."""
    if key in RETIRED:
        raise ConfigError(f"{key} is gone: {RETIRED[key]}.")


def is_open(override: Override) -> bool:
    """True where the override is about a task of the suite, by its name: see :data:`OPEN`."""
    return any(f"{override.key_or_group}.".startswith(f"{section}.") for section in OPEN)


def _hint(key: str, known: DictConfig) -> str:
    section, _, option = key.partition(".")
    keys = list(dict.fromkeys([*flatten(cast(Settings, OmegaConf.to_container(known))), *OPEN]))
    same_leaf = [full for full in keys if full.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    if same_leaf:
        return f"did you mean {same_leaf[0]!r}?"
    if option and OmegaConf.is_dict(known.get(section)):
        within = [full for full in keys if full.startswith(f"{section}.") and full != f"{section}.name"]
        chosen = f"{section}={known[section].name}" if section in GROUPS else section
        return did_you_mean(key, within) if within else f"{chosen} has no options."
    sections = list(dict.fromkeys(full.partition(".")[0] for full in keys))
    # a key may be misspelt, or lack its section
    meant = {full.rsplit(".", 1)[-1]: full for full in keys} | {name: name for name in [*keys, *sections, "experiment"]}
    close = dict.fromkeys(meant[name] for name in difflib.get_close_matches(key, meant))
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"choose from {', '.join(sections)}; `lossrag train --cfg` prints every key."


def plain_values(overrides: Sequence[str], noun: str = "overrides") -> dict[str, object]:
    """key=value arguments of a command that has options of its own; raises ConfigError for what cannot be read."""
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"Cannot read {override!r}: write key=value, e.g. pairs=5")
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except Exception as error:  # YAML and OmegaConf have many ways to stumble over a value
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"Cannot read the {noun}: {reason:.200}") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


KINDS = {int: "whole numbers", float: "numbers", str: "names"}


def check_lists(cls: object, values: Settings, where: str, form: str) -> None:
    """Raise ConfigError for a value that is no list where the dataclass ``cls`` has one, or a list of another depth.

    form: how the user sets a key, with {key} and {value}.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     weights: list[float]
    >>> check_lists(Options, {"weights": 1}, "weighting", "weighting.{key}={value}")
    Traceback (most recent call last):
        ...
    lossrag.errors.ConfigError: weighting.weights must be a list of numbers, got 1: write weighting.weights=[1]
    """
    for key, hint in get_type_hints(cls).items():
        if key not in values:
            continue
        options = get_args(hint) if NoneType in get_args(hint) else (hint,)
        lists = [option for option in options if get_origin(option) in (list, tuple)]
        value = values[key]
        if not lists or (value is None and NoneType in options):
            continue
        item = get_args(lists[0])[0]
        deep = get_origin(item) is list
        if not isinstance(value, (list, tuple)):
            shown = "[...]" if value is None else f"[{written(value)}]"
            shown = f"[{shown}]" if deep else shown
        elif deep and not all(isinstance(entry, list) for entry in value):
            shown = f"[{written(value)}]"
        elif item in KINDS and any(isinstance(entry, list) for entry in value):
            shown = written([part for entry in value for part in (entry if isinstance(entry, list) else [entry])])
        else:
            continue
        advice = form.format(key=key, value=shown)
        raise ConfigError(f"{where}.{key} must be {_described(item)}, got {written(value)}: write {advice}")


def _described(item: type) -> str:
    if get_origin(item) is list:
        return f"a list of lists of {KINDS.get(get_args(item)[0], 'values')}"
    return f"a list of {KINDS[item]}" if item in KINDS else "a list"


def written(value: object) -> str:
    """A value as it is written on the command line.

    >>> written({"pay": {"where": {"job": "the boss"}}, "ages": [1, None]})
    '{pay:{where:{job:"the boss"}},ages:[1,null]}'
    """
    if isinstance(value, Mapping):
        pairs = ((re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", str(key)), part) for key, part in value.items())
        return f"{{{','.join(f'{key}:{_inner(part)}' for key, part in pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_inner, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _inner(value: object) -> str:
    """A value within a list or a mapping, where a text of several words has to be quoted."""
    plain = not isinstance(value, str) or re.fullmatch(r"[\w./+-]+", value)
    return written(value) if plain else quoted(str(value))
