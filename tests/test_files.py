"""Files that are written whole or not at all, and the lock of a folder."""

import fcntl

import pytest

from training import files
from training.errors import UserError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    with files.atomic(path) as temporary:
        assert temporary.parent == path.parent  # a rename is atomic within a file system only
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_lock_leaves_nothing(tmp_path):
    with files.locked(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder" / "lock").exists()
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.tmp-old").write_text("not of this project")
    with files.locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.tmp-old"]


def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch):
    """The previous owner removed the file after this process had opened it, and a third process created another."""
    flock = fcntl.flock

    def late(descriptor, operation):
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("process 3")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="in use"), files.locked(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == "process 3"
