"""Read requests: bodies within their limit, and whose they are."""

from dataclasses import dataclass
from functools import lru_cache

from starlette.requests import Request

from device_runtime.signing import PublicKey, SignatureError, request_message
from device_runtime.wire import DEVICE_HEADER, NONCE_HEADER, SIGNATURE_HEADER
from pipeline.coordinator.check_in import NotEnrolledError
from pipeline.coordinator.store import Store
from pipeline.server.nonces import Nonces, is_device_id


class TooLargeError(Exception):
    """A body is larger than it may be; the rest of it was not read."""


@dataclass(frozen=True)
class Signed:
    """A request whose signature fits."""

    device_id: str
    nonce: str
    body: bytes


class DeviceKeys:
    """Public keys of enrolled devices; a key never changes, as the device's id is its hash."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.find = lru_cache(maxsize=10_000)(self._load)

    def _load(self, device_id: str) -> PublicKey:
        with self._store.transaction():
            device = self._store.find_device(device_id)
        if device is None:
            raise NotEnrolledError(f"device {device_id} is not enrolled here; enrol first")
        return PublicKey(device.public_key)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises TooLargeError as soon as it is longer than allowed."""
    announced = request.headers.get("content-length", "")
    chunks, size = [], int(announced) if announced.isdecimal() else 0
    _check_size(size, max_bytes)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_size(size, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError(f"the body may have {max_bytes} bytes, this one has {size} or more")


def claimed_device(request: Request, nonces: Nonces, now: float) -> str:
    """The device that a request says it is from, with a nonce of its own: to be asked before the body is read.

    Raises:
        SignatureError: A header is missing or malformed.
        StaleNonceError: The nonce is none of this device's.
    """
    device_id = request.headers.get(DEVICE_HEADER, "")
    if not is_device_id(device_id):
        raise SignatureError(f"{DEVICE_HEADER} must be the sha256 of the device's public key, got {device_id!r:.80}")
    nonces.check(request.headers.get(NONCE_HEADER, ""), device_id, now)
    return device_id


def check_signature(request: Request, key: PublicKey, body: bytes) -> None:
    """Raise SignatureError unless the request is signed with this key."""
    headers = request.headers
    path = request.scope["raw_path"].decode("ascii")
    query = request.scope["query_string"].decode("ascii")
    target = f"{path}?{query}" if query else path
    message = request_message(request.method, target, body, headers[NONCE_HEADER])
    key.check(headers.get(SIGNATURE_HEADER, ""), message)
