"""One row of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """``ratio`` in ``unit``, with the quartile distance of its paired repetitions, and further figures. Both are None
    where nothing could be timed: ``more`` then says why."""

    subject: str
    case: str
    ratio: float | None
    spread: float | None
    unit: str
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row of benchmark.json."""
        row = {"subject": self.subject, "case": self.case, "ratio": self.ratio, "spread": self.spread}
        return {**row, "unit": self.unit, **self.more}
