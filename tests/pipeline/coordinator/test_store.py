from dataclasses import replace

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from device_runtime.accounting import Budget
from pipeline.coordinator import tables
from pipeline.coordinator.database import is_disk_error
from pipeline.coordinator.eligibility import Device
from pipeline.coordinator.store import Store, StoreError


@pytest.fixture
def store():
    return Store("sqlite://")


def test_a_failed_transaction_leaves_nothing(world):
    world.run()

    def write_half():
        with world.store.transaction():
            world.store.put_record("run", "state", {"step": 1})
            world.store.load_run("ghost")

    with pytest.raises(StoreError):
        write_half()
    with world.store.transaction():
        assert world.store.get_record("run", "state") is None


def test_transactions_do_not_nest_and_nothing_runs_outside_of_one(store):
    with store.transaction(), pytest.raises(RuntimeError, match="they do not nest"), store.transaction():
        pass
    with pytest.raises(RuntimeError, match="no transaction is open"):
        store.open_runs()


def test_a_run_registered_again_must_be_the_same(world):
    run = world.run()
    world.run()
    with (
        pytest.raises(StoreError, match="'run' has other settings here: resume it unchanged"),
        world.store.transaction(),
    ):
        world.store.add_run(replace(run, budget=Budget(1.0, 1e-5, 20)))
    with world.store.transaction():
        assert world.store.load_run("run") == run


def test_an_unknown_run_is_named(store):
    with pytest.raises(StoreError, match="run 'ghost' is not in this database"), store.transaction():
        store.load_run("ghost")


def test_a_finished_run_is_not_open(world):
    kept, finished = world.run("kept"), world.run("finished")
    with world.store.transaction():
        assert world.store.open_runs() == (finished, kept)
        world.store.finish_run("finished")
        assert world.store.open_runs() == (kept,)


def test_records_are_kept_by_run_and_key_and_survive_reopening(world, open_world):
    world.run()
    world.run("other")
    with world.store.transaction():
        world.store.put_record("run", "state", {"step": 1})
        world.store.put_record("run", "state", {"step": 2, "names": ("a",)})
        world.store.put_record("other", "state", Budget(1.0, 1e-5, 20))
    world.store.close()
    store = open_world().store
    with store.transaction():
        assert store.get_record("run", "state") == {"step": 2, "names": ["a"]}
        assert store.get_record("other", "state") == {"epsilon": 1, "delta": 1e-5, "order": 20}
        assert store.get_record("run", "nothing") is None


def test_a_record_needs_its_run(store):
    with pytest.raises(IntegrityError), store.transaction():
        store.put_record("ghost", "state", 1)


def test_devices_are_listed_by_id_with_what_they_said_last(world):
    with world.store.transaction():
        for name in "cab":
            world.store.add_device(Device(name, "real", f"key of {name}"))
        world.store.save_check_in("b", world.check_in_message)
        assert [device.device_id for device in world.store.list_devices()] == ["a", "b", "c"]
        assert world.store.find_device("b") == Device("b", "real", "key of b", world.check_in_message)
        assert world.store.find_device("d") is None


@pytest.mark.parametrize(
    ("schema", "cure"), [(99, "update handheld"), (0, "go on with the version that wrote it, or begin anew in another")]
)
def test_a_database_of_another_schema_is_refused(tmp_path, schema, cure):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    store = Store(url)
    with store.transaction():
        store.execute(update(tables.about).values(schema=schema))
    store.close()
    with pytest.raises(StoreError, match=f"has schema {schema}, this version reads 1: {cure}"):
        Store(url)


@pytest.mark.parametrize("name", ["missing/folder/a.db", "text.db"])
def test_what_is_no_database_is_told(tmp_path, name):
    (tmp_path / "text.db").write_text("this is no database, only text" * 100)
    with pytest.raises(StoreError, match=rf"database .*{name} cannot be opened: .*name a folder"):
        Store(f"sqlite:///{tmp_path / name}")


def test_a_database_that_a_full_disk_keeps_from_being_opened_needs_no_other_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.coordinator.store.is_disk_error", lambda _: True)
    (tmp_path / "text.db").write_text("this is no database, only text" * 100)
    with pytest.raises(StoreError, match=r"cannot be opened: .*; free space on its disk and try again"):
        Store(f"sqlite:///{tmp_path / 'text.db'}")


def test_a_full_disk_is_told_apart_from_a_wrong_statement(store):
    def execute(*statements):
        with store.transaction():
            for one in statements:
                store.execute(text(one))

    with pytest.raises(OperationalError, match="database or disk is full") as full:
        execute("PRAGMA max_page_count = 1", "CREATE TABLE one_more (page)")
    with pytest.raises(OperationalError, match="no such table") as wrong:
        execute("SELECT * FROM nowhere")
    assert is_disk_error(full.value)
    assert not is_disk_error(wrong.value)


def test_a_transaction_has_the_write_lock_from_its_beginning(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    first, second = Store(url), Store(url)
    with second.transaction():
        second.execute(text("PRAGMA busy_timeout = 0"))
    with first.transaction(), pytest.raises(Exception, match="database is locked"), second.transaction():
        pass


@pytest.mark.parametrize(("synchronous", "value"), [("FULL", 2), ("NORMAL", 1), ("OFF", 0)])
def test_sqlite_is_set_up_as_asked(tmp_path, synchronous, value):
    store = Store(f"sqlite:///{tmp_path / 'a.db'}", synchronous)
    with store.transaction():
        found = [
            store.execute(text(f"PRAGMA {name}")).scalar() for name in ("synchronous", "journal_mode", "foreign_keys")
        ]
    assert found == [value, "wal", 1]
