import stat

import pytest

from pipeline.coordinator.store import StoreError
from pipeline.server.state import StateError, open_state


def test_a_server_comes_back_as_itself(tmp_path):
    first, second = open_state(tmp_path / "server"), open_state(tmp_path / "server")
    assert first.key.key_id == second.key.key_id
    assert first.nonce_secret == second.nonce_secret
    assert len(first.nonce_secret) == 32


def test_two_folders_are_two_servers(tmp_path):
    first, second = open_state(tmp_path / "a"), open_state(tmp_path / "b")
    assert first.key.key_id != second.key.key_id
    assert first.nonce_secret != second.nonce_secret


def test_secrets_are_readable_by_their_owner_alone(tmp_path):
    open_state(tmp_path / "server")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "server").iterdir()}
    assert (modes["server_key.pem"], modes["nonce_secret"], modes["blobs"]) == (0o600, 0o600, 0o700)
    assert stat.S_IMODE((tmp_path / "server").stat().st_mode) == 0o700
    assert not [name for name in modes if name.startswith(".")]


def test_what_a_crash_left_is_swept_at_the_start(tmp_path):
    state = open_state(tmp_path / "server")
    state.blobs.put(b"orphan")
    assert state.blobs.names()
    assert not open_state(tmp_path / "server").blobs.names()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"state folder .*/file/server cannot be used \(Not a directory\); choose one"):
        open_state(tmp_path / "file" / "server")


def test_a_damaged_key_is_not_replaced(tmp_path):
    open_state(tmp_path)
    (tmp_path / "server_key.pem").write_text("damaged")
    with pytest.raises(StateError, match=r"server_key.pem is damaged .*; restore it: devices that pinned the old key"):
        open_state(tmp_path)


def test_a_damaged_secret_is_told_with_its_cure(tmp_path):
    open_state(tmp_path)
    (tmp_path / "nonce_secret").write_bytes(b"short")
    with pytest.raises(StateError, match="must hold 32 bytes, got 5; delete it"):
        open_state(tmp_path)


def test_a_damaged_database_is_told(tmp_path):
    (tmp_path / "handheld.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="cannot be opened: file is not a database"):
        open_state(tmp_path)
