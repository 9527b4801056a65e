import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.console import build_app, run_program
from pipeline.command_line import PROGRAM
from pipeline.command_line.profile_show import EXAMPLE
from profiles.catalogue import load_profile
from profiles.records import encode_record, to_plain


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(PROGRAM), ["profile", "show", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_show_tells_every_source_and_what_known_models_take():
    words = " ".join(run("redmi-8").split())
    for part in ("Snapdragon 439", "3072 MiB", "estimated", "published", "raw_ai_benchmark_list.json: Xiaomi Redmi 8"):
        assert part in words
    assert "no kernel measured, 0 networks mobilenet_v1:" in words
    assert "known by throughput" in words
    assert json.loads(run("redmi-8", "--json")) == to_plain(load_profile("redmi-8"))


def test_the_example_in_the_help_writes_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "page: runs/pixel-4.html" in run(*EXAMPLE.split()[3:])
    assert Path("runs/pixel-4.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_replaces_an_older_page_and_nothing_else(tmp_path, capsys):
    profile, notes, page = tmp_path / "pc.json", tmp_path / "notes.txt", tmp_path / "pc.html"
    profile.write_bytes(encode_record(load_profile("redmi-8")))
    notes.write_text("mine", encoding="utf-8")
    for output, reason in ((profile, "is read by this command"), (notes, "is no page of a profile")):
        before = output.read_bytes()
        with pytest.raises(SystemExit) as left:
            run_program(PROGRAM, ["profile", "show", str(profile), "--html", str(output)])
        assert left.value.code == 2
        complaint = capsys.readouterr().err
        assert str(output) in complaint
        assert reason in complaint
        assert output.read_bytes() == before
    run(profile, "--html", page)
    run("pixel-4", "--html", page)
    assert "pixel-4: Handheld profile" in page.read_text(encoding="utf-8")
