"""`handheld serve`: the server of real devices."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_runtime.console import JsonOption

if TYPE_CHECKING:
    from pipeline.server.serve import Listening


def serve(
    state: Annotated[Path, typer.Option(help="Folder with the server's key, database and blobs; made if missing.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8470,
    as_json: JsonOption = False,
) -> None:
    """Serve devices over HTTP until it is stopped (Ctrl-C or SIGTERM).

    Devices that enrol pin the key in the state folder: keep the folder, and keep it to yourself.
    """
    from pipeline.server.serve import serve as serve_until_stopped  # noqa: PLC0415  (help must not wait for FastAPI)

    serve_until_stopped(state, host, port, lambda listening: _tell(listening, as_json))


def _tell(listening: "Listening", as_json: bool) -> None:
    """One line, at once: whoever started the server waits for it."""
    if as_json:
        line = json.dumps({"url": listening.url, "key_id": listening.key_id, "state": listening.state})
    else:
        line = f"listening on {listening.url}, key {listening.key_id}, state in {listening.state}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
