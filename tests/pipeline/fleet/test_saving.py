from dataclasses import replace

import pytest

from device_runtime.terms import PrivacyTerms, RewardTerms
from pipeline.coordinator import tables
from pipeline.coordinator.cost_ledger import costs_by_phase
from pipeline.fleet import rounds as rounds_module
from pipeline.fleet.asgi import AsgiTransport
from pipeline.fleet.availability import AvailabilityTerms
from pipeline.fleet.fleet import Fleet

FLAKY = AvailabilityTerms(0.6, 10.0)
# Two places too many, so that rounds end with phones at work: their charges and seconds belong to a round that is over.
SHAPE = {"cohort_size": 2, "over_selection": 2.0}
NUM_ROUNDS = 3


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def kill_after(monkeypatch):
    """Let the fleet live for so many events; a negative number never ends it."""
    real, left = Fleet._step, [-1]

    def step(fleet):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(fleet)

    monkeypatch.setattr(Fleet, "_step", step)

    def set_(count: int) -> None:
        left[0] = count

    set_.used = lambda: -1 - left[0]
    return set_


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_private", [False, True])
def test_a_run_killed_after_any_event_goes_on_to_the_same_bytes(is_private, step, emulate, kit, kill_after):
    settings = {"budget": kit.budget if is_private else None, "availability": FLAKY}
    whole = emulate("whole", **settings)
    whole.train(NUM_ROUNDS, **SHAPE)
    num_events, expected = kill_after.used(), whole.everything()
    assert num_events > 60
    assert has_late_bytes(expected["tables"]["costs"])
    for count in range(num_events % step, num_events, step):
        name = f"killed after {count}"
        kill_after(count)
        with pytest.raises(Killed):
            emulate(name, **settings).train(NUM_ROUNDS, **SHAPE)
        kill_after(-1)
        resumed = emulate(name, **settings)
        resumed.train(NUM_ROUNDS, **SHAPE)
        assert resumed.everything() == expected, name


def has_late_bytes(costs) -> bool:
    """Whether an assignment has bytes in a row beside the one that its round ended with."""
    names = tables.costs.columns.keys()
    rows = [dict(zip(names, row, strict=True)) for row in costs]
    with_bytes = [row["assignment_id"] for row in rows if row["bytes_up"] or row["bytes_down"]]
    return len(with_bytes) > len(set(with_bytes))


def test_the_ledger_has_every_byte_of_blobs_and_reports_that_reached_anybody(emulate, monkeypatch):
    exchanged = {"PUT": 0, "GET": 0}
    send = AsgiTransport.send

    def watched(transport, method, target, headers, body):
        answer = send(transport, method, target, headers, body)
        if method == "PUT":  # updates and reports, refused ones too
            exchanged["PUT"] += len(body)
        elif "/blobs/" in target:
            exchanged["GET"] += len(answer.body)
        statuses.add((method, answer.status))
        return answer

    statuses: set[tuple[str, int]] = set()
    monkeypatch.setattr(AsgiTransport, "send", watched)
    run = emulate(availability=FLAKY)
    run.train(2 * NUM_ROUNDS, **SHAPE)
    (cost,) = costs_by_phase(run.rounds.store, "run")
    assert ("PUT", 409) in statuses
    assert exchanged == {"PUT": cost.bytes_up, "GET": cost.bytes_down}


def test_all_releases_of_an_assignment_are_charged_again_where_a_run_goes_on(emulate, kit):
    reward = RewardTerms("gain", 2.0, PrivacyTerms("device", 1.0, 8.0))
    rewarded = {"train": replace(kit.private_terms, reward=reward)}
    whole, stopped = (emulate(name, budget=kit.budget) for name in ("whole", "stopped"))
    whole.train(2, **SHAPE | rewarded)
    stopped.train(1, **SHAPE | rewarded)
    resumed = emulate("stopped", budget=kit.budget)
    resumed.train(2, **SHAPE | rewarded)
    assert resumed.everything()["ledgers"] == whole.everything()["ledgers"]
    kinds = [release.kind for release in whole.rounds.fleet.phones[0].ledger.releases()]
    assert kinds[:2] == ["update", "reward"]


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_kill_around_saving_costs_nothing_twice(moment, emulate, kit, monkeypatch):
    settings = {"budget": kit.budget, "availability": FLAKY}
    whole = emulate("whole", **settings)
    whole.train(NUM_ROUNDS, **SHAPE)
    kill_in_saving(monkeypatch, moment)
    with pytest.raises(Killed):
        emulate("killed", **settings).train(NUM_ROUNDS, **SHAPE)
    monkeypatch.undo()
    resumed = emulate("killed", **settings)
    resumed.train(NUM_ROUNDS, **SHAPE)
    assert resumed.everything() == whole.everything()


def kill_in_saving(monkeypatch, moment: str) -> None:
    """Kill the process at its second round, before, in or after the transaction that keeps the fleet."""
    real = rounds_module.save_fleet

    def save(store, run_id, fleet, before, last_round):
        if last_round == 2 and moment == "before":
            raise Killed
        if last_round == 2 and moment == "within":
            monkeypatch.setattr(store, "put_record", kill)
        saved = real(store, run_id, fleet, before, last_round)
        if last_round == 2:
            raise Killed
        return saved

    def kill(*_arguments):
        raise Killed

    monkeypatch.setattr(rounds_module, "save_fleet", save)


def test_only_phones_that_did_something_are_written_again(emulate, monkeypatch):
    run = emulate(num_phones=4)
    run.train(1)
    written = []
    real = run.rounds.store.put_record
    monkeypatch.setattr(run.rounds.store, "put_record", lambda *row: (written.append(row[1]), real(*row)))
    run.rounds.fleet.changed.add(2)
    rounds_module.save_fleet(run.rounds.store, "run", run.rounds.fleet, run.rounds._saved, 1)
    assert written == ["fleet/phone/2", "fleet"]


def test_a_run_is_not_resumed_with_other_clients(emulate):
    emulate(num_phones=3).train(1)
    for num_phones in (2, 4):
        with pytest.raises(
            ValueError, match=f"run 'run' has 3 phones, this fleet has {num_phones}: resume it with the"
        ):
            emulate(num_phones=num_phones)
