import os

import pytest

from device_runtime.conditions import Conditions, describe_conditions, read_conditions
from device_runtime.system_files import SystemFiles

CPU = "/sys/devices/system/cpu"


def two_clusters(**texts: str) -> SystemFiles:
    """Two slow cores and a fast one, whose frequencies now are told."""
    files = {f"{CPU}/possible": "0-2"}
    for core, (highest, now) in enumerate(((1_800_000, 1_000_000), (1_800_000, 1_400_000), (2_800_000, 2_500_000))):
        files[f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq"] = f"{highest}\n"
        files[f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq"] = f"{now}\n"
        files[f"{CPU}/cpu{core}/cpufreq/scaling_governor"] = "schedutil\n"
    return SystemFiles(files | texts)


def test_frequencies_are_of_each_cluster_now_the_slowest_first():
    found = describe_conditions(two_clusters(), affinity=(0, 2))
    assert (found.mhz, found.governors, found.affinity) == ((1200.0, 2500.0), ("schedutil",), (0, 2))


def test_a_cluster_that_sleeps_tells_no_frequency():
    files = two_clusters()
    del files.texts[f"{CPU}/cpu2/cpufreq/scaling_cur_freq"]
    assert describe_conditions(files).mhz == (1200.0, None)


def test_without_the_kernels_files_cpuinfo_tells():
    blocks = [
        f"processor : {core}\nmodel name : a CPU\nflags : lm\ncpu MHz : {mhz}\n"
        for core, mhz in ((0, 2000.5), (1, 3000.5))
    ]
    assert describe_conditions(SystemFiles({"/proc/cpuinfo": "\n".join(blocks)})).mhz == (2500.5,)


@pytest.mark.parametrize(
    ("texts", "celsius"),
    [
        (("31500\n", "44000\n"), 44.0),
        (("37\n",), 37.0),
        (("-274000\n", "0\n", "no sensor\n", "999999\n"), None),
        ((), None),
    ],
)
def test_the_hottest_sensor_that_can_be_one_is_told(texts, celsius):
    files = {f"/sys/class/thermal/thermal_zone{i}/temp": text for i, text in enumerate(texts)}
    assert describe_conditions(SystemFiles(files)).celsius == celsius


def test_of_batteries_the_emptiest_is_told():
    files = {f"/sys/class/power_supply/{name}/capacity": text for name, text in (("BAT0", "80\n"), ("BAT1", "17\n"))}
    assert describe_conditions(SystemFiles(files)).battery == 17.0


def test_a_system_that_tells_nothing_is_no_error():
    assert describe_conditions(SystemFiles({})) == Conditions((), (), (), None, None)


def test_a_copied_folder_is_read_as_this_machine_is(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("50500\n", encoding="utf-8")
    assert read_conditions(tmp_path).celsius == 50.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell which cores may be used")
def test_the_cores_that_this_process_may_use_are_told():
    assert set(read_conditions().affinity) == os.sched_getaffinity(0)
