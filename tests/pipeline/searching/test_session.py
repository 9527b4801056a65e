import importlib
import json
import sys
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from device_runtime.vectors import write_vector
from pipeline.compile.artifact import initial_parameters
from pipeline.coordinator import tables
from pipeline.coordinator.store import Store
from pipeline.fleet.fleet import Fleet
from pipeline.fleet.ray_workers import RayError
from pipeline.limits import needs_of
from pipeline.report.costs import costs_of
from pipeline.run_result import PARAMETERS, NoResultError, model_folder, read_finished_run, read_result
from pipeline.searching import results
from pipeline.searching.loop import Unwatched
from pipeline.searching.run_folder import RunFolderError
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.schedule import ScheduleError
from pipeline.searching.session import run_search
from search.budget import InfeasibleError
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY, PRIVATE, KilledError

DRAWN = 'population = "trace-2020"\nheat = true\ntails = true'
STRAINED = ORDINARY.replace('profiles = ["pixel-4", "redmi-8"]', DRAWN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folders of finished searches with their numbers of events: ordinary, private, FedNAS, of hot phones drawn."""
    runs = {}
    for name, text in (("ordinary", ORDINARY), ("private", PRIVATE), ("fednas", FEDNAS), ("strained", STRAINED)):
        folder = tmp_path_factory.mktemp(name)
        run_file = folder / "run.toml"
        run_file.write_text(text, encoding="utf-8")
        step, seen = Fleet._step, [0]

        def counted(fleet, step=step, seen=seen):
            seen[0] += 1
            step(fleet)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Fleet, "_step", counted)
            run_search(SearchRequest(run_file, folder / "run"), Unwatched())
        (folder / "num_events").write_text(str(seen[0]), encoding="utf-8")
        runs[name] = folder
    return runs


def test_a_finished_search_leaves_a_result_and_a_model_that_belong_together(finished):
    run = read_finished_run(finished["ordinary"] / "run")
    assert run.artifact.artifact_id == run.result.main.artifact_id
    assert len(run.parameters) == run.result.main.num_parameters == run.artifact.manifest.num_parameters
    assert [trial.index for trial in run.result.trials] == [0, 1]
    assert run.result.main.trial == max(run.result.trials, key=lambda trial: trial.accuracy).index
    accuracy = run.result.main.accuracy
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert sorted(run.result.main.platforms) == ["pixel-4", "redmi-8"]
    assert run.result.privacy is None


def test_a_model_whose_training_diverged_is_told_and_others_are_not(finished, tmp_path):
    run_file = tmp_path / "run.toml"
    run_file.write_text(ORDINARY.replace("local_epochs = 1", "local_epochs = 1\nserver_learning_rate = 1e12"))
    result = run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    (told,) = (warning for warning in result.warnings if "diverged" in warning)
    assert told.startswith(
        f"the model of trial {result.main.trial} has no use: training diverged, its largest parameter"
    )
    assert not any("diverged" in warning for warning in read_result(finished["ordinary"] / "run").warnings)


def test_the_memory_of_what_ships_is_looked_at_again_in_its_graph(tmp_path, monkeypatch):
    run_file, asked = tmp_path / "run.toml", []
    run_file.write_text(ORDINARY.replace("size_kib = 64.0", "memory_mib = 1.0"), encoding="utf-8")

    def predict(graph):
        asked.append(graph)
        return SimpleNamespace(peak=SimpleNamespace(written=1.25 * 2**20))

    monkeypatch.setattr(results, "predict_memory", predict)
    result = run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    assert asked == [read_finished_run(tmp_path / "run").artifact.gradient]
    told = [warning for warning in result.warnings if "takes 1.25 MiB, over memory_mib = 1 (" in warning]
    assert {line.split(":")[0].rpartition(" ")[2] for line in told} == {"pixel-4", "redmi-8"}


def plans_of(run):
    """Every round's plan, in order."""
    store = Store(f"sqlite:///{run / 'handheld.db'}")
    with store.transaction():
        rows = store.execute(select(tables.rounds.c.plan).order_by(tables.rounds.c.number)).fetchall()
    store.close()
    return [json.loads(row.plan) for row in rows]


def begins_fresh(run):
    """Whether the final training's first round sent what the network's initial parameters are."""
    result = read_result(run)
    first = next(plan for plan in plans_of(run) if plan["phase"] == "final")
    fresh = write_vector("parameters", initial_parameters(result.winning.candidate.architecture, result.seed))
    return first["parameters_sha256"] == sha256(fresh).hexdigest()


def test_final_training_goes_on_from_the_search_or_begins_with_fresh_weights(finished, tmp_path):
    assert not begins_fresh(finished["ordinary"] / "run")
    run_file = tmp_path / "run.toml"
    run_file.write_text(ORDINARY.replace("[final]", '[final]\nstart = "fresh"'), encoding="utf-8")
    result = run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    assert begins_fresh(tmp_path / "run")
    assert result.main.is_fresh
    assert not read_result(finished["ordinary"] / "run").main.is_fresh


def test_every_client_trains_on_its_own_and_the_test_splits_are_read_once(finished):
    plans = plans_of(finished["ordinary"] / "run")
    splits = [plan["evaluate"]["split"] for plan in plans if plan["evaluate"]]
    assert splits == ["validation", "validation", "test"]
    assert sum(plan["train"] is not None for plan in plans) == 3


def test_every_round_reads_the_split_that_the_seed_names(finished):
    assert {plan["rotation"] for plan in plans_of(finished["ordinary"] / "run")} == {3}  # the seed, of 0 to 4


@pytest.mark.parametrize("name", ["ordinary", "fednas"])
def test_what_is_tested_is_what_is_shipped(finished, name):
    run = finished[name] / "run"
    result = read_result(run)
    tested = {plan["trial"]: plan["parameters_sha256"] for plan in plans_of(run) if plan["phase"] == "test"}
    assert tested == {model.trial: model.parameters_sha256 for model in result.models}
    exact = {model.trial: result.emulator_only.test_accuracies[str(model.trial)] for model in result.models}
    assert {model.trial: model.accuracy.value for model in result.models} == pytest.approx(exact)


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


def test_fednas_gives_each_platform_its_own_network_within_its_limits(finished):
    result = read_result(finished["fednas"] / "run")
    models = {name: model for model in result.models for name in model.platforms}
    assert set(models) == {"pixel-4", "redmi-8"}
    assert models["redmi-8"].num_parameters < models["pixel-4"].num_parameters
    for model in result.models:
        run = read_finished_run(finished["fednas"] / "run", model.platforms[0])
        assert run.trial.index == model.trial
        assert len(run.parameters) == model.num_parameters == run.artifact.manifest.num_parameters
        assert all(needs.is_met for needs in needs_of(result, model))
    assert not [warning for warning in result.warnings if "limits" in warning]


def test_the_ledger_of_fednas_has_as_many_client_rounds_as_were_to_be_expected(finished):
    result = read_result(finished["fednas"] / "run")
    first, *others = result.trials
    assert (first.rounds, first.num_clients) == (0, None)
    kept = [one for one in others if result.trial(one.start_from).candidate == one.candidate]
    fresh = [one for one in others if one not in kept]
    assert len(fresh) > len(kept) > 1  # several steps, some with several candidates
    groups_of = 2  # clients: 4 in 2 groups
    stages = {(row.name, row.stage): row for row in costs_of(result).stages}
    assert stages["search", "pretraining"].client_rounds == len(fresh) * 2 * groups_of  # R_pre rounds
    assert stages["search", "continued"].client_rounds == len(kept) * 1 * groups_of  # R rounds
    assert stages["search", "scoring"].evaluations == 4 + (len(fresh) + len(kept)) * groups_of
    assert stages["final", ""].client_rounds == stages["test", ""].evaluations == 4 * len(result.models)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_seed_another(finished, tmp_path):
    before = read_finished_run(finished["ordinary"] / "run")
    run_file = tmp_path / "run.toml"
    run_file.write_text(ORDINARY, encoding="utf-8")
    again = run_search(SearchRequest(run_file, tmp_path / "again"), Unwatched())
    assert again == before.result
    run_file.write_text(ORDINARY.replace("seed = 3", "seed = 4"), encoding="utf-8")
    other = run_search(SearchRequest(run_file, tmp_path / "other"), Unwatched())
    assert other.main.parameters_sha256 != again.main.parameters_sha256


def kill_during(request, event, monkeypatch):
    """Begin a search and kill it at an event of its fleet."""
    step, seen = Fleet._step, [0]

    def counted(fleet):
        seen[0] += 1
        if seen[0] == event:
            raise KilledError
        step(fleet)

    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "_step", counted)
        with pytest.raises(KilledError):
            run_search(request, Unwatched())


KILLS = [
    (name, share) for name in ("ordinary", "private", "fednas", "strained") for share in (0.02, 0.3, 0.55, 0.8, 0.97)
]
QUICK = [("ordinary", 0.02), ("ordinary", 0.55), ("private", 0.55), ("strained", 0.55)]
SLOW = [pytest.param(*kill, marks=pytest.mark.slow) for kill in KILLS if kill not in QUICK]


@pytest.mark.parametrize(("name", "share"), [*QUICK, *SLOW])
def test_a_search_killed_at_any_event_resumes_to_the_same_result(finished, tmp_path, monkeypatch, name, share):
    unbroken = read_result(finished[name] / "run")
    run_file = finished[name] / "run.toml"
    kill_after = int(share * int((finished[name] / "num_events").read_text(encoding="utf-8")))
    request = SearchRequest(run_file, tmp_path / "run")
    kill_during(request, kill_after, monkeypatch)
    with pytest.raises(NoResultError, match="handheld search --resume"):
        read_finished_run(tmp_path / "run")
    resumed = run_search(replace(request, is_resumed=True), Unwatched())
    assert resumed == unbroken
    for model in unbroken.models:
        again, before = (model_folder(run, model.trial) for run in (tmp_path / "run", finished[name] / "run"))
        assert (again / PARAMETERS).read_bytes() == (before / PARAMETERS).read_bytes()


ON_RAY = ORDINARY.replace("[space]", 'engine = "ray"\n\n[space]')


def test_the_engine_that_is_asked_for_takes_the_place_of_the_run_files(finished, tmp_path, write_run_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    run_file = write_run_file(ON_RAY)
    request = SearchRequest(run_file, tmp_path / "run")
    with pytest.raises(RayError, match="needs the library Ray"):
        run_search(request, Unwatched())
    begun = run_search(replace(request, engine="process"), Unwatched())  # what was refused has left its folder free
    assert begun == read_result(finished["ordinary"] / "run")


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_search_killed_on_this_machine_goes_on_on_a_cluster_to_the_same_result(finished, tmp_path, monkeypatch):
    ray = importlib.import_module("ray")  # only `make test-ray` has it, and there nothing is skipped
    request = SearchRequest(finished["fednas"] / "run.toml", tmp_path / "run")
    kill_during(request, int((finished["fednas"] / "num_events").read_text(encoding="utf-8")) // 2, monkeypatch)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        resumed = run_search(replace(request, is_resumed=True, engine="ray"), Unwatched())
    finally:
        ray.shutdown()
    assert resumed == read_result(finished["fednas"] / "run")


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


def test_a_search_with_real_clients_has_no_engine(tmp_path, write_run_file):
    text = ORDINARY.replace('"emulated"', '"real"\ntargets = ["pixel-4"]')
    text = text.replace('[fleet]\nprofiles = ["pixel-4", "redmi-8"]\n', "")
    request = SearchRequest(write_run_file(text), tmp_path / "run", attach=tmp_path, engine="ray")
    with pytest.raises(ValueError, match="--engine ray says where emulated phones compute: leave it or --attach out"):
        run_search(request, Unwatched())
