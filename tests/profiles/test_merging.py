from dataclasses import replace

import pytest

from profiles.checking import UnstableProfileError, check_stable, find_faults, find_holes
from profiles.kernel import Kernel
from profiles.merging import NETWORKS, MergeError, compare_profiles, merge_profiles
from profiles.schema import DeviceProfile, NetworkTime, Runtime
from profiles.sessions import Session


def session(grade="A", pack_id="a") -> Session:
    return Session(pack_id, None, 1, (), (), (), (), None, None, None, None, "", 3, 5, 0.01, grade, 60.0)


def slower(profile: DeviceProfile, factor: float) -> DeviceProfile:
    """Another session, in which all took longer."""

    def changed(time):
        samples = tuple(factor * sample for sample in time.samples_ms)
        fields = {name: factor * getattr(time, name) for name in ("median_ms", "p90_ms", "min_ms")}
        return replace(time, samples_ms=samples, **fields)

    kernels, networks = (tuple(map(changed, times)) for times in (profile.kernels, profile.networks))
    return replace(profile, kernels=kernels, networks=networks, sessions=(session(pack_id=f"{factor}"),))


@pytest.fixture
def measured(profile) -> DeviceProfile:
    """A profile of one session whose kernels have samples, and one network."""
    forward = tuple(replace(time, samples_ms=(time.median_ms,) * 4, repetitions=4) for time in profile.kernels)
    kernels = (*forward, *(replace(time, direction="evaluate") for time in forward if time.direction == "forward"))
    first = kernels[0]
    networks = (NetworkTime((first.kernel,) * 2, 1, "forward", 2.0, 2.0, 2.0, 0.0, 4, (2.0,) * 4),)
    return replace(profile, kernels=kernels, networks=networks, sessions=(session(),))


def test_a_merged_profile_holds_both_sessions_and_all_samples(measured):
    other = slower(measured, 3.0)
    merged = merge_profiles(measured, other)
    assert merged.sessions == (*measured.sessions, *other.sessions)
    for mine, its in zip(merged.kernels, measured.kernels, strict=True):
        assert mine.repetitions == 2 * its.repetitions
        assert sorted(mine.samples_ms) == sorted((*its.samples_ms, *(3.0 * ms for ms in its.samples_ms)))
        assert mine.median_ms == pytest.approx(2 * its.median_ms)
        assert mine.min_ms == its.min_ms
    (network,) = merged.networks
    assert (network.median_ms, network.repetitions, network.min_ms) == (4.0, 8, 2.0)


def test_what_one_session_alone_measured_is_kept(measured):
    new = replace(measured.kernels[0], kernel=Kernel("relu", (99, 1, 1), (99, 1, 1)))
    other = replace(slower(measured, 1.0), kernels=(new,), networks=())
    other = replace(other, networks=(replace(measured.networks[0], batch_size=9),))
    merged = merge_profiles(measured, other)
    assert merged.kernels == (*measured.kernels, new)
    assert len(merged.networks) == 2


def test_rates_and_stability_are_of_both(measured):
    unstable = replace(slower(measured, 2.0), is_stable=False, warnings=("unstable: a test",))
    merged = merge_profiles(measured, unstable)
    assert (merged.is_stable, merged.warnings) == (False, ("unstable: a test",))
    twice = merge_profiles(slower(measured, 2.0), slower(measured, 2.5)).throughput.forward.kernel_ms
    kernel = measured.kernels[0].kernel
    assert twice(kernel, 1) > 1.5 * merge_profiles(measured, slower(measured, 1.1)).throughput.forward.kernel_ms(
        kernel, 1
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soc": "another"}, "must have the same soc, got .* and 'another': measure again"),
        ({"threads": 4}, "must have the same threads, got 1 and 4: measure again with --threads"),
        ({"affinity": "0"}, "must have the same affinity"),
        ({"runtime": Runtime("onnxruntime", "9.9")}, r"same runtime, got onnxruntime .* and onnxruntime 9\.9"),
        ({"networks": ()}, "has no session to merge: measure again"),
    ],
)
def test_sessions_that_differ_are_refused_with_the_cure(measured, change, message):
    with pytest.raises(MergeError, match=message):
        merge_profiles(measured, replace(slower(measured, 2.0), **change))


def test_a_session_is_merged_once(measured):
    with pytest.raises(MergeError, match="merge each session once"):
        merge_profiles(measured, replace(measured, name="a copy"))


def test_a_comparison_tells_ratios_by_family_and_direction_and_networks_last(measured):
    found = compare_profiles(measured, slower(measured, 1.05))
    assert found[-1].family == NETWORKS
    assert {(row.family, row.direction) for row in found[:-1]} == {
        (time.kernel.family, time.direction) for time in measured.kernels
    }
    assert sum(row.count for row in found) == len(measured.kernels) + 1
    for row in found:
        assert (row.median_ratio, row.low_ratio, row.high_ratio, row.within_10) == (1.05, 1.05, 1.05, 1.0)


def test_a_comparison_works_across_runtimes_and_leaves_out_what_was_fused(measured):
    fused = replace(measured.kernels[0], median_ms=0.0)
    other = replace(slower(measured, 2.0), runtime=Runtime("onnxruntime", "9.9"))
    other = replace(other, kernels=(fused, *other.kernels[1:]))
    found = compare_profiles(measured, other)
    assert sum(row.count for row in found) == len(measured.kernels)
    assert {row.within_10 for row in found} == {0.0}
    assert compare_profiles(measured, replace(other, kernels=(), networks=())) == ()


def test_holes_are_what_nobody_measured_each_told_once(measured):
    time = measured.kernels[0]
    known, unknown = (time.kernel, time.batch_size, time.direction), (Kernel("relu", (7,), (7,)), 1, "forward")
    assert find_holes(measured, [known, unknown, unknown]) == (unknown,)


def test_faults_are_told_with_the_cure(measured):
    assert find_faults(measured) == ()
    assert "unstable: close other programs" in find_faults(replace(measured, is_stable=False))[0]
    assert "kernel by kernel: measure again" in find_faults(replace(measured, sessions=()))[0]
    assert "nothing was measured" in find_faults(replace(measured, kernels=(), sessions=()))[0]


def test_an_unstable_profile_is_refused_by_name(measured):
    check_stable([measured, measured])
    with pytest.raises(UnstableProfileError, match=f"profile '{measured.name}' is unstable.* --allow-unstable"):
        check_stable([measured, replace(measured, is_stable=False)])
