import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.command_line import PROGRAM as DEVICE_PROGRAM
from device_runtime.console import build_app, run_program
from device_runtime.measurement_pack import read_pack
from pipeline.command_line import PROGRAM
from profiles.catalogue import catalogue_names, load_profile
from profiles.kernel import Kernel
from profiles.records import encode_record
from profiles.schema import KernelTime
from search.architecture import Architecture, Stem

ROOT = Path(__file__).parents[3]
NETWORK = Architecture((1, 8, 8), 10, Stem(4))
RUN_FILE = """
[run]
name = "digits"
seed = 0
kind = "emulated"
[data]
source = "digits"
partition = "iid"
clients = 3
[fleet]
profiles = ["pixel-4"]
[space]
kinds = ["depthwise"]
widths = [2]
depths = [1]
kernels = [3]
strides = [2]
heads = ["flatten"]
max_stages = 1
[search]
algorithm = "random_search"
trials = 2
rounds = 1
[training]
learning_rate = 0.1
local_epochs = 1
batch_size = 10
[round]
cohort_size = 2
min_reports = 1
deadline_s = 60
weighting = "examples"
[final]
rounds = 1
"""


@pytest.fixture
def network(tmp_path) -> Path:
    path = tmp_path / "network.json"
    path.write_bytes(encode_record(NETWORK))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["profile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["profile", *map(str, arguments)])
    assert left.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_list_has_every_phone_of_the_catalogue():
    out = run("list")
    assert all(name in out for name in catalogue_names())
    assert [one["name"] for one in json.loads(run("list", "--json"))] == list(catalogue_names())


def test_an_unknown_profile_names_the_nearest(network, capsys):
    assert "did you mean 'redmi-8'" in fail(capsys, "show", "redmi8")


def test_a_pack_of_architectures_holds_their_kernels(tmp_path, network):
    out = run("pack", "--architecture", network, "-o", tmp_path / "pack", "--batch-size", 4)
    pack = read_pack(tmp_path / "pack")
    assert pack.pack_id[:12] in out
    assert {entry.batch_size for entry in pack.manifest.entries} == {1, 4}


def test_a_pack_of_a_batch_size_beyond_any_device_is_wrong_usage(tmp_path, network, capsys):
    arguments = ("pack", "--architecture", network, "-o", tmp_path / "pack", "--batch-size", 65537)
    assert "65536" in fail(capsys, *arguments)
    assert not (tmp_path / "pack").exists()


def test_a_pack_of_a_run_file_is_for_its_data(tmp_path):
    run_file = tmp_path / "run.toml"
    run_file.write_text(RUN_FILE, encoding="utf-8")
    told = json.loads(run("pack", "--run", run_file, "-o", tmp_path / "pack", "--draws", 4, "--json"))
    pack = read_pack(tmp_path / "pack")
    assert told["pack_id"] == pack.pack_id
    assert told["num_kernels"] == len(pack.manifest.kernels)
    assert told["num_networks"] == len(pack.manifest.networks())
    stems = {kernel for kernel in pack.manifest.kernels if kernel.kind == "first_conv"}
    assert {(kernel.input_shape, kernel.output_shape) for kernel in stems} == {((1, 8, 8), (2, 4, 4))}


def test_a_pack_of_a_run_that_prunes_has_its_narrower_networks_in_the_chunks_of_its_phones(tmp_path):
    run_file = tmp_path / "run.toml"
    pruning = RUN_FILE.replace('"random_search"\ntrials = 2', '"uniform_width"').replace("widths = [2]", "widths = [8]")
    chunks = "batch_size = 10\nartifact_batch_size = 5"
    run_file.write_text(pruning.replace("batch_size = 10", chunks), encoding="utf-8")
    run("pack", "--run", run_file, "-o", tmp_path / "pack", "--draws", 3, "--random-draws", 2)
    manifest = read_pack(tmp_path / "pack").manifest
    assert {kernel.output_shape[0] for kernel in manifest.kernels if kernel.kind == "first_conv"} == {4, 8}
    assert {entry.batch_size for entry in manifest.entries} == {1, 5}
    run("pack", "--run", run_file, "-o", tmp_path / "pack", "--draws", 1, "--random-draws", 0, "--batch-size", 3)
    assert {entry.batch_size for entry in read_pack(tmp_path / "pack").manifest.entries} == {1, 3}


def test_the_commands_of_the_users_page_run_in_its_order(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (handheld\S*) (.*)$", page, flags=re.MULTILINE)
    assert {tuple(arguments.split()[:2]) for _, arguments in commands} >= {("profile", "list"), ("measure", "--pack")}
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    Path("phone.txt").write_text("/proc/cpuinfo:processor : 0\n", encoding="utf-8")
    for program, arguments in commands:
        app = build_app({"handheld": PROGRAM, "handheld-device": DEVICE_PROGRAM}[program])
        result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert load_profile("runs/my-pc.json").kernels
    assert len(load_profile("runs/both.json").sessions) == 2


def test_predict_warns_of_an_unstable_profile(tmp_path, network):
    path = tmp_path / "mine.json"
    path.write_bytes(encode_record(replace(load_profile("galaxy-s9"), is_stable=False, warnings=("unstable: heat",))))
    arguments = ["profile", "predict", str(network), "--profile", str(path)]
    result = CliRunner().invoke(build_app(PROGRAM), arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "is unstable, measure again: unstable: heat" in " ".join(result.stdout.split())


def test_predict_and_check_warn_of_a_profile_whose_kernels_are_labelled_otherwise(tmp_path, network):
    old = KernelTime(Kernel("global_average", (4, 2, 2), (4,), beside="before"), 1, "forward", 1.0, 1.0, 1.0, 0.0, 9)
    path = tmp_path / "mine.json"
    path.write_bytes(encode_record(replace(load_profile("galaxy-s9"), kernels=(old,))))
    for arguments in (["predict", str(network), "--profile", str(path)], ["check", str(path)]):
        result = CliRunner().invoke(build_app(PROGRAM), ["profile", *arguments])
        assert "measured with an older version's pack" in " ".join(result.stdout.split())
