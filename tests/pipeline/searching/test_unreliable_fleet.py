import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from pipeline.coordinator import tables
from pipeline.coordinator.store import Store
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.run_result import RESULT
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY, KilledError

UNRELIABLE = ORDINARY.replace(
    "[space]",
    "availability = 0.7\nmean_spell_s = 60.0\nstraggler_share = 0.5\nstraggler_factor = 5.0\n\n[space]",
).replace(
    "[final]",
    'proximal = 0.1\nserver_optimizer = "fedadam"\nserver_learning_rate = 0.05\nserver_momentum = 0.9\n\n[final]',
)


@pytest.fixture
def search(tmp_path):
    """Run a search; gives its result and the plans of its rounds of training."""

    def run(name, text):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.toml").write_text(text, encoding="utf-8")
        result = run_search(SearchRequest(folder / "run.toml", folder / "run"), Unwatched())
        store = Store(f"sqlite:///{folder / 'run' / 'handheld.db'}")
        with store.transaction():
            plans = [json.loads(row.plan) for row in store.execute(select(tables.rounds.c.plan))]
        store.close()
        return result, [plan["train"] for plan in plans if plan["train"]]

    return run


def test_a_search_completes_with_a_third_of_its_clients_away_and_stragglers_five_times_slower(search):
    result, trained = search("unreliable", UNRELIABLE)
    assert [trial.failed for trial in result.trials] == ["", ""]
    assert result.main.accuracy.value > 0
    assert {terms["proximal"] for terms in trained} == {0.1}
    chosen = result.winning.candidate.hyper_parameters
    assert (chosen.server_momentum, chosen.server_beta2, chosen.server_epsilon) == (0.9, 0.99, 1e-3)


@pytest.mark.slow
def test_an_unreliable_fleet_comes_to_the_same_result_again_and_takes_longer_than_another(search):
    result, _ = search("first", UNRELIABLE)
    assert search("again", UNRELIABLE)[0] == result
    assert search("reliable", ORDINARY)[0].emulator_only.virtual_s < result.emulator_only.virtual_s


# A group of two phones, one of which is away, has no round: some are given up after three attempts.
OFTEN_AWAY = (
    FEDNAS.replace("[space]", "availability = 0.5\nmean_spell_s = 100.0\n\n[space]")
    .replace("deadline_s = 300", "deadline_s = 60")
    .replace("pretrain_rounds = 2", "pretrain_rounds = 1")
)


def kill_after_a_second_attempt(request, monkeypatch):
    """Begin a search and kill it right after a second attempt has failed, when that is kept and the step is not."""
    hold_all = EmulatedRounds.hold_all

    def killing(rounds, plans):
        results = hold_all(rounds, plans)
        pairs = zip(plans, results, strict=True)
        if any(plan.round_key.endswith("attempt 2") and result.status == "failed" for plan, result in pairs):
            raise KilledError
        return results

    with monkeypatch.context() as patch:
        patch.setattr(EmulatedRounds, "hold_all", killing)
        with pytest.raises(KilledError):
            run_search(request, Unwatched())


@pytest.mark.slow
def test_a_search_killed_between_attempts_gives_up_at_the_same_attempt(search, tmp_path, monkeypatch):
    unbroken, _ = search("unbroken", OFTEN_AWAY)
    assert any("failed 3 times" in trial.failed for trial in unbroken.trials)
    request = SearchRequest(tmp_path / "unbroken" / "run.toml", tmp_path / "killed")
    kill_after_a_second_attempt(request, monkeypatch)
    run_search(replace(request, is_resumed=True), Unwatched())
    assert (tmp_path / "killed" / RESULT).read_bytes() == (tmp_path / "unbroken" / "run" / RESULT).read_bytes()
