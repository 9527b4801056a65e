"""Emulated phones computed by actors of a Ray cluster, whose machines share the run's folder and the data."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device_runtime.wire import Assignment
    from pipeline.fleet.workers import FleetData, Outcome, PhoneWork


class RayError(RuntimeError):
    """The cluster cannot do the fleet's work."""


class RayWorkers:
    """Owns actors that stand in for any phone, and the connection to the cluster if nobody else made it."""

    def __init__(self, data: "FleetData", num_workers: int) -> None:
        """Start the actors, one CPU each, on the cluster that `RAY_ADDRESS` names or on a new one of this machine.

        Raises:
            RayError: Ray is not installed, or the cluster has fewer CPUs.
        """
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._ray.init(log_to_driver=False)
        num_cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if num_cpus < num_workers:
            self._disconnect()
            raise RayError(f"the Ray cluster has {num_cpus} CPUs for {num_workers} workers; lower [fleet] workers")
        actor = self._ray.remote(num_cpus=1)(_Actor)
        self._actors = [actor.remote(data, Path.cwd()) for _ in range(num_workers)]
        self._turns = cycle(self._actors)

    def begin(self, phone: int, assignment: "Assignment") -> "Callable[[], Outcome]":
        """Send one phone's assignment to the next actor; the answer waits for its outcome."""
        return partial(self._ray.get, next(self._turns).perform.remote(phone, assignment))

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

    def perform(self, phone: int, assignment: "Assignment") -> "Outcome":
        return self._work.perform(phone, assignment)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise RayError(
            "[fleet] engine = 'ray' needs the library Ray: pip install 'handheld[ray]', or leave engine out"
        ) from error
