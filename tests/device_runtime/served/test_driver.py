from contextlib import suppress
from dataclasses import replace

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from device_runtime.accounting import Budget
from device_runtime.client_records import Request, Sleep, Train
from device_runtime.driver import ONCE, ClientTerms, DeviceClient, Limits, data_source_id, opset_of, run_client
from device_runtime.ledger import LedgerError
from device_runtime.state_folder import StateFolder, StateFolderError, StateFolderLockedError, read_ledgers
from device_runtime.stopping import StopFlag
from pipeline.coordinator.round_rows import count_leases

BUDGET = Budget(20.0, 1e-5, 5)


@pytest.fixture
def folder(tmp_path):
    with StateFolder(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def terms(server, source):
    return ClientTerms(server.url, source, "npz:share", None, emulated_seed=1)


@pytest.fixture
def private(terms):
    return replace(terms, budget=BUDGET)


class Killed(BaseException):
    pass


def kill_before(wanted):
    """A watcher that ends the process, as SIGKILL would, before an action that it wants."""

    def watch(state, action):
        if wanted(state, action):
            raise Killed

    return watch


def kill_after(num_steps):
    steps = []
    return kill_before(lambda *_: steps.append(0) or len(steps) > num_steps)


def run(folder, terms, limits=ONCE, **arguments):
    return run_client(folder, terms, limits, StopFlag(), **arguments)


class TestServing:
    def test_it_trains_and_evaluates_and_leaves_when_there_is_no_more(self, folder, server, terms):
        rounds = [server.open("ordinary"), server.open("accuracy")]
        outcome = run(folder, terms, Limits(is_resting_over=True))
        assert (outcome.reason, outcome.num_reported) == ("resting", 2)
        assert 25 < outcome.rest_s <= 30
        results = [server.close(round_id) for round_id in rounds]
        assert [result.status for result in results] == ["closed", "closed"]
        assert results[0].aggregate_sha256 is not None
        assert 0 <= results[1].metric_sums["accuracy"] <= results[1].num_examples

    def test_private_work_is_charged_to_the_ledger_of_its_data(self, folder, server, private):
        server.open("private")
        server.open("private accuracy")
        run(folder, private, Limits(is_resting_over=True))
        (content,) = read_ledgers(folder.path)
        assert content.header.source == data_source_id("npz:share", 1)
        assert [(charge.release.kind, charge.release.num_steps) for charge in content.charges] == [
            ("update", 2),
            ("metrics", 1),
        ]

    def test_without_a_budget_it_gets_no_private_work(self, folder, server, terms):
        server.open("private")
        assert run(folder, terms).reason == "resting"
        assert read_ledgers(folder.path) == ()

    def test_a_spent_budget_ends_private_work(self, folder, server, private):
        server.open("private")
        assert run(folder, replace(private, budget=replace(BUDGET, epsilon=2.3))).num_reported == 0
        (content,) = read_ledgers(folder.path)
        assert content.charges == ()

    def test_a_budget_of_the_other_unit_gives_the_assignment_back_and_says_why(self, folder, server, private):
        round_id = server.open("private")
        told = []
        outcome = run(
            folder, replace(private, budget=replace(BUDGET, unit="client")), watch=lambda s, _: told.append(s)
        )
        assert (outcome.reason, outcome.num_reported) == ("resting", 0)
        assert "budget" in {state.abort_reason for state in told}
        assert "of the example unit and this budget is of the client unit" in outcome.detail
        with server.store.transaction():
            assert count_leases(server.store, round_id) == {"aborted": 1}
        (content,) = read_ledgers(folder.path)
        assert content.charges == ()

    def test_a_limit_of_reports_is_kept(self, folder, server, terms):
        rounds = [server.open("ordinary") for _ in range(3)]
        assert run(folder, terms, Limits(max_reports=2)).reason == "reported"
        assert server.close(rounds[1]).status == "closed"

    def test_files_that_are_cached_are_not_asked_for_again(self, folder, server, terms):
        server.open("ordinary")
        server.open("ordinary")
        sizes = []
        run(folder, terms, Limits(is_resting_over=True), watch=lambda *_: sizes.append(len(cached(folder))))
        assert max(sizes) == 4
        times = {path.name: path.stat().st_ctime_ns for path in cached(folder)}
        server.open("accuracy")
        DeviceClient(folder, terms, clock=lambda: 1e10).run(ONCE, StopFlag())
        assert {path.name: path.stat().st_ino for path in cached(folder)}.keys() == times.keys()

    def test_stopping_ends_a_rest_at_once(self, folder, terms):
        stop = StopFlag()
        outcome = run_client(
            folder, terms, Limits(), stop, watch=lambda _, action: stop.set() if isinstance(action, Sleep) else None
        )
        assert outcome.reason == "interrupted"


def cached(folder):
    return list((folder.path / "blobs").iterdir())


class TestRestart:
    @pytest.mark.parametrize("what", ["private", "private accuracy"])
    def test_killed_before_any_step_and_started_again_each_round_is_served_once(self, folder, server, private, what):
        for last_step in range(12):
            round_id = server.open(what)
            with suppress(Killed):
                run(folder, private, watch=kill_after(last_step))
            if folder.load_state().num_reported == last_step:  # otherwise it was done before
                run(folder, private)
            result = server.close(round_id)
            assert (result.status, result.num_reports) == ("closed", 1)
            assert len(read_ledgers(folder.path)[0].charges) == last_step + 1

    def test_killed_after_training_the_stored_update_is_sent_and_charged_no_second_time(self, folder, server, private):
        server.open("private")
        with pytest.raises(Killed):
            run(folder, private, watch=kill_before(lambda _, action: isinstance(action, Request) and action.blob))
        actions = []
        assert run(folder, private, watch=lambda _, action: actions.append(action)).num_reported == 1
        assert not any(isinstance(action, Train) for action in actions)
        assert len(read_ledgers(folder.path)[0].charges) == 1

    def test_killed_while_training_it_is_done_and_charged_again(self, folder, server, private, monkeypatch):
        server.open("private")
        monkeypatch.setattr(StateFolder, "write_update", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, private)
        monkeypatch.undo()
        assert run(folder, private).num_reported == 1
        assert len(read_ledgers(folder.path)[0].charges) == 2

    def test_a_blob_damaged_on_the_disk_is_fetched_again(self, folder, server, terms):
        server.open("ordinary")
        with pytest.raises(Killed):
            run(folder, terms, watch=kill_before(lambda _, action: isinstance(action, Train)))
        for path in cached(folder):
            path.write_bytes(b"damaged")
        assert run(folder, terms).num_reported == 1


class TestRefusal:
    def test_a_server_that_is_gone_is_named_with_the_cure(self, folder, terms):
        outcome = run(folder, replace(terms, server_url="http://127.0.0.1:9"))
        assert outcome.reason == "no-answer"
        assert "http://127.0.0.1:9 does not answer" in outcome.detail
        assert "is it up, and is the URL right?" in outcome.detail

    def test_patience_ends(self, folder, terms):
        outcome = run(folder, replace(terms, server_url="http://127.0.0.1:9"), Limits(patience_s=0.0))
        assert outcome.reason == "no-answer"

    def test_a_url_without_scheme_is_wrong_usage(self, folder, terms):
        with pytest.raises(ValueError, match=r"must start with http:// or https://, got '127.0.0.1'"):
            run(folder, replace(terms, server_url="127.0.0.1"))

    def test_a_real_client_stops_at_a_server_with_emulated_runs(self, folder, server, terms):
        server.open("ordinary")
        outcome = run(folder, replace(terms, emulated_seed=None))
        assert outcome.reason == "stopped"
        assert "every run here is 'emulated'" in outcome.detail

    def test_another_key_on_the_folder_is_refused(self, folder, terms):
        run(folder, terms)
        with pytest.raises(StateFolderError, match=r"belongs to the emulated device .* name another folder, or forget"):
            run(folder, replace(terms, emulated_seed=2))

    def test_a_second_process_on_the_folder_is_refused(self, folder):
        with pytest.raises(StateFolderLockedError):
            StateFolder(folder.path)

    def test_data_with_a_ledger_does_no_ordinary_work_for_want_of_an_option(self, folder, server, private, terms):
        run(folder, private)
        with pytest.raises(LedgerError, match="has a privacy budget for its lifetime; give epsilon and delta again"):
            run(folder, terms)

    def test_a_damaged_ledger_stops_everything_and_stays(self, folder, server, private):
        run(folder, private)
        (path,) = (folder.path / "ledgers").glob("*.jsonl")
        path.write_bytes(path.read_bytes().replace(b"20", b"90", 1))
        before = path.read_bytes()
        with pytest.raises(LedgerError, match="line 1: damaged"):
            run(folder, private)
        assert path.read_bytes() == before


def test_the_opset_that_is_told_really_runs():
    opset = opset_of(onnxruntime.__version__)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize(
    ("version", "opset"), [("1.11.1", 0), ("1.12.0", 17), ("1.19.2", 21), ("1.31.1", 21), ("2.0", 21)]
)
def test_opsets_go_by_the_runtimes_version(version, opset):
    assert opset_of(version) == opset
