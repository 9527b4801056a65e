import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_runtime.accounting import Budget, Release
from device_runtime.client import advance, new_client
from device_runtime.client_records import Started
from device_runtime.ledger import Ledger
from device_runtime.state_folder import (
    BlobMissingError,
    StateFolder,
    StateFolderError,
    StateFolderLockedError,
    read_ledgers,
    source_id,
)

SOURCE = source_id("npz:share")
OLD = Path(__file__).with_name("old_state_folder")
HOLD = "import sys, time\nfrom pathlib import Path\nfrom device_runtime.state_folder import StateFolder\n"
HOLD += "folder = StateFolder(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"


@pytest.fixture
def folder(tmp_path):
    with StateFolder(tmp_path / "state", cache_bytes=1000) as opened:
        yield opened


def put(folder, data):
    sha256 = hashlib.sha256(data).hexdigest()
    assert folder.write_blob(sha256, data)
    return sha256


class TestLock:
    def test_a_second_process_on_the_folder_is_refused_until_the_first_is_killed(self, tmp_path):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StateFolderLockedError, match="a second process on this state folder would spend"):
                StateFolder(tmp_path)
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            StateFolder(tmp_path).close()

    def test_within_one_process_as_well(self, folder):
        with pytest.raises(StateFolderLockedError, match="stop the other one, or name another folder"):
            StateFolder(folder.path)
        folder.close()
        StateFolder(folder.path).close()


class TestKeyAndState:
    def test_the_key_is_drawn_once_and_its_owners_alone(self, folder):
        key = folder.load_key()
        assert folder.load_key().key_id == key.key_id
        assert stat.S_IMODE((folder.path / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700

    def test_a_damaged_key_is_named_with_the_cure(self, folder):
        folder.load_key()
        (folder.path / "key.pem").write_text("no key")
        with pytest.raises(StateFolderError, match=r"key.pem holds no device key .* handheld-device forget --state"):
            folder.load_key()

    def test_a_state_is_read_as_it_was_saved(self, folder):
        assert folder.load_state() is None
        state = replace(new_client(folder.load_key(), False), num_reported=3, note="hello")
        folder.save_state(state)
        assert folder.load_state() == state

    def test_a_save_that_was_cut_off_leaves_the_state_before(self, folder, monkeypatch):
        state = new_client(folder.load_key(), False)
        folder.save_state(state)
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            folder.save_state(replace(state, num_reported=9))
        monkeypatch.undo()
        assert folder.load_state() == state
        folder.save_state(replace(state, num_reported=9))
        assert folder.load_state().num_reported == 9

    def test_a_damaged_state_is_named_with_the_cure(self, folder):
        (folder.path / "state.json").write_text("{")
        with pytest.raises(StateFolderError, match=r"state.json cannot be read .* handheld-device forget"):
            folder.load_state()


class TestBlobs:
    def test_a_blob_is_kept_under_its_hash_and_no_other(self, folder):
        sha256 = put(folder, b"graph")
        assert folder.read_blob(sha256) == b"graph"
        assert not folder.write_blob("0" * 64, b"graph")
        with pytest.raises(BlobMissingError, match="is not on this device"):
            folder.read_blob("0" * 64)

    def test_a_blob_that_was_damaged_is_dropped(self, folder):
        sha256 = put(folder, b"graph")
        (folder.path / "blobs" / sha256).write_bytes(b"grape")
        with pytest.raises(BlobMissingError, match="was damaged on this device"):
            folder.read_blob(sha256)
        assert not (folder.path / "blobs" / sha256).exists()

    def test_beyond_its_bound_the_cache_drops_what_was_used_longest_ago(self, folder):
        names = [put(folder, bytes([i]) * 400) for i in range(3)]
        for i, name in enumerate(names):
            os.utime(folder.path / "blobs" / name, (i, i))
        folder.read_blob(names[0])
        folder.evict()
        assert {path.name for path in (folder.path / "blobs").iterdir()} == {names[0], names[2]}

    @pytest.mark.parametrize("largest", ["first", "last"])
    def test_a_file_above_the_bound_takes_no_others_with_it(self, folder, largest):
        sizes = [1500, 100, 200] if largest == "first" else [100, 200, 1500]
        names = [put(folder, bytes([i]) * size) for i, size in enumerate(sizes)]
        for i, name in enumerate(names):
            os.utime(folder.path / "blobs" / name, (i, i))
        folder.evict(kept=[names[sizes.index(1500)]])
        assert {path.name for path in (folder.path / "blobs").iterdir()} == set(names)
        folder.evict()
        assert sorted(path.stat().st_size for path in (folder.path / "blobs").iterdir()) == [100, 200]

    def test_what_is_kept_leaves_the_others_their_place(self, folder):
        names = [put(folder, bytes([i]) * 600) for i in range(3)]
        for i, name in enumerate(names):
            os.utime(folder.path / "blobs" / name, (i, i))
        folder.evict(kept=names[:1])
        assert {path.name for path in (folder.path / "blobs").iterdir()} == {names[0], names[2]}

    def test_the_outbox_holds_the_newest_update_alone(self, folder):
        first, second = folder.write_update(b"first"), folder.write_update(b"second")
        assert folder.read_update(second) == b"second"
        with pytest.raises(BlobMissingError):
            folder.read_update(first)


class TestForget:
    def test_it_deletes_all_but_ledgers_and_split_keys(self, folder):
        old_key, split_key = folder.load_key(), folder.split_key(SOURCE)
        folder.save_state(new_client(old_key, False))
        blob, update = put(folder, b"graph"), folder.write_update(b"update")
        Ledger(folder.ledger_storage(SOURCE), SOURCE, Budget(8.0, 1e-5, 5)).charge(
            [Release("update", "train", 0.25, 1.34)], "run-0-0"
        )
        folder.forget()
        assert folder.load_state() is None
        assert folder.load_key().key_id != old_key.key_id
        for read, name in ((folder.read_blob, blob), (folder.read_update, update)):
            with pytest.raises(BlobMissingError):
                read(name)
        assert folder.split_key(SOURCE) == split_key
        assert [len(content.charges) for content in read_ledgers(folder.path)] == [1]

    def test_each_source_has_a_split_key_of_its_own_that_stays(self, folder):
        keys = [folder.split_key(source_id(name)) for name in ("a", "b", "a")]
        assert keys[0] == keys[2] != keys[1]
        assert len(keys[0]) == 32

    def test_a_lost_split_key_is_refused_where_the_source_has_a_ledger(self, folder):
        folder.split_key(SOURCE)
        folder.ledger_storage(SOURCE).append(b"a line\n")
        (folder.path / "splits" / SOURCE).unlink()
        with pytest.raises(StateFolderError, match="is missing and this source has a ledger; put a copy of it back"):
            folder.split_key(SOURCE)
        assert not (folder.path / "splits" / SOURCE).exists()

    def test_a_split_key_cut_short_is_refused_and_not_drawn_again(self, folder):
        folder.split_key(SOURCE)
        (folder.path / "splits" / SOURCE).write_bytes(b"short")
        with pytest.raises(StateFolderError, match="must hold 32 bytes, got 5; put a copy back"):
            folder.split_key(SOURCE)

    def test_ledgers_of_a_folder_that_is_none_are_not_found(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="is no state folder; name the one"):
            read_ledgers(tmp_path / "nowhere")


class TestOldFolder:
    """A folder that was written before artifacts could name frozen tensors, in the middle of an upload."""

    @pytest.fixture
    def old(self, tmp_path):
        shutil.copytree(OLD, tmp_path / "old")
        with StateFolder(tmp_path / "old") as opened:
            yield opened

    def test_it_goes_on_with_what_it_had_begun(self, old):
        state = old.load_state()
        assert (state.phase, state.num_reported, state.files) == ("upload", 3, ())
        assert old.load_key().key_id == state.device_id
        assert old.read_update(state.report.update_sha256) == b"update"
        assert old.read_blob(state.assignment.artifact_id) == b"graph"
        state, _ = advance(state, Started(), 0.0)
        old.save_state(state)
        assert old.load_state() == state

    def test_its_ledger_counts_and_its_examples_stay_in_their_splits(self, old):
        releases = (Release("update", "train", 0.25, 1.34, 2), Release("metrics", "validation", 0.25, 1.34, 1))
        ledger = Ledger(old.ledger_storage(SOURCE), SOURCE, Budget(8.0, 1e-5, 5))
        assert ledger.releases() == releases
        ledger.charge(releases[:1], "run-0-2")
        assert len(Ledger(old.ledger_storage(SOURCE), SOURCE, Budget(8.0, 1e-5, 5)).releases()) == 3
        assert old.split_key(SOURCE) == (OLD / "splits" / SOURCE).read_bytes()
