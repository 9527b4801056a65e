import json
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from profiles.catalogue import catalogue_names, load_profile
from profiles.population import (
    ClassShare,
    Population,
    UnknownPopulationError,
    draw_links,
    draw_population,
    load_population,
    phones_of,
    population_names,
)
from profiles.schema import Figure

PHONES = Path(__file__).parents[3] / "shared" / "data" / "phones" / "flash-ondevice-training"
CLASSES = {name: load_profile(name).device_class for name in catalogue_names()}
NEEDS_SHARED = pytest.mark.skipif(not PHONES.is_dir(), reason="the shared data are not here")


def share(device_class: str, value: float) -> ClassShare:
    return ClassShare(device_class, Figure(value, "share", "estimated", "a test"))


@pytest.mark.parametrize("name", population_names())
def test_a_large_fleet_has_each_class_in_its_share_and_each_phone_of_a_class_alike(name):
    population = load_population(name)
    phones = draw_population(population, 20_000, seed=1)
    by_phone, by_class = Counter(phones), Counter(CLASSES[phone] for phone in phones)
    assert {one.device_class for one in population.shares} == set(by_class)
    for one in population.shares:
        assert by_class[one.device_class] / 20_000 == pytest.approx(one.share.value, abs=0.015)
        counts = [count for phone, count in by_phone.items() if CLASSES[phone] == one.device_class]
        assert max(counts) < 1.2 * min(counts)


def test_the_same_seed_gives_the_same_fleet_and_a_larger_fleet_only_adds_phones():
    population = load_population("trace-2020")
    assert draw_population(population, 30, seed=5) == draw_population(population, 100, seed=5)[:30]
    assert draw_population(population, 30, seed=5) != draw_population(population, 30, seed=6)
    assert draw_population(population, 0, seed=5) == ()


def test_the_phones_of_a_population_are_all_that_may_be_drawn():
    population = load_population("trace-2020")
    assert set(draw_population(population, 2000, seed=2)) == set(phones_of(population))
    assert list(phones_of(population)) == sorted(phones_of(population))


def test_a_class_without_a_share_is_not_drawn_and_needs_no_phone():
    population = Population("some", (share("high", 1.0), share("desktop", 0.0)))
    assert {CLASSES[name] for name in draw_population(population, 50, 0)} == {"high"}


def test_a_class_that_the_catalogue_lacks_is_refused():
    with pytest.raises(ValueError, match="must have phones for every class, got none for desktop"):
        draw_population(Population("desks", (share("desktop", 1.0),)), 1, 0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((share("mid", 0.5), share("high", 0.4)), r"must add up to 1, got 0\.9000"),
        ((share("mid", 0.5), share("mid", 0.5)), "must name each class once"),
    ],
)
def test_shares_are_of_one_whole_and_of_different_classes(shares, message):
    with pytest.raises(ValueError, match=message):
        Population("wrong", shares)


def test_an_unknown_population_names_the_nearest_or_all():
    with pytest.raises(UnknownPopulationError, match="did you mean 'trace-2020'"):
        load_population("trace2020")
    with pytest.raises(UnknownPopulationError, match="there are trace-2020, listed-2020, even"):
        load_population("x")


LATENCY = Figure(50, "ms", "estimated", "a test")


def test_links_are_those_of_the_measured_phones_each_as_likely():
    links = draw_links(LATENCY, 19_000, seed=2)
    counts = Counter(link.download_mbit_s.value for link in links)
    assert len(counts) == 19
    assert 850 < min(counts.values()) <= max(counts.values()) < 1150
    assert len({(link.download_mbit_s.value, link.upload_mbit_s.value) for link in links}) == 19
    assert {link.latency_ms for link in links} == {LATENCY}


def test_a_larger_fleet_only_adds_links_and_another_seed_gives_others():
    assert draw_links(LATENCY, 5, seed=2) == draw_links(LATENCY, 50, seed=2)[:5]
    assert draw_links(LATENCY, 50, seed=2) != draw_links(LATENCY, 50, seed=3)


@NEEDS_SHARED
def test_the_links_are_the_files_and_their_median_is_the_catalogues():
    told = json.loads((PHONES / "speed_distri.json").read_text(encoding="utf-8")).values()
    drawn = {(link.download_mbit_s.value, link.upload_mbit_s.value) for link in draw_links(LATENCY, 2000, seed=0)}
    assert drawn == {tuple(round(one[key] * 1024 * 8 / 1e6, 2) for key in ("down_u", "up_u")) for one in told}
    assert median(down for down, _ in drawn) == load_profile("pixel-4").link.download_mbit_s.value


@NEEDS_SHARED
def test_the_published_shares_are_those_of_the_files_that_they_name():
    rows = json.loads((PHONES / "raw_ai_benchmark_list.json").read_text(encoding="utf-8"))
    models = json.loads((PHONES / "real2benchmark.json").read_text(encoding="utf-8"))
    by_model = {row["Model"].strip(): row for row in rows}

    def shares_of(found: list[dict]) -> list[float]:
        scores = [float(row["CPU_F_AI_Score"]) for row in found]
        entry, high = sum(score < 1115 for score in scores), sum(score >= 2665 for score in scores)
        return [round(n / len(scores), 4) for n in (entry, len(scores) - entry - high, high)]

    seen = [by_model[model] for model in models.values() if model in by_model]
    for name, found in (("listed-2020", rows), ("trace-2020", seen)):
        assert [one.share.value for one in load_population(name).shares] == shares_of(found)
