"""`handheld serve` and three `handheld-device run` as processes on 127.0.0.1, two of them killed in the middle."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from device_runtime.accounting import Budget
from device_runtime.private_random import PrivateRandom
from device_runtime.state_folder import read_ledgers
from device_runtime.terms import EvaluateTerms, PrivacyTerms, TrainTerms
from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters
from pipeline.coordinator.closing import close_round
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.publish import publish_artifact, publish_parameters, read_aggregate
from pipeline.coordinator.round_rows import load_round, reports_of_round
from pipeline.coordinator.worker import open_round, waiting_rounds
from pipeline.digits import SPEC
from pipeline.server.state import open_state
from profiles.records import record_id
from search.architecture import Architecture, Stem

ARCHITECTURE = Architecture((1, 8, 8), 10, Stem(4, 3, 2), (), "flatten", "none", "relu")
PRIVACY = PrivacyTerms("device", 0.5, 1.0)
TRAIN = {"train": TrainTerms(2.0, local_steps=10, max_grad_norm=1.0, privacy=PRIVACY)}
EVALUATE = {"evaluate": EvaluateTerms("validation", ("accuracy",), privacy=PRIVACY)}
BUDGET = Budget(100.0, 1e-5, 5)
NUM_DEVICES = 3
WAIT_S = 60.0  # a bound for a busy machine; the whole test takes 14 s on a free one
DEVICE = [sys.executable, "-c", "from device_runtime.command_line import main; main()"]
# The command as it is, but devices come back sooner than a server in the field asks them to.
SERVER = """
from functools import partial
import pipeline.server.serve as module
from device_runtime.wire import Window
from pipeline.command_line import main
from pipeline.server.app import Settings
module.create_app = partial(module.create_app, settings=Settings(come_back=Window(0.1, 0.2)))
main()
"""


class Process:
    """A process whose JSON lines are kept as they come."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.lines = command, []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors = []
        for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self.keep, args=(stream, kept), daemon=True).start()

    @staticmethod
    def keep(stream, kept) -> None:
        with stream:
            kept.extend(stream)

    def seen(self, **wanted):
        """The first line that says all of `wanted`."""
        values = (json.loads(line) for line in list(self.lines))
        return next((value for value in values if wanted.items() <= value.items()), None)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(10) == -signal.SIGKILL, self.errors

    def leave(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def wait_for(condition, processes, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            told = "\n".join(f"{process.command[-1]}: {process.lines[-3:]} {process.errors}" for process in processes)
            raise AssertionError(f"{what} did not happen within {WAIT_S:g} s; last seen:\n{told}")
        time.sleep(0.02)


class Search:
    """What drives the rounds: the coordinator's own functions on the server's state folder."""

    def __init__(self, folder: Path, artifact: Path) -> None:
        self.state = open_state(folder)
        self.artifact_id = publish_artifact(self.state.store, self.state.blobs, artifact)
        self.parameters = initial_parameters(ARCHITECTURE, 0)
        with self.state.store.transaction():
            self.state.store.add_run(Run("run", "real", record_id(SPEC), 1, BUDGET))

    def open(self, key: str, terms) -> str:
        plan = RoundPlan(
            run_id="run",
            round_key=key,
            phase="search",
            kind=next(iter(terms)),
            artifact_id=self.artifact_id,
            parameters_sha256=publish_parameters(self.state.store, self.state.blobs, self.parameters),
            cohort_size=NUM_DEVICES,
            min_reports=NUM_DEVICES,
            deadline_s=3 * WAIT_S,
            lease_s=2 * WAIT_S,
            **terms,
        )
        return open_round(self.state.store, self.state.blobs, plan, time.time())

    def num_reported(self, round_id: str) -> int:
        with self.state.store.transaction():
            return load_round(self.state.store, round_id).num_reported

    def close(self, round_id: str, processes):
        store = self.state.store
        wait_for(lambda: not waiting_rounds(store, (round_id,), time.time()), processes, f"round {round_id}")
        result = close_round(self.state.store, self.state.blobs, round_id, time.time(), PrivateRandom(bytes(32)))
        if result.aggregate_sha256 is not None:
            self.parameters = self.parameters + read_aggregate(
                self.state.blobs, result.aggregate_sha256, len(self.parameters)
            )
        return result

    def reports(self, round_id: str):
        with self.state.store.transaction():
            return reports_of_round(self.state.store, round_id)


@pytest.fixture
def search(tmp_path):
    compile_architecture(CompileRequest(ARCHITECTURE, SPEC, 32), tmp_path / "artifact")
    made = Search(tmp_path / "server", tmp_path / "artifact")
    yield made
    made.state.store.close()


@pytest.fixture
def processes():
    started = []
    yield started
    for process in started:
        process.process.kill()
        process.process.wait()


def start_device(number, url, folder) -> Process:
    digits = load_digits()
    share = slice(number, None, NUM_DEVICES)
    np.savez(folder / f"share{number}.npz", x=digits.images[share].astype(np.float32), y=digits.target[share])
    options = {
        "--server": url,
        "--data": f"npz:{folder / f'share{number}.npz'}",
        "--spec": str(folder / "artifact" / "manifest.json"),
        "--state": str(folder / f"device{number}"),
        "--epsilon": "100",
        "--delta": "1e-5",
        "--order": "5",
    }
    return Process([*DEVICE, "run", "--json", *(text for option in options.items() for text in option)])


def restart_server(server: Process) -> str:
    server.kill()
    url = json.loads(server.lines[0])["url"]
    server.command[-1] = url.rpartition(":")[2]
    server.lines.clear()
    server.start()
    return url


def test_two_rounds_with_evaluation_survive_a_killed_device_and_a_killed_server(search, processes, tmp_path):
    train = search.open("train 1", TRAIN)
    server = Process(
        [sys.executable, "-c", SERVER, "serve", "--json", "--state", str(tmp_path / "server"), "--port", "0"]
    )
    processes.append(server)
    wait_for(lambda: server.lines, processes, "the server's start")
    devices = [start_device(number, json.loads(server.lines[0])["url"], tmp_path) for number in range(NUM_DEVICES)]
    processes.extend(devices)

    wait_for(lambda: devices[0].seen(action="train"), processes, "training on the first device")
    devices[0].kill()
    wait_for(lambda: search.num_reported(train) >= 1, processes, "a first report")
    restart_server(server)
    devices[0].start()
    results = [search.close(train, processes)]
    for key, terms in (("evaluate 1", EVALUATE), ("train 2", TRAIN), ("evaluate 2", EVALUATE)):
        results.append(search.close(search.open(key, terms), processes))

    assert [(result.status, result.num_reports) for result in results] == [("closed", NUM_DEVICES)] * 4
    for result in results:
        reports = search.reports(result.round_id)
        assert len({report.assignment_id for report in reports}) == len(reports) == NUM_DEVICES
    # Real clients draw their own noise and splits: 0.71 to 0.81 over six runs, give or take 0.05 for the sampled sum.
    assert results[3].metric_sums["accuracy"] / (PRIVACY.sample_rate * results[3].num_examples) > 0.4
    assert [device.leave() for device in devices] == [0, 0, 0]
    assert all(device.seen(action="leave", reason="interrupted") for device in devices)
    assert server.leave() == 0
    check_ledgers(tmp_path)
    check_devices(search)


def check_ledgers(folder):
    """Each device charged each assignment; the killed one its first training perhaps twice."""
    for number in range(NUM_DEVICES):
        (content,) = read_ledgers(folder / f"device{number}")
        counts = {}
        for charge in content.charges:
            counts[charge.assignment_id] = counts.get(charge.assignment_id, 0) + 1
        assert len(counts) == 4
        assert set(list(counts.values())[1:]) == {1}
        assert next(iter(counts.values())) in ({1, 2} if number == 0 else {1})


def check_devices(search):
    """Three real devices, each with examples of its own."""
    with search.state.store.transaction():
        devices = search.state.store.list_devices()
    assert [device.kind for device in devices] == ["real"] * NUM_DEVICES
    assert sum(sum(device.check_in.num_examples.values()) for device in devices) == len(load_digits().target)
