"""Series of shares over the steps of a run, thinned: what pictures of compositions are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lossrag.experiments.record.series import logged_shares

MOST = 400
"""Moments held at most, beside the last: more than a picture has pixels for."""


class ShareSeries:
    """The logged shares of every task, of so few moments that a run of any length holds no more; its last ``step``.

    Every moment is held at first, every second one once there are more than :data:`MOST`, and so on: the same ones
    whether they come while a run trains or from its file.
    """

    def __init__(self) -> None:
        self.step = 0
        self._kept: list[tuple[int, dict[str, dict[str, float]]]] = []
        self._last: tuple[int, dict[str, dict[str, float]]] | None = None
        self._count, self._stride = 0, 1

    @classmethod
    def of(cls, points: Iterable[Mapping[str, Any]]) -> ShareSeries:
        """Those of logged points, oldest first.

        >>> ShareSeries.of([{"step": 1, "composition/REC/mae": 0.25}, {"step": 2, "weight/REC": 1.0}]).by_task()
        {'REC': ([1], {'mae': [0.25]})}
        """
        series = cls()
        for point in points:
            series.add(point)
        return series

    def add(self, point: Mapping[str, Any]) -> None:
        """The next logged point, whether there are shares in it or not."""
        self.step = max(self.step, point["step"])
        shares = logged_shares(point)
        if not shares:
            return
        self._last = point["step"], shares
        if self._count % self._stride == 0:
            self._kept.append(self._last)
            if len(self._kept) > MOST:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._count += 1

    def by_task(self) -> dict[str, tuple[list[int], dict[str, list[float]]]]:
        """Per task its steps (n,) and the shares (n,) of every logged loss, 0 before its series begins."""
        moments = [*self._kept]
        if self._last is not None and self._last is not moments[-1]:
            moments.append(self._last)
        series = {}
        for task in dict.fromkeys(task for _, shares in moments for task in shares):
            listed = [(step, shares[task]) for step, shares in moments if task in shares]
            names = dict.fromkeys(name for _, shares in listed for name in shares)
            by_name = {name: [shares.get(name, 0.0) for _, shares in listed] for name in names}
            series[task] = [step for step, _ in listed], by_name
        return series

    def last(self) -> dict[str, dict[str, float]]:
        """Per task the shares of its logged losses at the last logged moment, without zeros, largest first."""
        last = {}
        for task, (_, shares) in self.by_task().items():
            ends = {name: values[-1] for name, values in shares.items() if values[-1] > 0}
            last[task] = dict(sorted(ends.items(), key=lambda item: (-item[1], item[0])))
        return last
