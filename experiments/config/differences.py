"""Differences of a run from its preset: what its user chose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import cast

from omegaconf import OmegaConf

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import compose_config
from lossrag.experiments.config.groups import GROUPS
from lossrag.experiments.config.identity import Settings, flatten, identity, section

NAMED = tuple(f"{group}.name" for group in GROUPS if group != "model")
"""Keys that every run id tells, beside the seed."""
LONGEST = 60
"""Characters of a label."""


def preset_differences(settings: Settings) -> dict[str, object] | None:
    """The deciding settings, by dotted key, that are not those of the preset, but for what a run id tells: seed, suite
    and method; None when the preset cannot be composed here, as it is a file of the user's own.

    The options of another suite, model or method than the preset's are compared with that one's own defaults.
    """
    chosen = [f"{group}={section(settings, group)['name']}" for group in GROUPS]
    base = "~experiment" if settings["preset"] == "custom" else f"experiment={settings['preset']}"
    try:
        preset = _composed([base])
        same = all(f"{group}={section(preset, group)['name']}" in chosen for group in GROUPS)
        usual = flatten(identity(preset if same else _composed([base, *chosen])))
    except ConfigError:
        return None
    usual |= {f"{group}.name": section(preset, group)["name"] for group in GROUPS}
    own = flatten(identity(settings))
    return {
        key: value
        for key, value in own.items()
        if key.rsplit(".", 1)[-1] != "seed" and key not in NAMED and (key not in usual or usual[key] != value)
    }


def _composed(overrides: list[str]) -> Settings:
    return cast(Settings, OmegaConf.to_container(compose_config(overrides), resolve=True))


def run_label(settings: Settings, differences: Mapping[str, object] | None) -> str:
    """What tells a run from others of its suite, method and seed: its loss policy, unless that is ``fixed``, and the
    ``differences`` from its preset; "" for none. It can be the name of a folder.

    >>> settings = {"loss": {"policy": "retrieval"}}
    >>> run_label(settings, {"loss.policy": "retrieval", "optimizer.lr": 0.01, "tasks.data": "/data/my rows.csv"})
    'retrieval lr=0.01 data=my_rows'
    >>> run_label({"loss": {"policy": "fixed"}}, {"train.epochs": 3, "model.hidden": [64, 32]})
    'epochs=3 hidden=64,32'
    """
    policy = str(section(settings, "loss").get("policy", "fixed"))
    parts = [] if policy == "fixed" else [policy]
    told = {key.removesuffix(".name"): value for key, value in (differences or {}).items() if key != "loss.policy"}
    ends = [key.rsplit(".", 1)[-1] for key in told]
    for (key, value), end in zip(told.items(), ends, strict=True):
        name = end if ends.count(end) == 1 else key
        text = _short(value)
        parts.append(f"{name}={text}" if text else name)
    kept: list[str] = []
    for place, part in enumerate(parts):
        if len(" ".join([*kept, part])) > LONGEST:
            return " ".join([*kept, f"+{len(parts) - place}"])
        kept.append(part)
    return " ".join(kept)


def _short(value: object) -> str:
    """A value in a few characters that any file system takes; "" for one that has none."""
    if isinstance(value, Mapping) or (isinstance(value, str) and not value):
        return ""
    if isinstance(value, (list, tuple)):
        text = ",".join(map(_short, value))
    else:
        text = PurePath(value).stem if isinstance(value, str) and "/" in value else str(value)
    text = re.sub(r"[^\w.,+-]", "_", text)
    return text if len(text) <= 20 else ""
