import json
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select

from pipeline.coordinator import tables
from pipeline.coordinator.store import Store
from pipeline.fleet.fleet import Fleet
from pipeline.run_result import NoResultError, read_finished_run
from pipeline.searching.loop import Unwatched
from pipeline.searching.run_folder import RunFolderError
from pipeline.searching.schedule import ScheduleError
from pipeline.searching.session import SearchRequest, run_search
from search.budget import InfeasibleError
from tests.pipeline.searching.conftest import ORDINARY, PRIVATE


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished ordinary and a finished private search, by name."""
    runs = {}
    for name, text in (("ordinary", ORDINARY), ("private", PRIVATE)):
        folder = tmp_path_factory.mktemp(name)
        run_file = folder / "run.toml"
        run_file.write_text(text, encoding="utf-8")
        run_search(SearchRequest(run_file, folder / "run"), Unwatched())
        runs[name] = folder
    return runs


def test_a_finished_search_leaves_a_result_and_a_model_that_belong_together(finished):
    run = read_finished_run(finished["ordinary"] / "run")
    assert run.artifact.artifact_id == run.result.artifact_id
    assert len(run.parameters) == run.result.num_parameters == run.artifact.manifest.num_parameters
    assert [trial.index for trial in run.result.trials] == [0, 1]
    assert run.result.winner == max(run.result.trials, key=lambda trial: trial.accuracy).index
    assert run.result.accuracy.low <= run.result.accuracy.value <= run.result.accuracy.high
    assert run.result.privacy is None


def test_every_client_trains_on_its_own_and_the_test_splits_are_read_once(finished):
    store = Store(f"sqlite:///{finished['ordinary'] / 'run' / 'handheld.db'}")
    with store.transaction():
        rows = store.execute(select(tables.rounds.c.plan).order_by(tables.rounds.c.number)).fetchall()
    store.close()
    plans = [json.loads(row.plan) for row in rows]
    splits = [plan["evaluate"]["split"] for plan in plans if plan["evaluate"]]
    assert splits == ["validation", "validation", "test"]
    assert sum(plan["train"] is not None for plan in plans) == 3


def test_a_private_search_spends_what_was_planned_and_says_to_whom_it_is_private(finished):
    privacy = read_finished_run(finished["private"] / "run").result.privacy
    assert privacy is not None
    assert privacy.epsilon == max(privacy.epsilon_by_split.values())
    assert 0 < privacy.epsilon <= privacy.target_epsilon
    assert set(privacy.epsilon_by_split) == {"train", "validation", "test"}
    assert "the server included" in privacy.adversary
    counts = {(row.phase, row.split): row.num_releases for row in privacy.phases}
    assert counts == {
        ("search", "train"): 2,
        ("search", "validation"): 2,
        ("final", "train"): 1,
        ("test", "test"): 1,
    }


def test_the_same_seed_gives_the_same_result_and_another_seed_another(finished, tmp_path):
    before = read_finished_run(finished["ordinary"] / "run")
    run_file = tmp_path / "run.toml"
    run_file.write_text(ORDINARY, encoding="utf-8")
    again = run_search(SearchRequest(run_file, tmp_path / "again"), Unwatched())
    assert again == before.result
    run_file.write_text(ORDINARY.replace("seed = 3", "seed = 4"), encoding="utf-8")
    other = run_search(SearchRequest(run_file, tmp_path / "other"), Unwatched())
    assert other.parameters_sha256 != again.parameters_sha256


@pytest.mark.parametrize("name", ["ordinary", "private"])
@pytest.mark.parametrize("share", [0.02, 0.55, *(pytest.param(n, marks=pytest.mark.slow) for n in (0.3, 0.8, 0.97))])
def test_a_search_killed_at_any_event_resumes_to_the_same_result(finished, tmp_path, monkeypatch, name, share):
    unbroken = read_finished_run(finished[name] / "run")
    run_file = finished[name] / "run.toml"
    kill_after = int(share * count_events(finished[name], tmp_path, monkeypatch))
    request = SearchRequest(run_file, tmp_path / "run")
    step, seen = Fleet._step, [0]

    def counted(fleet):
        seen[0] += 1
        if seen[0] == kill_after:
            raise KilledError
        step(fleet)

    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "_step", counted)
        with pytest.raises(KilledError):
            run_search(request, Unwatched())
    with pytest.raises(NoResultError, match="handheld search --resume"):
        read_finished_run(tmp_path / "run")
    resumed = run_search(replace(request, is_resumed=True), Unwatched())
    assert resumed == unbroken.result
    assert np.array_equal(read_finished_run(tmp_path / "run").parameters, unbroken.parameters)


def count_events(folder, tmp_path, monkeypatch):
    """Events of an unbroken run, counted once a folder."""
    kept = folder / "num_events"
    if not kept.exists():
        step, seen = Fleet._step, [0]

        def counted(fleet):
            seen[0] += 1
            step(fleet)

        with monkeypatch.context() as patch:
            patch.setattr(Fleet, "_step", counted)
            run_search(SearchRequest(folder / "run.toml", tmp_path / "counted"), Unwatched())
        kept.write_text(str(seen[0]), encoding="utf-8")
    return int(kept.read_text(encoding="utf-8"))


def test_a_folder_with_a_search_is_not_begun_again_and_not_mixed_with_another(finished, tmp_path, write_run_file):
    folder = finished["ordinary"] / "run"
    with pytest.raises(RunFolderError, match="continue it with --resume"):
        run_search(SearchRequest(finished["ordinary"] / "run.toml", folder), Unwatched())
    other = write_run_file(ORDINARY.replace("trials = 2", "trials = 3"))
    with pytest.raises(RunFolderError, match="is not the run file that"):
        run_search(SearchRequest(other, folder, is_resumed=True), Unwatched())
    run_file = write_run_file(ORDINARY)
    with pytest.raises(RunFolderError, match="no search to resume"):
        run_search(SearchRequest(run_file, tmp_path / "new", is_resumed=True), Unwatched())


def test_an_impossible_budget_is_an_error_that_names_the_smallest_need(tmp_path, write_run_file):
    run_file = write_run_file(ORDINARY.replace("size_kib = 64.0", "latency_ms = 0.0001"))
    with pytest.raises(InfeasibleError, match=r"no candidate met budget latency_ms=0.0001 .* the smallest needs"):
        run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())


def test_a_plan_over_the_target_is_refused_before_anything_is_trained(tmp_path, write_run_file):
    run_file = write_run_file(PRIVATE.replace("target_epsilon = 8.0", "target_epsilon = 1.0"))
    with pytest.raises(ScheduleError, match=r"raise privacy\.\w+\.noise_multiplier from 1 to"):
        run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    assert not (tmp_path / "run" / "handheld.db").exists()


def test_an_emulated_run_does_not_attach(tmp_path, write_run_file):
    with pytest.raises(ValueError, match='kind = "real"'):
        run_search(SearchRequest(write_run_file(ORDINARY), tmp_path / "run", attach=tmp_path), Unwatched())
