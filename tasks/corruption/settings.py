"""Settings of a corruption, checked before any data is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal, get_args

from lossrag.checks import check_choice, require
from lossrag.errors import ConfigError, OptionError, did_you_mean

Noise = Literal["symmetric", "pair", "asymmetric"]
NOISES: tuple[str, ...] = get_args(Noise)
DEFAULT_FACTOR = 20.0


@dataclass(frozen=True)
class Corruption:
    """Label noise, class imbalance or both (rows are dropped first, by their true class) for one task.

    noise: a label is replaced with probability ``rate`` in [0, 1]: ``symmetric`` by a uniformly random *other* class
    (so all labels are wrong at rate 1), ``pair`` by the next class (the last one by the first), ``asymmetric`` by the
    class that ``flips`` gives for it, pairs (from, to) of class names or positions; a class that is not in
    ``flips`` keeps its labels. Instead of ``flips`` and ``rate``, ``matrix`` (K, K) holds the
    probability that class i (row) is labelled j (column); its rows sum to 1.

    imbalance: the share in (0, 1] of the rows to keep of every class (K), in order; or ``exponential``, from 1 for the
    first class down to 1 / ``factor`` (20 unless told) for the last. One row a class stays at least.

    Raises OptionError for values out of range and for settings that do not go together.
    """

    noise: Noise | None = None
    rate: float | None = None
    flips: tuple[tuple[str | int, str | int], ...] | None = None
    matrix: tuple[tuple[float, ...], ...] | None = None
    imbalance: tuple[float, ...] | Literal["exponential"] | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        given = self.noise is not None or self.imbalance is not None
        require(given, self, "set {noise} or {imbalance}, or leave the task out.")
        if self.noise is not None:
            check_choice(self, "noise", NOISES)
        self._check_noise()
        self._check_imbalance()

    def _check_noise(self) -> None:
        matrix = self.matrix or ()
        if self.noise != "asymmetric":
            free = self.flips is None and self.matrix is None
            require(free, self, f"a transition belongs to {{noise}}=asymmetric, not to {self.noise}.")
        else:
            require(
                (self.flips is None) != (self.matrix is None),
                self,
                "asymmetric {noise} takes a transition: {from: to} over classes along with a {rate}, or a {matrix} of "
                "probabilities, a row for every true class.",
            )
        if self.noise is None or self.matrix is not None:
            free = self.rate is None
            require(free, self, "a {rate} belongs to a {noise} without a {matrix} (which has its own): leave it out.")
        else:
            fits = self.rate is not None and 0.0 <= self.rate <= 1.0
            require(fits, self, f"{{rate}} is the share of labels to replace, between 0 and 1, got {self.rate!r}.")
        for row in matrix:
            square = len(row) == len(matrix)
            require(square, self, f"{{matrix}} is square, got {len(matrix)} rows and one of {len(row)}.")
            sums = all(0.0 <= share <= 1.0 for share in row) and abs(sum(row) - 1.0) <= 1e-6
            require(sums, self, f"a row of {{matrix}} holds probabilities that sum to 1, got {list(row)}.")

    def _check_imbalance(self) -> None:
        if self.imbalance == "exponential":
            fits = self.factor is None or 1.0 <= self.factor < inf
            require(
                fits, self, f"{{factor}} is the first class's share by the last one's, 1 or more, got {self.factor}."
            )
            return
        require(self.factor is None, self, "a {factor} belongs to {imbalance}=exponential.")
        shares = self.imbalance or ()
        fits = all(0.0 < share <= 1.0 for share in shares)
        require(fits, self, f"{{imbalance}} keeps a share of every class, above 0 and up to 1, got {list(shares)}.")

    def describe(self) -> str:
        """In a few words, for people.

        >>> Corruption("symmetric", 0.4, imbalance=(1.0, 0.5)).describe()
        'imbalance 1 : 0.5, symmetric noise 0.4'
        """
        words = []
        if self.imbalance == "exponential":
            words.append(f"exponential imbalance {self.factor or DEFAULT_FACTOR:g} : 1")
        elif self.imbalance is not None:
            words.append("imbalance " + " : ".join(f"{share:g}" for share in self.imbalance))
        if self.noise is not None:
            words.append(f"{self.noise} noise " + ("by a matrix" if self.rate is None else f"{self.rate:g}"))
        return ", ".join(words)


def parse_corruption(mapping: Mapping[str, Any]) -> dict[str, Corruption]:
    """Corruptions by task name from plain settings, in the order of the names.

    The fields of a task are ``noise``, ``rate``, ``transition`` (a mapping of classes or a square list),
    ``imbalance`` (a list, or ``exponential``) and ``factor``, as in :class:`Corruption`.

    Raises ConfigError, naming the task, for an unknown field, a value of another kind, and what Corruption refuses.

    >>> parse_corruption({"REC": {"noise": "symmetric", "rate": 0.4}, "TALK": {"imbalance": [1, 0.05]}})["TALK"]
    Corruption(noise=None, rate=None, flips=None, matrix=None, imbalance=(1.0, 0.05), factor=None)
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"A corruption is a mapping of tasks, such as {{REC: {{noise: pair}}}}, not {mapping!r:.60}.")
    parsed = {}
    for task in sorted(mapping, key=str):
        try:
            parsed[str(task)] = _parse(mapping[task])
        except ConfigError as error:
            reason = error.by_key("") if isinstance(error, OptionError) else error
            raise ConfigError(f"Corruption of {task}: {reason}") from None
    return parsed


def _parse(settings: Any) -> Corruption:
    known = ["transition", *(field.name for field in fields(Corruption) if field.name not in ("flips", "matrix"))]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"expected fields ({', '.join(sorted(known))}), got {settings!r:.60}.")
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown field {name!r}: {did_you_mean(str(name), known)}")
    imbalance: Any = settings.get("imbalance")
    if imbalance not in (None, "exponential"):
        imbalance = _numbers("imbalance, unless exponential,", imbalance)
    transition, flips, matrix = settings.get("transition"), None, None
    if isinstance(transition, Mapping):
        flips = tuple((_class(old), _class(new)) for old, new in transition.items())
    elif transition is not None:
        matrix = tuple(_numbers("transition", row) for row in _list("transition", transition))
    rate, factor = (_number(name, settings.get(name)) for name in ("rate", "factor"))
    return Corruption(settings.get("noise"), rate, flips, matrix, imbalance, factor)


def _class(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"a class is a name or a position from 0, not {value!r}.")
    return value


def _list(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ConfigError(f"{name} is a list with an entry for every class, not {value!r:.60}.")
    return value


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    numbers = [_number(name, entry) for entry in _list(name, value)]
    if None in numbers:
        raise ConfigError(f"{name} holds a number for every class, got {value!r:.60}.")
    return tuple(number for number in numbers if number is not None)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} takes numbers, got {value!r:.60}.")
    return float(value)
