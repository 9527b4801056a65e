"""Emulated phones computed by actors of a Ray cluster, whose machines share the run's folder and the data."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.fleet.errors import FleetError

if TYPE_CHECKING:
    from device_runtime.wire import Assignment
    from pipeline.fleet.workers import FleetData, Outcome, PhoneWork

READY_S = 60.0  # an actor that has its CPU begins within seconds; one without waits for it, for ever
LOST = ("RayActorError", "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ObjectLostError")


class RayError(RuntimeError):
    """The cluster cannot do the fleet's work."""


class RayWorkers:
    """Owns actors that stand in for any phone, and the connection to the cluster if nobody else made it."""

    def __init__(self, data: "FleetData", num_workers: int) -> None:
        """Start the actors, one CPU each, on the cluster that `RAY_ADDRESS` names or on a new one of this machine.

        Raises:
            RayError: Ray is not installed, the cluster has fewer CPUs, or not so many free, or an actor failed at once.
        """
        self._ray = _import_ray()
        self._lost = tuple(getattr(self._ray.exceptions, name) for name in LOST)
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._ray.init(log_to_driver=False)
        self._actors: list[Any] = []
        try:
            self._start(data, num_workers)
        except RayError:
            self.close()
            raise
        self._turns = cycle(self._actors)

    def _start(self, data: "FleetData", num_workers: int) -> None:
        num_cpus, num_free = (
            int(resources.get("CPU", 0))
            for resources in (self._ray.cluster_resources(), self._ray.available_resources())
        )
        if num_cpus < num_workers:
            raise RayError(f"the Ray cluster has {num_cpus} CPUs for {num_workers} workers; lower [fleet] workers")
        actor = self._ray.remote(num_cpus=1)(_Actor)
        self._actors = [actor.remote(data, Path.cwd()) for _ in range(num_workers)]
        begun, waiting = self._ray.wait(
            [one.ready.remote() for one in self._actors], num_returns=num_workers, timeout=READY_S
        )
        try:
            self._ray.get(begun)
        except self._lost as error:
            *_, reason = str(error).strip().splitlines()
            raise RayError(f"a worker of the Ray cluster could not begin: {reason}") from error
        if waiting:
            raise RayError(
                f"{len(begun)} of {num_workers} workers began within {READY_S:g} s; the Ray cluster had {num_free} of "
                f"its {num_cpus} CPUs free: lower [fleet] workers, or wait for what else computes there"
            )

    def begin(self, phone: int, assignment: "Assignment") -> "Callable[[], Outcome]":
        """Send one phone's assignment to the next actor; the answer waits for its outcome.

        The answer raises FleetError when the actor has died.
        """
        return partial(self._outcome_of, next(self._turns).perform.remote(phone, assignment))

    def _outcome_of(self, answer: Any) -> "Outcome":
        try:
            outcome: Outcome = self._ray.get(answer)
        except self._lost as error:
            raise FleetError(
                "a worker of the Ray cluster died, perhaps out of memory: lower [fleet] workers, then go on with "
                "handheld search --resume"
            ) from error
        return outcome

    def close(self) -> None:
        """Let the actors go."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._is_ours:
            self._ray.shutdown()


class _Actor:
    """A process of the cluster."""

    def __init__(self, data: "FleetData", directory: Path) -> None:
        from pipeline.fleet.workers import open_work  # noqa: PLC0415  (this file is imported from there)

        os.chdir(directory)  # paths of a run file are relative to it
        self._work: PhoneWork = open_work(data)

    def ready(self) -> None:
        """Answers once this process has its CPU and its data."""

    def perform(self, phone: int, assignment: "Assignment") -> "Outcome":
        return self._work.perform(phone, assignment)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise RayError(
            "[fleet] engine = 'ray' needs the library Ray: pip install 'handheld[ray]', or leave engine out"
        ) from error
