"""Call an ASGI application in this process, one request at a time, in the order of the calls."""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Scope

from device_runtime.client_records import Response


class AsgiTransport:
    """Owns an event loop; requests through it touch no socket and no thread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send one request and wait for its answer; a defect of the application is raised here."""
        return self._loop.run_until_complete(self._send(_scope(method, target, headers), body))

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    async def _send(self, scope: Scope, body: bytes) -> Response:
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, send)
        start, *parts = messages
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        return Response(start["status"], answered, b"".join(part.get("body", b"") for part in parts))


def _scope(method: str, target: str, headers: Mapping[str, str]) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "root_path": "",
        "query_string": query.encode("ascii"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }
