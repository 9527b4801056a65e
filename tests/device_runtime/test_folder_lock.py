import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from device_runtime.folder_lock import FolderInUseError, lock_folder

HOLD = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from device_runtime.folder_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
worker = ProcessPoolExecutor(1, get_context("spawn"))
print(worker.submit(os.getpid).result(), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder):
    """A process that has the folder, and the id of its worker, which stays behind when the process is killed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        try:
            yield process, worker
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def test_a_folder_is_locked_until_its_holder_is_killed_even_if_that_leaves_workers(tmp_path):
    with holder(tmp_path) as (process, worker):
        with pytest.raises(FolderInUseError, match="is in use by another process"):
            lock_folder(tmp_path)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(FolderInUseError):
            lock_folder(tmp_path)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it is there
        lock_folder(tmp_path).close()


def test_within_one_process_as_well(tmp_path):
    lock = lock_folder(tmp_path)
    with pytest.raises(FolderInUseError):
        lock_folder(tmp_path)
    lock.close()
    lock_folder(tmp_path).close()


def test_a_folder_that_cannot_be_written_to_is_no_folder_in_use(tmp_path):
    with pytest.raises(OSError, match=r"cannot be locked .*; name a folder you may write to"):
        lock_folder(tmp_path / "missing")
