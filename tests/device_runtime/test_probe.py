"""The probe on trees that look like phones; dumps of real ones are in the tests of `bench.predict_probe`."""

from pathlib import Path

import pytest

from device_runtime.probe import NoSystemError, describe_device, probe_host
from device_runtime.system_files import SystemFiles, read_root

CPU_FOLDER = "sys/devices/system/cpu"


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def core(index: int, part: str) -> str:
    return f"processor\t: {index}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"


@pytest.fixture
def phone(tmp_path) -> Path:
    """Two big cores, then two little ones, as no real phone counts them."""
    parts = ["0xd0b", "0xd0b", "0xd05", "0xd05"]
    files = {"proc/cpuinfo": "\n".join(core(i, part) for i, part in enumerate(parts)) + "\nHardware\t: Some SoC\n"}
    for i, khz in enumerate((2_600_000, 2_600_000, 1_805_000, 1_805_000)):
        files[f"{CPU_FOLDER}/cpu{i}/cpufreq/cpuinfo_max_freq"] = f"{khz}\n"
        files[f"{CPU_FOLDER}/cpu{i}/cpufreq/scaling_governor"] = "schedutil\n"
    return write_tree(tmp_path, files)


def test_clusters_are_cores_of_a_kind_and_frequency_the_slowest_first(phone):
    found = [(cluster.core, cluster.num_cores, cluster.max_mhz.value) for cluster in probe_host(phone, 0.0).clusters]
    assert found == [("Cortex-A55", 2, 1805.0), ("Cortex-A76", 2, 2600.0)]


def test_the_cpu_is_called_as_the_hardware_is(phone):
    assert probe_host(phone, 0.0).cpu == "Some SoC"


def test_a_governor_that_follows_the_load_is_told(phone):
    (warning,) = probe_host(phone, 0.0).warnings
    assert "governor schedutil" in warning


def test_a_fixed_frequency_is_no_warning(phone):
    for path in phone.glob(f"{CPU_FOLDER}/cpu*/cpufreq/scaling_governor"):
        path.write_text("performance\n", encoding="ascii")
    assert probe_host(phone, 0.0).warnings == ()


def test_other_programs_are_told_from_half_a_process_a_core(phone):
    assert len(probe_host(phone, 2.0).warnings) == 1
    assert probe_host(phone, 2.1).warnings[-1].startswith("other programs were running (load 2.1 on 4 cores)")


def test_a_system_without_proc_still_tells_cores(tmp_path):
    (cluster,) = probe_host(tmp_path, 0.0).clusters
    assert cluster.num_cores >= 1


def test_this_machine_says_something_of_everything():
    host = probe_host()
    assert host.cpu
    assert host.abi
    assert host.os
    assert host.ram_mib.value > 100
    assert sum(cluster.num_cores for cluster in host.clusters) >= 1


def test_files_tell_the_device_part_of_a_profile(phone):
    (phone / "proc/meminfo").write_text("MemTotal:        3881560 kB\nMemFree: 1 kB\n", encoding="utf-8")
    write_tree(phone, {"system/build.prop": "# all\nro.product.cpu.abi=armeabi-v7a\nro.build.version.release=9\n"})
    for name, charge in (("battery", 3_000_000), ("stylus", 90_000)):
        write_tree(phone, {f"sys/class/power_supply/{name}/charge_full_design": f"{charge}\n"})
    found = describe_device(read_root(phone))
    assert [(one.core, one.num_cores) for one in found.clusters] == [("Cortex-A55", 2), ("Cortex-A76", 2)]
    assert (found.soc, found.abi, found.os, found.governors) == ("Some SoC", "armeabi-v7a", "Android 9", ("schedutil",))
    assert (found.ram_mib.value, found.battery_mah.value) == (3791, 3000)
    assert probe_host(phone, 0.0).battery_mah == found.battery_mah
    assert found.battery_mah.source == "/sys/class/power_supply/battery/charge_full_design"


def test_what_the_files_do_not_tell_is_none_and_never_this_machine_s():
    found = describe_device(SystemFiles({"/proc/cpuinfo": "processor : 0\n"}))
    assert (found.soc, found.abi, found.ram_mib, found.os, found.battery_mah) == ("unknown", None, None, None, None)
    (warning,) = found.warnings
    assert warning.startswith("1 core(s) told no frequency")


@pytest.mark.parametrize(
    ("properties", "hardware", "soc"),
    [
        ({"ro.board.platform": "sdm845"}, "Qualcomm Technologies, Inc SDM845", "Snapdragon 845"),
        ({"ro.product.board": "taimen"}, "", "Snapdragon 835"),
        # The family's first member has two cores, this one eight.
        ({"ro.board.platform": "msm8960"}, "An Unknown Chip", "An Unknown Chip"),
        ({"ro.board.platform": "newest", "ro.product.board": "nickname"}, "", "newest"),
    ],
)
def test_the_soc_is_what_boards_of_that_many_cores_have_else_what_the_system_calls_it(properties, hardware, soc):
    texts = {f"/{CPU_FOLDER}/possible": "0-7\n", "/proc/cpuinfo": f"processor : 0\n\nHardware : {hardware}\n"}
    assert describe_device(SystemFiles(texts, properties)).soc == soc


def test_files_of_no_system_are_refused_with_the_cure():
    with pytest.raises(NoSystemError, match=r"must tell of a CPU.*or give --dump"):
        describe_device(SystemFiles({}))
