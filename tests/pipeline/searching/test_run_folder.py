import errno
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from device_runtime.folder_lock import lock_folder
from pipeline.coordinator.store import Store
from pipeline.demo import run as demo
from pipeline.fleet.rounds import EmulatedRounds
from pipeline.searching.loop import Unwatched
from pipeline.searching.run_folder import DiskError, RunFolder, RunFolderError
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from tests.pipeline.searching.conftest import ORDINARY

IN_USE = "another process searches in .*: wait until it ends, or end it and go on with --resume"


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_folder_in_which_another_process_searches_is_refused_and_left_as_it_is(tmp_path, write_run_file, is_resumed):
    run_file, folder = write_run_file(ORDINARY), RunFolder(tmp_path / "run")
    with folder.open(run_file, is_resumed=False):
        pass
    kept = (folder.path / "run.toml").read_bytes()
    with closing(lock_folder(folder.path)), pytest.raises(RunFolderError, match=IN_USE):
        run_search(SearchRequest(run_file, folder.path, is_resumed), Unwatched())
    assert sorted(path.name for path in folder.path.iterdir()) == ["lock", "run.toml"]
    assert (folder.path / "run.toml").read_bytes() == kept


def test_a_folder_is_locked_while_it_is_open_and_free_after_an_error(tmp_path, write_run_file):
    run_file, folder = write_run_file(ORDINARY), RunFolder(tmp_path / "run")

    def open_twice():
        with folder.open(run_file, is_resumed=False), folder.open(run_file, is_resumed=True):
            pass

    with pytest.raises(RunFolderError, match=IN_USE):
        open_twice()
    with folder.open(run_file, is_resumed=True) as checked:
        assert checked.run.name == "small"


def test_a_refused_resumption_makes_no_folder(tmp_path, write_run_file):
    with (
        pytest.raises(RunFolderError, match="no search to resume"),
        RunFolder(tmp_path / "new").open(write_run_file(ORDINARY), is_resumed=True),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_a_demo_removes_no_folder_in_which_another_one_searches(tmp_path):
    folder = tmp_path / demo.RUNS[0]
    folder.mkdir()
    (folder / "run.toml").write_text('name = "digits"', encoding="utf-8")
    with closing(lock_folder(folder)), pytest.raises(RunFolderError, match=IN_USE):
        demo.run_demo(tmp_path, lambda _: Unwatched())
    assert (folder / "run.toml").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EFBIG, "too large")])
def test_a_full_disk_is_told_with_the_folder_and_what_to_do(tmp_path, error):
    told = r"the disk took no more of the search in .*run \(.*\): free space, then go on with --resume"
    with pytest.raises(DiskError, match=told), RunFolder(tmp_path / "run").disk_errors_told():
        raise error


def test_other_errors_are_told_as_they_are(tmp_path):
    store = Store("sqlite://")
    with pytest.raises(PermissionError), RunFolder(tmp_path).disk_errors_told():
        raise PermissionError(errno.EACCES, "not yours")
    with pytest.raises(OperationalError, match="no such table"), RunFolder(tmp_path).disk_errors_told():
        select_from_nowhere(store)


def select_from_nowhere(store):
    with store.transaction():
        store.execute(text("SELECT * FROM nowhere"))


def test_a_search_whose_database_has_no_room_goes_on_to_the_same_result(tmp_path, write_run_file, monkeypatch):
    request = SearchRequest(write_run_file(ORDINARY), tmp_path / "run")
    hold_all = EmulatedRounds.hold_all

    def hold_without_room(rounds, plans, *watch):
        with rounds.store.transaction():
            rounds.store.execute(text("PRAGMA max_page_count = 1"))  # no page more than there are
        return hold_all(rounds, plans, *watch)

    with monkeypatch.context() as patch:
        patch.setattr(EmulatedRounds, "hold_all", hold_without_room)
        with pytest.raises(DiskError, match="database or disk is full"):
            run_search(request, Unwatched())
    resumed = run_search(replace(request, is_resumed=True), Unwatched())
    assert resumed == run_search(replace(request, output=tmp_path / "unbroken"), Unwatched())


def test_a_search_goes_on_with_other_workers_and_with_nothing_else(tmp_path, write_run_file):
    folder = RunFolder(tmp_path / "run")
    with folder.open(write_run_file(ORDINARY), is_resumed=False):
        pass
    with folder.open(
        write_run_file(ORDINARY.replace("[space]", "workers = 3\n\n[space]")), is_resumed=True
    ) as run_file:
        assert run_file.fleet.workers == 3
    other = write_run_file(ORDINARY.replace("[space]", "availability = 0.5\n\n[space]"))
    with pytest.raises(RunFolderError, match="is not the run file that"), folder.open(other, is_resumed=True):
        pass
