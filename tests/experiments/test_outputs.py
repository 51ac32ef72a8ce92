"""Files that commands write: what is no file is neither replaced nor written to."""

from __future__ import annotations

import json
import os
import stat

import pytest

from tests.experiments.banks import write_bank

COMMANDS = (
    ("bank export bank=bank", ".csv"),
    ("bank validate bank=bank", ".json"),
    ("bank show mae", ".png"),
    ("bank picture bank=bank", ".png"),
    ("benchmark plot rows.json", ".png"),
)


@pytest.fixture
def here(tmp_path):
    write_bank(tmp_path / "bank")
    rows = [{"sweep": "tasks", "query": 1, "tasks": n, "ratio": 1.0, "spread": 0.1, "floor": 1.0} for n in (2, 4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize(("command", "suffix"), COMMANDS)
def test_pipes_and_links_stay_what_they_are(here, lossrag, command, suffix):
    pipe, link = here / f"pipe{suffix}", here / f"link{suffix}"
    os.mkfifo(pipe)
    link.symlink_to(here / f"real{suffix}")
    for target, kind in ((pipe, "a named pipe"), (link, "a symbolic link")):
        error = lossrag(*command.split(), f"output={target}").error
        assert kind in error
        assert "name a file" in error
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert link.is_symlink()
    assert not (here / f"real{suffix}").exists()


def test_a_bank_that_is_a_link_is_not_parted_from_it(here, lossrag):
    (here / "mine").symlink_to(here / "bank")
    before = (here / "bank").read_bytes()
    error = lossrag("bank", "merge", "bank", "bank", "output=mine").error
    assert "mine is a symbolic link" in error or "exists already" in error
    assert (here / "mine").is_symlink()
    assert (here / "bank").read_bytes() == before


def test_a_device(here, lossrag):
    """As root, a device would be replaced by a file for everybody."""
    device = here / "null.csv"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    assert "a device" in lossrag("bank", "export", "bank=bank", f"output={device}").error
    assert stat.S_ISCHR(device.lstat().st_mode)
