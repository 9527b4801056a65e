import re
from dataclasses import replace

import pytest

from device_runtime.specs import ExampleSpec
from pipeline.report.page import ReportFileError, ReportRequest, render_report, write_report
from pipeline.run_result import CurvePoint, NoResultError, read_result
from tests.pipeline.report.outline import Outline

SECTIONS = ("front", "curves", "cost", "privacy", "network", "candidates", "shipped", "data", "warnings")
EVIL = "<script>alert('1')</script>&\"'"


@pytest.fixture(scope="module")
def pages(made) -> dict[str, str]:
    """One page of each kind of run."""
    real = replace(made.result(kind="real", fleet={}, curves=(), warnings=()), emulator_only=None)
    results = {
        "plain": made.result(),
        "device": made.private_result("device"),
        "sum": made.private_result("sum"),
        "real": real,
    }
    return {name: render_report(made.run(result)) for name, result in results.items()}


@pytest.fixture(params=["plain", "device", "sum", "real"])
def page(request, pages) -> str:
    return pages[request.param]


def test_every_section_is_there_in_order_with_a_heading_and_a_link(page):
    outline = Outline(page)
    assert [name for name in outline.ids if name in SECTIONS] == list(SECTIONS)
    assert {f"#{name}" for name in SECTIONS} <= {value for name, value in outline.attributes if name == "href"}
    assert outline.tags.count("h2") == len(SECTIONS)
    assert outline.tags.count("h1") == 1


def test_the_page_is_whole_html_with_unique_names(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert page.startswith("<!DOCTYPE html>")


def test_nothing_is_fetched_from_anywhere(page):
    outline = Outline(page)
    assert not {"script", "img", "link", "iframe", "object", "image"} & set(outline.tags)
    targets = [value for name, value in outline.attributes if name in ("src", "href", "xlink:href", "action")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_picture_has_words(page):
    pictures = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert len(pictures) >= 3
    assert all(len(words) > 40 for words in pictures)
    assert page.count("<figure") == len(pictures)


def test_the_headline_has_accuracy_interval_latency_and_size(page):
    text = Outline(page).text
    assert "81.2%" in text
    assert "95% interval 76.0% to 86.0%; 240 examples" in text
    assert "1.0 to 4.0 ms one example, over 3 profiles" in text
    assert "Trial 1 won among 3" in text


def test_a_run_without_privacy_says_that_nothing_is_private(pages):
    text = Outline(pages["plain"]).text
    assert "not private" in text
    assert "Nothing in this run is private. Updates and metrics left the clients without noise" in text
    assert "ε" not in text


def test_a_private_run_says_what_its_epsilon_means(pages):
    text = Outline(pages["device"]).text
    assert "Nothing in this run is private" not in text
    assert "ε 7.26 of 8, δ 1e-05, example unit, noise at the device" in text
    for part in (
        "zero-out: one example is replaced by a null record",
        "everybody who sees what leaves a phone, the server included",
        "on each device, before anything leaves it",
        "4, of the Rényi divergence",
        "8; left: 0.749",
        "The total is the largest of the splits, not their sum",
        "train (the run's total) 7.26 0.749 search update 20 4.30 1.20 final update 60 6.60 3.50",
        "validation 4.00 4.00 search metrics 4 4.00 0.900",
    ):
        assert part in text
    assert "Against the server epsilon is infinite" not in text


def test_noise_on_the_sum_says_that_the_server_is_trusted(pages):
    text = Outline(pages["sum"]).text
    assert "Against the server epsilon is infinite" in text
    assert "to the sum, by the server" in text


def test_exact_figures_are_marked_as_the_emulators(pages):
    assert pages["plain"].count('<span class="tag">emulator only</span>') == 2
    assert "The run's epsilon does not cover these figures" in Outline(pages["device"]).text
    assert "83.3%; the run took 1 h 2 min" in Outline(pages["device"]).text


def test_a_real_run_has_no_exact_figures(pages):
    text = Outline(pages["real"]).text
    assert "emulator only" not in pages["real"].lower()
    assert "in a real run every figure would be one more release" in text
    assert "Real devices, which enrolled by themselves" in text
    assert "Warnings None." in text


def test_costs_candidates_network_fleet_and_versions_are_told(pages):
    text = Outline(pages["plain"]).text
    for part in (
        "search, training 6.00 6.00 KiB 12.0 KiB 300 30 0",
        "final 30.0 2.00 KiB 4.00 KiB 100 10 0 test 0.500 2.00 KiB 4.00 KiB 100 0 10",
        "all 36.5 10.0 KiB 20.0 KiB 500 40 10",
        "1 (winner) 75.0% 4.00 2.00",
        "stage 2, block 2: inverted",
        "cheap entry 6",
        "torch 2.13.0",
        "cheap: its clock was not stable",
        "ONNX Runtime 1.14.0 or newer, opset 17",
        "a" * 64,
    ):
        assert part in text


def test_the_same_run_gives_the_same_bytes(made, pages):
    again = render_report(made.run(made.private_result("device")))
    assert again == pages["device"]
    assert again != pages["sum"]


def test_names_with_html_in_them_are_told_and_not_run(made):
    cost = replace(made.trial(0, 0.5, 1.0).costs[0], profile=EVIL, device_class=EVIL)
    trial = made.trial(0, 0.5, 1.0, costs=(cost,))
    result = replace(
        made.result(name=EVIL, data=EVIL, fleet={EVIL: 1}, warnings=(EVIL,), versions={EVIL: EVIL}, algorithm=EVIL),
        trials=(trial,),
        models=(made.model(trial=0, platforms=(EVIL,)),),
        spec=ExampleSpec((1, 8, 8), (EVIL, "yes")),
        costs=(made.cost(EVIL, None, 1.0),),
        curves=(CurvePoint(EVIL, 0, 1, 0.5),),
        privacy=made.privacy(unit=EVIL, neighbours=EVIL, adversary=EVIL, epsilon_by_split={"train": 1.0}),
        budgets={EVIL: {"latency_ms": 1.0}},
    )
    page = render_report(made.run(result))
    outline = Outline(page)
    assert "script" not in outline.tags
    assert outline.open == []
    assert outline.text.count(EVIL) > 10


@pytest.mark.slow
def test_a_search_of_300_candidates_is_still_a_page(made):
    trials = tuple(made.trial(i, 0.3 + i / 1000, 0.1 * (1 + i % 50)) for i in range(300))
    curves = tuple(CurvePoint("search", i, k, 0.01 * k) for i in range(300) for k in range(1, 11))
    costs = tuple(made.cost("search", i, 1.0 + i) for i in range(300))
    page = render_report(
        made.run(made.result(trials=trials, models=(made.model(trial=299),), curves=curves, costs=costs))
    )
    text = Outline(page).text
    assert len(page) < 2_000_000
    assert "Trial 299 won among 300" in text
    assert "300 candidates of random_search" in text
    tall = re.findall(r'<div class="scroll tall"[^>]*aria-label="([^"]*)"', page)
    assert tall == ["Cost of the search by trial", "Layers", "Candidates"]


def test_a_run_whose_profiles_are_unknown_says_so(made):
    result = made.result(trials=(made.trial(0, 0.5, 1.0, costs=()),), models=(made.model(trial=0, platforms=()),))
    text = Outline(render_report(made.run(result))).text
    assert "No latency was predicted: the run names no profile." in text
    assert "not predicted" in text


def test_the_report_is_written_into_the_runs_folder(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    written = write_report(ReportRequest(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert (written.file, written.size_bytes) == (str(tmp_path / "run" / "report.html"), len(page))
    assert not written.has_bundle
    assert str(tmp_path) not in page.decode()
    elsewhere = write_report(ReportRequest(tmp_path / "run", tmp_path / "new" / "page.html"))
    assert (elsewhere.sha256, (tmp_path / "new" / "page.html").read_bytes()) == (written.sha256, page)


def test_a_folder_without_a_result_is_told_with_the_cure(tmp_path):
    with pytest.raises(NoResultError, match=r"has no result.json: .* finish it with `handheld search --resume`"):
        write_report(ReportRequest(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_report(made, tmp_path):
    made.write_run(tmp_path / "run", made.result())
    with pytest.raises(ReportFileError, match=r"is a folder; name a file, for example .*report.html"):
        write_report(ReportRequest(tmp_path / "run", tmp_path))


def test_several_models_are_told_by_platform_beside_their_limits(made):
    result = made.two_models(budgets={"entry": {"latency_ms": 6.0}, "mid": {"latency_ms": 6.0, "size_kib": 48.0}})
    outline = Outline(render_report(made.run(result)))
    assert outline.open == []
    for part in (
        "2 models for 3 platforms came of 3 candidates. The one for most platforms, of trial 1:",
        "middling mid 81.2% 76.0% to 86.0% 1 stem 4",
        "2.00 of 6 6.00 0.250 1.50 of 48 met",
        "cheap entry 70.0% 64.0% to 75.0% 2 stem 4",
        "8.00 of 6 24.0 0.250 1.50 BROKEN",
        "83.3% (model of trial 1), 70.8% (model of trial 2); the run took",
        "models of trials 1, 2",
        "RUN/bundle --platform NAME",
        "artifact of trial 2 " + "1" * 64,
    ):
        assert part in outline.text


def test_the_report_of_several_models_is_written_and_knows_any_of_their_bundles(made, tmp_path):
    made.write_run(tmp_path / "run", made.two_models())
    result = read_result(tmp_path / "run")
    second = replace(result, models=result.models[1:])
    made.write_bundle(tmp_path / "run" / "bundle", second)
    written = write_report(ReportRequest(tmp_path / "run"))
    assert [(needs.platform, needs.is_met) for needs in written.platforms] == [
        ("middling", True),
        ("dear", True),
        ("cheap", False),
    ]
    assert "The model of trial 2, for cheap." in Outline((tmp_path / "run" / "report.html").read_text()).text


def test_other_searches_are_told_as_ever(pages):
    for words in ("decisions", "thrown away", "Cost against accuracy", "Cells"):
        assert words not in pages["plain"]


def test_epsilon_of_one_client_is_told_as_it_adds_up(made):
    privacy = made.privacy(unit="client", epsilon=7.9, epsilon_by_split={"all": 7.9})
    privacy = replace(privacy, phases=tuple(replace(row, split="all") for row in privacy.phases))
    text = Outline(render_report(made.run(made.result(privacy=privacy)))).text
    assert "Each client is protected with ε 7.90" in text
    assert "one client: all that it holds, in all splits together; that it took part is public" in text
    assert "the divergences add up over splits, phases and kinds" in text
    assert "all (the run's total) 7.90 0.100 search metrics 4" in text
    assert "largest of the splits" not in text
