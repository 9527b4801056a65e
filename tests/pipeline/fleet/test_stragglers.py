from dataclasses import replace

import pytest

from device_runtime.artifact import read_artifact
from pipeline.fleet.durations import predicted_times
from pipeline.fleet.population import make_phones
from pipeline.fleet.stragglers import StragglerTerms, is_straggler, slowed
from profiles.catalogue import load_profile
from profiles.kernel import Kernel
from profiles.predict import predict_kernels
from profiles.records import record_id
from profiles.schema import KernelTime

FACTOR = 5.0
MEASURED = Kernel("linear", (7,), (3,))


@pytest.mark.parametrize("name", ["pixel-4", "redmi-8"])
def test_a_straggler_takes_its_factor_as_long_for_every_network(name, artifact_folder):
    profile, manifest = load_profile(name), read_artifact(artifact_folder).manifest
    nominal, slow = (predicted_times(one, manifest) for one in (profile, slowed(profile, FACTOR)))
    assert slow.train_s == pytest.approx(FACTOR * nominal.train_s)
    assert slow.evaluate_s == pytest.approx(FACTOR * nominal.evaluate_s)
    assert slowed(profile, FACTOR).link == profile.link


@pytest.mark.parametrize(
    ("kernel", "method"),
    [
        (MEASURED, "measured"),
        (replace(MEASURED, output_shape=(9,)), "scaled"),
        (Kernel("add", (4,), (4,)), "throughput"),
    ],
)
def test_however_a_kernels_time_is_known_it_is_slowed(kit, kernel, method):
    profile = kit.profile(kernels=(KernelTime(MEASURED, 4, "forward", 2.0, 3.0, 1.0, 0.1, 10),))
    before, after = (predict_kernels(one, [kernel], 4, "forward") for one in (profile, slowed(profile, FACTOR)))
    assert (before.method, after.method) == (method, method)
    assert after.median_ms == pytest.approx(FACTOR * before.median_ms)


def test_who_is_a_straggler_is_drawn_by_phone_from_the_seed():
    terms = StragglerTerms(0.3, FACTOR)
    drawn = [is_straggler(terms, 7, index) for index in range(1000)]
    assert drawn == [is_straggler(terms, 7, index) for index in range(1000)]
    assert drawn != [is_straggler(terms, 8, index) for index in range(1000)]
    assert 250 < sum(drawn) < 350
    more = [is_straggler(StragglerTerms(0.6), 7, index) for index in range(1000)]
    assert all(also for one, also in zip(drawn, more, strict=True) if one)
    assert not any(is_straggler(StragglerTerms(0.0), 7, index) for index in range(1000))
    assert all(is_straggler(StragglerTerms(1.0), 7, index) for index in range(1000))


def test_a_straggler_checks_in_as_the_phone_that_it_should_be(kit, tmp_path):
    terms = kit.terms(stragglers=StragglerTerms(1.0, FACTOR))
    phone = make_phones(None, terms, kit.data(tmp_path, 1), kit.source)[0]
    assert phone.check_in.profile_id == record_id(terms.profiles[0])
    assert phone.profile.name == terms.profiles[0].name
    assert phone.profile == slowed(terms.profiles[0], FACTOR)


def test_a_round_waits_for_its_stragglers_and_they_are_billed_for_their_time(emulate, kit):
    def held(name, **terms):
        run = emulate(name, times_of=predicted_times, **terms)
        run.train(1)
        ((seconds,),) = run.rows("SELECT sum(device_seconds) FROM costs")
        return seconds, run.rounds.clock.time

    nominal, slow = held("nominal"), held("slow", stragglers=StragglerTerms(1.0, FACTOR))
    assert slow[0] == pytest.approx(FACTOR * nominal[0])
    assert slow[1] > nominal[1]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"share": -0.1}, r"share must be in \[0, 1\], got -0.1"),
        ({"share": 1.1}, r"share must be in \[0, 1\], got 1.1"),
        ({"factor": 0.5}, "factor must be >= 1 and finite, got 0.5"),
    ],
)
def test_terms_out_of_range_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        StragglerTerms(**terms)
