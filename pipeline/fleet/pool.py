"""Processes of this machine that work for this one and end when it ends."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import ParamSpec, TypeVar

from pipeline.fleet.errors import FleetError

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Owns processes that start when there is work for them, and stay: each has to import torch first."""

    def __init__(self, num_processes: int, open_process: Callable[[], None] | None = None) -> None:
        """Get ready.

        Args:
            open_process: Called once in each process, before its first work.
        """
        # Spawned, never forked: a forked ONNX Runtime session hangs.
        self._num_processes = num_processes
        self._executor = ProcessPoolExecutor(num_processes, get_context("spawn"), _start, (open_process,))

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Begin a call in one of the processes; the answer waits for what it returns or raises.

        Raises:
            FleetError: A process has ended before its time; the answer, too.
        """
        with self._broken_told():
            future = self._executor.submit(function, *args, **kwargs)

        def answer() -> T:
            with self._broken_told():
                return future.result()

        return answer

    def close(self) -> None:
        """Let the processes go; what has not begun never does."""
        self._executor.shutdown(cancel_futures=True)

    @contextmanager
    def _broken_told(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise FleetError(
                f"one of {self._num_processes} worker processes ended before its work was done ({error}): unless "
                "somebody ended it, the machine has too little memory; free some or lower [fleet] workers, then go on "
                "with --resume"
            ) from error


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, however it did.

    A process of a pool waits for work on a pipe of which it has both ends: it would wait for ever.
    """
    Thread(target=_wait_for_parent, daemon=True).start()


def _start(open_process: Callable[[], None] | None) -> None:
    end_with_parent()
    if open_process is not None:
        open_process()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()  # on a pipe that closes with the parent
        os._exit(1)
