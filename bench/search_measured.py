"""Networks searched for this machine and for a phone in the same run, shipped, and checked against each one's limits.

This machine is profiled with a pack of the run file's own networks; the searches' limits are shares of what the largest
network is predicted to need, on this machine of an inference, a training step and its memory, on the phone, which is of
another class, of an inference alone. Every platform must get a network of its own. On the phone it is checked by
prediction; here by running it, as the profile says what a time is: inference of one example and the artifact's gradient
step on plain ONNX Runtime, one thread, the next run at once after the last. All searches' and the largest network take
turns. A virtual machine's speed drifts meanwhile by a tenth, so the largest network is also timed just after the
profile: times are told as they are, and compared with the limits at the speed that the profile was measured at.

Memory is the growth of a process while it takes steps, beyond its opened session and the arena's tables: `memory_mib`
is on the arena's values. What else the runtime takes for a run, 0.1 to 0.3 MiB for networks of this space, is in what
is measured, so the check is the stricter one.

FedNAS stops where a step ends, on the average a tenth below the limit, so that a prediction may be wrong by as much and
nobody would see it; the nested race fills its limit up to two hundredths. Of three limits only one is filled, so the
server's ranking alone, which costs next to nothing, searches for each of them alone.
"""

import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.measuring import Bar, spread_of, time_interleaved
from bench.resident_memory import measure_resident_mib
from bench.search_cost import ALONE, GROUPS, KEEP, LIMIT, ONE_ENTRANT, OURS, PRETRAIN, RACE, RUN_FILE, TRAIN
from bench.search_rows import Row, needs_of
from bench.search_runs import Method, Sitting, Task, replace_lines, tasks_of, with_search
from device_runtime.examples import SpecOverrides, open_source
from device_runtime.graph_runs import GraphRun
from pipeline.compile.process_memory import predict_memory
from pipeline.digits import DATA_SCHEMES
from pipeline.run_file import parse_run_file
from pipeline.run_result import ARTIFACT, RunResult, model_folder, read_result
from pipeline.searching.choices import space_of
from pipeline.ship.onnx_export import ONNX
from profiles.catalogue import load_profile
from profiles.schema import DeviceProfile
from search.architecture import Architecture
from search.cost import cost_of

PROFILES, FINAL = 'profiles = ["redmi-note-4"]', "[final]\nrounds = 40"
DEFAULT = f"[budgets.default]\n{LIMIT}"
FEDNAS: dict[str, Any] = {
    "algorithm": "fednas",
    "groups": GROUPS,
    "pretrain_rounds": PRETRAIN,
    "keep": KEEP,
    "rounds": TRAIN,
    "first_reduction": 0.1,
}
GRADIENT = "gradient.onnx"  # in an artifact
LARGEST = "largest"
LINK = "20,10,30"  # Mbit/s down and up, ms: the emulated clients' only, no network is sent anywhere
PHONE = "redmi-note-4"
SHARE, PHONE_SHARE = 0.6, 0.3  # of what the largest network needs
REPETITIONS, WARM_UP = 1000, 100
STEPS, STEPS_WARM_UP = 200, 20
SETTLE = 5  # runs of a turn that are not counted: the other networks' turns leave none of its data in the caches
WORDS = {
    "latency_ms": "ms of an inference",
    "training_step_ms": "ms of a training step",
    "memory_mib": "MiB of a training step",
}
# Each with its table [search] and its limits on this machine.
SEARCHES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "fednas": (FEDNAS, (*WORDS,)),
    OURS: (RACE, (*WORDS,)),
    **{f"{ALONE}, {limit} alone": (ONE_ENTRANT, (limit,)) for limit in WORDS},
}
TABLE_BYTES = 8 / 256  # of each byte that the arena reserves: exact, from `bfc_arena.h`
Needs = dict[str, float]  # by the names of limits


@dataclass(frozen=True)
class Found:
    """A finished run of a search, shipped.

    Attributes:
        limits: By the names of platforms.
    """

    folder: Path
    result: RunResult
    limits: Mapping[str, Needs]

    def predicted(self, platform: str) -> Needs:
        """What a platform's network needs there."""
        costs = self.result.trial(self.result.model_for(platform).trial).costs
        (cost,) = [one for one in costs if one.profile == platform]
        return needs_of(cost)

    def gradient(self, platform: str) -> Path:
        """The graph that a platform's network is trained by."""
        return model_folder(self.folder, self.result.model_for(platform).trial) / ARTIFACT / GRADIENT


def measured(sitting: Sitting) -> tuple[list[Row], list[Bar]]:
    """One row, and whether the shipped networks keep their limits, here and by prediction on the phone."""
    method = Method("two platforms", FEDNAS, {FINAL: "[final]\nrounds = 1"})
    tasks = tasks_of(RUN_FILE.read_text(encoding="utf-8"), [method], [0])
    (row,) = replace(sitting, num_processes=1).rows(tasks, measure_shipped)
    bars = [bar for name in SEARCHES for bar in bars_of(name, row[name])]
    return [{name: value for name, value in row.items() if name != "run_file"}], bars


def bars_of(name: str, found: Row) -> Iterator[Bar]:
    """What the networks of a search must show: that each platform has its own, within its limits."""
    yield Bar(f"{name}: networks shipped for two platforms", found["num_networks"], 2, found["num_networks"] == 2)
    for limit, one in found["here"].items():
        told = f"network of {name} for this machine: {WORDS[limit]}"
        yield Bar(told, one["at the profile's speed"], one["limit"], one["ratio"] <= 1)
    for limit, one in found[PHONE].items():
        told = f"network of {name} for {PHONE}: predicted {WORDS[limit]}"
        yield Bar(told, one["predicted"], one["limit"], one["ratio"] <= 1)


def measure_shipped(task: Task, work: Path) -> Row:
    """Profile this machine, search and ship for it and the phone, and measure this machine's networks.

    FedNAS's settings are the task's.
    """
    folder = work / task.method
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    profile = folder / "this-machine.json"
    listed, pack = folder / "networks.toml", folder / "pack"
    listed.write_text(task.run_file, encoding="utf-8")
    run_handheld("profile", "pack", "--run", listed, "-o", pack)
    run_handheld("profile", "measure", "--quick", "--pack", pack, "--link", LINK, "-o", profile)
    largest = _search(folder / LARGEST, task.run_file, profile, (*WORDS,), (1.0, 1.0))
    here = load_profile(str(profile)).name
    then = time_networks({LARGEST: largest}, here)[LARGEST]
    runs = {
        name: (task.run_file if search is FEDNAS else with_search(task.run_file, task.seed, search), limits)
        for name, (search, limits) in SEARCHES.items()
    }
    found = {name: _search(folder / name, text, profile, limits) for name, (text, limits) in runs.items()}
    found[LARGEST] = largest
    figures = measure_networks(found, here)
    drift = {limit: figures[LARGEST][limit]["median_ms"] / one["median_ms"] for limit, one in then.items()}
    return {"drift": drift, **{name: compared(one, figures[name], drift, here) for name, one in found.items()}}


def _search(
    folder: Path, text: str, profile: Path, limited: Collection[str], shares: tuple[float, float] | None = None
) -> Found:
    """Search and ship for this machine and the phone, within shares of what the largest network needs."""
    platforms = [load_profile(str(profile)), load_profile(PHONE)]
    largest, batch_size = _largest(text)
    here, phone = limits_of(largest, batch_size, platforms, shares or (SHARE, PHONE_SHARE))
    limits = {platforms[0].name: {name: here[name] for name in limited}, PHONE: phone}
    run_file = folder.with_suffix(".toml")
    run_file.write_text(with_limits(text, profile, platforms, limits), encoding="utf-8")
    run_handheld("search", run_file, "-o", folder)
    for name in limits:
        run_handheld("ship", folder, "--platform", name, "-o", folder / f"bundle-{name}")
    return Found(folder, read_result(folder), limits)


def limits_of(
    largest: Architecture, batch_size: int, platforms: Iterable[DeviceProfile], shares: tuple[float, float]
) -> tuple[Needs, Needs]:
    """Shares of what the largest network needs: all of it on this machine, an inference's time on the phone."""
    here, phone = (needs_of(cost_of(largest, one, batch_size)) for one in platforms)
    return (
        {name: shares[0] * value for name, value in here.items()},
        {"latency_ms": shares[1] * phone["latency_ms"]},
    )


def with_limits(text: str, profile: Path, platforms: Iterable[DeviceProfile], limits: Mapping[str, Needs]) -> str:
    """A run file for both platforms, each with the limits of its class."""
    tables = []
    for one in platforms:
        lines = [f"{name} = {value!r}" for name, value in limits[one.name].items()]
        tables.append("\n".join([f"[budgets.{one.device_class}]", *lines]))
    named = f'profiles = ["{profile}", "{PHONE}"]'
    return replace_lines(text, {PROFILES: named, DEFAULT: "\n\n".join(tables)})


def measure_networks(found: Mapping[str, Found], here: str) -> dict[str, dict[str, Row]]:
    """What each run's network for this machine takes: by name and limit, `measured` and how it scattered."""
    times = time_networks(found, here)
    return {name: {**times[name], "memory_mib": step_memory(one.gradient(here))} for name, one in found.items()}


def time_networks(found: Mapping[str, Found], here: str) -> dict[str, dict[str, Row]]:
    """How long each run's network for this machine takes: by name and limit."""
    models = {name: one.folder / f"bundle-{here}" / ONNX for name, one in found.items()}
    runs = {name: GraphRun(model.read_bytes(), "forward", (), 1).open().run for name, model in models.items()}
    steps = {
        name: GraphRun(one.gradient(here).read_bytes(), "gradient", (), 1).open().run for name, one in found.items()
    }
    times = {
        "latency_ms": time_interleaved(runs, REPETITIONS, WARM_UP, settle=SETTLE),
        "training_step_ms": time_interleaved(steps, STEPS, STEPS_WARM_UP, settle=SETTLE),
    }
    spreads = {name: {limit: spread_of(of[name]) for limit, of in times.items()} for name in found}
    return {
        name: {limit: {"measured": spread["median_ms"], **spread} for limit, spread in own.items()}
        for name, own in spreads.items()
    }


def step_memory(gradient: Path) -> Row:
    """MiB of the values of a step, and what they were read from."""
    grown = measure_resident_mib(gradient)
    tables = TABLE_BYTES * predict_memory(gradient.read_bytes()).peak.reserved / 2**20
    return {"measured": max(grown["runs_mib"]) - grown["opened_mib"] - tables, "tables_mib": tables, **grown}


def compared(found: Found, figures: Mapping[str, Row], drift: Mapping[str, float], here: str) -> Row:
    """A run's measured and predicted needs beside its limits.

    Args:
        drift: By limit, how many times as long as just after the profile one network takes.
    """
    at_profile = {limit: one["measured"] / drift.get(limit, 1.0) for limit, one in figures.items()}
    predicted, on_phone = found.predicted(here), found.predicted(PHONE)
    measured_here = {
        limit: {
            "limit": allowed,
            "predicted": predicted[limit],
            **figures[limit],
            "at the profile's speed": at_profile[limit],
            "ratio": at_profile[limit] / allowed,
            "measured by predicted": at_profile[limit] / predicted[limit],
        }
        for limit, allowed in found.limits[here].items()
    }
    phone = {
        limit: {"limit": allowed, "predicted": on_phone[limit], "ratio": on_phone[limit] / allowed}
        for limit, allowed in found.limits[PHONE].items()
    }
    return {"num_networks": len(found.result.models), "here": measured_here, PHONE: phone}


def handheld() -> list[str]:
    """What a command of `handheld` begins with."""
    return [sys.executable, "-c", "from pipeline.command_line import main; main()"]


def run_handheld(*arguments: str | Path) -> None:
    """Run `handheld` as a process of its own.

    Raises:
        RuntimeError: With what it wrote, when it fails.
    """
    done = subprocess.run([*handheld(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"handheld {' '.join(map(str, arguments))} failed:\n{done.stderr}")


def _largest(run_file: str) -> tuple[Architecture, int]:
    """The largest network of a run file's space, and how many examples a step has."""
    run = parse_run_file(run_file)
    source = open_source(run.data.source, SpecOverrides(), DATA_SCHEMES)
    return space_of(run, source.spec).largest(), run.training.artifact_batch_size
