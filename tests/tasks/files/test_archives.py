from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from lossrag import DataError
from lossrag.tasks.files.archives import open_member, tar_members, zip_member


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr("folder/a.txt", b"12345")
        content.writestr("../evil.txt", b"x")
    return tmp_path / "a.zip"


def test_named_member_is_read_within_its_limit(archive):
    assert zip_member(archive, "folder/a.txt", limit=5) == b"12345"
    with open_member(archive, "folder/a.txt", 5) as stream:
        assert stream.read(2) == b"12"
    with pytest.raises(DataError, match=r"has 5 bytes, expected 4 at most"):
        zip_member(archive, "folder/a.txt", limit=4)


def test_archive_that_is_not_the_known_one(archive, tmp_path):
    with pytest.raises(DataError, match=r"has no 'b.txt': delete the file"):
        zip_member(archive, "b.txt", 5)
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"is damaged"):
        zip_member(tmp_path / "bad.zip", "a", 5)
    with pytest.raises(DataError, match=r"is damaged"):
        list(tar_members(tmp_path / "bad.zip", 5))


def test_tar_gives_regular_files_only_and_writes_nothing(tmp_path):
    path = tmp_path / "in" / "a.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as content:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        content.addfile(link)
        member = tarfile.TarInfo("../../evil")
        member.size = 3
        content.addfile(member, io.BytesIO(b"abc"))
    assert list(tar_members(path, limit=3)) == [("../../evil", b"abc")]
    assert [each.name for each in tmp_path.rglob("*")] == ["in", "a.tar.gz"]
    with pytest.raises(DataError, match=r"3 bytes, expected 2 at most"):
        list(tar_members(path, limit=2))
