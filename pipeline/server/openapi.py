"""The protocol's OpenAPI document, made from the records themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

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
)

RECORDS = (Abort, CheckIn, CheckInReply, Enrolment, EnrolmentReceipt, Problem, Report, ReportReceipt, ServerInfo)
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def described(body: type | None = None, answer: type | None = None, status: int = 200) -> dict[str, Any]:
    """What a signed route's decorator says of its JSON body and answer."""
    content = {} if answer is None else {"content": _json(answer)}
    return _route({status: {"description": "Done", **content}}, None if body is None else _json(body))


def described_blob(is_upload: bool) -> dict[str, Any]:
    """What the decorators of the two blob routes say."""
    if is_upload:
        return _route({201: {"description": "Stored"}, 200: {"description": "Was stored before"}}, _BINARY)
    return _route(
        {200: {"description": "The bytes", "content": _BINARY}, 304: {"description": "As the ETag says"}}, None
    )


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The whole document, with the records' schemas."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    inputs = [(record, "validation", TypeAdapter(record)) for record in RECORDS]
    _, schemas = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document.setdefault("components", {})["schemas"] = schemas["$defs"]
    return document


def _route(responses: dict[int, dict[str, Any]], body: dict[str, Any] | None) -> dict[str, Any]:
    for response in responses.values():
        response["headers"] = {REPLAY_NONCE_HEADER: {"schema": {"type": "string"}}}
    problem = {"description": "A problem document (RFC 9457)", "content": {PROBLEM_TYPE: {"schema": _schema(Problem)}}}
    extra: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
            for name in (DEVICE_HEADER, NONCE_HEADER, SIGNATURE_HEADER)
        ]
    }
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    return {
        "responses": {**responses, "4XX": problem, "5XX": problem},
        "response_model": None,
        "openapi_extra": extra,
        "status_code": next(iter(responses)),
    }


def _json(record: type) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(record)}}


def _schema(record: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{record.__name__}"}
