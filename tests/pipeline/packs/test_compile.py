import hashlib

import pytest

from device_runtime.measurement_pack import default_pack, read_pack
from pipeline.command_line.profile import PACK_BATCH_SIZE
from pipeline.compile.builder import CompileError
from pipeline.compile.versions import compiler_versions
from pipeline.packs import compile_pack, default_architectures, default_random
from search.architecture import Architecture, Stage, Stem
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of

NETWORKS = (Architecture((1, 4, 4), 2, Stem(2)), Architecture((1, 4, 4), 2, Stem(2), (Stage("depthwise", 4),)))


def test_a_pack_holds_an_empty_call_and_every_network_in_three_directions(tmp_path):
    pack = compile_pack(NETWORKS, 4, tmp_path / "pack")
    manifest = pack.manifest
    assert manifest.call() == manifest.entries[0]
    assert len(manifest.kernels) == len(set(manifest.kernels))
    for network, entries in zip(NETWORKS, manifest.networks(), strict=True):
        assert [(entry.direction, entry.batch_size) for entry in entries] == [
            ("forward", 1),
            ("evaluate", 4),
            ("gradient", 4),
        ]
        wanted = [list_of(network) for list_of in (kernels_of, evaluation_kernels_of, training_kernels_of)]
        assert [manifest.kernels_of(entry) for entry in entries] == wanted
    for entry in manifest.entries:
        assert hashlib.sha256(pack.graphs[entry.sha256]).hexdigest() == entry.sha256


def test_of_further_networks_a_pack_holds_the_graphs_that_it_would_hold_anyway_but_evaluation(tmp_path):
    pack = compile_pack(NETWORKS[:1], 4, tmp_path / "pack", further=NETWORKS[1:])
    _, (forward, gradient) = pack.manifest.networks()
    assert [(one.direction, one.batch_size) for one in (forward, gradient)] == [("forward", 1), ("gradient", 4)]
    assert pack.manifest.kernels_of(forward) == kernels_of(NETWORKS[1])
    assert pack.manifest.kernels_of(gradient) == training_kernels_of(NETWORKS[1])
    whole = compile_pack(NETWORKS[1:], 4, tmp_path / "whole").manifest
    ((*others,),) = whole.networks()
    assert [forward.sha256, gradient.sha256] == [others[0].sha256, others[2].sha256]


def test_the_same_networks_give_the_same_pack_and_other_networks_another(tmp_path):
    first, again = (compile_pack(NETWORKS[:1], 4, tmp_path / name) for name in ("first", "again"))
    assert first == again
    assert compile_pack(NETWORKS[:1], 2, tmp_path / "other").pack_id != first.pack_id


def test_a_pack_is_replaced_whole(tmp_path):
    compile_pack(NETWORKS, 4, tmp_path / "pack")
    smaller = compile_pack(NETWORKS[:1], 4, tmp_path / "pack")
    assert read_pack(tmp_path / "pack") == smaller
    assert len(list((tmp_path / "pack").iterdir())) == 2


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(CompileError, match="holds something that is no measurement pack"):
        compile_pack(NETWORKS, 4, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_progress_advances_once_a_network(tmp_path):
    written = []
    compile_pack(NETWORKS[:1], 4, tmp_path / "pack", lambda: written.append(1), further=NETWORKS[1:])
    assert len(written) == len(NETWORKS)


def test_the_default_pack_is_what_the_command_makes(tmp_path):
    shipped = default_pack().manifest
    networks, own = default_architectures(), shipped.networks()
    assert [shipped.kernels_of(entries[2]) for entries in own[: len(networks)]] == [*map(training_kernels_of, networks)]
    assert [[shipped.kernels_of(one) for one in entries] for entries in own[len(networks) :]] == [
        [kernels_of(network), training_kernels_of(network)] for network in default_random()
    ]
    assert shipped.compiler == compiler_versions()  # a changed compiler wants a new pack: `handheld profile pack`
    # All of them would take a minute.
    made = compile_pack(networks[:2], PACK_BATCH_SIZE, tmp_path / "pack").manifest
    assert made.entries == shipped.entries[: len(made.entries)]
