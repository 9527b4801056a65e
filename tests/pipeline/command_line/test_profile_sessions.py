import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM
from profiles.catalogue import load_profile
from profiles.records import encode_record, record_id
from profiles.schema import KernelTime, NetworkTime
from profiles.sessions import Session
from search.architecture import Architecture, Stem
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of

NETWORK = Architecture((1, 4, 4), 2, Stem(2))
TIMES = (2.0, 3.0, 2.5, 0.2, 3, (2.0, 2.5, 3.0))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["profile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(capsys, code: int, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["profile", *map(str, arguments)])
    assert left.value.code == code
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def write(tmp_path):
    """Write a measured profile of one session and return its path."""

    def write_one(name: str, seconds: float, **changes) -> Path:
        session = Session("a", None, 1, (), (), (), (), None, None, None, None, "", 3, 5, 0.01, "A", seconds)
        lists = {"forward": kernels_of, "evaluate": evaluation_kernels_of, "gradient": training_kernels_of}
        kernels = [
            KernelTime(kernel, 1 if direction == "forward" else 16, direction, *TIMES)
            for direction, list_of in lists.items()
            for kernel in list_of(NETWORK)
        ]
        networks = (NetworkTime(kernels_of(NETWORK), 1, "forward", *TIMES),)
        measured = {"kernels": tuple(kernels), "networks": networks, "sessions": (session,)}
        path = tmp_path / f"{name}.json"
        path.write_bytes(encode_record(replace(load_profile("pixel-4"), **(measured | changes))))
        return path

    return write_one


@pytest.fixture
def architecture(tmp_path):
    path = tmp_path / "network.json"
    path.write_bytes(encode_record(NETWORK))
    return path


def test_merge_writes_one_profile_of_both_sessions(write, tmp_path):
    output = tmp_path / "made" / "both.json"
    told = json.loads(run("merge", write("monday", 1.0), write("tuesday", 2.0), "-o", output, "--json"))
    merged = load_profile(output)
    assert [session.seconds for session in merged.sessions] == [1.0, 2.0]
    assert merged.kernels[0].repetitions == 6
    assert (told["profile_id"], told["num_sessions"]) == (record_id(merged), 2)


def test_merge_refuses_other_threads_and_writes_nothing(write, tmp_path, capsys):
    complaint = fail(capsys, 2, "merge", write("a", 1.0), write("b", 2.0, threads=4), "-o", tmp_path / "both.json")
    assert "must have the same threads, got 1 and 4: measure again with --threads" in complaint
    assert not (tmp_path / "both.json").exists()


def test_compare_tells_families_and_networks(write):
    paths = write("monday", 1.0), write("tuesday", 2.0)
    rows = json.loads(run("compare", *paths, "--json"))
    assert {row["family"] for row in rows} >= {"conv", "first_conv", "linear", "whole networks"}
    assert {(row["median_ratio"], row["within_10"]) for row in rows} == {(1.0, 1.0)}
    assert "whole networks" in run("compare", *paths)


def test_check_tells_what_a_sound_profile_holds_and_lacks(write, architecture):
    path = write("sound", 1.0)
    told = json.loads(run("check", path, "--architecture", architecture, "--json"))
    assert (told["profile_id"], told["grades"], told["faults"]) == (told["sha256"], ["A"], [])
    assert (told["num_wanted"], told["holes"]) == (told["num_kernels"], [])
    other = json.loads(run("check", path, "--architecture", architecture, "--batch-size", 4, "--json"))
    assert {batch_size for _, batch_size, _ in other["holes"]} == {4}
    assert "conv 1x4x4 to 2x4x4, evaluate of 4" in run("check", path, "--architecture", architecture, "--batch-size", 4)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"is_stable": False}, "unstable: close other programs"),
        ({"sessions": ()}, "measured by an older version, kernel by kernel"),
        ({"sessions": (), "kernels": ()}, "nothing was measured: run handheld-device measure"),
    ],
)
def test_check_fails_on_a_profile_that_should_not_be_relied_on(write, capsys, changes, fault):
    assert f"should not be relied on: {fault}" in fail(capsys, 1, "check", write("faulty", 1.0, **changes))


def test_check_fails_on_a_profile_that_was_edited(write, capsys):
    path = write("edited", 1.0)
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=2), encoding="utf-8")
    assert "its bytes are not as they were written" in fail(capsys, 1, "check", path)


def test_check_refuses_what_is_no_profile(tmp_path, capsys):
    path = tmp_path / "none.json"
    path.write_text("{}", encoding="utf-8")
    assert "DeviceProfile lacks" in fail(capsys, 2, "check", path)


def test_merge_writes_over_no_session_and_no_other_file(write, tmp_path, capsys):
    one, other, notes, older = write("monday", 1.0), write("tuesday", 2.0), tmp_path / "notes.txt", write("both", 3.0)
    notes.write_text("mine", encoding="utf-8")
    for output, reason in ((one, "is read by"), (other, "is read by"), (notes, "holds no DeviceProfile")):
        before = output.read_bytes()
        assert f"{output.name} {'exists and ' if output == notes else ''}{reason}" in fail(
            capsys, 2, "merge", one, other, "-o", output
        )
        assert output.read_bytes() == before
    run("merge", one, other, "-o", older)
    assert len(load_profile(older).sessions) == 2


def test_a_batch_size_beyond_any_device_is_wrong_usage(write, architecture, capsys):
    arguments = ("check", write("monday", 1.0), "--architecture", architecture, "--batch-size")
    assert "65536" in fail(capsys, 2, *arguments, 65537)
