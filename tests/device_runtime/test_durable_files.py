import os
import stat

import pytest

from device_runtime.durable_files import OWNER_ONLY, append_durably, cut_durably, write_durably


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_a_file_is_replaced_whole_with_the_permissions_that_were_asked_for(path):
    path.write_bytes(b"a much longer text")
    write_durably(path, b"new", OWNER_ONLY)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_what_a_power_cut_left_half_written_is_in_nobodys_way(path):
    path.with_name("file.new").write_bytes(b"half")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_content(path, monkeypatch):
    write_durably(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("is_there", [False, True])
def test_appending_and_writing_reach_the_disk_before_they_return(path, monkeypatch, is_there):
    if is_there:
        path.write_bytes(b"one")
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    append_durably(path, b"two")
    assert path.read_bytes() == (b"onetwo" if is_there else b"two")
    assert synced == ([False] if is_there else [False, True])  # the folder holds a new file's name
    synced.clear()
    write_durably(path, b"three")
    assert synced == [False, True]


def test_cutting_drops_the_end(path):
    path.write_bytes(b"line\nhalf")
    cut_durably(path, 5)
    assert path.read_bytes() == b"line\n"
