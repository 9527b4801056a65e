from dataclasses import replace

import pytest

from pipeline.report.page import ReportRequest, render_report, write_report
from pipeline.report.shipped import OtherBundleError, find_bundle
from pipeline.run_result import read_finished_run
from pipeline.ship.bundle import BundleError


@pytest.fixture
def run(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    return read_finished_run(tmp_path / "run")


def test_a_run_that_was_not_shipped_says_how_to(run):
    assert find_bundle(run.folder, None, run.result) is None
    assert "handheld ship RUN -o RUN/bundle" in render_report(run)


def test_the_bundle_in_the_runs_folder_is_found_and_shown(made, run):
    made.write_bundle(run.folder / "bundle", run.result)
    assert write_report(ReportRequest(run.folder)).has_bundle
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for part in ("model.ort", "ONNX Runtime 1.19.2", "2.00 KiB", "1.5e-06", "the trained model", "0.0001"):
        assert part in page
    assert "the model for ONNX Runtime on Android and iOS" in page
    assert "notes.txt" in page


def test_a_bundle_elsewhere_is_named(made, run, tmp_path):
    made.write_bundle(tmp_path / "elsewhere", run.result)
    shipped = find_bundle(run.folder, tmp_path / "elsewhere", run.result)
    assert (
        set(shipped.sizes)
        == {"model.ort", "golden-0.png", "notes.txt", "parity.json", "bundle.json"}
        == set(shipped.roles)
    )
    assert shipped.roles["golden-0.png"]
    assert shipped.roles["notes.txt"] == ""


def test_a_bundle_that_is_not_there_is_told_with_the_cure(run, tmp_path):
    with pytest.raises(OtherBundleError, match=r"nowhere is no folder; ship the run with `handheld ship"):
        find_bundle(run.folder, tmp_path / "nowhere", run.result)


def test_another_runs_bundle_is_refused(made, run, tmp_path):
    made.write_bundle(
        tmp_path / "other",
        replace(run.result, name="pears", models=(replace(run.result.main, parameters_sha256="9" * 64),)),
    )
    with pytest.raises(OtherBundleError, match=r"holds another model .*pears, parameters 999999999999 instead of"):
        find_bundle(run.folder, tmp_path / "other", run.result)


def test_an_altered_bundle_is_refused(made, run):
    made.write_bundle(run.folder / "bundle", run.result)
    (run.folder / "bundle" / "model.ort").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model.ort .* was altered"):
        write_report(ReportRequest(run.folder))
