from contextlib import closing

import pytest

from device_runtime.folder_lock import lock_folder
from pipeline.demo import run as demo
from pipeline.searching.loop import Unwatched
from pipeline.searching.run_folder import RunFolder, RunFolderError
from pipeline.searching.session import SearchRequest, run_search
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
