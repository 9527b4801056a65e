"""How often the probe agrees with the published summary of 82 phones: cores by highest frequency, and ABI.

    python -m bench.predict_probe [--data ../shared/data]

A phone agrees when the probe, reading the phone's dump alone,

- finds as many cores as the summary says are possible;
- finds no frequency that the summary does not list, and of each at least as many cores as the summary saw awake and at
  most as many as the kernel's own lists join to one of those: the summary leaves out cores that slept;
- names the summary's ABI, where it has one.

Where the summary saw every core awake this is equality, which the rows tell as `exact`.
"""

import argparse
import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bench.measuring import Bar, new_result, print_result
from device_runtime.probe import DevicePart, describe_device
from device_runtime.processors import CPU, parse_list
from device_runtime.system_files import SystemFiles

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
PHONES = Path("phones") / "cpuinfo-phones"
MIN_SHARE = 0.98
Row = dict[str, Any]


def main() -> None:
    """Compare every phone, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of the shared data.")
    parser.add_argument("-o", "--output", type=Path, help="Write the JSON object to this file as well.")
    arguments = parser.parse_args()
    result = new_result("predict_probe", ())
    result.rows.extend(compare_phones(arguments.data / PHONES))
    share = sum(row["agrees"] for row in result.rows) / len(result.rows)
    result.bars.append(Bar("share of phones that agree", share, MIN_SHARE, share >= MIN_SHARE))
    print_result(result, ["phone", "agrees", "exact", "soc", "clusters", "abi", "reason"], arguments.output)


def compare_phones(folder: Path) -> list[Row]:
    """One row for each phone of the summary `phones.csv`, probed from `phones_sysfs.json.gz`."""
    with gzip.open(folder / "phones_sysfs.json.gz", "rt", encoding="utf-8") as file:
        dumps = json.load(file)
    with (folder / "phones.csv").open(encoding="utf-8") as file:
        return [_compare(row, dumps[row["phone"]]) for row in csv.DictReader(file)]


def _compare(summary: dict[str, str], dump: dict[str, dict[str, str]]) -> Row:
    files = SystemFiles(dump["files"], dump["props"])
    found = describe_device(files)
    reasons = find_disagreements(summary, found, files)
    listed = summary["max_freq_khz"].split()
    return {
        "phone": summary["phone"],
        "agrees": not reasons,
        "exact": "?" not in listed and len(listed) == len(parse_list(summary["possible"])),
        "soc": found.soc,
        "clusters": ", ".join(
            f"{cluster.num_cores}x{cluster.max_mhz.value:g}" if cluster.max_mhz else f"{cluster.num_cores}x?"
            for cluster in found.clusters
        ),
        "abi": found.abi,
        "listed_khz": summary["max_freq_khz"],
        "listed_abi": summary["abi"],
        "reason": "; ".join(reasons),
    }


def find_disagreements(summary: dict[str, str], found: DevicePart, files: SystemFiles) -> list[str]:
    """Tell where the probe and a phone's row of the summary differ; empty when they agree."""
    reasons = []
    possible, total = len(parse_list(summary["possible"])), sum(cluster.num_cores for cluster in found.clusters)
    if total != possible:
        reasons.append(f"{total} cores, the summary has {possible}")
    listed = Counter(int(khz) for khz in summary["max_freq_khz"].split() if khz != "?")
    counts: Counter[int] = Counter()
    for cluster in found.clusters:
        if cluster.max_mhz:
            counts[round(cluster.max_mhz.value * 1000)] += cluster.num_cores
    for khz in sorted(listed | counts):
        most = max(listed[khz], _num_joined(files, khz)) if khz in listed else 0
        if not listed[khz] <= counts[khz] <= most:
            reasons.append(f"{counts[khz]} cores of {khz} kHz, the summary has {listed[khz]} to {most}")
    if summary["abi"] and found.abi != summary["abi"]:
        reasons.append(f"ABI {found.abi}, the summary has {summary['abi']}")
    return reasons


def _num_joined(files: SystemFiles, khz: int) -> int:
    """Cores that the kernel's lists join to those that told this frequency: by clock, or else by cluster."""
    clock, cluster = set[int](), set[int]()
    for path, text in files.texts.items():
        if path.endswith("/cpufreq/cpuinfo_max_freq") and text.strip() == str(khz):
            core = path.removeprefix(f"{CPU}/cpu").partition("/")[0]
            clock |= {int(core)} | parse_list(files.texts.get(f"{CPU}/cpu{core}/cpufreq/related_cpus", ""))
            cluster |= parse_list(files.texts.get(f"{CPU}/cpu{core}/topology/core_siblings_list", ""))
    return len(clock | cluster)


if __name__ == "__main__":
    main()
