import csv
import gzip
import json

import pytest

from bench.predict_probe import DATA, MIN_SHARE, PHONES, compare_phones

CPU = "/sys/devices/system/cpu"
ROW = {"phone": "p", "max_freq_khz": "1000 1000 2000", "possible": "0-3", "abi": "arm64-v8a"}


@pytest.fixture
def compare(tmp_path):
    """The bench's row for a phone of four cores, the last of which slept, and a summary."""
    texts = {f"{CPU}/possible": "0-3", "/proc/cpuinfo": "processor : 0\nCPU architecture: 8\n"}
    for core, khz, related in ((0, 1000, "0 1"), (1, 1000, "0 1"), (2, 2000, "2 3")):
        texts[f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq"] = f"{khz}\n"
        texts[f"{CPU}/cpu{core}/cpufreq/related_cpus"] = related

    def compare(**changes: str):
        with gzip.open(tmp_path / "phones_sysfs.json.gz", "wt", encoding="utf-8") as file:
            json.dump({"p": {"files": texts, "props": {}}}, file)
        with (tmp_path / "phones.csv").open("w", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ROW)
            writer.writeheader()
            writer.writerow(ROW | changes)
        (row,) = compare_phones(tmp_path)
        return row

    return compare


def test_a_phone_agrees_when_the_kernel_joins_the_cores_that_slept(compare):
    row = compare()
    assert (row["agrees"], row["exact"], row["reason"]) == (True, False, "")
    assert row["clusters"] == "2x1, 2x2"
    assert compare(max_freq_khz="1000 1000 2000 2000")["exact"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"possible": "0-5"}, "4 cores, the summary has 6"),
        ({"max_freq_khz": "1000 1000 3000"}, "2 cores of 2000 kHz, the summary has 0 to 0"),
        ({"max_freq_khz": "1000 1000 1000 2000"}, "2 cores of 1000 kHz, the summary has 3 to 3"),
        ({"abi": "armeabi-v7a"}, "ABI arm64-v8a, the summary has armeabi-v7a"),
    ],
)
def test_each_kind_of_disagreement_is_told(compare, changes, reason):
    row = compare(**changes)
    assert not row["agrees"]
    assert reason in row["reason"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_nearly_all_published_dumps_agree_with_their_summary():
    rows = compare_phones(DATA / PHONES)
    assert len(rows) == 82
    assert sum(row["agrees"] for row in rows) >= MIN_SHARE * len(rows)
    assert sum(row["exact"] for row in rows) >= 40
