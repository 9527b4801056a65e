import numpy as np
import pytest

from pipeline.fleet import population as population_module
from pipeline.fleet.availability import AvailabilityTerms
from pipeline.fleet.durations import ChunkRuns, ChunkTimes
from pipeline.fleet.population import make_phones
from pipeline.fleet.strain import Heat, cool_phone, tailed_seconds
from profiles.catalogue import load_profile
from profiles.energy import power_curves
from profiles.sustained import ROUGH_TAIL, SUSTAINED_SLOWDOWNS, ThermalModel, work_on

SOON_HOT = ThermalModel(heating_s=1.0, cooling_s=20.0, thresholds=(0.5, 0.9), slowdowns=(1.5, 3.0))
STRAINED = {"has_heat": True, "has_tails": True}


@pytest.fixture
def soon_hot(monkeypatch):
    """Phones that a second of work heats: those of the catalogue take minutes."""
    monkeypatch.setattr(population_module, "cool_phone", lambda *_: Heat(SOON_HOT))


def test_work_upon_work_takes_longer_and_after_a_rest_less_again():
    seconds, hot = Heat(SOON_HOT).work(10.0, 5.0)
    assert (seconds, hot.level) == work_on(SOON_HOT, 0.0, 5.0)
    assert hot.since == 10.0 + seconds
    at_once, rested, cold = (hot.work(hot.since + wait, 5.0)[0] for wait in (0.0, 20.0, 1e6))
    assert at_once == pytest.approx(15.0)
    assert at_once > rested > cold == pytest.approx(seconds)


def test_each_phone_slows_down_as_far_as_is_drawn_for_it_in_the_steps_of_its_clock():
    pixel = load_profile("pixel-4")
    ends = [cool_phone(pixel, 7, index).model.slowdowns[-1] for index in range(200)]
    least, most = SUSTAINED_SLOWDOWNS
    assert least <= min(ends) < 1.2
    assert 2 < max(ends) <= most
    assert cool_phone(pixel, 7, 3) == cool_phone(pixel, 7, 3) != cool_phone(pixel, 8, 3)
    clock = power_curves(pixel.soc)[-1].mhz
    steps = {max(clock) / mhz for mhz in clock}
    assert set(cool_phone(pixel, 7, 3).model.slowdowns[:-1]) <= steps
    assert len(cool_phone(load_profile("huawei-mate-20"), 7, 3).model.slowdowns) == 1  # no published frequencies


def test_runs_scatter_about_their_medians():
    runs, times = ChunkRuns(3000, 1000), ChunkTimes(2.0, 1.0)
    rng = np.random.default_rng(0)
    many = tailed_seconds(ROUGH_TAIL, runs, times, rng)
    assert 1.0 < many / runs.seconds(times) < 1.1
    few = [tailed_seconds(ROUGH_TAIL, ChunkRuns(0, 1), times, rng) for _ in range(2001)]
    assert np.median(few) == pytest.approx(1.0, abs=0.01)
    assert np.quantile(few, 0.99) > 1.1


def test_a_phone_in_use_takes_other_times_for_other_work_and_the_same_in_every_replay(kit, tmp_path):
    def phone(**terms):
        return make_phones(None, kit.terms(**terms), kit.data(tmp_path, 1), kit.source)[0]

    runs, times = ChunkRuns(5, 0), ChunkTimes(1.0, 1.0)
    drawn = [phone(**STRAINED).work(name, runs, times, now) for name, now in (("a", 0.0), ("b", 0.0), ("a", 1.0))]
    assert len(set(drawn)) == 3
    assert drawn[0] == phone(**STRAINED).work("a", runs, times, 0.0)
    assert phone().work("a", runs, times, 0.0) == 5.0


def test_hot_phones_work_longer_and_the_ledger_of_cost_has_it(emulate, soon_hot):
    def held(name, **terms):
        run = emulate(name, **terms)
        run.train(3)
        return run.rows("SELECT sum(device_seconds) FROM costs")[0][0], run.rounds.clock.time

    usual, hot = held("usual"), held("hot", has_heat=True)
    assert hot[0] > 1.2 * usual[0]
    assert hot[1] > usual[1]


def test_hot_phones_go_on_as_hot_as_they_were(emulate, soon_hot):
    settings = {**STRAINED, "availability": AvailabilityTerms(0.6, 10.0)}
    whole, stopped = (emulate(name, **settings) for name in ("whole", "stopped"))
    whole.train(3)
    stopped.train(2)
    resumed = emulate("stopped", **settings)
    resumed.train(3)
    assert resumed.everything() == whole.everything()
    assert max(phone.heat.level for phone in resumed.rounds.fleet.phones) > 0.5
