"""Searches that are refused before they begin: nothing of them is kept that the next attempt would meet."""

from contextlib import closing
from dataclasses import replace

import pytest

from pipeline.coordinator.store import Store
from pipeline.searching import session
from pipeline.searching.loop import Unwatched
from pipeline.searching.run_folder import RunFolderError
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from profiles.catalogue import load_profile
from profiles.checking import UnstableProfileError
from profiles.records import encode_record
from search.budget import InfeasibleError
from search.pruning import LEAST_WIDTH
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY


def test_a_mended_run_file_takes_the_folder_of_the_one_that_was_refused(tmp_path):
    run_file = tmp_path / "run.toml"
    run_file.write_text(FEDNAS.replace("groups = 2", "groups = 99"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"groups must be in .* ask for fewer, or wait for more clients"):
        run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    run_file.write_text(ORDINARY, encoding="utf-8")
    assert run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched()).name == "small"


@pytest.mark.parametrize(
    ("text", "limit", "message"),
    [
        (ORDINARY, "size_kib = 64.0", "no candidate met budget"),
        (FEDNAS, "size_kib = 1.1", f"with every width {LEAST_WIDTH} the network still breaks"),
    ],
)
def test_limits_that_no_network_meets_leave_the_folder_to_a_mended_file_of_another_seed(tmp_path, text, limit, message):
    run_file, folder = tmp_path / "run.toml", tmp_path / "run"
    run_file.write_text(text.replace(limit, "size_kib = 0.0001"), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(InfeasibleError, match=message):
            run_search(SearchRequest(run_file, folder), Unwatched())
    with pytest.raises(RunFolderError, match="holds no search to resume; leave --resume out"):
        run_search(SearchRequest(run_file, folder, is_resumed=True), Unwatched())
    run_file.write_text(ORDINARY.replace("seed = 3", "seed = 4"), encoding="utf-8")
    assert run_search(SearchRequest(run_file, folder), Unwatched()).seed == 4


def test_a_search_that_has_begun_keeps_its_folder(tmp_path, monkeypatch):
    run_file, folder = tmp_path / "run.toml", tmp_path / "run"
    run_file.write_text(ORDINARY, encoding="utf-8")

    def stop(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(session, "_run", stop)
        with pytest.raises(InterruptedError):
            run_search(SearchRequest(run_file, folder), Unwatched())
    assert run_search(SearchRequest(run_file, folder, is_resumed=True), Unwatched()).seed == 3


def test_of_a_real_run_that_is_refused_its_server_keeps_nothing(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'handheld.db'}")
    run_file = tmp_path / "run.toml"
    for seed in (4, 5):
        run_file.write_text(real(seed).replace("size_kib = 64.0", "size_kib = 0.0001"), encoding="utf-8")
        with pytest.raises(InfeasibleError, match="no candidate met budget"):
            run_search(SearchRequest(run_file, tmp_path / "run", attach=tmp_path), Unwatched())
    with closing(store), store.transaction():
        assert store.run_ids() == set()


def real(seed: int) -> str:
    """A run file for a server's devices."""
    text = ORDINARY.replace('[fleet]\nprofiles = ["pixel-4", "redmi-8"]\n', "").replace("seed = 3", f"seed = {seed}")
    return text.replace('"emulated"', '"real"\ntargets = ["pixel-4"]')


def test_an_unstable_profile_is_refused_unless_it_is_allowed(tmp_path, monkeypatch):
    profile = replace(load_profile("pixel-4"), name="hot", is_stable=False)
    (tmp_path / "hot.json").write_bytes(encode_record(profile))
    run_file = tmp_path / "run.toml"
    run_file.write_text(ORDINARY.replace('"redmi-8"', f'"{tmp_path / "hot.json"}"'), encoding="utf-8")
    with pytest.raises(
        UnstableProfileError, match=r"profile 'hot' is unstable.* or take it as it is with --allow-unst"
    ):
        run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())

    def stop(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(session, "_search_of", stop)
    with pytest.raises(InterruptedError):
        run_search(SearchRequest(run_file, tmp_path / "run", allows_unstable=True), Unwatched())
