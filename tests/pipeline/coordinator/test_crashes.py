"""The process may end between any two statements: what was acknowledged stays, and repeating the rest counts once."""

from itertools import count

from sqlalchemy import event, select

from device_runtime.wire import Report
from pipeline.coordinator import tables
from pipeline.coordinator.blobs import BlobFolder, sweep


class Crash(BaseException):
    """The process ends here."""


class Countdown:
    """Crashes at the n-th point at which something could be half done."""

    def __init__(self, crash_at: int) -> None:
        self.left = crash_at

    def tick(self, *arguments, **named) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class CrashingBlobs(BlobFolder):
    def __init__(self, folder, countdown) -> None:
        super().__init__(folder, is_durable=False)
        self.countdown = countdown

    def put(self, data):
        self.countdown.tick()
        name = super().put(data)
        self.countdown.tick()
        return name


STEPS = {
    "round": lambda world, said: world.open(cohort_size=1, **world.private_training()),
    "assignment": lambda world, said: world.assignment(1, headroom=world.headroom),
    "update": lambda world, said: world.send_update(1, [1.0] * 6),
    "report": lambda world, said: world.send_report(1, Report(said["assignment"].assignment_id, 20, said["update"])),
    "close": lambda world, said: world.close(said["round"]),
}


def reopen(open_world, countdown):
    world = open_world()
    sweep(world.store, world.blobs)
    world.blobs = CrashingBlobs(world.blobs.folder, countdown)
    event.listen(world.store.engine, "before_cursor_execute", countdown.tick)
    event.listen(world.store.engine, "commit", countdown.tick)
    return world


def run_with_a_crash(open_world, crash_at):
    """A search and its client, each repeating what was not acknowledged: whether it crashed, and what is left."""
    world, countdown, said = open_world(), Countdown(crash_at), {}
    world.private_run()
    world.enrol(1)
    world.store.close()
    world = reopen(open_world, countdown)
    for name, step in STEPS.items():
        try:
            said[name] = step(world, said)
        except Crash:
            world.store.close()
            world = reopen(open_world, countdown)
            said[name] = step(world, said)
    has_crashed, countdown.left = countdown.left <= 0, 0
    sweep(world.store, world.blobs)
    left = [rows_of(world, table) for table in (tables.costs, tables.assignments, tables.releases, tables.blobs)]
    left.append(world.blobs.names())
    world.store.close()
    return has_crashed, (said["close"], left)


def rows_of(world, table):
    with world.store.transaction():
        return [tuple(row) for row in world.store.execute(select(table))]


def test_a_crash_at_any_instant_loses_nothing_and_counts_nothing_twice(open_world, tmp_path):
    has_crashed, expected = run_with_a_crash(open_world, 10**9)
    assert not has_crashed
    assert expected[0].num_reports == 1
    for crash_at in count(1):
        for path in [*tmp_path.glob("handheld.db*"), *(tmp_path / "blobs").iterdir()]:
            path.unlink()
        has_crashed, found = run_with_a_crash(open_world, crash_at)
        assert found == expected, f"after a crash at point {crash_at}"
        if not has_crashed:
            break
    assert crash_at > 40
