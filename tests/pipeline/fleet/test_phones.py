from dataclasses import replace

import pytest

from device_runtime.accounting import Budget, BudgetExceededError, Release
from device_runtime.client_records import Request
from device_runtime.terms import ArchitectureTerms, PrivacyTerms, RewardTerms
from device_runtime.wire import Assignment, Report
from pipeline.fleet.phones import CACHED_BLOBS, Charge, link_speed
from pipeline.fleet.population import make_phones
from profiles.records import decode_record, encode_record

RELEASE = Release("update", "train", 0.5, 3.0, 2)


@pytest.fixture
def phone(kit, tmp_path):
    budget = Budget(8.0, 1e-5, 8)
    return make_phones(budget, kit.terms(), kit.data(tmp_path, 2), kit.source)[1]


@pytest.fixture
def assignment(kit):
    return Assignment("run-0-0", "run", "train", "0" * 64, "0" * 64, 60.0, train=kit.private_terms)


def test_a_charge_names_phone_assignment_and_release_and_shows_in_the_headroom(phone, assignment):
    before = phone.describe().headroom.rdp["train"]
    assert phone.charge(assignment) == Charge(1, "run-0-0", RELEASE)
    assert phone.describe().headroom.rdp["train"] == pytest.approx(before - RELEASE.rdp(8))


def test_all_releases_of_an_assignment_are_one_charge(phone, assignment):
    steps = ArchitectureTerms(0.1, 0.0, 0.5, PrivacyTerms("device", 0.25, 4.0))
    reward = RewardTerms("gain", 2.0, PrivacyTerms("device", 1.0, 8.0))
    terms = replace(assignment.train, moves="alternate", architecture=steps, reward=reward)
    charge = phone.charge(replace(assignment, train=terms))
    further = Release("architecture", "validation", 0.25, 4.0, 2), Release("reward", "validation", 1.0, 8.0)
    assert charge == Charge(1, "run-0-0", RELEASE, further)
    assert charge.releases == phone.ledger.releases() == (RELEASE, *further)
    assert decode_record(Charge, encode_record(charge)) == charge


def test_the_charge_of_an_older_run_is_read():
    older = b'{"assignment_id":"run-0-0","phone":1,"release":%b}' % encode_record(RELEASE)
    assert decode_record(Charge, older) == Charge(1, "run-0-0", RELEASE)
    assert encode_record(Charge(1, "run-0-0", RELEASE)) == older


def test_an_exhausted_ledger_charges_nothing_more(phone, assignment):
    while RELEASE.rdp(8) <= phone.ledger.headroom().rdp["train"]:
        phone.charge(assignment)
    spent = phone.ledger.releases()
    with pytest.raises(BudgetExceededError, match="this client takes no further part"):
        phone.charge(assignment)
    assert phone.ledger.releases() == spent


def test_a_phone_without_a_budget_says_so(phone):
    phone.ledger = None
    assert phone.describe().headroom is None


def test_a_full_cache_forgets_what_was_used_longest_ago(phone):
    names = [f"{i:064x}" for i in range(CACHED_BLOBS)]
    for name in [*names, names[0], "new"]:
        phone.keep_blob(name)
    assert list(phone.cached) == [*names[2:], names[0], "new"]


def test_an_update_is_kept_until_no_report_waits_for_it(phone):
    request = Request("PUT", "/v1/blobs/a", blob="a")
    phone.updates["a"] = b"update"
    phone.state = replace(phone.state, report=Report("run-0-0", 12, "a"))
    phone.describe()
    assert phone.body_of(request) == b"update"
    phone.state = replace(phone.state, report=None)
    phone.describe()
    assert phone.updates == {}


def test_phones_rest_differently_and_the_same_in_a_replay(kit, tmp_path):
    def fractions():
        phones = make_phones(None, kit.terms(), kit.data(tmp_path, 3), kit.source)
        return [phone.rest_fraction(now) for phone in phones for now in (0.0, 0.5)]

    drawn = fractions()
    assert fractions() == drawn
    assert len(set(drawn)) == 6
    assert all(0 <= fraction < 1 for fraction in drawn)


def test_a_profile_without_a_link_is_of_no_phone_for_a_fleet(kit):
    with pytest.raises(ValueError, match="'desk' has no link: a fleet needs download_mbit_s"):
        link_speed(kit.profile("desk", link=None))


def test_a_link_that_moves_nothing_is_refused(kit):
    with pytest.raises(ValueError, match="must have download_mbit_s and upload_mbit_s > 0"):
        link_speed(kit.profile(mbit_s=0.0))
