"""Assignments that read two splits, tell a reward, or move architecture weights: read, charge, report."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from device_runtime.accounting import Budget, BudgetExceededError, Release
from device_runtime.descent import DivergedError
from device_runtime.examples.memory import ArraySource
from device_runtime.examples.splits import split_ids
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.loaded import Examples, LoadedAssignment, TooFewExamplesError
from device_runtime.private_random import PrivateRandom
from device_runtime.segments import SegmentError
from device_runtime.specs import ExampleSpec
from device_runtime.terms import ArchitectureTerms, ClientPrivacyTerms, PrivacyTerms, RewardTerms, TrainTerms
from device_runtime.training import train
from device_runtime.vectors import read_vector, write_vector
from device_runtime.wire import Assignment, Report
from device_runtime.work import (
    Holdings,
    SessionCache,
    WorkRefusedError,
    abort_reason_of,
    charge_assignment,
    perform,
    split_of_assignment,
    timed_report,
)
from profiles.records import decode_record, encode_record
from tests.device_runtime.softmax_regression import PARAMETERS, write_softmax_regression

KEY, RANDOM = b"k" * 32, PrivateRandom(bytes(32))
BUDGET = Budget(8.0, 1e-5, 5)
OF_UPDATE, OF_STEPS = PrivacyTerms("device", 0.5, 2.0), PrivacyTerms("device", 0.5, 3.0)
REWARD = RewardTerms("gain", 2.0, PrivacyTerms("device", 1.0, 6.0))
ALTERNATE = TrainTerms(
    0.5,
    local_steps=2,
    max_grad_norm=0.8,
    privacy=OF_UPDATE,
    moves="alternate",
    architecture=ArchitectureTerms(0.1, 0.0, 0.5, OF_STEPS),
    reward=REWARD,
)
ALONE = TrainTerms(0.5, 2, batch_size=4, moves="architecture", architecture=ArchitectureTerms(0.1))
ORDINARY = TrainTerms(0.5, 2, batch_size=4, reward=RewardTerms("gain"))
RELEASES = (
    Release("update", "train", 0.5, 2.0, 2),
    Release("architecture", "validation", 0.5, 3.0, 2),
    Release("reward", "validation", 1.0, 6.0),
)
BY_CLIENT = TrainTerms(0.5, 2, batch_size=4, privacy=ClientPrivacyTerms("sum", 5.0, 20, 1.0))


def make_source(num_examples=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, 3)).astype(np.float32)
    return ArraySource(x, rng.integers(0, 3, num_examples), ExampleSpec((3,), ("0", "1", "2")))


@pytest.fixture(scope="module")
def files():
    return write_softmax_regression((3,), 3, 4, "architecture")


@pytest.fixture
def make_assignment(files):
    def make(terms):
        ids = [hashlib.sha256(data).hexdigest() for data in (files["manifest.json"], parameters())]
        return Assignment("run-0-0", "run", "train", *ids, 60.0, train=terms)

    return make


def parameters():
    return write_vector("parameters", PARAMETERS)


@pytest.fixture
def work(files, make_assignment):
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (*files.values(), parameters())}

    def do(terms, holdings):
        return perform(make_assignment(terms), holdings, blobs.__getitem__, RANDOM, SessionCache())

    return do


@pytest.fixture
def holdings():
    return Holdings(make_source(), KEY, None)


@pytest.fixture
def private_holdings():
    return Holdings(make_source(), KEY, Ledger(LedgerMemory(), "source", BUDGET))


def splits_of(source):
    return {name: Examples(*source.get(ids)) for name, ids in split_ids(source, KEY).items()}


@pytest.fixture
def client_holdings():
    return Holdings(make_source(), KEY, Ledger(LedgerMemory(), "source", replace(BUDGET, unit="client")))


def test_a_report_has_the_update_and_the_reward_of_train(work, private_holdings, searched_session):
    result, examples = work(ALTERNATE, private_holdings), splits_of(private_holdings.source)
    expected = train(LoadedAssignment(searched_session, PARAMETERS, ALTERNATE), examples, RANDOM)
    np.testing.assert_array_equal(read_vector(result.update, "parameter_update", 12), expected.vector)
    digest = hashlib.sha256(result.update).hexdigest()
    counts = {name: len(split) for name, split in examples.items()}
    assert result.report == Report(
        "run-0-0", counts["train"], digest, expected.metric_sums, num_scored=counts["validation"]
    )
    assert decode_record(Report, encode_record(result.report)) == result.report
    assert result.num_chunks == expected.num_chunks


def test_steps_on_architecture_weights_alone_upload_them_and_count_the_validation_split(
    work, holdings, make_assignment
):
    result = work(ALONE, holdings)
    assert read_vector(result.update, "parameter_update", 3).shape == (3,)
    assert result.report.num_examples == len(split_ids(holdings.source, KEY)["validation"])
    assert split_of_assignment(make_assignment(ALONE)) == "validation"
    assert (result.report.metric_sums, result.report.num_scored) == (None, 0)


def test_all_releases_are_charged_before_the_graphs_run(work, private_holdings, monkeypatch):
    def no_graph(*arguments):
        raise DivergedError("the graph ran")

    monkeypatch.setattr("device_runtime.work.train", no_graph)
    with pytest.raises(DivergedError):
        work(ALTERNATE, private_holdings)
    assert private_holdings.ledger.releases() == RELEASES


@pytest.mark.parametrize("full", RELEASES, ids=lambda release: release.kind)
def test_one_release_that_does_not_fit_stops_them_all(work, private_holdings, full):
    ledger = private_holdings.ledger
    room = BUDGET.rdp() - 0.5 * full.rdp(5)
    ledger.charge([Release("metrics", full.split, 1.0, (5 / (2 * room)) ** 0.5)], "run-0")
    before = ledger.headroom()
    with pytest.raises(BudgetExceededError, match=f"on the {full.split} split") as refused:
        work(ALTERNATE, private_holdings)
    assert abort_reason_of(refused.value) == "budget"
    assert ledger.headroom() == before


def test_of_the_client_unit_every_split_pays(make_assignment, client_holdings):
    charge_assignment(make_assignment(BY_CLIENT), client_holdings.ledger)
    spent = {split: client_holdings.ledger.spent_rdp(split) for split in ("train", "validation", "test")}
    assert spent == dict.fromkeys(spent, pytest.approx(5 / (2 * 5.0**2)))


def test_what_a_client_sends_without_noise_goes_only_to_a_server_that_the_app_trusts(work, client_holdings):
    with pytest.raises(WorkRefusedError, match="--trust-server-with-sums allows it"):
        work(BY_CLIENT, client_holdings)
    assert client_holdings.ledger.releases() == ()
    assert work(BY_CLIENT, replace(client_holdings, trusts_sums=True)).report.metric_sums is None


def test_a_budget_of_the_other_unit_is_told_and_pays_nothing(make_assignment, private_holdings):
    with pytest.raises(BudgetExceededError, match=r"take part in runs with privacy\.unit = 'example'") as refused:
        charge_assignment(make_assignment(BY_CLIENT), private_holdings.ledger)
    assert abort_reason_of(refused.value) == "budget"
    assert private_holdings.ledger.releases() == ()


def test_in_the_client_unit_no_time_is_told(make_assignment):
    for terms, told in ((BY_CLIENT, None), (replace(BY_CLIENT, privacy=None), 2.5)):
        assert timed_report(make_assignment(terms), Report("run-0-0", 20), 2.5).work_s == told


@pytest.mark.parametrize("terms", [ALTERNATE, ALONE, ORDINARY], ids=["in turns", "architecture", "reward"])
def test_a_client_without_validation_examples_is_told_before_any_charge(work, private_holdings, terms):
    source = next(
        source for source in map(make_source, range(1, 9)) if [*map(len, split_ids(source, KEY).values())][1] == 0
    )
    ledger = private_holdings.ledger if terms.privacy else None
    with pytest.raises(TooFewExamplesError, match="0 examples in its validation split") as refused:
        work(terms, Holdings(source, KEY, ledger))
    assert abort_reason_of(refused.value) == "too-few-examples"
    assert private_holdings.ledger.releases() == ()


def test_a_network_without_architecture_weights_is_refused_before_any_charge(
    private_holdings, make_assignment, artifact_files
):
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (*artifact_files.values(), parameters())}
    artifact_id = hashlib.sha256(artifact_files["manifest.json"]).hexdigest()
    assignment = replace(make_assignment(ALTERNATE), artifact_id=artifact_id)
    with pytest.raises(SegmentError, match="train a supernet") as refused:
        perform(assignment, private_holdings, blobs.__getitem__, RANDOM, SessionCache())
    assert abort_reason_of(refused.value) == "refused"
    assert private_holdings.ledger.releases() == ()


def test_in_private_work_what_cannot_be_read_is_a_null_record_in_either_split(work, private_holdings):
    source = private_holdings.source
    work(ALTERNATE, private_holdings)
    ids, real = split_ids(source, KEY), source.get
    victims = {ids["train"][0], ids["validation"][0]}

    def get(wanted):
        if victims & set(wanted):
            raise ValueError("gone")
        return real(wanted)

    source.get = get
    result = work(ALTERNATE, replace(private_holdings, ledger=Ledger(LedgerMemory(), "source", BUDGET)))
    assert result.report.num_examples == len(ids["train"])
    assert result.report.num_scored == len(ids["validation"])
