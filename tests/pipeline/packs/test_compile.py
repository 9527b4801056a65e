import hashlib

import pytest

from device_runtime.measurement_pack import default_pack, read_pack
from pipeline.command_line.profile import PACK_BATCH_SIZE
from pipeline.compile.builder import CompileError
from pipeline.compile.versions import compiler_versions
from pipeline.packs import compile_pack, default_architectures, kernel_keys
from profiles.schema import Kernel

RELU = Kernel("relu", (2, 4, 4), (2, 4, 4))
KEYS = ((Kernel("call", (1,), (1,)), 1, "forward"), (RELU, 1, "forward"), (RELU, 4, "gradient"))


def test_a_pack_holds_every_key_in_order_and_the_hash_of_its_graph(tmp_path):
    pack = compile_pack(KEYS, tmp_path / "pack")
    assert tuple((entry.kernel, entry.batch_size, entry.direction) for entry in pack.manifest.entries) == KEYS
    for entry in pack.manifest.entries:
        assert hashlib.sha256(pack.graphs[entry.sha256]).hexdigest() == entry.sha256


def test_the_same_keys_give_the_same_pack_and_other_keys_another(tmp_path):
    first, again = (compile_pack(KEYS, tmp_path / name) for name in ("first", "again"))
    assert first == again
    assert compile_pack(KEYS[:2], tmp_path / "other").pack_id != first.pack_id


def test_a_pack_is_replaced_whole(tmp_path):
    compile_pack(KEYS, tmp_path / "pack")
    smaller = compile_pack(KEYS[:2], tmp_path / "pack")
    assert read_pack(tmp_path / "pack") == smaller
    assert len(list((tmp_path / "pack").iterdir())) == 3


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(CompileError, match="holds something that is no measurement pack"):
        compile_pack(KEYS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_progress_advances_once_a_graph(tmp_path):
    written = []
    compile_pack(KEYS, tmp_path / "pack", lambda: written.append(1))
    assert len(written) == len(KEYS)


def test_the_default_pack_is_what_the_command_makes(tmp_path):
    shipped = default_pack().manifest
    keys = kernel_keys(default_architectures(), PACK_BATCH_SIZE)
    assert [(entry.kernel, entry.batch_size, entry.direction) for entry in shipped.entries] == list(keys)
    assert shipped.compiler == compiler_versions()  # a changed compiler wants a new pack: `handheld profile pack`
    some = slice(0, None, 10)  # all of them would take seconds
    assert compile_pack(keys[some], tmp_path / "pack").manifest.entries == shipped.entries[some]
