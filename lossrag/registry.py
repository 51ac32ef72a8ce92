"""Names for things a configuration may choose: registered callables instead of free import paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar, cast

from lossrag.errors import ConfigError, did_you_mean

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Mapping[str, T]):
    """A read-mostly mapping from a name to a registered object of one kind.

    >>> colours: Registry[int] = Registry("colour")
    >>> colours.add("red", 1)
    1
    >>> colours["red"]
    1
    >>> colours["rde"]
    Traceback (most recent call last):
    lossrag.errors.ConfigError: Unknown colour 'rde': did you mean 'red'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; raises ConfigError when the name is taken, or none."""
        self._check_name(name)
        if name in self._entries:
            raise ConfigError(f"The {self.kind} name {name!r} is taken: register yours under another name.")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator form of :meth:`add`; what it decorates keeps its own type."""
        self._check_name(name)

        def decorate(entry: Entry) -> Entry:
            self.add(name, cast(T, entry))
            return entry

        return decorate

    def _check_name(self, name: object) -> None:
        # the decorator without its brackets would hand over what is to be registered
        if not isinstance(name, str) or not name:
            raise ConfigError(f'A {self.kind} is registered by name, got {name!r:.60}: write register("my_name").')

    def remove(self, name: str) -> T:
        """Take an entry out again; raises ConfigError when there is none of this name."""
        entry = self[name]
        del self._entries[name]
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(f"Unknown {self.kind} {name!r}: {did_you_mean(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
