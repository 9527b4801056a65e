"""Silence the native logs of ORT Training and of torch's exporter, which no setting reaches."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def quiet_native_log() -> Iterator[None]:
    """Send file descriptors 1 and 2 and Python's stdout nowhere for the duration; errors still come as exceptions."""
    sys.stdout.flush()
    sys.stderr.flush()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, ExitStack() as stack:
        for descriptor in (1, 2):
            kept = os.dup(descriptor)
            os.dup2(nowhere.fileno(), descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
        with redirect_stdout(nowhere):
            yield
