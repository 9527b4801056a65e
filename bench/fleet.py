"""How fast this machine emulates a fleet: client updates per second beside a bare training loop over the same work.

In process (the fleet) and over HTTP (uvicorn on 127.0.0.1, real device clients in threads of this process), each in
turns with the loop, round by round; then the memory of 30 and of 3,000 phones, each in a fresh process. Over HTTP every
acknowledged byte is on the disk; the fleet's database survives a killed process only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from bench.fleet_over_http import COME_BACK, serve_clients, wait
from bench.fleet_scene import BATCH_SIZE, NETWORK, SOURCE, BareLoop, Model, make_shares, open_fleet, plan_round
from bench.measuring import Bar, Result, new_result, print_result
from device_runtime.arrays import Vector
from device_runtime.private_random import PrivateRandom
from pipeline.coordinator.publish import read_aggregate
from pipeline.coordinator.worker import run_rounds
from pipeline.fleet.rounds import EmulatedRounds

BAR_PHONES, BAR_ROUNDS, BAR_S = 200, 3, 10.0
PACKAGES = ("onnxruntime-training-cpu", "onnxruntime", "fastapi", "uvicorn", "sqlalchemy", "cryptography", "numpy")
COLUMNS = ("name", "phones", "updates", "seconds", "updates_per_s", "vs_bare", "memory_mib")
Row = dict[str, Any]


def measure(is_quick: bool) -> Result:
    """All rows; raises RuntimeError when fleet and loop do not do the same work."""
    result = new_result("fleet", PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = compile_network(folder / "artifact")
        bar_rows, total_s = in_process(BAR_PHONES, BAR_ROUNDS, model)
        rows = [
            *bar_rows,
            *in_process(30, 5 if is_quick else 20, model)[0],
            *over_http(6, 5 if is_quick else 30, model),
            memory(30, 30, model),
            memory(3000, 300 if is_quick else 3000, model),
        ]
    name = f"{BAR_PHONES} phones x {BAR_ROUNDS} rounds after compiling, s"
    return replace(result, rows=rows, bars=[Bar(name, round(total_s, 3), BAR_S, total_s < BAR_S)])


def compile_network(folder: Path) -> Model:
    """The demo network with initial parameters."""
    from pipeline.compile.artifact import CompileRequest, compile_architecture, initial_parameters  # noqa: PLC0415  (torch)

    compile_architecture(CompileRequest(NETWORK, SOURCE.spec, BATCH_SIZE), folder)
    return Model(folder, initial_parameters(NETWORK, 0))


def in_process(num_phones: int, num_rounds: int, model: Model) -> tuple[list[Row], float]:
    """Rows of fleet and loop in turns, and all that the fleet took: switching on, publishing and rounds."""
    bare = BareLoop(model.artifact, make_shares(num_phones))
    bare.update(model.parameters, ["warm up"] * num_phones)
    fleet_s, bare_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        rounds = open_fleet(num_phones, Path(folder))
        opening_s = time.perf_counter() - began
        for number in range(num_rounds):
            began = time.perf_counter()
            result = rounds.hold(plan_round(rounds.store, rounds.blobs, number, num_phones, model))
            update = read_aggregate(rounds.blobs, result.aggregate_sha256 or "", len(model.parameters))
            fleet_s.append(time.perf_counter() - began)
            labels = labels_of(rounds, result.round_id)
            began = time.perf_counter()
            expected = bare.update(model.parameters, labels)
            bare_s.append(time.perf_counter() - began)
            check_same_work(update, expected)
            model = replace(model, parameters=model.parameters + update)
        rounds.close()
    rows = [row("fleet", num_phones, fleet_s, bare_s), row("bare loop", num_phones, bare_s, bare_s)]
    return rows, opening_s + sum(fleet_s)


def over_http(num_phones: int, num_rounds: int, model: Model) -> list[Row]:
    """Rows of server and loop in turns; a first round, in which clients enrol and fetch the graphs, is not counted."""
    shares = make_shares(num_phones)
    bare, http_s, bare_s = BareLoop(model.artifact, shares), [], []
    with serve_clients(shares) as (store, blobs):
        for number in range(num_rounds + 1):
            began = time.perf_counter()
            plan = plan_round(store, blobs, number, num_phones, model)
            result = run_rounds(store, blobs, [plan], time.time, wait, lambda _: PrivateRandom(bytes(32)))[0]
            http_s.append(time.perf_counter() - began)
            if result.num_reports != num_phones:
                raise RuntimeError(f"round {number} had {result.num_reports} of {num_phones} reports")
            began = time.perf_counter()
            bare.update(model.parameters, ["any"] * num_phones)
            bare_s.append(time.perf_counter() - began)
    http_s, bare_s = http_s[1:], bare_s[1:]
    # Real clients come back after 5 to 15 s; and they have a server process beside them, where the loop is one thread.
    served = row("HTTP clients", num_phones, http_s, bare_s) | {
        "come_back_s": [COME_BACK.earliest_s, COME_BACK.latest_s]
    }
    return [served, row("bare loop", num_phones, bare_s, bare_s)]


def memory(num_phones: int, cohort_size: int, model: Model) -> Row:
    """The row of a fresh process that held one round of `cohort_size` phones: the peak of its resident set.

    What a phone needs is in the difference of two such rows; libraries (`imports_mib`) and sessions are shared.
    """
    command = [sys.executable, "-m", "bench.fleet_memory", str(num_phones), str(cohort_size), str(model.artifact)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {
        "name": "fresh process",
        "phones": num_phones,
        **{name: round(value, 2) for name, value in told.items()},
        "updates_per_s": round(told["updates"] / told["seconds"], 2),
        "vs_bare": None,
    }


def row(name: str, num_phones: int, times_s: list[float], bare_s: list[float]) -> Row:
    """What a method took for rounds of all phones."""
    total, updates = sum(times_s), num_phones * len(times_s)
    return {
        "name": name,
        "phones": num_phones,
        "updates": updates,
        "seconds": round(total, 4),
        "updates_per_s": round(updates / total, 2),
        "vs_bare": round(total / sum(bare_s), 3),
        "memory_mib": None,
        "times_s": [round(time_s, 4) for time_s in times_s],
    }


def labels_of(rounds: EmulatedRounds, round_id: str) -> list[str]:
    """What each phone's batches were drawn from in a round."""
    query = text("SELECT device_id, assignment_id FROM assignments WHERE round_id = :round")
    with rounds.store.transaction():
        assignments = dict(tuple(found) for found in rounds.store.execute(query, {"round": round_id}))
    return [f"phone {phone.index}/{assignments[phone.key.key_id]}" for phone in rounds.fleet.phones]


def check_same_work(update: Vector, expected: Vector) -> None:
    """The fleet's mean update is the loop's but for the order of the sum."""
    if not np.allclose(update, expected, rtol=1e-5, atol=1e-7):
        worst = float(np.abs(update - expected).max())
        raise RuntimeError(f"fleet and bare loop do not do the same work: their updates differ by {worst:g}")


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and reports, under 50 s")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file too")
    arguments = parser.parse_args()
    print_result(measure(arguments.quick), COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
