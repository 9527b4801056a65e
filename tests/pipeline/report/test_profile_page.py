import re
from dataclasses import replace

import pytest

from pipeline.report.profile_facts import (
    Pair,
    agreements_of,
    examples_of,
    facts_of,
    pairs_of,
    sources_of,
    without_networks,
)
from pipeline.report.profile_page import render_profile, write_profile_page
from profiles.catalogue import catalogue_names, load_profile
from profiles.few import kernel_time
from profiles.kernel import Kernel
from profiles.known_models import KNOWN_MODELS
from profiles.predict import predict_kernel, predict_kernels
from profiles.schema import Calibration, NetworkTime
from profiles.sessions import Session
from tests.pipeline.report.test_page import EVIL, Outline

PHONE = load_profile("pixel-4")
CALIBRATION = Calibration("forward", 1.0, 0.8, 1.25, 0.5, 2.0, 1.05, "a test")
SESSION = Session(
    pack_id="0" * 64,
    measured_on="2026-11-21",
    threads=1,
    affinity=(7,),
    governors=("schedutil",),
    mhz_before=(1785.6, None),
    mhz_after=(1785.6, 2419.0),
    celsius_before=31.0,
    celsius_after=44.4,
    battery_before=None,
    battery_after=None,
    runtime_build="",
    warm_up=3,
    rounds=7,
    drift=0.031,
    grade="B",
    seconds=93.0,
)


def network(kernels, ms):
    samples = tuple(ms * (1 + 0.01 * (i % 5)) for i in range(60))
    return NetworkTime(tuple(kernels), 1, "forward", ms, 1.1 * ms, ms, 0.05, 60, samples)


@pytest.fixture(scope="module")
def measured():
    """A phone with networks that take as long as its kernels say, half as long again and twice as long."""
    kernels = KNOWN_MODELS["mobilenet_v1"][:9]
    times = tuple(kernel_time(kernel, 1, [2.0, 2.1, 2.2]) for kernel in dict.fromkeys(kernels))
    phone = replace(PHONE, name="measured", kernels=times, sessions=(SESSION,), calibrations=(CALIBRATION,))
    parts = [kernels[:3], kernels[3:6], kernels[6:]]
    told = [predict_kernels(phone, part, 1, "forward").median_ms for part in parts]
    return replace(
        phone, networks=tuple(network(*one) for one in zip(parts, (told[0], told[1] / 1.5, told[2] / 2), strict=True))
    )


@pytest.fixture(scope="module")
def page(measured) -> str:
    return render_profile(measured)


def test_facts_are_every_figure_with_its_source(measured):
    facts = facts_of(measured)
    assert {"memory", "download", "forward compute", "gradient layer overhead", "call overhead"} <= {
        fact.name for fact in facts
    }
    assert [sources_of(facts)[fact.number - 1] for fact in facts] == [fact.figure.source for fact in facts]


def test_agreement_is_told_from_predictions_beside_measurements(measured):
    told = [predict_kernels(measured, one.kernels, 1, "forward").median_ms for one in measured.networks]
    pairs = [Pair(one, ms, (0.8 * ms, 1.25 * ms)) for one, ms in zip(measured.networks, told, strict=True)]
    (row,) = agreements_of(pairs)
    assert (row.direction, row.num_networks) == ("forward", 3)
    assert (
        row.share_within
        == sum(abs(ms / one.median_ms - 1) <= 0.1 for one, ms in zip(measured.networks, told, strict=True)) / 3
    )
    assert 0 <= row.share_covered < 1


def test_a_network_is_predicted_as_if_it_and_its_own_kernels_were_not_measured(measured):
    first, second, third = measured.networks
    blind = without_networks(measured, [0])
    assert blind.networks == (second, third)
    only_first = set(first.kernels) - {*second.kernels, *third.kernels}
    assert {time.kernel for time in measured.kernels} - {time.kernel for time in blind.kernels} == only_first != set()
    assert [pair.network for pair in pairs_of(measured)] == [first, second, third]
    assert pairs_of(measured)[0].predicted_ms == predict_kernels(blind, first.kernels, 1, "forward").median_ms


def test_examples_share_out_the_time_of_known_models():
    for example in examples_of(PHONE):
        whole = sum(predict_kernel(PHONE, kernel, 1, "forward").ms for kernel in KNOWN_MODELS[example.model])
        assert sum(ms for _, ms in example.family_ms) == pytest.approx(whole)
        assert example.family_ms[0][0] == "pointwise_conv"
        assert example.median_ms >= whole


def test_a_measured_phone_shows_all_sections_and_pictures(page, measured):
    outline = Outline(page)
    assert [one for one in outline.ids if one in {"agreement", "latency", "trust", "facts"}] == [
        "agreement",
        "latency",
        "trust",
        "facts",
    ]
    pictures = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert len(pictures) == 5
    assert all(len(words) > 40 for words in pictures)
    for part in (
        "2026-11-21 B 3.1% 93.0 7 schedutil 1,786/? → 1,786/2,419 31 → 44 ? → ?",
        "0.80 to 1.25",
        f"{len(measured.kernels)} measured 3 whole networks",
    ):
        assert part in outline.text


@pytest.mark.parametrize("name", catalogue_names())
def test_a_phone_that_nobody_measured_has_a_page_without_pictures_of_measurements(name):
    outline = Outline(render_profile(load_profile(name)))
    assert outline.open == []
    assert "agreement" not in outline.ids
    assert "Nobody measured this device" in outline.text
    assert outline.text.count("known by throughput") == 2
    assert "no whole network" in outline.text


def test_the_page_is_whole_fetches_nothing_and_is_the_same_for_the_same_profile(page, measured, tmp_path):
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert not {"script", "img", "link", "iframe", "object", "image"} & set(outline.tags)
    assert not re.search(r"@import|url\((?!#)", page)
    assert write_profile_page(measured, tmp_path / "new" / "page.html") == len(page.encode())
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == page


def test_names_and_warnings_of_a_profile_are_text_not_markup():
    evil = replace(PHONE, name=EVIL, soc=EVIL, warnings=(EVIL,), is_stable=False)
    page = render_profile(evil)
    assert "<script" not in page
    assert Outline(page).text.count("alert('1')") >= 4
    assert "not stable" in page


def test_kernels_that_were_carried_over_are_not_called_measured():
    time = replace(kernel_time(Kernel("linear", (8,), (4,)), 1, [1.0]), repetitions=0)
    outline = Outline(render_profile(replace(PHONE, kernels=(time,))))
    assert "0 measured 1 carried over from another phone" in outline.text
    assert "Carried over, by family" in outline.text
