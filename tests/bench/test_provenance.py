import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench import provenance
from bench.provenance import commit_of, inputs_of
from bench.search_cost import RUN_FILE
from bench.search_runs import Sitting, Task
from pipeline.fleet.from_run_file import DEFAULT_PHONES
from profiles.catalogue import load_profile
from profiles.records import record_id

TEXT = RUN_FILE.read_text(encoding="utf-8")
ONE_PHONE = 'profiles = ["redmi-note-4"]'


@pytest.fixture(autouse=True)
def _forgotten():
    inputs_of.cache_clear()
    yield
    inputs_of.cache_clear()


def test_a_runs_inputs_are_its_phones_profiles_and_the_data_of_a_file(tmp_path):
    assert inputs_of(TEXT) == {"profiles": {"redmi-note-4": record_id(load_profile("redmi-note-4"))}, "data": None}
    assert set(inputs_of(TEXT.replace(ONE_PHONE, ""))["profiles"]) == set(DEFAULT_PHONES)
    assert len(inputs_of(TEXT.replace(ONE_PHONE, 'population = "even"'))["profiles"]) > 1
    data = tmp_path / "data.npz"
    of_file = TEXT.replace('source = "digits"', f'source = "npz:{data}"')
    assert inputs_of(of_file)["data"] is None
    inputs_of.cache_clear()
    data.write_bytes(b"examples")
    first = inputs_of(of_file)["data"]
    data.write_bytes(b"others")
    inputs_of.cache_clear()
    assert first != inputs_of(of_file)["data"]
    assert inputs_of("no run file") is None


def test_a_row_of_other_inputs_is_measured_again(tmp_path, monkeypatch):
    task, lines = Task("fednas", 0, TEXT), tmp_path / "rows.jsonl"
    made = []

    def measure(one, _work):
        made.append(one.seed)
        return {}

    sitting = Sitting(tmp_path, lines=lines)
    monkeypatch.setattr("bench.search_runs.ProcessPoolExecutor", lambda count, *_: ThreadPoolExecutor(count))
    (row,) = sitting.rows([task], measure)
    assert (row["inputs"], row["commit"]) == (inputs_of(TEXT), commit_of())
    assert sitting.rows([task], measure) == [row]
    assert made == [0]
    monkeypatch.setattr(provenance, "record_id", lambda _: "another profile of that name")
    inputs_of.cache_clear()
    assert sitting.rows([task], measure)[0]["inputs"]["profiles"] == {"redmi-note-4": "another profile of that name"}
    assert made == [0, 0]
    assert len(lines.read_text().splitlines()) == 2  # the old one stays


def test_the_commit_says_when_code_was_changed_since(tmp_path):
    def git(*words):
        whoever = ("-c", "user.name=a", "-c", "user.email=a")
        subprocess.run(["git", *whoever, *words], cwd=tmp_path, check=True, capture_output=True)

    commit_of.cache_clear()
    assert commit_of(tmp_path / "nowhere") is None
    git("init")
    (tmp_path / "code.py").write_text("one = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    first = commit_of(tmp_path)
    assert len(first) == 12
    commit_of.cache_clear()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert commit_of(tmp_path) == first
    commit_of.cache_clear()
    (tmp_path / "code.py").write_text("one = 2\n")
    assert commit_of(tmp_path) == f"{first}+"
