"""The probe on trees that look like phones; the dumps of real ones where the shared data are."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from device_runtime.probe import probe_host, read_clusters, read_processors

PHONES = Path(__file__).parents[3] / "shared" / "data" / "phones" / "cpuinfo-phones"
NEEDS_SHARED = pytest.mark.skipif(not PHONES.is_dir(), reason="the shared data are not here")
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


def test_an_unknown_core_keeps_its_numbers(tmp_path):
    root = write_tree(tmp_path, {"proc/cpuinfo": core(0, "0xfff")})
    (cluster,) = read_clusters(root, read_processors(root))
    assert (cluster.core, cluster.num_cores, cluster.max_mhz) == ("implementer 0x41 part 0xfff", 1, None)


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


@NEEDS_SHARED
def test_the_dumps_of_real_phones_give_the_cores_and_frequencies_of_their_summary(tmp_path):
    with gzip.open(PHONES / "phones_sysfs.json.gz", "rt", encoding="utf-8") as file:
        dumps = json.load(file)
    with (PHONES / "phones.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phone"] in dumps and "?" not in row["max_freq_khz"]]
    checked = 0
    for row in rows:
        root = write_tree(tmp_path / row["phone"], dumps[row["phone"]]["files"])
        processors = read_processors(root)
        listed = row["max_freq_khz"].split()
        if len(processors) != len(listed):
            continue  # a core was asleep when one of the two was written
        clusters = read_clusters(root, processors)
        found = [cluster.max_mhz.value for cluster in clusters if cluster.max_mhz for _ in range(cluster.num_cores)]
        assert found == sorted(int(khz) / 1000 for khz in listed), row["phone"]
        checked += 1
    assert checked >= 30
