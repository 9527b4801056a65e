"""A request to stop that a signal handler may make while the same thread waits for it."""

from contextlib import suppress
from queue import Empty, SimpleQueue


class StopFlag:
    """Set once, from any thread or signal handler.

    `threading.Event` would not do: its lock is not reentrant, so a handler that runs in the thread that is just
    entering `wait` waits for itself for ever. `SimpleQueue.put` is reentrant by its contract.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakers: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ask to stop; ends a wait at once."""
        self._is_set = True
        self._wakers.put(None)

    def is_set(self) -> bool:
        """Whether somebody asked to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait until the flag is set, at most `timeout_s` seconds; whether it is set."""
        if not self._is_set:
            with suppress(Empty):
                self._wakers.get(timeout=timeout_s)
                self._wakers.put(None)  # for whoever else waits
        return self._is_set
