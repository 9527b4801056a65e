"""Do predictions hold on this machine? Networks that nobody measured before, beside what they then take.

    python -m bench.predict [--quick] [--work runs/predict] [--profile FILE] [--data ../shared/data]

The project's own command measures this machine (`handheld-device measure`, the default pack). Networks are drawn from
the same spaces, none of the pack's, and predicted; and each is measured twice, by turns: as it is shipped, and its
gradient step. This machine's speed drifts by 5% within a minute and differs between its cores, so command and
measurements take turns of a second on one core: all are of the same minutes. (So the command is given more than its ten
minutes; how long it ran itself has a bar.) A prediction cannot agree with a measurement better than a second one does,
so the bars are shares of that; a session whose own second measurement is within 10% for less than 85% of the networks
does not count, nor does one that is graded unstable, and each has that bar alone. Then published measurements, and how
long predicting takes.

With `--work` what is there is not made again, and with `--profile` no profile is.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice, product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import predict_published
from bench.measuring import Bar, Result, new_result, print_result
from device_runtime.graph_runs import GraphRun, VisitPlan, time_graph
from device_runtime.measurement_pack import Pack, PackEntry, read_pack
from pipeline.packs import compile_pack, default_architectures, default_random, default_spaces
from profiles.catalogue import load_profile
from profiles.kernel import Kernel
from profiles.predict import Prediction, predict_networks
from profiles.schema import DeviceProfile, Direction
from search.architecture import Architecture
from search.cost import kernels_of

NETWORKS, QUICK_NETWORKS, BATCH_SIZE, ROUNDS, PARTS = 250, 24, 16, 5, 3
SHARES: dict[Direction, float] = {"forward": 0.95, "gradient": 0.90}  # of the second measurement's
LEAST_SHARE, LEAST_RANK, MANY, SECONDS = 0.85, 0.97, 10_000, 2.0
SEED, MINUTES = 10, 16.0
TURN_S, SESSIONS_TURN_S, LONGEST_S = 0.8, 1.0, 600.0
VISIT = VisitPlan(visit_ms=10, max_samples=60)
PACKAGES = ("numpy", "scikit-learn", "onnxruntime-training-cpu")
COLUMNS = ("task", "device", "kind", "within_10", "simple_within_10", "median_error", "covered_80", "covered_95")
THIS_MACHINE = "this machine"
Floats = NDArray[np.float64]
Row = dict[str, Any]
Times = list[tuple[float, float]]  # medians of the first and the second measurement


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few networks, a profile of a minute, one draw")
    parser.add_argument("--work", type=Path, help="folder to keep profile, graphs and times in, and to go on from")
    parser.add_argument("--profile", type=Path, help="profile of this machine; left out, it is measured")
    parser.add_argument("--data", type=Path, default=predict_published.DATA, help="folder with phones/ in it")
    parser.add_argument(
        "-o", "--output", type=Path, help="write the JSON object, without the published rows, to this file"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="handheld-predict-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        print_result(run(arguments, work), COLUMNS, arguments.output, is_kept)


def is_kept(row: Row, name: str) -> bool:
    """Whether a column of a row goes to a file: the many rows of published data come out the same for everybody."""
    return name != "tested" or row["task"] == THIS_MACHINE


def run(arguments: argparse.Namespace, work: Path) -> Result:
    """All rows and bars."""
    result = new_result("predict", PACKAGES)
    minutes = 1.0 if arguments.quick else MINUTES
    pack = _kept_pack(held_out(QUICK_NETWORKS if arguments.quick else NETWORKS), work / "held-out")
    entries_by_way = {direction: entries_of(pack, direction) for direction in SHARES}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kept, measured = work / "times.json", arguments.profile or work / "profile.json"
    if not (kept.exists() and measured.exists()):
        session = None if arguments.profile else measuring(measured, minutes)
        times_by_way = measure_twice(pack, entries_by_way, session)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        kept.write_text(json.dumps([times_by_way, used.ru_utime + used.ru_stime]), encoding="utf-8")
    times_by_way, session_s = json.loads(kept.read_text(encoding="utf-8"))
    if arguments.profile is None:
        result.bars.append(
            Bar("processor seconds of the session itself (at most)", session_s, LONGEST_S, session_s <= LONGEST_S)
        )
    profile = load_profile(str(measured))
    steady = float(profile.is_stable)
    result.bars.append(
        Bar("the session is graded stable, as what is to be relied on must be", steady, 1, profile.is_stable)
    )
    for direction, share in SHARES.items():
        entries, times = entries_by_way[direction], times_by_way[direction]
        row = predicted_row(profile, [pack.manifest.kernels_of(one) for one in entries], entries[0], times)
        result.rows.append(row)
        result.bars.extend(bars_of(row, share) if profile.is_stable else ())
    result.bars.append(speed_bar(profile))
    if (arguments.data / predict_published.LAYERS).exists():
        published = predict_published.measure(arguments.data, 1 if arguments.quick else predict_published.DRAWS)
        result.rows.extend(published.rows)
        result.bars.extend(published.bars)
    return result


def measuring(path: Path, minutes: float) -> subprocess.Popen[bytes]:
    """Begin to measure this machine as a user does."""
    command = [sys.executable, "-c", "from device_runtime.command_line import main; main()", "measure"]
    told = ["--name", "this-machine", "--minutes", f"{minutes:g}", "-o", str(path)]
    return subprocess.Popen([*command, *told], stdout=sys.stderr)


def held_out(num: int) -> list[Architecture]:
    """Different networks of the default spaces in turns, none of the default pack's."""
    rng, known = np.random.default_rng(SEED), {*default_architectures(), *default_random()}

    def new() -> Iterator[Architecture]:
        for space in cycle(default_spaces()):
            while (network := space.sample(rng).architecture) in known:
                pass
            known.add(network)
            yield network

    return list(islice(new(), num))


def entries_of(pack: Pack, direction: Direction) -> list[PackEntry]:
    """The networks' graphs of one direction, without the empty call."""
    entries = [one for one in pack.manifest.entries if one.direction == direction]
    return [one for one in entries if pack.manifest.kernels_of(one)[0].kind != "call"]


def _kept_pack(networks: Sequence[Architecture], folder: Path) -> Pack:
    return read_pack(folder) if folder.exists() else compile_pack(networks, BATCH_SIZE, folder)


def measure_twice(
    pack: Pack,
    entries_by_way: Mapping[Direction, Sequence[PackEntry]],
    session: subprocess.Popen[bytes] | None,
) -> dict[Direction, Times]:
    """Medians of each graph's two measurements, whose rounds take turns.

    Args:
        session: Waits while a graph is measured, and runs in turns with that.

    Raises:
        CalledProcessError: It failed.
    """
    samples: dict[Direction, list[tuple[list[float], list[float]]]] = {
        way: [([], []) for _ in entries] for way, entries in entries_by_way.items()
    }
    try:
        began = -inf
        for half, way, place in _turns(entries_by_way):
            if time.perf_counter() - began > TURN_S:
                _run_on(session, SESSIONS_TURN_S)
                began = time.perf_counter()
            entry = entries_by_way[way][place]
            graph = GraphRun(pack.graphs[entry.sha256], way, pack.manifest.kernels_of(entry), 1)
            samples[way][place][half].extend(time_graph(graph, VISIT, time.perf_counter))
        _run_on(session, None)
    finally:
        if session is not None and session.poll() is None:
            session.kill()  # also one that is paused
            session.wait()
    return {
        way: [(float(np.median(first)), float(np.median(second))) for first, second in found]
        for way, found in samples.items()
    }


def _turns(entries_by_way: Mapping[Direction, Sequence[PackEntry]]) -> Iterator[tuple[int, Direction, int]]:
    """Half, direction and place of one visit after the other: as in a session, short ones several times a round."""
    for half, part in product((0, 1) * ROUNDS, range(PARTS)):
        yield from ((half, "forward", place) for place in range(len(entries_by_way["forward"])))
        yield from ((half, "gradient", place) for place in range(part, len(entries_by_way["gradient"]), PARTS))


def _run_on(session: subprocess.Popen[bytes] | None, seconds: float | None) -> None:
    """Let a paused process run for so long, or to its end."""
    if session is None:
        return
    if session.poll() is None:
        session.send_signal(signal.SIGCONT)
    try:
        session.wait(seconds)
    except subprocess.TimeoutExpired:
        session.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, session.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # a signal takes a moment
    if session.returncode:
        raise subprocess.CalledProcessError(session.returncode, session.args)


def predicted_row(profile: DeviceProfile, networks: Sequence[Sequence[Kernel]], entry: PackEntry, times: Times) -> Row:
    """Predictions beside measurements, and what they come to; `simple` is the second measurement."""
    found = predict_networks(profile, networks, entry.batch_size, entry.direction)
    first, second = np.array(times).T
    medians = np.array([one.median_ms for one in found])
    return {
        "task": THIS_MACHINE,
        "device": profile.soc,
        "kind": entry.direction,
        "within_10": _within_10(medians, first),
        "simple_within_10": _within_10(second, first),
        "median_error": float(np.median(np.abs(medians / first - 1))),
        "spearman": spearman(medians, first),
        "covered_80": _covered([one.interval80_ms for one in found], first),
        "covered_95": _covered([one.interval95_ms for one in found], first),
        "sessions": [{"grade": one.grade, "drift": one.drift, "seconds": one.seconds} for one in profile.sessions],
        "num_kernels": len(profile.kernels),
        "num_networks": sum(one.direction == entry.direction for one in profile.networks),
        "columns": ["first_ms", "second_ms", "median_ms", "low80", "high80", "low95", "high95", "method"],
        "tested": [[*_rounded(time_), *_numbers(one), one.method] for time_, one in zip(times, found, strict=True)],
    }


def _numbers(found: Prediction) -> list[float]:
    return _rounded([found.median_ms, *found.interval80_ms, *found.interval95_ms])


def bars_of(row: Mapping[str, Any], share: float) -> Iterator[Bar]:
    """What a direction must show, where its session counts."""
    kind, again = row["kind"], row["simple_within_10"]
    yield Bar(f"{kind}: second measurement within 10% of the first", again, LEAST_SHARE, again >= LEAST_SHARE)
    if again < LEAST_SHARE:
        return
    within, rank, covered = row["within_10"] / again, row["spearman"], row["covered_80"]
    yield Bar(f"{kind}: within 10%, as a share of the second measurement's", within, share, within >= share)
    yield Bar(f"{kind}: Spearman", rank, LEAST_RANK, rank >= LEAST_RANK)
    yield Bar(f"{kind}: 80% intervals cover at least", covered, 0.75, covered >= 0.75)
    yield Bar(f"{kind}: 80% intervals cover at most", covered, 0.85, covered <= 0.85)


def speed_bar(profile: DeviceProfile) -> Bar:
    """Processor seconds of many predictions of networks that were not asked for before; the machine may be busy."""
    rng, spaces = np.random.default_rng(SEED), default_spaces()
    networks = [kernels_of(spaces[i % len(spaces)].sample(rng).architecture) for i in range(MANY)]
    predict_networks(profile, networks[:1], 1, "forward")  # fits the profile's tables
    start = time.process_time()
    predict_networks(profile, networks, 1, "forward")
    seconds = time.process_time() - start
    return Bar(f"seconds of {MANY:,} predictions", seconds, SECONDS, seconds < SECONDS)


def spearman(one: Floats, other: Floats) -> float:
    """Correlation of ranks; without ties, which medians of times do not have."""
    ranks = np.stack([np.argsort(np.argsort(values)) for values in (one, other)])
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _within_10(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1) <= 0.1))


def _covered(intervals: Sequence[tuple[float, float]], measured: Floats) -> float:
    low, high = np.array(intervals).T
    return float(np.mean((low <= measured) & (measured <= high)))


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


if __name__ == "__main__":
    main()
