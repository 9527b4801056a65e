"""Emulated phones answer a measure assignment with the profiles that they emulate."""

import pytest

from device_runtime.measure import QUICK
from device_runtime.measurement_pack import read_pack
from device_runtime.terms import MeasureTerms
from pipeline.coordinator.publish import publish_pack
from pipeline.fleet.durations import measure_seconds
from profiles.records import encode_record, record_id


@pytest.fixture
def hold(pack_folder):
    def hold_round(run, **changes):
        pack_id = publish_pack(run.rounds.store, run.rounds.blobs, pack_folder)
        terms = {"train": None, "measure": MeasureTerms(is_quick=True), "parameters_sha256": None}
        return run.rounds.hold(run.plan("measure", kind="measure", artifact_id=pack_id, **(terms | changes)))

    return hold_round


@pytest.mark.parametrize("is_private", [False, True])
def test_each_phone_reports_the_profile_that_it_emulates(emulate, hold, kit, is_private):
    run = emulate(num_phones=4, budget=kit.budget if is_private else None)
    result = hold(run, cohort_size=4)
    phones = sorted(run.rounds.fleet.phones, key=lambda phone: phone.key.key_id)
    assert list(result.profiles) == [phone.check_in.profile_id for phone in phones]
    for phone in phones:
        assert run.rounds.blobs.get(record_id(phone.profile)) == encode_record(phone.profile)
        assert phone.ledger is None or phone.ledger.releases() == ()


def test_it_takes_the_time_that_the_pack_takes_on_the_profile(emulate, hold, pack_folder):
    run = emulate(num_phones=2)
    hold(run, cohort_size=2)
    manifest = read_pack(pack_folder).manifest
    expected = sorted(measure_seconds(phone.profile, manifest, QUICK) for phone in run.rounds.fleet.phones)
    rows = run.rows("SELECT SUM(device_seconds) FROM costs GROUP BY assignment_id")
    assert sorted(seconds for (seconds,) in rows) == pytest.approx(expected)


def test_a_run_that_measured_goes_on_to_the_same_bytes(emulate, hold):
    whole, resumed = emulate("whole"), emulate("resumed")
    expected = hold(whole)
    assert hold(resumed) == expected
    again = emulate("resumed")
    assert hold(again) == expected
    for run in (whole, again):
        run.train(1)
    assert again.everything()["tables"] == whole.everything()["tables"]
