import csv
from pathlib import Path

import pytest

from profiles.catalogue import catalogue_names, load_profile
from profiles.energy import PowerCurve, big_core_curve, energy_mj, power_curves, power_mw

FREQBENCH = Path(__file__).parents[3] / "shared" / "data" / "phones" / "freqbench" / "freqbench_all.csv"
NEEDS_SHARED = pytest.mark.skipif(not FREQBENCH.is_file(), reason="the shared data are not here")
CURVE = PowerCurve(4, (500.0, 1000.0, 2000.0), (100.0, 150.0, 450.0), "a test")


@pytest.mark.parametrize(("mhz", "mw"), [(None, 450), (500, 100), (750, 125), (1500, 300), (2000, 450)])
def test_power_is_as_published_and_a_straight_line_between(mhz, mw):
    assert power_mw(CURVE, mhz) == pytest.approx(mw)


@pytest.mark.parametrize("mhz", [499, 2001])
def test_a_frequency_outside_the_published_ones_is_refused(mhz):
    with pytest.raises(ValueError, match=rf"mhz must be in \[500, 2000\].*got {mhz}"):
        power_mw(CURVE, mhz)


def test_energy_is_power_times_time_for_each_core():
    assert energy_mj(CURVE, 10) == pytest.approx(4.5)
    assert energy_mj(CURVE, 10, mhz=1000, num_cores=3) == pytest.approx(4.5)
    assert energy_mj(CURVE, 0) == 0


@pytest.mark.parametrize(
    ("change", "message"), [({"ms": -1.0}, "ms must be >= 0"), ({"ms": 1.0, "num_cores": 5}, r"must be in \[1, 4\]")]
)
def test_impossible_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        energy_mj(CURVE, **change)


@pytest.mark.parametrize(("mhz", "mw"), [((1.0, 1.0), (1.0, 2.0)), ((2.0, 1.0), (1.0, 2.0)), ((1.0,), ()), ((), ())])
def test_a_curve_has_a_power_for_each_of_rising_frequencies(mhz, mw):
    with pytest.raises(ValueError, match="must have one power for each of rising frequencies"):
        PowerCurve(1, mhz, mw, "a test")


def test_clusters_come_slowest_first_and_an_unpublished_soc_has_none():
    tops = [curve.mhz[-1] for curve in power_curves("Snapdragon 855")]
    assert tops == [1785.6, 2419.2, 2841.6]
    assert power_curves("Kirin 980") == ()
    assert big_core_curve(load_profile("huawei-mate-20")) is None


@pytest.mark.parametrize("name", catalogue_names())
def test_a_phones_curves_are_of_its_own_clusters(name):
    profile = load_profile(name)
    curves = power_curves(profile.soc)
    if curves:
        # Cores of one clock may be one cluster there and two here.
        assert sum(curve.num_cores for curve in curves) == sum(cluster.num_cores for cluster in profile.clusters)
        assert big_core_curve(profile).mhz[-1] == pytest.approx(profile.clusters[-1].max_mhz.value)


def test_most_phones_of_the_catalogue_have_power():
    assert sum(big_core_curve(load_profile(name)) is not None for name in catalogue_names()) >= 12


@NEEDS_SHARED
@pytest.mark.parametrize("soc", ["Snapdragon 439", "Snapdragon 845", "Tensor G3"])
def test_every_power_is_the_files(soc):
    with FREQBENCH.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for curve in power_curves(soc):
        run = curve.source.rpartition(": ")[2]
        listed = {
            (int(row["freq_khz"]) / 1000, round(float(row["power_mw"]), 1)) for row in rows if row["soc_run"] == run
        }
        assert set(zip(curve.mhz, curve.mw, strict=True)) <= listed
