"""Description of a method: its name and options in plain values, for a state to say what it is the state of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lossrag.weighting.base import WEIGHTINGS, Weighting

Description = dict[str, Any]
"""``{"method": name, "options": {option: value}}``; equal to what JSON makes of it."""


def describe(weighting: Weighting) -> Description:
    """The name in the registry, or the import path of a class that is in none, and all options as numbers, texts, lists
    and None.

    >>> from lossrag.weighting.methods.gradnorm import GradNorm
    >>> describe(GradNorm(lr=0.1))
    {'method': 'gradnorm', 'options': {'alpha': 1.5, 'lr': 0.1}}
    """
    cls = type(weighting)
    path = f"{cls.__module__}.{cls.__qualname__}"
    name = next((name for name, entry in WEIGHTINGS.items() if entry is cls), path)
    return {"method": name, "options": {option: _plain(value) for option, value in asdict(weighting).items()}}


def difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What differs between two descriptions, in words; empty where nothing does.

    >>> saved = {"method": "gradnorm", "options": {"alpha": 1.5, "lr": 0.1}}
    >>> difference(saved, {"method": "mgda", "options": {"normalization": "none"}})
    "the method is 'gradnorm' there, 'mgda' here"
    >>> difference(saved, {"method": "gradnorm", "options": {"alpha": 1.0, "beta": 2}})
    'alpha is 1.5 there, 1.0 here; lr is 0.1 there, no option here; beta is no option there, 2 here'
    """
    if saved["method"] != own["method"]:
        return f"the method is {saved['method']!r} there, {own['method']!r} here"
    there, here = saved["options"], own["options"]
    missing = object()
    values = {option: (there.get(option, missing), here.get(option, missing)) for option in {**there, **here}}
    return "; ".join(
        f"{option} is {_told(one, missing)} there, {_told(other, missing)} here"
        for option, (one, other) in values.items()
        if one != other
    )


def _told(value: object, missing: object) -> str:
    return "no option" if value is missing else repr(value)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
