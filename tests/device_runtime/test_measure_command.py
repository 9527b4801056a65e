import hashlib
import json
import os
import re
from dataclasses import replace

import onnx
import pytest
from typer.testing import CliRunner

from device_runtime import measure as measuring
from device_runtime.command_line import PROGRAM
from device_runtime.console import build_app, run_program
from device_runtime.measure import FULL, QUICK
from device_runtime.measure_command import read_link
from device_runtime.measurement_pack import GRAPHS, MANIFEST, PackManifest, archive_of, read_pack
from profiles.catalogue import load_profile
from profiles.records import decode_record, encode_record


def measure(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["measure", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_measurement_is_written_as_a_profile_of_the_outputs_name(tmp_path, tiny_pack):
    path = tmp_path / "made" / "my-desktop.json"
    out = measure("-o", path, "--pack", tiny_pack(tmp_path / "pack"), "--quick")
    profile = load_profile(path)
    assert (profile.name, profile.device_class, len(profile.kernels)) == ("my-desktop", "desktop", 6)
    (session,) = profile.sessions
    assert (session.rounds, session.threads) == (3, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", session.measured_on)
    for word in ("my-desktop", profile.soc, profile.runtime.version, f"grade {session.grade}", "3 rounds"):
        assert word in out


def test_json_is_the_profile_and_the_options_are_in_it(tmp_path, tiny_pack, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)  # a machine may have one core
    path, pack = tmp_path / "p.json", tiny_pack(tmp_path / "pack")
    options = ("--name", "tablet", "--device-class", "mid", "--threads", 2)
    told = json.loads(measure("-o", path, "--pack", pack, "--quick", "--json", *options))
    assert told == json.loads(path.read_bytes())
    assert (told["name"], told["device_class"], told["threads"]) == ("tablet", "mid", 2)


def test_minutes_are_the_budget(tmp_path, tiny_pack, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "measure_device", lambda measurement, *_: asked.append(measurement.plan) or 1 / 0)
    for options in (("--minutes", 0.5), ("--quick", "--minutes", 1), ("--quick",), ()):
        with pytest.raises(ZeroDivisionError):
            measure("-o", tmp_path / "p.json", "--pack", tiny_pack(tmp_path / str(len(asked))), *options)
    assert [plan.budget_s for plan in asked] == [30, 60, QUICK.budget_s, FULL.budget_s]
    assert [plan.num_rounds for plan in asked] == [plan.num_rounds for plan in (FULL, QUICK, QUICK, FULL)]


def test_a_folder_that_is_no_pack_is_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["measure", "-o", str(tmp_path / "p.json"), "--pack", str(tmp_path)])
    assert left.value.code == 2
    assert "name the folder of a measurement pack" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_a_pack_with_a_graph_that_reads_files_is_wrong_usage(tmp_path, tiny_pack, capsys):
    folder = tiny_pack(tmp_path / "pack")
    manifest = decode_record(PackManifest, (folder / MANIFEST).read_bytes())
    first, *others = (read_pack(folder).graphs[entry.sha256] for entry in manifest.entries)
    model = onnx.load_from_string(first)
    tensor = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    graph = model.SerializeToString()
    entry = replace(manifest.entries[0], sha256=hashlib.sha256(graph).hexdigest())
    (folder / GRAPHS).write_bytes(archive_of([graph, *others]))
    (folder / MANIFEST).write_bytes(encode_record(replace(manifest, entries=(entry, *manifest.entries[1:]))))
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["measure", "-o", str(tmp_path / "p.json"), "--pack", str(folder)])
    assert left.value.code == 2
    assert f"graph {entry.sha256}" in capsys.readouterr().err.replace("\n", "")
    assert not (tmp_path / "p.json").exists()


def test_a_link_is_written_as_its_owner_told_it(tmp_path, tiny_pack):
    path = tmp_path / "p.json"
    measure("-o", path, "--pack", tiny_pack(tmp_path / "pack"), "--quick", "--link", "50,20,30.5")
    link = load_profile(path).link
    assert (link.download_mbit_s.value, link.upload_mbit_s.value, link.latency_ms.value) == (50.0, 20.0, 30.5)
    assert link.latency_ms.provenance == "estimated"


@pytest.mark.parametrize(
    "text", ["50", "50,20,fast", "50,20,30,40", "", "0,20,30", "50,-1,30", "50,20,-1", "inf,20,30"]
)
def test_another_link_is_refused(text):
    with pytest.raises(ValueError, match="must"):
        read_link(text)


def test_a_file_that_is_no_profile_is_left_alone_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("mine", encoding="utf-8")
    monkeypatch.setattr(measuring, "measure_device", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["measure", "--quick", "-o", str(path)])
    assert left.value.code == 2
    assert f"{path} exists and holds no DeviceProfile" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"


def test_an_older_profile_is_replaced(tmp_path, tiny_pack):
    path = tmp_path / "p.json"
    path.write_bytes(encode_record(load_profile("pixel-4")))
    measure("-o", path, "--pack", tiny_pack(tmp_path / "pack"), "--quick")
    assert load_profile(path).name == "p"


@pytest.mark.parametrize("tells_affinity", [True, False])
def test_more_threads_than_cores_are_wrong_usage(tells_affinity, tmp_path, tiny_pack, monkeypatch, capsys):
    if tells_affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(measuring, "measure_device", lambda *_: 1 / 0)
    arguments = ["measure", "-o", str(tmp_path / "p.json"), "--pack", str(tiny_pack(tmp_path / "pack")), "--threads"]
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, [*arguments, "4"])
    assert left.value.code == 2
    assert "--threads must be <= 3, the cores that this process may use, got 4" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:  # as many as there are begin to measure
        run_program(PROGRAM, [*arguments, "3"])
    assert "ZeroDivisionError" in capsys.readouterr().err
