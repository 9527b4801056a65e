"""Artifacts with several inputs, values for labels and frozen tensors, over HTTP."""

import hashlib

import numpy as np
import pytest

from device_runtime.accounting import Budget
from device_runtime.driver import ClientTerms, Limits, run_client
from device_runtime.examples.npz import open_npz
from device_runtime.http_transport import HttpTransport
from device_runtime.specs import Manifest
from device_runtime.state_folder import CACHE_BYTES, StateFolder
from device_runtime.stopping import StopFlag
from pipeline.coordinator.publish import publish_artifact
from profiles.records import decode_record


@pytest.fixture
def artifacts(server, towers_files, tmp_path):
    """Ids of two published artifacts with the same frozen tensors."""
    ids = []
    for loss in ("mse", "bce_with_logits"):
        folder = tmp_path / loss
        folder.mkdir()
        for name, data in towers_files(loss).items():
            (folder / name).write_bytes(data)
        ids.append(publish_artifact(server.store, server.blobs, folder))
    server.spec = decode_record(Manifest, towers_files("mse")["manifest.json"]).spec
    server.start = np.linspace(-0.2, 0.3, 136, dtype=np.float32)
    return ids


@pytest.fixture
def frozen_sha256(towers_files):
    return hashlib.sha256(towers_files("mse")["frozen.safetensors"]).hexdigest()


@pytest.fixture
def downloads(monkeypatch):
    """Every file that was asked for over HTTP."""
    asked, send = [], HttpTransport.send

    def note(transport, request, body):
        asked.extend([request.save_as] if request.save_as else [])
        return send(transport, request, body)

    monkeypatch.setattr(HttpTransport, "send", note)
    return asked


@pytest.fixture
def serve(server, artifacts, draw_towers, tmp_path):
    """Open rounds of (artifact id, what to do) and serve them as one client; gives their results."""
    x, y = draw_towers(40)
    path = tmp_path / "towers.npz"
    np.savez(path, y=y, labels=["left", "right"], **{f"x.{name}": x[name] for name in x.dtype.names})

    def serve_rounds(*wanted, cache_bytes=CACHE_BYTES):
        rounds = []
        for server.artifact_id, what in wanted:
            rounds.append(server.open(what))
        terms = ClientTerms(server.url, open_npz(path), "npz:towers", Budget(20.0, 1e-5, 5), emulated_seed=1)
        with StateFolder(tmp_path / "state", cache_bytes) as folder:
            outcome = run_client(folder, terms, Limits(max_reports=len(wanted)), StopFlag())
        assert outcome.num_reported == len(wanted), outcome
        return [server.close(round_id) for round_id in rounds]

    return serve_rounds


def test_two_artifacts_that_share_frozen_tensors_are_trained_with_one_download_of_them(
    serve, artifacts, downloads, frozen_sha256
):
    results = serve((artifacts[0], "private"), (artifacts[1], "private"))
    assert [result.status for result in results] == ["closed", "closed"]
    assert results[0].aggregate_sha256 != results[1].aggregate_sha256
    assert set(artifacts) < set(downloads)
    assert downloads.count(frozen_sha256) == 1


def test_frozen_tensors_above_the_cache_are_downloaded_once_while_assignments_name_them(
    serve, artifacts, downloads, frozen_sha256
):
    for artifact_id in (artifacts[0], artifacts[1], artifacts[0]):
        serve((artifact_id, "private"), cache_bytes=0)  # each time as a new process
    assert downloads.count(frozen_sha256) == 1
    assert downloads.count(artifacts[0]) == 2  # what the assignment before did not name is gone


@pytest.fixture(params=["damaged", None])
def spoil(request, frozen_sha256, tmp_path):
    """Write something else in place of the client's frozen tensors, or delete them."""

    def write():
        path = tmp_path / "state" / "blobs" / frozen_sha256
        path.write_text(request.param) if request.param else path.unlink()

    return write


def test_frozen_tensors_that_were_lost_or_damaged_are_fetched_again(serve, artifacts, downloads, frozen_sha256, spoil):
    serve((artifacts[0], "private"))
    spoil()
    assert serve((artifacts[1], "private"))[0].status == "closed"
    assert downloads.count(frozen_sha256) == 2
