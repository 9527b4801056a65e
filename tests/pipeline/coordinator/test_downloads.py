import pytest

from pipeline.coordinator.blobs import UnknownBlobError
from pipeline.coordinator.downloads import check_readable, read_blob


def test_a_device_reads_what_it_may(world):
    data = read_blob(world.store, world.blobs, world.parameters_sha256, world.device_id(1))
    assert data == world.blobs.get(world.parameters_sha256)
    check_readable(world.store, world.parameters_sha256, world.device_id(1))


def test_another_devices_update_is_as_unknown_as_none(world):
    world.run()
    world.enrol(1, 2)
    world.open()
    world.assignment(1)
    update = world.send_update(1, [1.0] * 6)
    assert read_blob(world.store, world.blobs, update, world.device_id(1)) == world.blobs.get(update)
    for name in (update, "0" * 64):
        for read in (lambda name: read_blob(world.store, world.blobs, name, world.device_id(2)),
                     lambda name: check_readable(world.store, name, world.device_id(2))):  # fmt: skip
            with pytest.raises(UnknownBlobError, match=f"there is no blob {name} for this device"):
                read(name)
