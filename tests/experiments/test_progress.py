"""Progress on the terminal: a live bar with the weights, or plain lines where nothing can be redrawn."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import pytest
from rich.console import Console

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.progress import RunProgress
from lossrag.experiments.train import train_run
from lossrag.tasks import Task


def small(tmp_path, *overrides):
    line = ["experiment=digits", "train.epochs=3", "train.batch_size=256", f"run.root={tmp_path}", *overrides]
    return load_config(line)[1]


def test_plain_lines_without_a_terminal(tmp_path):
    text = io.StringIO()
    train_run(small(tmp_path), Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    assert epochs[0].startswith("epoch 1/3  support loss ")
    assert epochs[-1].startswith("epoch 3/3  support loss ")
    assert all("w digit " in line and "centre" in line and "mean validation score" in line for line in epochs)
    assert "\x1b" not in text.getvalue()
    assert "\r" not in text.getvalue()


def test_a_terminal_shows_a_bar_with_the_weights(tmp_path):
    text = io.StringIO()
    train_run(small(tmp_path), Console(file=text, force_terminal=True, width=160))
    shown = text.getvalue()
    assert "w digit 1.00" in shown
    assert "15/15" in shown
    assert "epoch 3/3" in shown
    assert "\x1b[" in shown


def test_a_resumed_bar_starts_where_the_run_stands():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    tasks = [Task("a", "classification", 2), Task("b", "classification", 2)]
    with RunProgress(console, tasks, 4, 10, 25) as bar:
        bar.step(3, 26, {"weight/a": 0.5, "weight/b": 1.5})
        bar.step(3, 27, None)
    assert "27/40" in text.getvalue()
    assert "w a 0.50 b 1.50" in text.getvalue()


def test_many_tasks_fit_on_a_line():
    text = io.StringIO()
    tasks = [Task(f"t{i}", "classification", 2) for i in range(14)]
    with RunProgress(Console(file=text, width=300), tasks, 1, 1, 0) as bar:
        bar.epoch(1, 0.5, 0.25, [1.0] * 14, True)
    (line,) = text.getvalue().splitlines()
    assert "mean validation score 0.2500 *" in line
    assert line.endswith("t5 1.00 ...")


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_shows_lines_and_where_it_can_a_bar(monkeypatch, widgets):
    shown, bars = [], []

    class Output:
        def __enter__(self):
            bars.append(self)

        def __exit__(self, *_):
            pass

        def clear_output(self, wait):
            pass

        def close(self):
            pass

    display, ipywidgets = ModuleType("IPython.display"), ModuleType("ipywidgets")
    display.display = lambda *things: shown.extend(str(getattr(thing, "text", thing)) for thing in things)
    ipywidgets.Output = Output
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("lossrag.experiments.record.progress.find_spec", lambda name: ipywidgets if widgets else None)
    if widgets:
        monkeypatch.setitem(sys.modules, "ipywidgets", ipywidgets)
    with RunProgress(Console(force_jupyter=True), [Task("a", "classification", 2)], 2, 5, 0) as bar:
        bar.step(1, 1, {"weight/a": 0.5})
        bar.epoch(1, 0.5, 0.25, [1.0], True)
        bar._bar.refresh()  # which a thread of its own does ten times a second
    assert bool(bars) == widgets
    assert any("epoch 1/2" in text for text in shown)
