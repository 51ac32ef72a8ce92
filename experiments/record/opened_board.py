"""Opening of a run's TensorBoard: named by what its user chose, and described where it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lossrag.experiments.config.differences import preset_differences, run_label
from lossrag.experiments.config.identity import Settings
from lossrag.experiments.record.tensorboard import TensorBoard
from lossrag.tasks import Task


def open_board(
    directory: Path, settings: Settings, tasks: Sequence[Task], composed: bool, terms: Sequence[str], resumed: int = 0
) -> TensorBoard:
    """The TensorBoard of the run in ``directory``, as it was at step ``resumed``; raises OSError.

    composed: losses may be composed. terms: the series that an adversarial model adds.
    """
    differences = preset_differences(settings)
    label = run_label(settings, differences)
    board = TensorBoard(directory / "tensorboard", label, tasks, resumed)
    if not resumed:
        name = f"{label} {directory.name}".lstrip()
        board.describe(settings, name, None if differences is None else label, composed, terms)
    return board
