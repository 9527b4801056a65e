import json

import pytest

from device_runtime.measurement_pack import (
    DEFAULT_PACK,
    PackEntry,
    PackError,
    default_pack,
    graph_file,
    pack_graph,
    read_pack,
)
from profiles.records import canonical_json


@pytest.fixture
def folder(tmp_path, tiny_pack):
    return tiny_pack(tmp_path / "pack")


def test_a_pack_is_named_by_its_manifest_and_holds_its_graphs(folder):
    pack = read_pack(folder)
    assert len(pack.manifest.entries) == 4
    assert set(pack.graphs) == {entry.sha256 for entry in pack.manifest.entries}
    assert read_pack(folder).pack_id == pack.pack_id


@pytest.mark.parametrize(
    "damage",
    [lambda data: data + b"\1", lambda data: data[:-9], lambda _: b"", lambda _: pack_graph(b"another graph")],
    ids=["longer", "shorter", "empty", "another"],
)
def test_an_altered_graph_is_refused_by_name(folder, damage):
    entry = read_pack(folder).manifest.entries[0]
    path = folder / graph_file(entry.sha256)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PackError, match=rf"{entry.sha256}\.onnx\.gz was altered; compile the pack again"):
        read_pack(folder)


def test_a_missing_graph_is_told_by_its_path(folder):
    (folder / graph_file(read_pack(folder).manifest.entries[0].sha256)).unlink()
    with pytest.raises(PackError, match=r"\.onnx\.gz cannot be read: No such file"):
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


def test_a_pack_of_an_older_version_is_refused_with_the_cure(folder):
    path = folder / "manifest.json"
    entry = {"kernel": {}, "batch_size": 1, "direction": "forward", "sha256": "0" * 64}
    path.write_bytes(canonical_json({"entries": [entry], "opset": 17, "minimum_runtime": "1", "compiler": {}}))
    with pytest.raises(PackError, match=r"of another version must be compiled again \(handheld profile pack\)"):
        read_pack(folder)


def test_the_graphs_of_a_network_are_told_apart_from_the_empty_call(folder):
    manifest = read_pack(folder).manifest
    (network,) = manifest.networks()
    assert [entry.direction for entry in network] == ["forward", "evaluate", "gradient"]
    assert [kernel.kind for kernel in manifest.kernels_of(network[0])] == ["relu", "linear"]
    assert manifest.call() == manifest.entries[0]


@pytest.mark.parametrize(("kernels", "batch_size"), [((), 1), ((-1,), 1), ((0,), 0)])
def test_a_graph_without_kernels_or_examples_is_none(kernels, batch_size):
    with pytest.raises(ValueError, match="must have kernels and batch_size >= 1"):
        PackEntry(kernels, batch_size, "forward", 1, "0" * 64)


def test_a_graph_of_a_kernel_that_is_not_listed_is_refused(folder):
    path = folder / "manifest.json"
    plain = json.loads(path.read_bytes())
    path.write_bytes(canonical_json({**plain, "kernels": plain["kernels"][:2]}))
    with pytest.raises(PackError, match="entries name kernel 2 of 2"):
        read_pack(folder)


def test_the_default_pack_covers_every_direction_and_is_small():
    manifest = default_pack().manifest
    shown = {tuple(entry.direction for entry in network) for network in manifest.networks()}
    assert shown == {("forward", "evaluate", "gradient"), ("forward",)}
    kinds = {kernel.kind for kernel in manifest.kernels}
    assert kinds >= {"call", "conv", "first_conv", "linear", "group_norm", "hard_swish", "fused_relu", "add"}
    assert sum(path.stat().st_size for path in DEFAULT_PACK.iterdir()) < 3 * 2**20
