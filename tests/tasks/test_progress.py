from __future__ import annotations

import io
import sys

import lossrag.tasks.files.download
from lossrag.tasks.files.download import transfer


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    with transfer("Getting x") as advance:
        advance(1, 2)
        monkeypatch.setattr(lossrag.tasks.files.download, "LINE_EVERY_SECONDS", 0.0)
        advance(3_000_000, 6_000_000)
        advance(3_000_000, 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["Getting x ...", "Getting x: 3 of 6 MB (50%)", "Getting x: 3 MB"]


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with transfer("Getting x") as advance:
        advance(6_000_000, 6_000_000)
    assert "Getting x" in terminal.getvalue()
    assert "6.0/6.0 MB" in terminal.getvalue()
