"""The catalogue's files and how they are read; where the shared data are, the published latencies come out again."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from profiles.catalogue import UnknownProfileError, catalogue_names, load_profile
from profiles.kernel import Kernel
from profiles.predict import predict_kernels
from profiles.records import RecordError, encode_record, record_id, to_plain
from search.architecture import Architecture, Stage, Stem
from search.cost import cost_of, kernels_of

SHARED = Path(__file__).parents[4] / "shared" / "data"
NEEDS_SHARED = pytest.mark.skipif(not (SHARED / "phones").is_dir(), reason="the shared data are not here")
IMAGENET = ((3, 224, 224), 1000)
V1_WIDTHS = ((64, 1, 1), (128, 1, 2), (128, 1, 1), (256, 1, 2), (256, 1, 1), (512, 1, 2), (512, 5, 1), (1024, 1, 2))
V2_WIDTHS = ((16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 2, 6), (320, 1, 1, 6))
PADDLE_SOCS = {
    "pixel-4": "骁龙 855",
    "huawei-mate-20": "麒麟 980",
    "galaxy-s9": "骁龙 845",
    "pixel-2-xl": "骁龙 835",
    "redmi-note-4": "骁龙 625",
    "mi-10t-pro": "骁龙 865",
}
# Phones whose SoC has no published latency: whose rates they have, times what for compute and for memory.
CARRIED_OVER = {
    "galaxy-j5": ("redmi-note-4", 0.5906 / 1.066, 0.5906 / 1.066),
    "moto-g4": ("redmi-note-4", 0.7525 / 1.066, 0.7525 / 1.066),
    "redmi-note-8": ("pixel-2-xl", 0.821, 0.821),
    "pixel-3a": ("galaxy-s9", 0.713, 0.713),
    "mi-9t": ("pixel-4", 0.777, 0.777),
    "oneplus-7t": ("pixel-4", 1.040, 1.040),
    "pixel-6": ("mi-10t-pro", 2.006, 1.099),
    "pixel-8": ("mi-10t-pro", 2.051, 1.297),
}


NEWER_THAN_THE_LIST = {"mi-10t-pro", "pixel-6", "pixel-8"}


def mobilenet_v1() -> tuple[Kernel, ...]:
    """arXiv:1704.04861, table 1."""
    stages = [Stage("depthwise", width, depth, 3, stride) for width, depth, stride in (*V1_WIDTHS, (1024, 1, 1))]
    return kernels_of(Architecture(*IMAGENET, Stem(32, 3, 2), tuple(stages), "global_average"))


def mobilenet_v2() -> tuple[Kernel, ...]:
    """arXiv:1801.04381, table 2; the last convolution, which our space has not, by hand."""
    stages = [Stage("inverted", width, depth, 3, stride, factor) for width, depth, stride, factor in V2_WIDTHS]
    *kernels, _, _ = kernels_of(Architecture(*IMAGENET, Stem(32, 3, 2), tuple(stages), "global_average"))
    last = (1280, 7, 7)
    tail = (
        Kernel("conv", (320, 7, 7), last),
        Kernel("relu", last, last),
        Kernel("global_average", last, (1280,)),
        Kernel("linear", (1280,), (1000,)),
    )
    return (*kernels, *tail)


def figures(value: object, place: str = "") -> list[tuple[str, dict]]:
    """Every number with a unit in a profile's JSON, and where it is."""
    if isinstance(value, dict) and "unit" in value:
        return [(place, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in figures(item, f"{place}.{key}")]


def test_the_catalogue_has_phones_of_four_classes():
    classes = Counter(load_profile(name).device_class for name in catalogue_names())
    assert classes == {"entry": 4, "mid": 5, "high": 4, "flagship": 2}


# Whoever keeps results by a profile's id finds these phones unchanged.
@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("pixel-4", "f960357b39a7"),
        ("huawei-mate-20", "f0e23d401338"),
        ("galaxy-s9", "82d2055d3dfd"),
        ("pixel-2-xl", "7af7ec266d89"),
        ("redmi-8", "28c15c565e08"),
        ("redmi-note-4", "68579a0f17d5"),
    ],
)
def test_the_first_phones_keep_their_ids(name, starts):
    assert record_id(load_profile(name)).startswith(starts)


@pytest.mark.parametrize("name", catalogue_names())
def test_a_phone_is_called_as_its_file_and_says_that_nobody_here_measured_it(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.kernels == ()
    assert any("no run of Handheld on this phone" in warning for warning in profile.warnings)


@pytest.mark.parametrize("name", catalogue_names())
def test_no_figure_of_a_phone_is_called_measured(name):
    assert {figure["provenance"] for _, figure in figures(to_plain(load_profile(name)))} == {"published", "estimated"}


@NEEDS_SHARED
@pytest.mark.parametrize("name", catalogue_names())
def test_every_source_names_files_that_exist_or_says_how_it_was_estimated(name):
    for place, figure in figures(to_plain(load_profile(name))):
        files = re.findall(r"phones/[\w./-]+\.(?:csv|json)", figure["source"])
        assert all((SHARED / file).is_file() for file in files), place
        has_page = "https://" in figure["source"]
        assert files or has_page or figure["provenance"] == "estimated", place


@NEEDS_SHARED
@pytest.mark.parametrize(("name", "soc"), PADDLE_SOCS.items())
@pytest.mark.parametrize(("model", "kernels"), [("MobileNetV1", mobilenet_v1()), ("MobileNetV2", mobilenet_v2())])
def test_the_rates_give_back_the_published_latencies(name, soc, model, kernels):
    with (SHARED / "phones/paddle-lite-benchmark/paddle_lite_benchmark.csv").open(encoding="utf-8") as file:
        (published,) = {
            float(row["avg_ms"])
            for row in csv.DictReader(file)
            if (row["model"], row["soc"]) == (model, soc)
            and row["config"].startswith("稠密")
            and "fp32" in row["section"]
            and "ARMV8" in row["section"]
        }
    assert predict_kernels(load_profile(name), kernels, 1, "forward").median_ms == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("name", "donor", "compute", "memory"), [(k, *v) for k, v in CARRIED_OVER.items()])
def test_rates_without_published_latencies_are_another_phones_scaled_and_say_so(name, donor, compute, memory):
    profile = load_profile(name)
    rates, others = profile.throughput.forward, load_profile(donor).throughput.forward
    assert rates.gmac_s.value == pytest.approx(compute * others.gmac_s.value, rel=0.002)
    assert rates.memory_gb_s.value == pytest.approx(memory * others.memory_gb_s.value, rel=0.005)
    factor = compute * 1.066 if "divided by 1.066" in rates.gmac_s.source else compute
    assert f"times {factor:.3f}"[:-1] in rates.gmac_s.source
    assert (profile.abi == "armeabi-v7a") == ("32-bit" in rates.gmac_s.source)
    assert any("rates of another SoC" in warning for warning in profile.warnings)


@NEEDS_SHARED
def test_32_bit_programs_are_as_much_slower_as_the_catalogue_says():
    with (SHARED / "phones/paddle-lite-benchmark/paddle_lite_benchmark.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["soc"] == "骁龙 625" and row["config"].startswith("稠密")]
    times = {(abi, row["model"]): float(row["avg_ms"]) for row in rows for abi in ("V7", "V8") if abi in row["section"]}
    slower = [times["V7", model] / time for (abi, model), time in times.items() if abi == "V8"]
    assert len(slower) == 9
    assert np.median(slower) == pytest.approx(1.066, abs=0.001)


@NEEDS_SHARED
def test_scaling_by_coremark_is_as_wrong_as_the_catalogue_says():
    with (SHARED / "phones/paddle-lite-benchmark/paddle_lite_benchmark.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "fp32" in row["section"] and "ARMV8" in row["section"]]
    times = {(row["soc"], row["model"]): float(row["avg_ms"]) for row in rows if row["config"].startswith("稠密")}
    # Snapdragon 865, 855, Kirin 980 and 990 have two vector units of 128 bits in a big core, 845 and 835 of 64.
    per_mhz = 22147 / 2841.6
    alike = (
        {"骁龙 865": 24103, "骁龙 855": 22147, "麒麟 980": 2600 * per_mhz, "麒麟 990": 2860 * per_mhz},
        {"骁龙 845": 17425, "骁龙 835": 12857},
    )
    factors = np.array(
        [
            times[donor, model] * scores[donor] / scores[soc] / time
            for scores in alike
            for donor in scores
            for (soc, model), time in times.items()
            if soc in scores and soc != donor
        ]
    )
    assert len(factors) == 126
    assert np.median(abs(factors - 1)) == pytest.approx(0.12, abs=0.005)
    assert np.mean(abs(np.log(factors)) < np.log(1.5)) == pytest.approx(0.95, abs=0.005)


@NEEDS_SHARED
@pytest.mark.parametrize("name", sorted({*catalogue_names()} - NEWER_THAN_THE_LIST))
def test_the_memory_is_what_the_benchmark_list_has_for_the_phone(name):
    source = load_profile(name).ram_mib.source
    model = source.partition(": ")[2].rpartition(", ")[0]
    rows = json.loads(
        (SHARED / "phones/flash-ondevice-training/raw_ai_benchmark_list.json").read_text(encoding="utf-8")
    )
    listed = {row["RAM"] for row in rows if row["Model"] == model.partition(",")[0]}
    assert f"{load_profile(name).ram_mib.value / 1024:.0f}GB" in listed


def test_a_faster_class_is_faster_on_a_network_of_real_size():
    network = Architecture((3, 96, 96), 10, Stem(16), (Stage("inverted", 24, 2, 3, 2, 4),))
    slowest, fastest = {}, {}
    for name in catalogue_names():
        profile = load_profile(name)
        cost = cost_of(network, profile, 16)
        for times in (
            (profile.device_class, cost.latency_ms),
            (f"{profile.device_class} training", cost.training_step_ms),
        ):
            slowest[times[0]] = max(slowest.get(times[0], 0), times[1])
            fastest[times[0]] = min(fastest.get(times[0], float("inf")), times[1])
    for kind in ("", " training"):
        assert slowest[f"flagship{kind}"] < fastest[f"high{kind}"]
        assert slowest[f"high{kind}"] < fastest[f"mid{kind}"]
        assert slowest[f"mid{kind}"] < fastest[f"entry{kind}"]


def test_a_file_of_ones_own_is_read_by_its_path(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(encode_record(load_profile("pixel-4")))
    assert load_profile(path) == load_profile(str(path)) == load_profile("pixel-4")


def test_an_unknown_name_names_the_nearest_phone():
    with pytest.raises(UnknownProfileError, match=r"got 'pixel4': did you mean 'pixel-4';"):
        load_profile("pixel4")


def test_a_name_that_is_like_no_phone_lists_them_and_the_way_to_make_one():
    with pytest.raises(
        UnknownProfileError, match=r"the catalogue has galaxy-j5, .*; `handheld profile measure -o FILE`"
    ):
        load_profile("x")


def test_a_file_that_is_no_profile_is_told_by_its_name(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"nmae": "x"}', encoding="utf-8")
    with pytest.raises(RecordError, match=r"other\.json: DeviceProfile has an unknown key 'nmae': did you mean 'name'"):
        load_profile(path)
