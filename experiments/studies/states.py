"""States of the runs of a study, in one table: waiting, running where, finished, failed and why."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from lossrag.experiments.studies.launchers.base import Standing
from lossrag.experiments.studies.results import csv_text
from lossrag.files import write_atomic

log = logging.getLogger(__name__)


class States:
    """The table, kept as states.csv in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "states.csv"
        self._states: dict[str, Standing] = {}

    def tell(self, name: str, standing: Standing, loud: bool = False) -> None:
        """A run stands like this now; ``loud``: say so as well."""
        if self._states.get(name) == standing:
            return
        self._states[name] = standing
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = [[name, own.phase, own.where, own.why] for name, own in self._states.items()]
        write_atomic(self._path, csv_text(["run", "state", "where", "why"], rows).encode())
        if loud:
            log.warning("%s: %s on %s, %s", name, standing.phase, standing.where or "no machine", standing.why)

    def line(self) -> str:
        """How many are in which state.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     states = States(Path(folder))
        ...     states.tell("a", Standing("running", "ant"))
        ...     states.tell("b", Standing("waiting"))
        ...     states.line()
        'running on ant: 1, waiting: 1'
        """
        named = (
            f"{own.phase} on {own.where}" if own.phase == "running" else own.phase for own in self._states.values()
        )
        return ", ".join(f"{what}: {number}" for what, number in sorted(Counter(named).items()))
