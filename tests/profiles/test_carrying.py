import csv
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from profiles.anchors import anchors_of, left_out_errors, log_ratio
from profiles.carrying import carry_over
from profiles.catalogue import catalogue_names, load_profile
from profiles.few import FewTimes, ModelLatency, with_networks
from profiles.kernel import Kernel
from profiles.known_models import KNOWN_MODELS
from profiles.predict import predict_kernel
from profiles.schema import Figure, KernelTime, NetworkTime, Runtime
from profiles.transfer import TransferError

PADDLE = Path(__file__).parents[3] / "shared/data/phones/paddle-lite-benchmark/paddle_lite_benchmark.csv"
NEEDS_SHARED = pytest.mark.skipif(not PADDLE.is_file(), reason="the shared data are not here")
CALL_MS = 0.5
WIDTHS = (4, 8, 16, 24, 32, 48, 64)
CONVS = tuple(Kernel("conv", (a, 16, 16), (b, 16, 16), 3) for a in WIDTHS for b in WIDTHS)
DEPTHWISE = tuple(Kernel("conv", (a, 16, 16), (a, 16, 16), 5, 1, a) for a in WIDTHS)
LINEAR = Kernel("linear", (64,), (10,))
CALL = Kernel("call", (1,), (1,))


def time(kernel, ms, direction="forward", repetitions=20):
    return KernelTime(kernel, 1, direction, ms, 1.1 * ms, 0.9 * ms, 0.05, repetitions)


def true_ms(kernel):
    return 0.2 + kernel.multiply_accumulates() / 1e6 + kernel.bytes_moved(1) / 1e5


@pytest.fixture(scope="module")
def source(profile):
    """A measured phone with a table of convolutions, forward and gradient, each with its call."""
    kernels = [*CONVS, *DEPTHWISE, LINEAR]
    forward = [time(kernel, true_ms(kernel) + CALL_MS) for kernel in kernels]
    gradient = [time(kernel, 3 * true_ms(kernel) + CALL_MS, "gradient") for kernel in kernels]
    throughput = replace(profile.throughput, call_overhead_ms=Figure(CALL_MS, "ms", "measured", "a test"))
    call = time(CALL, CALL_MS)
    return replace(profile, name="known", throughput=throughput, kernels=(call, *forward, *gradient))


def few_kernels(kernels, ratio, direction="forward", **given):
    times = [time(kernel, ratio(kernel) * true_ms(kernel), direction) for kernel in kernels]
    return FewTimes("a test", tuple(times), **given)


def network(kernels, ms, direction="forward", repetitions=20):
    return NetworkTime(tuple(kernels), 1, direction, ms, 1.2 * ms, ms, 0.1, repetitions)


def ms_on(phone, kernel, direction="forward"):
    return predict_kernel(phone, kernel, 1, direction).ms


def test_all_kernels_of_a_phone_that_is_slower_by_one_factor_are_carried_over(source):
    made = carry_over([source], few_kernels([CONVS[0], CONVS[20], DEPTHWISE[3]], lambda _: 2.5), source)
    for kernel in (*CONVS, *DEPTHWISE, LINEAR):
        assert ms_on(made, kernel) == pytest.approx(2.5 * true_ms(kernel), rel=1e-3)
    given = source.throughput.forward
    assert made.throughput.forward.gmac_s.value == pytest.approx(given.gmac_s.value / 2.5)
    assert made.throughput.forward.gmac_s.provenance == "estimated"
    assert made.throughput.forward.gmac_s.source == "known's, carried over by 3 kernels: a test"
    assert made.throughput.call_overhead_ms.value == pytest.approx(2.5 * CALL_MS)
    carried = [one for one in made.kernels if one.repetitions == 0]
    assert len(made.kernels) == len(carried) + 3 == len(source.kernels) - 1
    assert made.networks == made.sessions == ()


def test_each_family_goes_by_its_own_anchors_and_others_by_all(source):
    few = few_kernels([*CONVS[:9], *DEPTHWISE], lambda kernel: 4.0 if kernel.groups > 1 else 2.0)
    made = carry_over([source], few, source)
    assert ms_on(made, CONVS[-1]) == pytest.approx(2.0 * true_ms(CONVS[-1]), rel=0.05)
    assert 2.0 < ms_on(made, LINEAR) / true_ms(LINEAR) < 4.0
    anchors = anchors_of(source, few)
    assert exp(log_ratio(anchors, "forward", "depthwise_conv")) == pytest.approx(4.0, rel=0.1)


def test_times_of_the_phone_itself_are_kept_and_its_call_is_read(source):
    measured = replace(few_kernels([CONVS[5]], lambda _: 2.0), kernels=(time(CALL, 0.7), time(CONVS[5], 5.0)))
    made = carry_over([source], measured, source)
    assert made.throughput.call_overhead_ms.value == 0.7
    assert ms_on(made, CONVS[5]) == pytest.approx(4.3)
    assert ms_on(made, CONVS[6]) / true_ms(CONVS[6]) == pytest.approx(4.3 / true_ms(CONVS[5]), rel=1e-3)


def test_networks_say_what_kernels_add_up_to(source):
    nets = [CONVS[i : i + 6] for i in range(0, 30, 6)]
    kernels = few_kernels(CONVS[::7], lambda _: 2.0)
    measured = tuple(network(net, 0.8 * (2 * CALL_MS + 2 * sum(map(true_ms, net)))) for net in nets)
    made = carry_over([source], replace(kernels, networks=measured), source)
    forward, *_ = made.calibrations
    by_kernels = sum(ms_on(made, kernel) for kernel in nets[0]) + made.throughput.call_overhead_ms.value
    assert forward.factor * by_kernels == pytest.approx(measured[0].median_ms, rel=0.05)
    assert forward.p90_over_p50 == pytest.approx(1.2)
    assert forward.source == "carried over from known by 12 forward anchors; 5 anchors left out in turn"


def test_models_alone_carry_a_phone_over_that_nobody_measured():
    known = load_profile("pixel-4")
    few = with_networks(FewTimes("a test", models=(ModelLatency("mobilenet_v1", 58.08),)))
    made = carry_over([known], few, known)
    assert exp(anchors_of(known, few)[0].log_ratio) == pytest.approx(2.0, rel=1e-3)
    parts = [ms_on(made, kernel) for kernel in KNOWN_MODELS["mobilenet_v1"]]
    forward, *_ = made.calibrations
    assert forward.factor * (sum(parts) + made.throughput.call_overhead_ms.value) == pytest.approx(58.08, rel=1e-3)
    assert made.kernels == ()


def test_a_direction_that_nobody_timed_follows_the_others_and_is_less_sure(source):
    made = carry_over([source], few_kernels(CONVS[:5], lambda _: 2.0), source)
    assert ms_on(made, CONVS[0], "gradient") == pytest.approx(6.0 * true_ms(CONVS[0]), rel=1e-3)
    forward, _, gradient = made.calibrations
    assert log(gradient.high95) > 1.5 * log(forward.high95)
    unlike = few_kernels(CONVS[:6], lambda kernel: 8.0 if kernel.output_shape[0] > 10 else 1.0)
    made = carry_over([source], unlike, source)
    forward, _, gradient = made.calibrations
    assert 2.5 < forward.high95 < gradient.high95
    (warning,) = [one for one in made.warnings if "time was measured" in one]
    assert warning == (
        "no evaluate and no gradient time was measured: scaled as the others, 95% of networks expected within "
        f"{gradient.low95:.2f} to {gradient.high95:.2f} times the prediction"
    )


def test_anchors_that_agree_make_it_surer_and_such_that_do_not_less_sure(source):
    rng = np.random.default_rng(0)

    def width(kernels, deviation):
        few = few_kernels(kernels, lambda _: 2.0 * exp(deviation * rng.standard_normal()))
        return log(carry_over([source], few, source).calibrations[0].high95)

    one, five, many, unlike = width(CONVS[:1], 0), width(CONVS[:5], 0), width(CONVS[:30], 0.02), width(CONVS[:30], 0.5)
    assert one == pytest.approx(log(1.5), rel=1e-3)  # what is assumed before any is known
    assert many < 0.5 * one < five < one < unlike


def test_errors_are_of_networks_where_there_are_two(source):
    nets = [network(CONVS[:3], 10.0), network(CONVS[3:9], 20.0)]
    few = replace(few_kernels(CONVS[:4], lambda _: 2.0), networks=tuple(nets))
    anchors = anchors_of(source, few)
    ratios = [anchor.log_ratio for anchor in anchors if not anchor.family]
    assert left_out_errors(anchors, "forward") == pytest.approx([ratios[0] - ratios[1], ratios[1] - ratios[0]])
    assert len(left_out_errors(anchors_of(source, replace(few, networks=())), "forward")) == 4
    assert left_out_errors(anchors, "gradient") == []


def test_of_several_phones_the_one_that_is_most_alike_is_taken(source):
    other = replace(load_profile("redmi-8"), name="other")
    few = few_kernels(CONVS[:8], lambda _: 1.1)
    assert carry_over([other, source], few, source).warnings[0].startswith("carried over from known by 8 kernels")


def test_what_a_runtime_fuses_away_stays_without_time(source):
    fused = Kernel("fused_relu", (8, 4, 4), (8, 4, 4))
    known = replace(source, kernels=(*source.kernels, time(fused, 0.0)))
    made = carry_over([known], few_kernels(CONVS[:5], lambda _: 2.0), known)
    assert ms_on(made, fused) == 0


@pytest.mark.slow
def test_families_with_many_rows_are_fitted_and_take_other_shapes(source):
    def slower_when_wide(kernel):
        return 2.0 + 0.2 * kernel.input_shape[0] / true_ms(kernel)  # no single ratio

    unseen, seen = CONVS[8:41:8], [one for one in CONVS if one not in CONVS[8:41:8]]

    def error(kernels):
        made = carry_over([source], few_kernels(kernels, slower_when_wide), source)
        return np.median([abs(log(ms_on(made, one) / (slower_when_wide(one) * true_ms(one)))) for one in unseen])

    assert error(seen) < 0.05
    assert error(seen) < 0.3 * error(seen[:30])


def test_other_runtimes_and_threads_are_warned_of(source):
    few = few_kernels(CONVS[:3], lambda _: 2.0, runtime=Runtime("executorch", "1.0"), threads=4)
    made = carry_over([source], few, source)
    assert (made.runtime.name, made.threads) == ("executorch", 4)
    assert any("measured with executorch, known with onnxruntime" in warning for warning in made.warnings)
    assert any("4 thread(s), known with 1" in warning for warning in made.warnings)


def test_without_a_phone_or_a_time_there_is_no_transfer(source):
    with pytest.raises(TransferError, match="needs the profile of another phone, got none"):
        carry_over([], few_kernels(CONVS[:3], lambda _: 2.0), source)
    with pytest.raises(TransferError, match="got none; measure one: handheld-device measure --quick"):
        carry_over([source], FewTimes("a test"), source)


@NEEDS_SHARED
@pytest.mark.slow
def test_published_models_are_carried_over_to_socs_of_other_phones_within_their_intervals():
    with PADDLE.open(encoding="utf-8") as rows:
        dense = [row for row in csv.DictReader(rows) if "fp32" in row["section"] and "ARMV8" in row["section"]]
    phones, names = (
        [load_profile(name) for name in catalogue_names()],
        {"MobileNetV1": "mobilenet_v1", "MobileNetV2": "mobilenet_v2"},
    )
    times = {(row["config"], row["soc"], row["model"]): float(row["avg_ms"]) for row in dense if row["model"] in names}
    ratios, covered = [], []
    for (config, soc, known), ms in times.items():
        (wanted,) = set(names) - {known}
        if (measured := times.get((config, soc, wanted))) is None:
            continue
        few = with_networks(FewTimes(soc, models=(ModelLatency(names[known], ms),)))
        others = [one for one in phones if abs(anchors_of(one, few)[0].log_ratio) > 0.01]  # not the SoC's own
        made = carry_over(others, few, others[0])
        forward, *_ = made.calibrations
        sum_ms = sum(ms_on(made, kernel) for kernel in KNOWN_MODELS[names[wanted]])
        ratio = measured / (forward.factor * (sum_ms + made.throughput.call_overhead_ms.value))
        ratios.append(ratio)
        covered.append(forward.low95 < ratio < forward.high95)
    assert len(ratios) >= 20
    assert np.median(np.abs(np.log(ratios))) < 0.06
    assert np.mean(covered) >= 0.9
