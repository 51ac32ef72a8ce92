"""Leases: one holder, dead ones on this machine and on another, clocks that differ, a holder that stood still."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossrag import leases
from lossrag.errors import LeaseHeldError
from lossrag.leases import Lease, leased

PROGRAM = """
import sys, pathlib
from lossrag import leases
leases.LEASE_SECONDS, leases.HEARTBEAT_SECONDS = 1.5, 0.3
lease = leases.Lease(pathlib.Path(sys.argv[1]))
try:
    lease.acquire()
except leases.LeaseHeldError as held:
    print("held by", held, flush=True)
    sys.exit(3)
print("taken", flush=True)
sys.stdin.read()
try:
    lease.check()
except leases.LeaseLostError as lost:
    sys.exit(str(lost))
lease.release()
"""
PATH = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))


def started(path, *before):
    """A process that takes the lease, or says who has it, and ends with its standard input."""
    line = [*before, sys.executable, "-c", PROGRAM, str(path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(line, text=True, env={**os.environ, "PYTHONPATH": PATH}, **pipes)


def elsewhere(name, folder, view):
    """The start of a command on another machine: own network, name and processes, ``folder`` seen as ``view``."""
    script = f'hostname {name} && mount --bind "{folder}" "{view}" && exec "$@"'
    return ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.3)
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared" / "a.lease"


def test_one_holder_who_is_named(path):
    with leased(path), pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on "):
        Lease(path).acquire()
    assert not path.exists()
    Lease(path).acquire()


def test_a_holder_that_was_killed_here_is_told_and_replaced(path, caplog):
    with started(path) as holder:
        assert holder.stdout.readline() == "taken\n"
        holder.kill()
    with leased(path):
        pass
    assert f"was left by process {holder.pid} on" in caplog.text


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_holder_whose_clock_differs_by_hours_lives(path, hours):
    """Its file's time is hours off: what counts is that it changes."""
    lease = Lease(path)
    lease.acquire()
    os.utime(path, (time.time() + hours * 3600,) * 2)
    with pytest.raises(LeaseHeldError):
        Lease(path).acquire()
    lease.release()


def test_a_holder_that_stood_still_writes_nothing_any_more(path, monkeypatch):
    """Taken for dead after a time without a touch; waking up it learns so."""
    monkeypatch.setattr(leases, "_here", lambda: "another machine")
    with started(path) as holder:
        assert holder.stdout.readline() == "taken\n"
        os.kill(holder.pid, signal.SIGSTOP)
        with leased(path):
            os.kill(holder.pid, signal.SIGCONT)
            time.sleep(1.0)  # two touches
            _, error = holder.communicate("", timeout=20)
    assert holder.returncode == 1
    assert "it writes nothing any more" in error


needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux"
    or shutil.which("unshare") is None
    or subprocess.run(elsewhere("probe", "/", "/mnt"), input="", capture_output=True, check=False).returncode != 0,
    reason="needs the right to make namespaces",
)


@needs_namespaces
def test_two_machines_that_share_a_folder(path, tmp_path, caplog):
    """Two networks, two names, two numberings of processes, two mounts of one folder: a living holder is respected and
    named; one that is lost for ever is waited for, told, and replaced."""
    views = [tmp_path / "mount_a", tmp_path / "mount_b"]
    for view in views:
        view.mkdir()
    a, b = (elsewhere(name, path.parent, view) for name, view in zip(("ant", "bee"), views, strict=True))
    with started(views[0] / path.name, *a) as first:
        assert first.stdout.readline() == "taken\n"
        with started(views[1] / path.name, *b) as second:
            assert second.stdout.readline().startswith("held by process ")
        with pytest.raises(LeaseHeldError, match="on ant"):
            Lease(path).acquire()
        (machine,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(int(machine), signal.SIGKILL)
    assert path.exists()
    with started(views[1] / path.name, *b) as second:
        assert second.stdout.readline() == "taken\n"
        second.communicate("", timeout=20)
    assert second.returncode == 0
    assert not path.exists()
