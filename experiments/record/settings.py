"""Settings of a run on disk: config.yaml, proven and held to a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError, RunDirectoryError
from lossrag.experiments.config.compose import MAX_SEED
from lossrag.experiments.config.yaml_file import MOST_BYTES, parse_yaml
from lossrag.proof import DamagedFile, read_proven
from lossrag.schema import Unfit, Within, check_schema

SETTINGS = {
    "seed": Within(0, MAX_SEED, whole=True),
    "preset?": (str, None),
    "library?": ({str: str}, None),
    "overrides?": [str],
    "tasks": {"name": str},
    "model": {"name": str},
    "weighting": {"name": str},
    "loss": {
        **dict.fromkeys(("policy?", "classification?", "regression?"), str),
        "tasks?": {str: str},
        "library?": ([str], None),
    },
    **{f"{section}?": {str: object} for section in ("outer", "optimizer", "train", "data", "machine", "run", "log")},
}
"""What every config.yaml holds; the rest is seen when a configuration is built of it. Those of earlier versions lack
``library``, ``overrides`` and keys of ``loss``."""


def read_settings(directory: Path) -> dict[str, Any]:
    """The plain settings in the config.yaml of a run directory.

    Raises ConfigError where there is none, RunDirectoryError for one that is damaged.
    """
    path = directory / "config.yaml"
    try:
        settings = parse_yaml(read_proven(path, MOST_BYTES), "it")
        check_schema(settings, SETTINGS)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{directory} is no run directory: it has no config.yaml. For a folder of runs say root={directory}"
        ) from None
    except (OSError, DamagedFile, Unfit, ConfigError) as reason:
        raise RunDirectoryError(f"{path} is damaged ({reason}): restore it, or leave its run out.") from None
    return settings
