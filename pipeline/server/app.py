"""The device protocol as an ASGI application: each route decodes, calls one function of the coordinator, and encodes.

Routes are `async` and do their short work (a signature, a few indexed rows) in place: a hop to a thread costs more than
the work, and would let threads decide the order of an emulated run. One process serves one request at a time; SQLite
would put them in a row in any case, and more processes may serve the same state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_runtime.signing import PublicKey, SignatureError, SigningKey, reply_message
from device_runtime.wire import (
    DEVICE_HEADER,
    NONCE_HEADER,
    PROBLEM_TYPE,
    REPLAY_NONCE_HEADER,
    SIGNATURE_HEADER,
    Abort,
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentReceipt,
    Problem,
    Report,
    ReportReceipt,
    ServerInfo,
    Window,
)
from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.check_in import check_in, enrol
from pipeline.coordinator.downloads import check_readable, read_blob
from pipeline.coordinator.reporting import Upload, max_upload_bytes, take_abort, take_report, take_upload
from pipeline.coordinator.store import Store
from pipeline.server.nonces import Nonces, is_device_id
from pipeline.server.openapi import described, described_blob, openapi_of
from pipeline.server.problems import PROBLEMS, internal_problem, problem_of
from pipeline.server.requests import DeviceKeys, Signed, check_signature, claimed_device, read_body
from profiles.records import decode_record, encode_record

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Settings:
    """What differs between servers.

    Attributes:
        come_back: When a device that got nothing shall check in again.
        max_record_bytes: Largest JSON body.
    """

    come_back: Window = field(default_factory=lambda: Window(5.0, 15.0))
    max_record_bytes: int = 65_536


@dataclass(frozen=True)
class Serving:
    """What the routes work with."""

    store: Store
    blobs: BlobFolder
    key: SigningKey
    nonces: Nonces
    keys: DeviceKeys
    now: Callable[[], float]
    settings: Settings


async def current_serving(request: Request) -> Serving:
    """What `create_app` was given."""
    serving: Serving = request.app.state.serving
    return serving


CurrentServing = Annotated[Serving, Depends(current_serving)]


async def signed_record(request: Request, serving: CurrentServing) -> Signed:
    """An enrolled device's request with a small body."""
    return await _signed(request, serving, lambda _: serving.settings.max_record_bytes)


async def signed_upload(request: Request, serving: CurrentServing) -> Signed:
    """An enrolled device's request with an update or a profile, as large as its assignment allows."""
    return await _signed(
        request,
        serving,
        lambda device_id: max_upload_bytes(serving.store, device_id) or serving.settings.max_record_bytes,
    )


SignedRecord = Annotated[Signed, Depends(signed_record)]
SignedUpload = Annotated[Signed, Depends(signed_upload)]
router = APIRouter(prefix="/v1")


@router.get("/server", response_model=None, responses=described(answer=ServerInfo)["responses"])
async def get_server(serving: CurrentServing) -> Response:
    """Tell who the server is, unsigned; with the header `Handheld-Device`, also a nonce for that device."""
    return _answer(ServerInfo(serving.key.public_key))


@router.post("/enrolment", **described(Enrolment, EnrolmentReceipt))
async def post_enrolment(request: Request, serving: CurrentServing) -> Response:
    """Take a device in, by a signature with the key that it brings; enrolling again gives the same answer."""
    device_id = claimed_device(request, serving.nonces, serving.now())
    body = await read_body(request, serving.settings.max_record_bytes)
    enrolment = decode_record(Enrolment, body)
    key = PublicKey(enrolment.public_key)
    if key.key_id != device_id:
        raise SignatureError(f"{DEVICE_HEADER} must be the sha256 of public_key, {key.key_id}, got {device_id}")
    check_signature(request, key, body)
    enrol(serving.store, device_id, enrolment)
    signed = Signed(device_id, request.headers[NONCE_HEADER], body)
    return _signed_answer(serving, signed, EnrolmentReceipt(device_id, serving.key.public_key))


@router.post("/check-in", **described(CheckIn, CheckInReply))
async def post_check_in(serving: CurrentServing, signed: SignedRecord) -> Response:
    """Give the assignment that the device holds, a new one, or when to come back."""
    message = decode_record(CheckIn, signed.body)
    reply = check_in(serving.store, signed.device_id, message, serving.now(), serving.settings.come_back)
    return _signed_answer(serving, signed, reply)


@router.get("/blobs/{sha256}", **described_blob(is_upload=False))
async def get_blob(sha256: str, request: Request, serving: CurrentServing, signed: SignedRecord) -> Response:
    """Give a blob by its hash: part of an artifact, parameters, or what the device sent itself."""
    headers = {"etag": f'"{sha256}"', "cache-control": "private, immutable, max-age=31536000"}
    if request.headers.get("if-none-match") == headers["etag"]:
        check_readable(serving.store, sha256, signed.device_id)
        return Response(status_code=304, headers=headers)
    data = read_blob(serving.store, serving.blobs, sha256, signed.device_id)
    return Response(data, headers=headers, media_type="application/octet-stream")


@router.put("/blobs/{sha256}", **described_blob(is_upload=True))
async def put_blob(sha256: str, serving: CurrentServing, signed: SignedUpload) -> Response:
    """Take the update or profile of the device's assignment; sending it twice is harmless."""
    upload = Upload(signed.device_id, sha256, signed.body)
    is_new = take_upload(serving.store, serving.blobs, upload, serving.now())
    return Response(status_code=201 if is_new else 200)


@router.put("/assignments/{assignment_id}/report", **described(Report, ReportReceipt, 202))
async def put_report(assignment_id: str, serving: CurrentServing, signed: SignedRecord) -> Response:
    """Take one phone's report for an open round; sending it twice is harmless."""
    receipt = take_report(serving.store, signed.device_id, assignment_id, signed.body, serving.now())
    return _answer(receipt, 202)


@router.post("/assignments/{assignment_id}/abort", **described(Abort, status=204))
async def post_abort(assignment_id: str, serving: CurrentServing, signed: SignedRecord) -> Response:
    """Take the place of a client that gives up; doing so twice is harmless."""
    message = decode_record(Abort, signed.body)
    take_abort(serving.store, signed.device_id, assignment_id, message, serving.now())
    return Response(status_code=204)


def create_app(  # noqa: PLR0913, PLR0917  (each is a resource of its own that the caller owns)
    store: Store,
    blobs: BlobFolder,
    key: SigningKey,
    nonce_secret: bytes,
    now: Callable[[], float],
    settings: Settings | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        key: The server's; devices pin it at enrolment.
        nonce_secret: At least 32 bytes, shared by all servers of one state.
        now: Seconds on the server's clock; also the clock of its rounds.
    """
    app = FastAPI(
        title="Handheld device protocol", version="1", openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None
    )
    nonces = Nonces(nonce_secret)
    app.state.serving = Serving(store, blobs, key, nonces, DeviceKeys(store), now, settings or Settings())
    app.include_router(router)
    app.openapi = cache(partial(openapi_of, app))  # type: ignore[method-assign]
    app.add_middleware(ReplayNonce, nonces=nonces, now=now)
    for error in (*PROBLEMS, HTTPException):
        app.add_exception_handler(error, _tell_problem)
    app.add_exception_handler(Exception, _tell_defect)
    return app


class ReplayNonce:
    """Adds a fresh nonce to every answer to a request that names its device."""

    def __init__(self, app: ASGIApp, nonces: Nonces, now: Callable[[], float]) -> None:
        self.app, self.nonces, self.now = app, nonces, now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        device_id = _named_device(scope)

        async def send_with_nonce(message: Message) -> None:
            if message["type"] == "http.response.start" and device_id is not None:
                nonce = self.nonces.issue(device_id, self.now())
                header = (REPLAY_NONCE_HEADER.lower().encode(), nonce.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, send_with_nonce)


def _named_device(scope: Scope) -> str | None:
    wanted = DEVICE_HEADER.lower().encode()
    named = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == wanted]
    return named[0] if named and is_device_id(named[0]) else None


async def _signed(request: Request, serving: Serving, max_bytes: Callable[[str], int]) -> Signed:
    device_id = claimed_device(request, serving.nonces, serving.now())
    key = serving.keys.find(device_id)
    body = await read_body(request, max_bytes(device_id))
    check_signature(request, key, body)
    return Signed(device_id, request.headers[NONCE_HEADER], body)


def _answer(record: Any, status: int = 200) -> Response:
    return Response(encode_record(record), status, media_type=JSON_TYPE)


def _signed_answer(serving: Serving, request: Signed, record: Any) -> Response:
    body = encode_record(record)
    signature = serving.key.sign(reply_message(request.device_id, request.nonce, body))
    return Response(body, media_type=JSON_TYPE, headers={SIGNATURE_HEADER: signature})


async def _tell_problem(_request: Request, error: Exception) -> Response:
    return _problem_answer(problem_of(error))


async def _tell_defect(request: Request, _error: Exception) -> Response:
    # Starlette answers with this and raises the error on, so that the server logs it and an emulated run stops.
    response = _problem_answer(internal_problem())
    device_id = _named_device(request.scope)
    if device_id is not None:
        serving: Serving = request.app.state.serving
        response.headers[REPLAY_NONCE_HEADER] = serving.nonces.issue(device_id, serving.now())
    return response


def _problem_answer(problem: Problem) -> Response:
    return Response(encode_record(problem), problem.status, media_type=PROBLEM_TYPE)
