import os
import signal
import subprocess
import sys
from contextlib import closing, suppress

import pytest

from pipeline.fleet.errors import FleetError
from pipeline.fleet.pool import Pool

# Two processes: one that waits for work, and one that has some that never ends.
PARENT = """
import multiprocessing, os, signal
from pipeline.fleet.pool import Pool
pool = Pool(2)
pool.begin(os.getpid)()
pool.begin(signal.pause)
pool.begin(os.getpid)()
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_they_work_for(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(number)
        try:
            parent.communicate(timeout=30)  # all that have its standard output have ended
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
    assert len(workers) == 2


def test_a_call_is_made_in_another_process_and_its_error_is_raised_here():
    with closing(Pool(1)) as pool:
        assert pool.begin(os.getpid)() != os.getpid()
        with pytest.raises(ZeroDivisionError):
            pool.begin(divmod, 1, 0)()


def test_a_process_that_ends_is_told_with_what_to_do():
    with closing(Pool(2)) as pool:
        told = (
            r"one of 2 worker processes ended .* too little memory; .* lower \[fleet\] workers, then go on .*--resume"
        )
        with pytest.raises(FleetError, match=told):
            pool.begin(os._exit, 1)()
        with pytest.raises(FleetError, match=told):
            pool.begin(os.getpid)


def test_a_process_is_opened_before_its_first_work():
    with closing(Pool(1, open_process)) as pool:
        assert pool.begin(os.getenv, "OPENED")() == "yes"


def open_process():
    os.environ["OPENED"] = "yes"
