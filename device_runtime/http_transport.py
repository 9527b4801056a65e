"""Send the client's requests over HTTP: timeouts everywhere, answers of a bounded size, no redirects."""

from types import TracebackType

import httpx

from device_runtime.client_records import Request, Response, TransportFailed
from device_runtime.client_requests import request_headers
from device_runtime.signing import SigningKey
from device_runtime.wire import MAX_BLOB_BYTES

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
MAX_MESSAGE_BYTES = 4 * 2**20


class HttpTransport:
    """Owns the connections to one server."""

    def __init__(self, server_url: str, key: SigningKey) -> None:
        """Connect when first asked to.

        Args:
            server_url: `http://` or `https://`, without `/v1`.
        """
        if not server_url.startswith(("http://", "https://")):
            raise ValueError(f"the server's URL must start with http:// or https://, got {server_url!r}")
        self.server_url, self._key = server_url.rstrip("/"), key
        self._http = httpx.Client(timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S))

    def __enter__(self) -> "HttpTransport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def send(self, request: Request, body: bytes) -> Response | TransportFailed:
        """Sign and send `body` (the request's own, or its blob's bytes) and read the answer."""
        headers = request_headers(request, body, self._key)
        if body:
            headers["Content-Type"] = "application/octet-stream" if request.blob else "application/json"
        limit = MAX_BLOB_BYTES if request.save_as else MAX_MESSAGE_BYTES
        try:
            with self._http.stream(
                request.method, self.server_url + request.target, content=body, headers=headers
            ) as answer:
                content = _read(answer, limit)
                told = {name.lower(): value for name, value in answer.headers.items()}
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            return TransportFailed(f"{self.server_url} does not answer ({reason}); is it up, and is the URL right?")
        if content is None:
            return TransportFailed(f"{self.server_url}{request.target} answered with more than {limit} bytes")
        return Response(answer.status_code, told, content)


def _read(answer: httpx.Response, limit: int) -> bytes | None:
    """The body; None for one that is too large, which is not read to its end."""
    content = bytearray()
    for part in answer.iter_bytes():
        content += part
        if len(content) > limit:
            return None
    return bytes(content)
