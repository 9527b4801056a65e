import hashlib
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from device_runtime.measurement_pack import PackError
from device_runtime.wire import Report
from pipeline.collecting import CollectRequest, TooFewProfilesError, collect_profiles
from pipeline.command_line import PROGRAM, collect
from pipeline.coordinator.reporting import Upload, take_upload
from pipeline.server.state import open_state
from profiles.catalogue import load_profile
from profiles.records import encode_record

NAMES = {1: "pixel-4", 2: "redmi-8"}


def profile_of(number):
    """A profile that tries to be a path and markup."""
    return replace(load_profile(NAMES[number]), name=f"../../phone {number}", soc="[red]SoC[/red]")


@pytest.fixture
def state(tmp_path, world):
    """A server's state folder; the world's devices work on it."""
    opened = open_state(tmp_path / "server")
    world.store, world.blobs, world.now = opened.store, opened.blobs, 1000.0
    yield tmp_path / "server"
    opened.store.close()


@pytest.fixture
def request_(state, pack_folder):
    return CollectRequest(state, pack_folder, is_quick=True, min_reports=1, deadline_s=60.0)


def measure(world, number):
    assignment = world.assignment(number, spec_id=f"specification {number}")
    data = encode_record(profile_of(number))
    sha256 = hashlib.sha256(data).hexdigest()
    take_upload(world.store, world.blobs, Upload(world.device_id(number), sha256, data), world.now)
    world.send_report(number, Report(assignment.assignment_id, 0, profile_sha256=sha256))


def let_devices_measure(world, *numbers):
    """What is done in place of resting: one device after the other measures, then time passes."""
    left, told = list(numbers), []

    def wait(num_reported=0, num_wanted=0):
        told.append((num_reported, num_wanted))
        if left:
            measure(world, left.pop(0))
        else:
            world.now += 10.0

    return wait, told


def test_every_device_that_measured_has_a_file_of_the_bytes_that_it_sent(world, request_, tmp_path):
    world.enrol(1, 2, kind="real")
    wait, told = let_devices_measure(world, 2, 1)
    collected = collect_profiles(request_, tmp_path / "out", lambda: world.now, wait)
    assert told == [(0, 2), (1, 2)]
    assert [one.device_id for one in collected] == sorted(map(world.device_id, (1, 2)))
    for number in (1, 2):
        path = tmp_path / "out" / f"{world.device_id(number)[:12]}.json"
        assert path.read_bytes() == encode_record(profile_of(number))
        assert load_profile(path).soc == "[red]SoC[/red]"
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_at_the_deadline_those_that_came_are_enough(world, request_, tmp_path):
    world.enrol(1, 2, kind="real")
    wait, _ = let_devices_measure(world, 1)
    (one,) = collect_profiles(request_, tmp_path / "out", lambda: world.now, wait)
    assert (one.device_id, one.device_class, one.num_cores) == (world.device_id(1), "high", 8)


def test_too_few_are_an_error_that_tells_the_cure_and_writes_nothing(world, request_, tmp_path):
    world.enrol(1, kind="real")
    wait, _ = let_devices_measure(world, 1)
    with pytest.raises(TooFewProfilesError, match=r"1 of at least 2 reports .* longer with --deadline"):
        collect_profiles(replace(request_, min_reports=2), tmp_path / "out", lambda: world.now, wait)
    assert not (tmp_path / "out").exists()


def test_however_it_ends_no_other_device_begins_to_measure(world, request_, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_profiles(request_, tmp_path / "out", lambda: world.now, interrupt)
    world.enrol(1, kind="real")
    assert world.check_in(1).assignment is None


def test_each_collection_is_a_run_of_its_own(world, request_, tmp_path):
    world.enrol(1, kind="real")
    for _ in range(2):
        collect_profiles(request_, tmp_path / "out", lambda: world.now, let_devices_measure(world, 1)[0])
    with world.store.transaction():
        assert world.store.run_ids() == {"profiles-1", "profiles-2"}
        assert world.store.open_runs() == ()


def test_what_is_no_state_folder_or_no_pack_is_refused(request_, tmp_path):
    arguments = tmp_path / "out", float, lambda *_: None
    with pytest.raises(FileNotFoundError, match="start `handheld serve"):
        collect_profiles(replace(request_, state=tmp_path / "nowhere"), *arguments)
    with pytest.raises(PackError, match="name the folder of a measurement pack"):
        collect_profiles(replace(request_, pack=tmp_path), *arguments)


@pytest.fixture
def command(world, request_, monkeypatch):
    """Run the command while device 1 measures."""
    world.enrol(1, kind="real")
    wait, _ = let_devices_measure(world, 1)
    monkeypatch.setattr(collect.time, "sleep", lambda _: wait())
    monkeypatch.setattr(collect.time, "time", lambda: world.now)

    def run(*options):
        options = ("--state", request_.state, "--pack", request_.pack, "--quick", *options)
        arguments = ["profile", "collect", *map(str, options)]
        result = CliRunner().invoke(build_app(PROGRAM), arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_command_prints_a_table_in_which_devices_write_no_markup(command, tmp_path, world):
    out = command("-o", tmp_path / "out")
    assert world.device_id(1)[:12] in out
    assert "[red]SoC" in out


def test_the_command_gives_the_same_as_data(command, tmp_path, world):
    (one,) = json.loads(command("-o", tmp_path / "out", "--json"))
    assert one["device_id"] == world.device_id(1)
    assert (one["soc"], one["is_stable"]) == ("[red]SoC[/red]", True)


def test_the_command_on_a_folder_of_no_server_is_wrong_usage(tmp_path, capsys):
    options = ["--state", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["profile", "collect", *options])
    assert left.value.code == 2
    assert "is no server's state folder" in capsys.readouterr().err
