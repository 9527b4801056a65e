import json

import pytest

from device_runtime.measurement_pack import PackError, default_pack, graph_file, read_pack
from profiles.records import canonical_json


@pytest.fixture
def folder(tmp_path, tiny_pack):
    return tiny_pack(tmp_path / "pack")


def test_a_pack_is_named_by_its_manifest_and_holds_its_graphs(folder):
    pack = read_pack(folder)
    assert len(pack.manifest.entries) == 4
    assert set(pack.graphs) == {entry.sha256 for entry in pack.manifest.entries}
    assert read_pack(folder).pack_id == pack.pack_id


def test_an_altered_graph_is_refused_by_name(folder):
    entry = read_pack(folder).manifest.entries[0]
    path = folder / graph_file(entry.sha256)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PackError, match=rf"{entry.sha256}\.onnx was altered; compile the pack again"):
        read_pack(folder)


def test_a_missing_graph_is_told_by_its_path(folder):
    (folder / graph_file(read_pack(folder).manifest.entries[0].sha256)).unlink()
    with pytest.raises(PackError, match=r"\.onnx cannot be read: No such file"):
        read_pack(folder)


def test_another_folder_is_no_pack(tmp_path):
    with pytest.raises(PackError, match="name the folder of a measurement pack"):
        read_pack(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": 2}, "update handheld"), ({"entries": []}, "lists no graph"), ({"extra": 1}, "unknown key 'extra'")],
)
def test_a_manifest_that_says_something_else_is_refused(folder, change, message):
    path = folder / "manifest.json"
    path.write_bytes(canonical_json({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(PackError, match=message):
        read_pack(folder)


def test_the_default_pack_covers_every_direction_and_is_small():
    pack = default_pack()
    assert {entry.direction for entry in pack.manifest.entries} == {"forward", "evaluate", "gradient"}
    assert {entry.kernel.kind for entry in pack.manifest.entries} >= {
        "call",
        "conv",
        "first_conv",
        "linear",
        "group_norm",
    }
    assert sum(map(len, pack.graphs.values())) < 300 * 1024
