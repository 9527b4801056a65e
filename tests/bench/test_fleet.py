import json

import numpy as np
import pytest

from bench import fleet
from bench.fleet_scene import PARTITION_CLIENTS, RESAMPLED_EXAMPLES, SOURCE, make_shares
from bench.measuring import new_result, print_result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fleet.compile_network(tmp_path_factory.mktemp("bench") / "artifact")


def test_fleet_and_bare_loop_take_turns_over_the_same_work(model):
    rows, total_s = fleet.in_process(3, 2, model)
    assert [row["name"] for row in rows] == ["fleet", "bare loop"]
    for row in rows:
        assert (row["phones"], row["updates"], len(row["times_s"])) == (3, 6, 2)
        assert row["updates_per_s"] > 0
    assert rows[1]["vs_bare"] == 1
    assert total_s > sum(rows[0]["times_s"])


def test_a_fleet_that_does_other_work_than_the_loop_is_not_compared():
    update = np.ones(3, np.float32)
    fleet.check_same_work(update, update * (1 + 1e-6))
    with pytest.raises(RuntimeError, match=r"do not do the same work: their updates differ by 0\.5"):
        fleet.check_same_work(update, update * np.float32(1.5))


@pytest.mark.slow
def test_real_clients_report_over_sockets(model):
    rows = fleet.over_http(2, 1, model)
    assert [(row["name"], row["phones"], row["updates"]) for row in rows] == [
        ("HTTP clients", 2, 2),
        ("bare loop", 2, 2),
    ]


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process_and_every_row_can_be_shown(model, capsys):
    row = fleet.memory(4, 2, model)
    assert (row["phones"], row["updates"]) == (4, 2)
    assert 0 < row["imports_mib"] <= row["made_mib"] <= row["memory_mib"]
    result = new_result("fleet", fleet.PACKAGES)
    result.rows.extend([row, *fleet.in_process(2, 1, model)[0]])
    print_result(result, fleet.COLUMNS)
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]) == 3


def test_thirty_phones_hold_all_digits_and_more_hold_some_drawn_anew():
    shares = make_shares(PARTITION_CLIENTS)
    assert sorted(i for share in shares for i in share) == sorted(SOURCE.ids())
    resampled = make_shares(PARTITION_CLIENTS + 10)
    assert [len(set(share)) for share in resampled] == [RESAMPLED_EXAMPLES] * 40
