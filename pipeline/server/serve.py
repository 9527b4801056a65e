"""Run the application on a socket until a signal asks it to stop."""

import errno
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from pipeline.server.app import create_app
from pipeline.server.state import open_state


class ListenError(OSError):
    """The address cannot be listened on; the message says why and what to do."""


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and who it is.

    Attributes:
        url: With the port that was really taken.
        key_id: sha256 of its public key, which devices pin.
    """

    url: str
    key_id: str
    state: str


def serve(folder: Path, host: str, port: int, tell: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        port: 0 takes a free one.
        tell: Called once it accepts connections.

    Raises:
        ListenError: The address is taken or is not this machine's.
        StateError, StoreError: The state folder cannot be used.
    """
    with _listen(host, port) as listener:
        state = open_state(folder)
        app = create_app(state.store, state.blobs, state.key, state.nonce_secret, time.time)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
        )
        _stop_at_signals(server)
        tell(Listening(_url(host, listener), state.key.key_id, str(folder)))
        server.run(sockets=[listener])
        state.store.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} of {host} is in use; stop what uses it or choose another with --port (0: a free one)"
            ) from error
        raise ListenError(f"cannot listen on {host} port {port} ({error.strerror}); choose others") from error
    # asyncio sets this only on sockets whose protocol is named; without it an answer in two parts waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def _stop_at_signals(server: uvicorn.Server) -> None:
    """Take the signals that come before the server takes them, and those that it raises again once it has stopped."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
