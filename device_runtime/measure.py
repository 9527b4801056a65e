"""Measure a device: networks of a pack, whole and node by node, in rounds, and write what was found as a profile.

The first round goes through the pack's networks, the least sure one next, as long as time is left for the other rounds;
those visit the same networks in turns. So heat and other programs show as a slow round, not as a slow kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnxruntime

from device_runtime.conditions import Conditions, read_conditions
from device_runtime.graph_runs import Clock, GraphRun, VisitPlan, time_graph, watch_graph
from device_runtime.kernel_table import GraphVisits, corrected_times, kernel_table, network_times
from device_runtime.measurement_pack import Pack, PackEntry
from device_runtime.next_network import next_network
from device_runtime.probe import Host
from device_runtime.timing import Stability, judge, warnings_of
from profiles.rates import fit_within_networks
from profiles.samples import summarize
from profiles.schema import (
    DeviceClass,
    DeviceProfile,
    Direction,
    Figure,
    KernelKey,
    Link,
    Runtime,
)
from profiles.sessions import Session

_RESERVE = 0.95  # of the budget is planned with: a visit that has begun is not broken off
_WATCH_EVERY = 3  # rounds: to watch takes longer than to time, and single nodes vary less than whole networks
# A shipped model's visit takes a tenth of a gradient's, and one that others disturb for a moment is off by more.
_SHORT: Direction = "forward"
_SHORT_VISITS = 3


@dataclass(frozen=True)
class MeasurePlan:
    """How long to measure.

    Attributes:
        num_rounds: How often all graphs are visited in turns.
        budget_s: The whole measurement's; the first networks are measured whatever it is.
    """

    num_rounds: int
    budget_s: float
    visit: VisitPlan

    @property
    def num_watched(self) -> int:
        """Rounds in which graphs are watched too."""
        return len(range(0, self.num_rounds, _WATCH_EVERY))

    def num_timed(self, direction: Direction) -> int:
        """Visits to a graph that nothing watches: shipped models have several in every round but the first."""
        return 1 + (self.num_rounds - 1) * (_SHORT_VISITS if direction == _SHORT else 1)


FULL = MeasurePlan(num_rounds=5, budget_s=600, visit=VisitPlan(visit_ms=20))
QUICK = MeasurePlan(num_rounds=3, budget_s=120, visit=VisitPlan(visit_ms=10, max_samples=30, max_watched=8))


@dataclass(frozen=True)
class Measurement:
    """What to measure and on what.

    Attributes:
        name: Of the profile.
        plan: `FULL`, `QUICK`, or one of these with another budget.
        threads: Threads inside one operator.
        link: Of the device, where its owner knows it: nothing is sent to find out.
        measured_on: The date, YYYY-MM-DD, where somebody knows it.
    """

    pack: Pack
    host: Host
    name: str
    device_class: DeviceClass
    plan: MeasurePlan = FULL
    threads: int = 1
    link: Link | None = None
    measured_on: str | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")
        if self.plan.num_rounds < 1 or not self.plan.budget_s > 0:
            raise ValueError(f"a plan must have rounds >= 1 and a budget > 0 s, got {self.plan}")


def measure_device(
    measurement: Measurement,
    clock: Clock,
    advance: Callable[[float], None],
    conditions: Callable[[], Conditions] = read_conditions,
) -> DeviceProfile:
    """Run the pack and write the profile.

    Args:
        clock: The process's, e.g. `time.perf_counter`.
        advance: Told the share of the work that is done, for a progress bar.
        conditions: Asked before and after.

    Raises:
        AttributionError: The runtime names nodes in a way that is not known.
    """
    before = conditions()
    bench = _Bench(measurement, clock, advance)
    bench.first_round()
    bench.other_rounds()
    advance(1.0)
    stability = judge([graph.rounds for graph in bench.graphs()])
    return _profile(bench, _session(bench, stability, before, conditions()), warnings_of(stability))


class _Bench:
    """The graphs that are measured and all that was found so far."""

    def __init__(self, measurement: Measurement, clock: Clock, advance: Callable[[float], None]) -> None:
        self.measurement, self.plan = measurement, measurement.plan
        self.networks: list[list[GraphVisits]] = []
        self._left = list(measurement.pack.manifest.networks())
        self._clock, self._start, self._advance = clock, clock(), advance
        self._timed_s = self._short_s = self._watched_s = 0.0  # of the first round through what is measured
        call = measurement.pack.manifest.call()
        self.call = None if call is None else self._new(call)

    def graphs(self) -> list[GraphVisits]:
        """All of networks."""
        return list(chain.from_iterable(self.networks))

    def call_ms(self) -> float:
        """Of an empty graph; 0 where the pack has none."""
        return 0.0 if self.call is None else summarize(self.call.rounds).median_ms

    def elapsed_s(self) -> float:
        """Since the beginning."""
        return self._clock() - self._start

    def first_round(self) -> None:
        """Visit networks, the least sure one next, until there is just time for the other rounds."""
        known: dict[KernelKey, float] = {}
        self._time_call()
        while self._left and (not known or self._has_time_for_more()):
            place = next_network([self._keys(network) for network in self._left], known)
            network = [self._new(entry) for entry in self._left.pop(place)]
            timed_s = {graph.direction: self._time(graph, 0) for graph in network}
            began = self._clock()
            for graph in network:
                self._watch(graph)
            self._timed_s += sum(timed_s.values())
            self._short_s += timed_s.get(_SHORT, 0.0)
            self._watched_s += self._clock() - began
            self.networks.append(network)
            known |= self._quick_look(network)
            self._tell()

    def other_rounds(self) -> None:
        """Visit all of them again, in turns, while the budget lasts."""
        for number in range(1, self.plan.num_rounds):
            self._time_call()
            for graph in self._round():
                if self.elapsed_s() > self.plan.budget_s:
                    return
                self._time(graph, number)
                if number % _WATCH_EVERY == 0 and len(graph.watched) <= number / _WATCH_EVERY:
                    self._watch(graph)
                self._tell()

    def _round(self) -> Iterator[GraphVisits]:
        """All graphs, the short ones several times."""
        short = [graph for graph in self.graphs() if graph.direction == _SHORT]
        others = [graph for graph in self.graphs() if graph.direction != _SHORT]
        for part in range(_SHORT_VISITS):
            yield from short
            yield from others[part::_SHORT_VISITS]

    def _has_time_for_more(self) -> bool:
        """Whether one more network, of average time, leaves time for all rounds."""
        num, first_s = len(self.networks), self._timed_s + self._watched_s
        needed_s = self._all_rounds_s() * (num + 1) / num - first_s
        return self.elapsed_s() + needed_s < _RESERVE * self.plan.budget_s

    def _all_rounds_s(self) -> float:
        """Of the networks of the first round."""
        plan, more = self.plan, self.plan.num_timed(_SHORT) - self.plan.num_rounds
        return plan.num_rounds * self._timed_s + more * self._short_s + plan.num_watched * self._watched_s

    def _tell(self) -> None:
        measured = len(self.networks)
        num_networks = measured + (len(self._left) if self._has_time_for_more() else 0)
        expected_s = min(self._all_rounds_s() * num_networks / measured, self.plan.budget_s)
        self._advance(min(self.elapsed_s() / max(expected_s, 1e-9), 1.0))

    def _new(self, entry: PackEntry) -> GraphVisits:
        pack = self.measurement.pack
        kernels, graph = pack.manifest.kernels_of(entry), pack.graphs[entry.sha256]
        return GraphVisits(GraphRun(graph, entry.direction, kernels, self.measurement.threads), entry.batch_size)

    def _time(self, graph: GraphVisits, number: int) -> float:
        """Visit a graph in a round; seconds that it took."""
        began = self._clock()
        if len(graph.rounds) <= number:
            graph.rounds.append([])
        graph.rounds[number].extend(time_graph(graph.run, self.plan.visit, self._clock))
        return self._clock() - began

    def _watch(self, graph: GraphVisits) -> None:
        graph.watched.append(watch_graph(graph.run, self.plan.visit, self._clock))

    def _time_call(self) -> None:
        if self.call is not None:
            self.call.rounds.append(time_graph(self.call.run, self.plan.visit, self._clock))

    def _keys(self, network: Sequence[PackEntry]) -> list[KernelKey]:
        manifest = self.measurement.pack.manifest
        return [
            (kernel, entry.batch_size, entry.direction) for entry in network for kernel in manifest.kernels_of(entry)
        ]

    def _quick_look(self, network: list[GraphVisits]) -> Iterator[tuple[KernelKey, float]]:
        """Times good enough to choose by."""
        for graph, times in zip(network, corrected_times(network, self.call_ms()), strict=True):
            yield from zip(graph.keys(), np.median(times, axis=0).clip(0).tolist(), strict=True)


def _session(bench: _Bench, stability: Stability, before: Conditions, after: Conditions) -> Session:
    measurement = bench.measurement
    return Session(
        pack_id=measurement.pack.pack_id,
        measured_on=measurement.measured_on,
        threads=measurement.threads,
        affinity=before.affinity,
        governors=before.governors,
        mhz_before=before.mhz,
        mhz_after=after.mhz,
        celsius_before=before.celsius,
        celsius_after=after.celsius,
        battery_before=before.battery,
        battery_after=after.battery,
        runtime_build=onnxruntime.get_build_info(),
        warm_up=measurement.plan.visit.num_warm_up,
        rounds=min(len(graph.rounds) for graph in bench.graphs()),
        drift=stability.drift,
        grade=stability.grade,
        seconds=round(bench.elapsed_s(), 1),
    )


def _profile(bench: _Bench, session: Session, warnings: tuple[str, ...]) -> DeviceProfile:
    measurement, host, graphs = bench.measurement, bench.measurement.host, bench.graphs()
    kernels = kernel_table(graphs, bench.call_ms())
    source = f"measured by Handheld on the device: measurement pack {session.pack_id[:12]}"
    return DeviceProfile(
        name=measurement.name,
        device_class=measurement.device_class,
        soc=host.cpu,
        clusters=host.clusters,
        ram_mib=host.ram_mib,
        battery_mah=host.battery_mah,
        abi=host.abi,
        os=host.os,
        runtime=Runtime("onnxruntime", onnxruntime.__version__),
        threads=measurement.threads,
        affinity=",".join(map(str, session.affinity)) or None,
        link=measurement.link,
        throughput=fit_within_networks(kernels, Figure(bench.call_ms(), "ms", "measured", source)),
        kernels=kernels,
        networks=network_times(graphs),
        sessions=(session,),
        is_stable=session.grade != "unstable",
        warnings=(*warnings, *host.warnings),
    )
