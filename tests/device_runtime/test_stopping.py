import signal
import sys
import threading

import pytest

from device_runtime.stopping import StopFlag


def test_it_stays_set_and_waiting_for_it_returns_at_once():
    stop = StopFlag()
    assert not stop.is_set()
    assert not stop.wait(0)
    stop.set()
    stop.set()
    assert [stop.wait(3600) for _ in range(4)] == [True] * 4


def test_another_thread_ends_a_wait():
    stop = StopFlag()
    thread = threading.Timer(0.02, stop.set)
    thread.start()
    assert stop.wait(3600)
    thread.join()


@pytest.fixture
def _deadline():
    """Fail instead of hanging: an alarm raises even in a thread that waits for a lock."""

    def fail(*_):
        raise TimeoutError("still waiting after 20 s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def wait_with_signal_at_line(stop, line):
    """`stop.wait(3600)`, with a signal whose handler sets the flag before the given line of what that executes."""
    num_lines = 0

    def trace(frame, event, _argument):
        nonlocal num_lines
        num_lines += event == "line"
        if event == "line" and num_lines == line:
            signal.raise_signal(signal.SIGUSR1)
        return trace

    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        return stop.wait(3600)
    finally:
        sys.settrace(previous)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_deadline")
@pytest.mark.parametrize("line", range(1, 6))
def test_a_signal_before_any_line_of_a_wait_ends_it(line):
    stop = StopFlag()
    rescue = threading.Timer(0.5, stop.set)  # where the wait has fewer lines than that
    rescue.start()
    assert wait_with_signal_at_line(stop, line)
    rescue.cancel()
