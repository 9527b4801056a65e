"""The server as a process of its own, on a real socket of 127.0.0.1."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from device_runtime.private_random import PrivateRandom
from device_runtime.vectors import write_vector
from device_runtime.wire import Report
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import Run
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from pipeline.coordinator.worker import open_round
from pipeline.server.serve import ListenError, serve
from pipeline.server.state import open_state
from profiles.records import record_id

ROOT = Path(__file__).parents[3]
SERVE = [sys.executable, "-c", "from pipeline.command_line import main; main()", "serve"]


@contextmanager
def running(folder, *options, stop=signal.SIGTERM):
    """A server and what it told; leaving stops it by a signal."""
    command = [*SERVE, "--state", str(folder), "--port", "0", *options]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield server, server.stdout.readline()
        server.send_signal(stop)
        server.wait(20)
    finally:
        server.kill()
        server.rest = server.communicate()


@pytest.fixture
def open_real_round(world, artifact_folder):
    """What a search does in its own process: it shares nothing with the server but the state folder."""

    def open_in(folder):
        state = open_state(folder)
        with state.store.transaction():
            state.store.add_run(Run("run", "real", record_id(world.manifest().spec), 1))
        publish_artifact(state.store, state.blobs, artifact_folder)
        publish_parameters(state.store, state.blobs, np.zeros(6, np.float32))
        plan = world.plan(cohort_size=1, deadline_s=600.0, lease_s=600.0)
        return state, open_round(state.store, state.blobs, plan, time.time())

    return open_in


def test_a_round_survives_the_servers_kill(tmp_path, world, open_real_round, phone_of):
    """The server is killed between upload and report; the search in this process closes the round."""
    state, round_id = open_real_round(tmp_path)
    data = write_vector("parameter_update", np.arange(6, dtype=np.float32))
    sha256 = hashlib.sha256(data).hexdigest()
    with running(tmp_path, "--json", stop=signal.SIGKILL) as (_, line):
        phone = phone_of(json.loads(line)["url"])
        phone.enrol("real")
        assignment = phone.assignment(world.check_in_message)
        assert phone.request("GET", f"/v1/blobs/{assignment.artifact_id}").status_code == 200
        assert phone.request("PUT", f"/v1/blobs/{sha256}", data).status_code == 201
    with running(tmp_path, "--json") as (server, line):
        told = json.loads(line)
        phone.url = told["url"]
        assert phone.assignment(world.check_in_message).assignment_id == assignment.assignment_id
        assert phone.report(Report(assignment.assignment_id, 20, sha256, work_s=0.5)).status_code == 202
    assert (server.returncode, server.rest) == (0, ("", ""))
    assert told["key_id"] == state.key.key_id
    result = close_round(state.store, state.blobs, round_id, time.time(), PrivateRandom(bytes(32)))
    assert (result.status, result.num_reports) == ("closed", 1)
    assert np.array_equal(read_aggregate(state.blobs, result.aggregate_sha256, 6), np.arange(6))


def test_it_says_where_it_listens_and_stops_at_ctrl_c(tmp_path):
    with running(tmp_path / "new", stop=signal.SIGINT) as (server, line):
        assert line.startswith("listening on http://127.0.0.1:")
        assert f", state in {tmp_path / 'new'}" in line
    assert (server.returncode, server.rest) == (0, ("", ""))


def test_a_port_in_use_is_told_before_anything_is_made(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} of 127.0.0.1 is in use; stop what uses it"):
            serve(tmp_path / "new", "127.0.0.1", port, lambda _: None)
    assert not (tmp_path / "new").exists()


def test_an_address_of_another_machine_is_told(tmp_path):
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        serve(tmp_path / "new", "192.0.2.1", 0, lambda _: None)


def test_an_unusable_folder_ends_with_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "file").write_text("")
    command = [*SERVE, "--state", str(tmp_path / "file" / "server"), "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("handheld: state folder")
    assert len(done.stderr.splitlines()) == 1
