from dataclasses import replace

import pytest

from device_runtime.artifact import read_artifact
from device_runtime.loaded import LoadedAssignment
from device_runtime.measure import FULL, QUICK
from device_runtime.measurement_pack import DEFAULT_PACK, MANIFEST, decode_manifest
from device_runtime.private_random import PrivateRandom
from device_runtime.terms import (
    ArchitectureTerms,
    ClientPrivacyTerms,
    EvaluateTerms,
    MeasureTerms,
    PrivacyTerms,
    RewardTerms,
    TrainTerms,
)
from device_runtime.training import train
from device_runtime.wire import Assignment
from pipeline.fleet.durations import (
    ChunkRuns,
    ChunkTimes,
    chunk_runs,
    measure_seconds,
    predicted_times,
    transfer_seconds,
)
from profiles.catalogue import load_profile
from search.architecture import Architecture, Stem
from search.cost import forward_chunk_ms, training_chunk_ms
from tests.device_runtime.softmax_regression import PARAMETERS, draw_examples, open_softmax_regression

TIMES = ChunkTimes(train_s=2.0, evaluate_s=1.0)
PRIVACY = PrivacyTerms("device", 0.25, 2.0)
ON_CLIENTS = ClientPrivacyTerms("device", 2.0, 20)
CLIENT = replace(ON_CLIENTS, max_norm=1.0)
STEPS = ArchitectureTerms(0.1)
IN_TURNS = {"moves": "alternate", "architecture": STEPS}
PRIVATE_TURNS = {
    "moves": "alternate",
    "architecture": ArchitectureTerms(0.1, 0.0, 1.0, PrivacyTerms("device", 0.5, 2.0)),
    "max_grad_norm": 1.0,
    "privacy": PRIVACY,
}


def training(**terms) -> Assignment:
    return Assignment("a", "run", "train", "0" * 64, "0" * 64, 60.0, train=TrainTerms(0.1, **terms))


def evaluation(privacy=None) -> Assignment:
    terms = EvaluateTerms("validation", ("accuracy",), privacy=privacy)
    return Assignment("a", "run", "evaluate", "0" * 64, "0" * 64, 60.0, evaluate=terms)


@pytest.mark.parametrize(
    ("assignment", "num_examples", "chunks"),
    [
        (training(local_epochs=1, batch_size=8), 20, 3),  # steps of 8, 8 and 4, one chunk of 16 each
        (training(local_epochs=2, batch_size=20), 20, 4),  # two epochs of one step of two chunks
        (training(local_steps=5, batch_size=8), 20, 5),
        (training(local_steps=5, batch_size=100), 20, 10),  # a step holds no more than there is
        (training(local_steps=3, max_grad_norm=1.0, privacy=PRIVACY), 100, 6),  # 25 expected: two chunks
        (training(local_steps=3, max_grad_norm=1.0, privacy=PRIVACY), 0, 3),  # an empty draw runs a chunk too
        (training(local_epochs=2, batch_size=20, privacy=CLIENT), 20, 4),  # the client unit's steps are ordinary
        (training(local_epochs=2, batch_size=20, moves="architecture", architecture=STEPS), 20, 4),
    ],
)
def test_training_takes_its_chunks(assignment, num_examples, chunks):
    assert chunk_runs(assignment, num_examples, 16) == ChunkRuns(chunks, 0)


@pytest.mark.parametrize(
    ("terms", "train_chunks", "evaluate_chunks"),
    [
        # Of 20 examples 3 steps of 8, of 40 for validation as many; graphs take 16.
        (training(local_epochs=1, batch_size=8), 3, 0),
        (training(local_epochs=1, batch_size=8, **IN_TURNS), 6, 0),
        (training(local_epochs=1, batch_size=100, **IN_TURNS), 2 + 3, 0),
        (training(local_epochs=1, batch_size=8, privacy=CLIENT, **IN_TURNS), 6, 0),
        (training(local_steps=3, **PRIVATE_TURNS), 3 * (1 + 2), 0),  # 5 and 20 are expected
        (training(local_epochs=1, batch_size=8, reward=RewardTerms("loss")), 3, 3),
        (training(local_epochs=1, batch_size=8, reward=RewardTerms("gain")), 3, 2 * 3),
        (training(local_epochs=1, batch_size=8, privacy=CLIENT, reward=RewardTerms("gain", 1.0, ON_CLIENTS)), 3, 2 * 3),
        (training(local_steps=3, reward=RewardTerms("gain", 1.0, PRIVACY), **PRIVATE_TURNS), 3 * (1 + 2), 2 * 1),
    ],
)
def test_what_training_reads_of_the_validation_split_takes_its_time(terms, train_chunks, evaluate_chunks):
    runs = chunk_runs(terms, 20, 16, num_validation=40)
    assert runs == ChunkRuns(train_chunks, evaluate_chunks)
    assert runs.seconds(TIMES) == train_chunks * TIMES.train_s + evaluate_chunks * TIMES.evaluate_s


@pytest.mark.parametrize("moves", ["all", "weights", "architecture", "alternate"])
def test_the_chunks_foreseen_are_the_graph_runs_of_the_work(moves):
    session = open_softmax_regression(bias="architecture")  # graphs take 4
    splits = {"train": draw_examples(12, 1), "validation": draw_examples(24, 2)}
    steps = {} if moves == "weights" else {"architecture": STEPS}
    assignment = training(local_epochs=2, batch_size=6, moves=moves, reward=RewardTerms("gain"), **steps)
    work = LoadedAssignment(session, PARAMETERS, assignment.train)
    update = train(work, splits, PrivateRandom(bytes(32)))
    runs = chunk_runs(assignment, update.num_examples, 4, num_validation=24)
    assert runs.train + runs.evaluate == update.num_chunks


@pytest.mark.parametrize(
    ("privacy", "num_examples", "chunks"), [(None, 33, 3), (None, 0, 1), (PRIVACY, 100, 2), (ON_CLIENTS, 33, 3)]
)
def test_an_evaluation_takes_its_chunks(privacy, num_examples, chunks):
    assert chunk_runs(evaluation(privacy), num_examples, 16) == ChunkRuns(0, chunks)


def test_measuring_is_no_matter_of_examples():
    measuring = Assignment("a", "run", "measure", "0" * 64, None, 60.0, measure=MeasureTerms())
    with pytest.raises(ValueError, match="an assignment to measure takes does not depend on examples"):
        chunk_runs(measuring, 10, 16)


def test_a_transfer_takes_its_latency_and_its_bytes():
    assert transfer_seconds(0, 8.0, 50.0) == 0.05
    assert transfer_seconds(1_000_000, 8.0, 50.0) == pytest.approx(1.05)


def test_chunk_times_are_what_the_cost_model_says_of_the_manifests_network(artifact_folder):
    profile, manifest = load_profile("pixel-4"), read_artifact(artifact_folder).manifest
    network = Architecture((1, 8, 8), 10, Stem(1, 3, 4))
    times = predicted_times(profile, manifest)
    assert times.train_s == training_chunk_ms(network, profile, 8) / 1e3
    assert times.evaluate_s == forward_chunk_ms(network, profile, 8) / 1e3


def test_a_pack_takes_the_time_of_its_runs_longer_on_a_slower_phone_and_its_budget_at_most():
    manifest = decode_manifest((DEFAULT_PACK / MANIFEST).read_bytes(), "the default pack")
    quick, full = (measure_seconds(load_profile("pixel-4"), manifest, plan) for plan in (QUICK, FULL))
    # Twice each, as it is and watched; short ones end at the most samples.
    assert 1 < quick < full < FULL.budget_s
    assert measure_seconds(load_profile("pixel-2-xl"), manifest, FULL) > full
    assert measure_seconds(load_profile("galaxy-j5"), manifest, FULL) == FULL.budget_s
