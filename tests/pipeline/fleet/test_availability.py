import numpy as np
import pytest

from pipeline.fleet.availability import Availability, AvailabilityTerms

HALF = AvailabilityTerms(0.5, 100.0)


def is_there(phone: Availability, times) -> list[bool]:
    return [phone.next_time(float(time)) == time for time in times]


def test_a_phone_that_is_always_there_never_waits():
    assert Availability(AvailabilityTerms(), 1, 0).next_time(12.5) == 12.5


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_phones_are_there_for_their_share_of_the_time(share):
    times = np.arange(0, 20_000, 10)
    seen = [is_there(Availability(AvailabilityTerms(share, 100.0), 1, i), times) for i in range(40)]
    assert np.mean(seen) == pytest.approx(share, abs=0.03)
    assert np.mean([row[0] for row in seen]) == pytest.approx(share, abs=0.25)  # from the first moment on


def test_a_phone_that_is_away_comes_back_at_the_beginning_of_its_next_spell():
    phone = Availability(HALF, 1, 0)
    away = next(float(time) for time in np.arange(0, 5000, 1) if phone.next_time(float(time)) > time)
    back = phone.next_time(away)
    assert phone.next_time(back) == back
    assert phone.next_time(np.nextafter(back, 0)) == back


def test_spells_depend_on_seed_and_phone_and_not_on_how_often_they_are_asked_for():
    times = np.arange(0, 5000, 7)
    first = is_there(Availability(HALF, 1, 0), times)
    assert is_there(Availability(HALF, 1, 0), times[::-1])[::-1] == first
    assert is_there(Availability(HALF, 1, 1), times) != first
    assert is_there(Availability(HALF, 2, 0), times) != first


@pytest.mark.parametrize("share", [0.0, 1.1, -1.0])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got"):
        AvailabilityTerms(share)


def test_a_spell_without_length_is_refused():
    with pytest.raises(ValueError, match="mean_spell_s must be > 0, got 0"):
        AvailabilityTerms(0.5, 0)
