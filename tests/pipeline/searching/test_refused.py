"""Searches that are refused before they begin: nothing of them is kept that the next attempt would meet."""

from dataclasses import replace

import pytest

from device_runtime.wire import CheckIn
from pipeline.coordinator.eligibility import Device
from pipeline.coordinator.plans import Run
from pipeline.coordinator.store import Store
from pipeline.searching import session
from pipeline.searching.loop import Unwatched
from pipeline.searching.rounds import AttachedRounds
from pipeline.searching.session import SearchRequest, run_search
from profiles.catalogue import load_profile
from profiles.checking import UnstableProfileError
from profiles.records import encode_record
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY


def test_a_mended_run_file_takes_the_folder_of_the_one_that_was_refused(tmp_path):
    run_file = tmp_path / "run.toml"
    run_file.write_text(FEDNAS.replace("groups = 2", "groups = 99"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"groups must be in .* ask for fewer, or wait for more clients"):
        run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched())
    run_file.write_text(ORDINARY, encoding="utf-8")
    assert run_search(SearchRequest(run_file, tmp_path / "run"), Unwatched()).name == "small"


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


@pytest.fixture
def rounds(tmp_path):
    Store(f"sqlite:///{tmp_path / 'handheld.db'}").close()
    attached = AttachedRounds(Run("attached", "real", "spec", 0, None), tmp_path)
    yield attached
    attached.close()


def check_in(store, name, device_class=None):
    with store.transaction():
        store.add_device(Device(name, "real", f"key of {name}"))
        store.save_check_in(name, CheckIn("1.19.2", 17, "spec", {"train": 3}, device_class=device_class))


def test_devices_that_come_before_a_run_begins_take_part_and_later_ones_do_not(rounds):
    profiles = tuple(load_profile(name) for name in ("pixel-2-xl", "galaxy-s9", "pixel-4"))
    assert rounds.clients(profiles) == ()
    check_in(rounds.store, "a", "mid")
    check_in(rounds.store, "b", "entry")
    check_in(rounds.store, "c")
    clients = rounds.clients(profiles)
    assert [(one.device_id, one.profile, one.device_class) for one in clients] == [
        ("a", "pixel-2-xl", "mid"),
        ("b", "", "entry"),
        ("c", "", ""),
    ]
    rounds.keep_clients(clients)
    check_in(rounds.store, "d")
    assert rounds.clients(profiles) == clients


def test_the_devices_of_a_class_are_dealt_out_evenly_among_its_targets(rounds):
    profiles = tuple(load_profile(name) for name in ("redmi-8", "pixel-4", "redmi-note-4"))
    for name in "fbdace":
        check_in(rounds.store, name, "entry")
    check_in(rounds.store, "x", "high")
    clients = {one.device_id: one.profile for one in rounds.clients(profiles)}
    first, _, second = (profile.name for profile in profiles)
    assert clients == {"a": first, "b": second, "c": first, "d": second, "e": first, "f": second, "x": "pixel-4"}
