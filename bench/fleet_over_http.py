"""Rounds over real sockets: the server's application under uvicorn in a process, real device clients in threads."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn

from bench.fleet_scene import SOURCE, new_run
from device_runtime.driver import ClientTerms, Limits, run_client
from device_runtime.examples import ClientSource
from device_runtime.examples.partition import Shares
from device_runtime.state_folder import StateFolder
from device_runtime.stopping import StopFlag
from device_runtime.wire import Window
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.store import Store
from pipeline.server.app import Settings, create_app
from pipeline.server.state import open_state

COME_BACK = Window(0.02, 0.05)  # seconds, in place of 5 to 15: a bench of the server, not of its patience
POLL_S = 0.01
START_TIMEOUT_S = 60


@contextmanager
def serve_clients(shares: Shares) -> Iterator[tuple[Store, BlobFolder]]:
    """A server and a client for each share; gives the server's database and blobs, where rounds are planned."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(_server(folder / "server"))
        store, blobs = Store(f"sqlite:///{folder / 'server' / 'handheld.db'}"), BlobFolder(folder / "server" / "blobs")
        stack.callback(store.close)
        with store.transaction():
            store.add_run(new_run())
        stack.enter_context(_clients(folder, url, shares))
        yield store, blobs


def wait(_round_id: str) -> None:
    """Wait a moment for reports."""
    time.sleep(POLL_S)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs))
    process.start()
    try:
        if not ours.poll(START_TIMEOUT_S):
            raise RuntimeError(f"the server did not start within {START_TIMEOUT_S} s")
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(folder: Path, connection: Connection) -> None:
    state = open_state(folder)
    settings = Settings(come_back=COME_BACK)
    app = create_app(state.store, state.blobs, state.key, state.nonce_secret, time.time, settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


@contextmanager
def _clients(folder: Path, url: str, shares: Shares) -> Iterator[None]:
    stop = StopFlag()
    threads = [
        threading.Thread(target=_take_part, args=(folder / f"phone {i}", url, share, i, stop), daemon=True)
        for i, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _take_part(folder: Path, url: str, share: tuple[str, ...], index: int, stop: StopFlag) -> None:
    terms = ClientTerms(url, ClientSource(SOURCE, share), "digits", None, emulated_seed=index)
    with StateFolder(folder) as state:
        run_client(state, terms, Limits(), stop)
