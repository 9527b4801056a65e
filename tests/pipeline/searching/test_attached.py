"""Searches with real clients: whose run it is at the server, and who takes part."""

from dataclasses import replace

import pytest

from device_runtime.wire import CheckIn
from pipeline.coordinator.eligibility import Device
from pipeline.coordinator.plans import Run
from pipeline.coordinator.store import Store, StoreError
from pipeline.searching.loop import Unwatched
from pipeline.searching.rounds import AttachedRounds, OtherSearchError
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from pipeline.searching.trials import Score, Trained, Trainer
from profiles.catalogue import load_profile
from tests.pipeline.searching.conftest import ORDINARY, KilledError

RUN = Run("attached", "real", "spec", 0, None)
REAL = ORDINARY.replace('"emulated"', '"real"\ntargets = ["pixel-4"]').replace(
    '[fleet]\nprofiles = ["pixel-4", "redmi-8"]\n', ""
)
OTHER = REAL.replace("widths = [2, 4]", "widths = [6, 8]")


@pytest.fixture
def server(tmp_path):
    """State folder of a server that nobody asks."""
    folder = tmp_path / "server"
    folder.mkdir()
    Store(f"sqlite:///{folder / 'handheld.db'}").close()
    return folder


@pytest.fixture
def attach(server):
    """Attach to the server, as a search whose run file has this hash."""
    opened = []

    def open_rounds(run_file="a", is_resumed=False, run=RUN):
        opened.append(AttachedRounds(run, server, run_file, is_resumed))
        return opened[-1]

    yield open_rounds
    for rounds in opened:
        rounds.close()


def check_in(store, name, device_class=None):
    with store.transaction():
        store.add_device(Device(name, "real", f"key of {name}"))
        store.save_check_in(name, CheckIn("1.19.2", 17, "spec", {"train": 3}, device_class=device_class))


def test_devices_that_come_before_a_run_begins_take_part_and_later_ones_do_not(attach):
    profiles = tuple(load_profile(name) for name in ("pixel-2-xl", "galaxy-s9", "pixel-4"))
    rounds = attach()
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
    rounds.begin(clients)
    check_in(rounds.store, "d")
    assert rounds.clients(profiles) == clients
    resumed = attach(is_resumed=True)
    resumed.begin(())
    assert resumed.clients(profiles) == clients


def test_the_devices_of_a_class_are_dealt_out_evenly_among_its_targets(attach):
    profiles = tuple(load_profile(name) for name in ("redmi-8", "pixel-4", "redmi-note-4"))
    rounds = attach()
    for name in "fbdace":
        check_in(rounds.store, name, "entry")
    check_in(rounds.store, "x", "high")
    clients = {one.device_id: one.profile for one in rounds.clients(profiles)}
    first, _, second = (profile.name for profile in profiles)
    assert clients == {"a": first, "b": second, "c": first, "d": second, "e": first, "f": second, "x": "pixel-4"}


def test_a_search_that_had_not_begun_is_in_nobodys_way(attach):
    attach("a")
    attach("b", is_resumed=True).begin(())  # killed before it began, its folder has its run file: it is resumed


def test_a_run_that_began_is_gone_on_with_by_its_own_search_alone(attach):
    attach("a").begin(())
    attach("a", is_resumed=True).begin(())
    for run_file in ("a", "b"):
        with pytest.raises(OtherSearchError, match=r"a run 'attached' already: choose another \[run\] name, or go on"):
            attach(run_file)
    with pytest.raises(OtherSearchError, match="it began with another run file, of sha256 a, this one's is b"):
        attach("b", is_resumed=True)
    with pytest.raises(StoreError, match="run 'attached' has other settings here"):
        attach("a", is_resumed=True, run=replace(RUN, spec_id="of other examples"))


def test_of_two_searches_that_are_about_to_begin_one_does(attach):
    first, second = attach("a"), attach("b")
    second.begin(())
    with pytest.raises(OtherSearchError, match="choose another"):
        first.begin(())


def test_a_run_whose_file_was_not_kept_is_nobodys_to_resume(attach):
    rounds = attach()
    with rounds.store.transaction():
        rounds.store.add_run(RUN)  # as older versions did, and `profile collect` does
    with pytest.raises(OtherSearchError, match=r"no run file of it was kept.* begin anew in another folder"):
        attach(is_resumed=True)


@pytest.fixture
def trained(monkeypatch):
    """Learning costs nobody anything; killed at the step that `killed_at` counts."""
    numbers = []

    def train(trainer, jobs):
        numbers.extend(job.part.trial for job in jobs)
        if len(numbers) == train.killed_at:
            raise KilledError
        return [Trained(job.model, 1.0) for job in jobs]

    train.killed_at = 0
    monkeypatch.setattr(Trainer, "train", train)
    monkeypatch.setattr(Trainer, "evaluate", lambda trainer, jobs, split: [Score(0.9, 10, 3) for _ in jobs])
    return train


def test_a_search_goes_on_from_no_other_of_its_name(tmp_path, server, trained):
    for name, text in (("real", REAL), ("other", OTHER)):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    request = SearchRequest(tmp_path / "real.toml", tmp_path / "run", attach=server)
    trained.killed_at = 2  # one step is kept
    with pytest.raises(KilledError):
        run_search(request, Unwatched())
    other = SearchRequest(tmp_path / "other.toml", tmp_path / "other", attach=server)
    for again in (other, replace(request, output=tmp_path / "another")):
        with pytest.raises(OtherSearchError, match=r"choose another \[run\] name"):
            run_search(again, Unwatched())
        assert not (again.output / "run.toml").exists()  # a file with another name may take the folder
    resumed = run_search(replace(request, is_resumed=True), Unwatched())
    assert [trial.candidate.architecture.stem.width in {2, 4} for trial in resumed.trials] == [True, True]
    trained.killed_at = 0
    renamed = (tmp_path / "other.toml").read_text(encoding="utf-8").replace('"small"', '"smaller"')
    (tmp_path / "other.toml").write_text(renamed, encoding="utf-8")
    assert run_search(other, Unwatched()).name == "smaller"
