"""An artifact with three inputs, values for labels and frozen tensors does all that any other does."""

import hashlib
import json

import numpy as np
import pytest

from device_runtime.accounting import Budget
from device_runtime.artifact import ArtifactError
from device_runtime.examples.memory import ArraySource
from device_runtime.examples.splits import split_ids
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.terms import EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.vectors import read_vector, write_vector
from device_runtime.wire import Assignment
from device_runtime.work import Holdings, SessionCache, perform

KEY, RANDOM = b"k" * 32, PrivateRandom(bytes(32))
BUDGET = Budget(8.0, 1e-5, 5)


@pytest.fixture
def files(towers_files):
    return towers_files("mse")


@pytest.fixture
def parameters():
    return write_vector("parameters", np.linspace(-0.2, 0.3, 136, dtype=np.float32))


@pytest.fixture
def towers_blobs(files, parameters):
    return {hashlib.sha256(data).hexdigest(): data for data in (*files.values(), parameters)}


@pytest.fixture
def do(files, parameters, towers_blobs, draw_towers, towers_session):
    """Perform terms on 20 examples, some changed."""
    artifact_id, sha256 = (hashlib.sha256(data).hexdigest() for data in (files["manifest.json"], parameters))

    def perform_terms(terms, change=lambda x: x):
        x, y = draw_towers(20)
        source = ArraySource(change(x), y, towers_session("mse").manifest.spec)
        kind = "train" if isinstance(terms, TrainTerms) else "evaluate"
        assignment = Assignment("run-0-0", "run", kind, artifact_id, sha256, 60.0, **{kind: terms})
        ledger = Ledger(LedgerMemory(), "source", BUDGET) if terms.privacy else None
        return perform(assignment, Holdings(source, KEY, ledger), towers_blobs.__getitem__, RANDOM, SessionCache())

    return perform_terms


def test_a_step_is_the_sessions_sum(do, draw_towers, towers_session, parameters):
    x, y = draw_towers(20)
    source = ArraySource(x, y, towers_session("mse").manifest.spec)
    ids = list(map(int, split_ids(source, KEY)["train"]))
    start = read_vector(parameters, "parameters", 136)
    gradient_sum, _, _ = towers_session("mse").gradient(start, x[ids], y[ids])
    update = read_vector(do(TrainTerms(0.1, local_epochs=1, batch_size=20)).update, "parameter_update", 136)
    np.testing.assert_allclose(update, -0.1 * gradient_sum / len(ids), atol=1e-6)


def test_a_row_that_is_not_finite_is_a_null_record_in_private_work(do):
    def spoil(x):
        x["scale"][:] = np.nan
        return x

    terms = TrainTerms(0.5, local_steps=2, max_grad_norm=0.8, privacy=PrivacyTerms("device", 1.0, 1.0))
    metrics = EvaluateTerms("train", ("loss", "closeness"), 4.0, PrivacyTerms("device", 1.0, 1.0))
    sums = {change: do(metrics, change).report.metric_sums for change in (spoil, lambda x: x)}
    assert np.isfinite(read_vector(do(terms, spoil).update, "parameter_update", 136)).all()
    with_none, with_all = (list(found.values()) for found in sums.values())
    noise = RANDOM.normals(Purpose.VOTES_AND_METRICS, 1, 2)
    np.testing.assert_allclose(with_none, np.sqrt(2) * noise, rtol=0.01, atol=1e-3)
    assert min(np.subtract(with_all, with_none)) > 0.5


def test_lost_frozen_tensors_are_asked_for(do, files, towers_blobs):
    sha256 = hashlib.sha256(files["frozen.safetensors"]).hexdigest()
    del towers_blobs[sha256]
    with pytest.raises(KeyError, match=sha256):
        do(TrainTerms(0.1, local_epochs=1, batch_size=20))


def test_artifacts_with_the_same_frozen_tensors_share_one_copy(towers_files):
    both = [towers_files(loss) for loss in ("mse", "bce_with_logits")]
    blobs = {hashlib.sha256(data).hexdigest(): data for files in both for data in files.values()}
    ids = [hashlib.sha256(files["manifest.json"]).hexdigest() for files in both]
    frozen = hashlib.sha256(both[0]["frozen.safetensors"]).hexdigest()
    read, sessions = [], SessionCache()
    opened = [sessions.open(artifact_id, lambda sha256: read.append(sha256) or blobs[sha256]) for artifact_id in ids]
    assert read.count(frozen) == 1
    assert opened[0].manifest.frozen == opened[1].manifest.frozen
    alone = SessionCache().open(ids[1], blobs.__getitem__)
    x, y = np.zeros(3, alone.manifest.spec.row_dtype()), np.ones((3, 2), np.float32)
    x["pixels"], parameters = 0.3, np.linspace(-0.2, 0.3, 136, dtype=np.float32)
    for one, other in zip(opened[1].gradient(parameters, x, y), alone.gradient(parameters, x, y), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_manifest_with_other_shapes_for_the_same_file_is_refused_beside_an_open_one(towers_files):
    files = towers_files("mse")
    record = json.loads(files["manifest.json"])
    record["frozen"]["shapes"] = {name: shape[::-1] for name, shape in record["frozen"]["shapes"].items()}
    liar = json.dumps(record).encode()
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (*files.values(), liar)}
    sessions = SessionCache()
    sessions.open(hashlib.sha256(files["manifest.json"]).hexdigest(), blobs.__getitem__)
    with pytest.raises(ArtifactError, match=r"frozen\.safetensors: backbone\.weight must be float32 of shape"):
        sessions.open(hashlib.sha256(liar).hexdigest(), blobs.__getitem__)
