import hashlib

import pytest

from pipeline.coordinator import blobs as module
from pipeline.coordinator.blobs import (
    BlobFolder,
    DamagedBlobError,
    UnknownBlobError,
    add_blob,
    can_read,
    delete_unused,
    sweep,
)


@pytest.mark.parametrize("is_durable", [True, False])
def test_what_was_put_is_got_by_its_hash(tmp_path, is_durable):
    folder = BlobFolder(tmp_path / "blobs", is_durable)
    name = folder.put(b"bytes")
    assert name == hashlib.sha256(b"bytes").hexdigest() == folder.put(b"bytes")
    assert folder.get(name) == b"bytes"
    assert folder.names() == [name]


@pytest.mark.parametrize("name", ["0" * 64, "../server_key.pem", "A" * 64, ""])
def test_an_unknown_or_impossible_name_has_no_blob(tmp_path, name):
    with pytest.raises(UnknownBlobError):
        BlobFolder(tmp_path).get(name)


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    folder = BlobFolder(tmp_path)

    def fail(handle):
        raise OSError("the disk is full")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        folder.put(b"bytes")
    assert folder.names() == []


def test_a_blob_that_was_altered_is_refused_by_name_and_mended_by_putting_it_again(tmp_path):
    blobs = BlobFolder(tmp_path)
    sha256 = blobs.put(b"data")
    blobs.path(sha256).write_bytes(b"date")
    with pytest.raises(DamagedBlobError, match=f"blob {sha256} is damaged; put a copy"):
        blobs.get(sha256)
    assert blobs.put(b"data") == sha256
    assert blobs.get(sha256) == b"data"


def test_the_sweep_takes_what_no_row_names(world):
    before = set(world.blobs.names())
    with world.store.transaction():
        kept = add_blob(world.store, world.blobs, b"kept", "parameters")
    world.blobs.put(b"orphan")
    (world.blobs.folder / ".half-written").write_bytes(b"ha")
    assert sweep(world.store, world.blobs) == 2
    assert set(world.blobs.names()) == {*before, kept}


def test_the_same_bytes_published_twice_have_one_row(world):
    with world.store.transaction():
        for _ in range(2):
            name = add_blob(world.store, world.blobs, b"same", "parameters")
        table = module.tables.blobs
        rows = world.store.execute(module.select(table.c.number).where(table.c.sha256 == name)).fetchall()
    assert len(rows) == 1


def test_a_file_that_another_row_names_stays(world):
    with world.store.transaction():
        name = add_blob(world.store, world.blobs, b"shared", "parameters")
    assert delete_unused(world.store, world.blobs, [name]) == 0
    assert world.blobs.get(name) == b"shared"


@pytest.mark.parametrize(("kind", "is_readable"), [("artifact", True), ("parameters", True), ("aggregate", False)])
def test_devices_read_artifacts_and_parameters_and_no_aggregates(world, kind, is_readable):
    with world.store.transaction():
        name = add_blob(world.store, world.blobs, b"something", kind)
        assert can_read(world.store, name, world.device_id(1)) is is_readable


def test_an_update_is_read_by_its_owner_alone(world):
    world.run()
    world.open()
    world.enrol(1, 2)
    world.assignment(1)
    name = world.send_update(1, [1.0] * 6)
    with world.store.transaction():
        assert can_read(world.store, name, world.device_id(1))
        assert not can_read(world.store, name, world.device_id(2))
