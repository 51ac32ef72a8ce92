"""Hyperparameters of a run on TensorBoard's HPARAMS page: what was chosen first, both means, then every setting."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tensorboard.plugins.hparams import summary_v2 as hp

from lossrag.experiments.config.identity import Settings, flatten, section
from lossrag.experiments.record.board_tags import BEST, TEST
from lossrag.experiments.record.finished import method_label
from lossrag.weighting import WEIGHTINGS

Value = int | float | str
CHOSEN = ("method, losses", "suite", "alpha", "learning rate", "seed", "differs from preset", "preset", "loss policy")
"""The first columns; the page opens with five."""
MEANS = {BEST: "validation mean (best epoch)", TEST: "test mean (best epoch)"}


def hparams_summaries(settings: Settings, name: str, label: str | None) -> list[Any]:
    """The summaries that describe a run called ``name``; ``label`` is what differs from its preset.

    The page takes its columns from any one run: so all runs name the same, the options of every method among them.
    It sorts columns by their names and shows the first five: so names have numbers, and titles that are shown.
    """
    plain = {key: _value(value) for key, value in flatten(settings).items()}
    every = dict.fromkeys([*plain, *(f"weighting.{option}" for option in _options())])
    titles = {f"{place:02}": title for place, title in enumerate(CHOSEN)}
    columns = [hp.HParam(name, display_name=title) for name, title in titles.items()]
    columns += [hp.HParam(f"setting {key}", display_name=key) for key in sorted(every)]
    metrics = [hp.Metric(tag, display_name=title) for tag, title in MEANS.items()]
    values: dict[str, Value] = {f"setting {key}": value for key, value in plain.items()}
    chosen = _chosen(settings, label)
    values |= {name: chosen[title] for name, title in titles.items() if title in chosen}
    return [hp.hparams_config_pb(columns, metrics), hp.hparams_pb(values, trial_id=name)]


def _chosen(settings: Settings, label: str | None) -> dict[str, Value]:
    weighting, loss = section(settings, "weighting"), section(settings, "loss")
    chosen: dict[str, object] = {
        "method, losses": method_label(settings),
        "suite": section(settings, "tasks")["name"],
        "learning rate": section(settings, "optimizer")["lr"],
        "seed": str(settings["seed"]),  # the page shows whole numbers as 0.0000
        "differs from preset": "its preset is not at hand" if label is None else label or "nothing",
        "preset": settings["preset"],
        "loss policy": loss["policy"],
    }
    if "alpha" in weighting:
        chosen["alpha"] = weighting["alpha"]
    return {title: _value(value) for title, value in chosen.items()}


def _options() -> set[str]:
    return {field.name for name in WEIGHTINGS for field in fields(WEIGHTINGS[name]) if field.init}


def _value(value: object) -> Value:
    """As the page can sort and filter it: numbers and texts; it shows a truth value as 0.0000 or 1.0000."""
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)
