import json

import pytest
from sqlalchemy import select

from pipeline.coordinator import tables
from pipeline.coordinator.store import Store
from pipeline.searching.loop import Unwatched
from pipeline.searching.session import SearchRequest, run_search
from tests.pipeline.searching.conftest import ORDINARY

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
