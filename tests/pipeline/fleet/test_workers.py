from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from device_runtime.private_random import PrivateRandom
from device_runtime.terms import TrainTerms
from device_runtime.vectors import write_vector
from device_runtime.wire import Assignment
from pipeline.coordinator.blobs import BlobFolder
from pipeline.fleet.workers import Failure, PhoneWork, Workers


@pytest.fixture
def work(kit, tmp_path, artifact_folder):
    """Workers in this process for three phones, the last of which holds nothing; an assignment for them; their data."""
    data = kit.data(tmp_path, 2)
    data = replace(data, shares=(*data.shares, ()))
    blobs = BlobFolder(data.blobs)
    artifact_id, _, _ = (
        blobs.put((artifact_folder / name).read_bytes()) for name in ("manifest.json", "gradient.onnx", "evaluate.onnx")
    )
    parameters = blobs.put(write_vector("parameters", np.zeros(60, np.float32)))
    terms = TrainTerms(0.3, local_epochs=1, batch_size=8)
    assignment = Assignment("run-0-0", "run", "train", artifact_id, parameters, 60.0, train=terms)
    return Workers(data, kit.source, 1), assignment, data


def test_the_same_phone_and_assignment_give_the_same_bytes_and_others_do_not(work):
    workers, assignment, _ = work
    first, again = (workers.begin(0, assignment)() for _ in range(2))
    assert first == again
    assert workers.begin(1, assignment)().update != first.update
    private = replace(assignment, assignment_id="run-0-1")
    assert workers.begin(0, private)().update != first.update  # shuffled by another key


def test_what_two_workers_compute_comes_of_another_process_and_is_the_same(work, kit, monkeypatch):
    here, assignment, data = work
    expected = here.begin(0, assignment)()
    monkeypatch.setattr(PhoneWork, "perform", None)  # here; other processes have their own
    with closing(Workers(data, kit.source, 2)) as pooled:
        assert pooled.begin(0, assignment)() == expected


def test_nothing_is_computed_before_the_outcome_is_asked_for(work, monkeypatch):
    workers, assignment, _ = work
    monkeypatch.setattr(PrivateRandom, "derived", None)
    outcome = workers.begin(0, assignment)
    with pytest.raises(TypeError):
        outcome()


def test_what_the_client_would_give_up_is_a_failure_with_its_reason(work):
    workers, assignment, _ = work
    outcome = workers.begin(2, assignment)()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "too-few-examples"


def test_a_defect_is_not_hidden_as_a_failure(work):
    workers, assignment, _ = work
    with pytest.raises(FileNotFoundError):
        workers.begin(0, replace(assignment, parameters_sha256="1" * 64))()


def test_a_fleet_needs_a_worker(kit, tmp_path):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        Workers(kit.data(tmp_path, 1), kit.source, 0)
