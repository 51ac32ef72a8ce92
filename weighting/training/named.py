"""Names of methods and tasks, as people give them."""

from __future__ import annotations

from collections.abc import Sequence

from lossrag.errors import ConfigError, did_you_mean
from lossrag.weighting.base import WEIGHTINGS, Weighting


def method_of(given: Weighting | type[Weighting] | str) -> Weighting:
    """A method, from itself, its class, or its name in the registry; raises ConfigError where options are missing."""
    if isinstance(given, Weighting):
        return given
    kind = WEIGHTINGS[given] if isinstance(given, str) else given
    if not (isinstance(kind, type) and issubclass(kind, Weighting)):
        raise ConfigError(
            f"MultiTaskStep: expected a weighting method such as MetaWeighting(alpha=0.1), its class or its name, got "
            f"{type(given).__name__}: take one of {', '.join(WEIGHTINGS)}."
        )
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(f"MultiTaskStep: {kind.__name__} needs options, so give it with them: {error}.") from None


def task_names(given: int | Sequence[str]) -> tuple[str, ...]:
    """Names of the tasks, from their number or themselves; raises ConfigError for none, or one that is there twice."""
    if isinstance(given, str):
        raise ConfigError(f"MultiTaskStep: the tasks are a list of names, or their number, got the string {given!r}.")
    names = tuple(map(str, range(given))) if isinstance(given, int) else tuple(map(str, given))
    if not names:
        raise ConfigError("MultiTaskStep: at least one task is needed, got none.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"MultiTaskStep: two tasks have the name {', '.join(twice)}: give each one of its own.")
    return names


def numbers_of(given: Sequence[int | str] | None, tasks: Sequence[str]) -> tuple[int, ...]:
    """Numbers of some tasks, given by number or name, in the order of the tasks; of all for None."""
    if given is None:
        return tuple(range(len(tasks)))
    found = set()
    for one in given:
        if isinstance(one, int) and 0 <= one < len(tasks):
            found.add(one)
        elif str(one) in tasks:
            found.add(list(tasks).index(str(one)))
        else:
            raise ConfigError(f"MultiTaskStep: outer has {one!r}, which is no task: {did_you_mean(str(one), tasks)}")
    if not found:
        raise ConfigError("MultiTaskStep: the outer problem needs one task at least, outer is empty.")
    return tuple(sorted(found))
