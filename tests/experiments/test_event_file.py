"""Event files that cannot be written, or are deleted: an OSError, no thread, no traceback."""

from __future__ import annotations

import resource
import shutil
import threading
from collections import deque
from functools import partial

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossrag.experiments.record.board_tags import ALL, BEST
from lossrag.experiments.record.tensorboard import TensorBoard
from lossrag.tasks import Task

TASKS = [Task(f"task {number}", "classification", 2) for number in range(9)]
consume = partial(deque, maxlen=0)
VALUES = {f"weight/{task.name}": 1.0 for task in TASKS}


def test_a_file_per_task_and_one_for_all(tmp_path):
    threads = threading.active_count()
    board = TensorBoard(tmp_path, "lr=0.1", TASKS, 0)
    assert threading.active_count() == threads
    board.write(1, VALUES)
    # shown at once, not when the run ends
    shown = {path.name: EventAccumulator(str(path)).Reload().Tags()["scalars"] for path in tmp_path.iterdir()}
    first, last = ("1_overview/3_task_weight (tasks 1 to 7)",), ("1_overview/3_task_weight (tasks 8 to 9)",)
    assert {name: tuple(tags) for name, tags in shown.items()} == {f"lr=0.1 {ALL}": ()} | {
        f"lr=0.1 task_{number}": first if number < 7 else last for number in range(9)
    }
    board.close()


def test_a_disk_that_is_full(tmp_path, capfd):
    board = TensorBoard(tmp_path, "", TASKS, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            consume(board.write(step, VALUES) for step in range(200))
        with pytest.raises(OSError, match="too large"):
            board.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""


def test_a_folder_that_is_deleted(tmp_path):
    board = TensorBoard(tmp_path, "", TASKS, 0)
    shutil.rmtree(tmp_path / "task_3")
    board.write(1, VALUES)
    with pytest.raises(FileNotFoundError, match=r"task_3.*was deleted while it was written"):
        board.end_epoch(1, 0.5)
    board.close()


def test_sessions_within_a_second_are_read_in_order(tmp_path):
    for session in range(4):
        board = TensorBoard(tmp_path, "", TASKS[:1], session)
        for step in range(session, session + 3):
            board.end_epoch(step, session + step / 10)
        board.close()
    board = EventAccumulator(str(tmp_path / ALL)).Reload()
    assert len(list((tmp_path / ALL).iterdir())) == 4
    points = {event.step: event.value for event in board.Scalars(BEST)}
    assert list(points) == [0, 1, 2, 3, 4, 5]
    assert points == pytest.approx({0: 0, 1: 1.1, 2: 2.2, 3: 3.3, 4: 3.4, 5: 3.5})
