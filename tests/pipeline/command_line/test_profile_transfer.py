import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.command_line import PROGRAM as DEVICE_PROGRAM
from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM
from profiles.catalogue import load_profile
from profiles.few import FewTimes, kernel_time
from profiles.importing import FORMS
from profiles.kernel import Kernel
from profiles.records import decode_record, encode_record

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A folder with the examples of the manual, as its commands name them."""
    (tmp_path / "docs").mkdir()
    shutil.copytree(EXAMPLES, tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["profile", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def fail(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        run_program(PROGRAM, ["profile", *map(str, arguments)])
    assert left.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def transfer(few, *more):
    return run("transfer", "--from", "pixel-4", "--with", few, "--name", "mine", "-o", "mine.json", *more)


@pytest.mark.parametrize("command", ["profile import", "profile transfer"])
def test_the_example_in_the_help_runs(command):
    example = PROGRAM.commands[command].example
    run(*example.split()[2:])
    written = Path(example.split()[-1]).read_bytes()
    if command == "profile import":
        assert len(decode_record(FewTimes, written).kernels) == 7
    else:
        assert load_profile("runs/my-phone.json").name == "my-phone"


def test_what_was_imported_becomes_a_profile_that_predicts():
    told = run("import", "docs/examples/latency-table.csv", "-o", "few.json")
    assert "not used: line 9 (softmax,1,10,,,,,,,0.002): 'softmax' is no kernel of Handheld's networks" in told
    assert "next: handheld profile transfer --from PHONE --with few.json" in told
    told = transfer("few.json", "--device-class", "mid", "--link", "20,10,40")
    assert "7 measured, 0 carried over" in told
    made = load_profile("mine.json")
    assert (made.device_class, made.link.download_mbit_s.value, made.name) == ("mid", 20, "mine")
    assert made.ram_mib.provenance == "estimated"
    assert any("memory, cores and system are pixel-4's: give --dump" in warning for warning in made.warnings)
    (predicted,) = json.loads(run("predict", EXAMPLES / "architecture.json", "--profile", "mine.json", "--json"))
    assert predicted["profile"] == "mine"
    assert "estimated" in run("show", "mine.json")


def test_the_phones_own_system_tells_its_facts():
    dump = "/proc/cpuinfo:processor\t: 0\n/proc/cpuinfo:CPU part\t: 0xd03\n/proc/meminfo:MemTotal:     2900000 kB\n"
    Path("phone.txt").write_text(dump, encoding="utf-8")
    transfer("docs/examples/few.json", "--dump", "phone.txt")
    made = load_profile("mine.json")
    assert made.ram_mib.value == pytest.approx(2832, abs=1)
    assert not any("memory, cores and system" in warning for warning in made.warnings)
    assert sum(cluster.num_cores for cluster in made.clusters) == 1


def test_a_quickly_measured_profile_keeps_its_own_facts_and_times():
    call, linear = Kernel("call", (1,), (1,)), Kernel("linear", (64,), (10,))
    times = (kernel_time(call, 1, [0.01]), kernel_time(linear, 1, [0.03, 0.04]))
    quick = replace(load_profile("redmi-8"), kernels=times)
    Path("quick.json").write_bytes(encode_record(quick))
    transfer("quick.json")
    made = load_profile("mine.json")
    assert (made.ram_mib, made.soc) == (quick.ram_mib, quick.soc)
    kept = {(one.kernel, one.direction): one.median_ms for one in made.kernels}
    assert kept == {(one.kernel, one.direction): one.median_ms for one in quick.kernels}


@pytest.mark.parametrize(
    ("few", "message"),
    [
        ('{"source": "me"}', "got none; measure one: handheld-device measure --quick"),
        ('{"source": "me", "models": [{"model": "resnet50", "median_ms": 80}]}', "or measure one of mobilenet_v1"),
        ('{"models": []}', "few.json: FewTimes lacks source"),
        ("nonsense", "few.json must be JSON"),
    ],
)
def test_few_times_that_are_of_no_use_are_told_with_the_cure(few, message, capsys):
    Path("few.json").write_text(few, encoding="utf-8")
    arguments = ("transfer", "--from", "pixel-4", "--with", "few.json", "--name", "mine", "-o", "mine.json")
    assert message in fail(capsys, *arguments)
    assert not Path("mine.json").exists()


def test_an_import_that_finds_nothing_writes_nothing(capsys):
    Path("table.txt").write_text("hello\n", encoding="utf-8")
    assert "none of the known forms; name one with --format" in fail(capsys, "import", "table.txt", "-o", "few.json")
    assert not Path("few.json").exists()


def test_an_import_of_a_malformed_file_is_wrong_usage_and_names_it(capsys):
    Path("cut.json").write_text('[{"cat": "Node", "ph": "X", "name": "a_kernel_time", "dur": 1}]', encoding="utf-8")
    assert "cut.json: event 1 ('a_kernel_time') lacks args" in fail(capsys, "import", "cut.json", "-o", "few.json")
    Path("empty.tsv").touch()
    told = fail(capsys, "import", "empty.tsv", "--format", "etdump", "-o", "few.json")
    assert "empty.tsv: an Inspector's table must have the columns" in told


def test_names_of_a_file_are_shown_as_they_are():
    lines = "[/net],0.9,1,99,0\n[/net],0.002,1,99,1\n[/other]\n"
    Path("perf.csv").write_text(lines, encoding="utf-8")
    told = run("import", "perf.csv", "-o", "few.json", "--model", "docs/examples/architecture.json")
    assert "is no run of a model: '[/other]'" in told


def test_times_of_onnx_runtime_are_warned_of_where_the_known_phone_ran_another():
    run("import", "docs/examples/phone/onnxruntime_profile.json", "-o", "kernels.json")
    for few in ("kernels.json", "docs/examples/few.json"):
        transfer(few)
        warnings = load_profile("mine.json").warnings
        assert "measured with onnxruntime, pixel-4 with Paddle-Lite: kernels differ" in warnings


def test_an_import_tells_what_a_model_is_by_its_architecture():
    lines = "".join(f"net,{seconds},1024,99,{i}\n" for i, seconds in enumerate((0.9, 0.002, 0.003, 0.002)))
    Path("perf.csv").write_text(lines, encoding="utf-8")
    told = run("import", "perf.csv", "-o", "few.json", "--model", "docs/examples/architecture.json")
    assert "model architecture" in told
    (model,) = decode_record(FewTimes, Path("few.json").read_bytes()).models
    assert (model.median_ms, model.repetitions, len(model.kernels) > 3) == (2.0, 3, True)


PAGE = (EXAMPLES.parent / "profile-your-own-phone.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (handheld\S*) (.*)$", PAGE, flags=re.MULTILINE)
SHOWN = re.findall(r"^(?:\S*/)?(handheld-device \S+) (.*)$", PAGE, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_users_page_run_in_its_order():
    assert {arguments.split()[1] for _, arguments in COMMANDS} >= {"import", "transfer", "show", "probe", "predict"}
    for program, arguments in COMMANDS:
        app = build_app({"handheld": PROGRAM, "handheld-device": DEVICE_PROGRAM}[program])
        result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    mine = load_profile("runs/my-phone.json")
    assert mine.calibrations
    assert mine.kernels  # of the Android section: no later command writes over it
    assert Path("runs/my-pc.html").stat().st_size > 10_000


def test_commands_that_the_users_page_shows_for_another_device_have_these_options():
    assert [command for command, _ in SHOWN] == ["handheld-device measure"]
    for command, arguments in SHOWN:
        result = CliRunner().invoke(build_app(DEVICE_PROGRAM), [command.split()[1], "--help"], catch_exceptions=False)
        assert all(option in result.stdout for option in arguments.split() if option.startswith("--"))


def test_the_forms_of_the_users_page_are_those_that_are_known():
    assert set(re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, flags=re.MULTILINE)) == set(FORMS)


def test_several_files_of_one_phone_make_one_profile():
    few = "docs/examples/few.json"
    run("import", "docs/examples/phone/onnxruntime_profile.json", "-o", "kernels.json")
    told = run(
        "transfer", "--from", "pixel-4", "--with", few, "--with", "kernels.json", "--name", "mine", "-o", "mine.json"
    )
    assert "carried over from pixel-4 by 6 kernels and 3 networks" in told


def test_an_import_replaces_few_times_and_nothing_else(capsys):
    table, few, notes, profile = Path("docs/examples/latency-table.csv"), Path("few.json"), Path("notes.txt"), Path("p")
    notes.write_text("mine", encoding="utf-8")
    profile.write_bytes(encode_record(load_profile("redmi-8")))
    for output, reason in ((table, "is read by"), (notes, "holds no FewTimes"), (profile, "holds no FewTimes")):
        before = output.read_bytes()
        complaint = fail(capsys, "import", table, "-o", output)
        assert str(output) in complaint
        assert reason in complaint
        assert output.read_bytes() == before
    few.write_bytes(encode_record(FewTimes("older")))
    run("import", table, "-o", few)
    assert decode_record(FewTimes, few.read_bytes()).kernels


def test_a_transfer_replaces_an_older_profile_and_nothing_that_it_reads(capsys):
    few, source, quick, dump = Path("docs/examples/few.json"), Path("from.json"), Path("quick.json"), Path("phone.txt")
    source.write_bytes(encode_record(load_profile("pixel-4")))
    quick.write_bytes(encode_record(load_profile("redmi-8")))
    dump.write_text("/proc/cpuinfo:processor : 0\n", encoding="utf-8")
    Path("notes.txt").write_text("mine", encoding="utf-8")
    reads = ("transfer", "--from", source, "--with", few, "--with", quick, "--dump", dump, "--name", "mine", "-o")
    for output in (few, source, quick, dump, Path("notes.txt")):
        before = output.read_bytes()
        reason = "exists and holds no" if output.name == "notes.txt" else "is read by"
        assert f"{output} {reason}" in fail(capsys, *reads, output)
        assert output.read_bytes() == before
    Path("mine.json").write_bytes(encode_record(load_profile("redmi-8")))
    transfer(few)
    assert load_profile("mine.json").name == "mine"
