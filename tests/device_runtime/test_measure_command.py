import json

import pytest
from typer.testing import CliRunner

from device_runtime.command_line import PROGRAM
from device_runtime.console import build_app, run_program
from device_runtime.measure_command import read_link
from profiles.catalogue import load_profile


def measure(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["measure", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_measurement_is_written_as_a_profile_of_the_outputs_name(tmp_path, tiny_pack):
    path = tmp_path / "made" / "my-desktop.json"
    out = measure("-o", path, "--pack", tiny_pack(tmp_path / "pack"), "--quick")
    profile = load_profile(path)
    assert (profile.name, profile.device_class, len(profile.kernels)) == ("my-desktop", "desktop", 4)
    for word in ("my-desktop", profile.soc, profile.runtime.version, "stable"):
        assert word in out


def test_json_is_the_profile_and_the_options_are_in_it(tmp_path, tiny_pack):
    path, pack = tmp_path / "p.json", tiny_pack(tmp_path / "pack")
    options = ("--name", "tablet", "--device-class", "mid", "--threads", 2)
    told = json.loads(measure("-o", path, "--pack", pack, "--quick", "--json", *options))
    assert told == json.loads(path.read_bytes())
    assert (told["name"], told["device_class"], told["threads"]) == ("tablet", "mid", 2)


def test_a_folder_that_is_no_pack_is_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["measure", "-o", str(tmp_path / "p.json"), "--pack", str(tmp_path)])
    assert left.value.code == 2
    assert "name the folder of a measurement pack" in capsys.readouterr().err
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
