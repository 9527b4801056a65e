import json
import re
import tarfile

import pytest

from device_runtime.measurement_pack import (
    DEFAULT_PACK,
    GRAPHS,
    PackEntry,
    PackError,
    archive_of,
    default_pack,
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
    [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"no archive"],
    ids=["half", "empty", "another"],
)
def test_an_altered_archive_is_refused_by_name(folder, damage):
    path = folder / GRAPHS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PackError, match=rf"{re.escape(str(path))} was altered \(.+\); compile the pack again"):
        read_pack(folder)


def test_an_altered_or_missing_graph_is_refused_by_name(folder):
    first, *others = read_pack(folder).graphs.items()
    for graphs in ([other for _, other in others], [b"another graph", *(other for _, other in others)]):
        (folder / GRAPHS).write_bytes(archive_of(graphs))
        with pytest.raises(PackError, match=rf"^graph {first[0]} of .+ was altered; compile the pack again"):
            read_pack(folder)


def test_a_graph_under_anothers_name_is_refused(folder):
    (name, _), (_, other), *_ = read_pack(folder).graphs.items()
    (folder / "graph").write_bytes(other)
    with tarfile.open(folder / GRAPHS, "w:xz") as archive:
        archive.add(folder / "graph", f"{name}.onnx")
    with pytest.raises(PackError, match=r"^graph [0-9a-f]{64} of .+ was altered"):
        read_pack(folder)


def test_what_else_an_archive_holds_is_left_alone(folder):
    pack = read_pack(folder)
    (folder / GRAPHS).write_bytes(archive_of([*pack.graphs.values(), b"something else"]))
    assert read_pack(folder) == pack


def test_the_same_graphs_give_the_same_archive():
    assert archive_of([b"one", b"two", b"one"]) == archive_of([b"one", b"two"]) != archive_of([b"two", b"one"])


def test_a_missing_archive_is_told_by_its_path(folder):
    (folder / GRAPHS).unlink()
    with pytest.raises(PackError, match=r"graphs\.tar\.xz cannot be read: No such file"):
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


def test_a_pack_of_older_labels_is_refused_with_the_cure(folder):
    path = folder / "manifest.json"
    record = json.loads(path.read_bytes())
    record["kernels"].append({
        "kind": "global_average", "input_shape": [4, 2, 2], "output_shape": [4],
        "kernel": 1, "stride": 1, "groups": 1, "beside": "before",
    })  # fmt: skip
    path.write_bytes(canonical_json(record))
    with pytest.raises(PackError, match=r"labels kernels as older versions did; compile the pack again"):
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
    assert shown == {("forward", "evaluate", "gradient"), ("forward", "gradient")}
    kinds = {kernel.kind for kernel in manifest.kernels}
    assert kinds >= {"call", "conv", "first_conv", "linear", "group_norm", "hard_swish", "fused_relu", "add"}
    assert sum(path.stat().st_size for path in DEFAULT_PACK.iterdir()) < 2 * 2**20
