"""Read what a server says: check its signature first, refuse what this client takes no part in."""

import re
from functools import lru_cache
from typing import TypeVar

from device_runtime.artifact import read_manifest
from device_runtime.client_records import ClientState, Response
from device_runtime.measurement_pack import decode_manifest
from device_runtime.signing import PublicKey, SignatureError, reply_message
from device_runtime.specs import Manifest
from device_runtime.wire import SIGNATURE_HEADER, Assignment, CheckInReply, EnrolmentReceipt, Problem
from profiles.records import RecordError, decode_record

_PROBLEM = "urn:handheld:problem:"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ASSIGNMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
Reply = TypeVar("Reply", EnrolmentReceipt, CheckInReply)


class UntrustedReplyError(Exception):
    """An answer that the pinned key did not sign."""


class UnreadableReplyError(Exception):
    """An answer that the pinned key signed and this version cannot read."""


def open_reply(cls: type[Reply], state: ClientState, response: Response) -> Reply:
    """Check the server's signature, then read its answer."""
    try:
        signature = response.headers.get(SIGNATURE_HEADER.lower(), "")
        message = reply_message(state.device_id, str(state.asked_with), response.body)
        _public_key(str(state.server_key)).check(signature, message)
    except SignatureError as error:
        raise UntrustedReplyError(
            f"an answer was not signed by the pinned server key and is refused: {error}"
        ) from error
    try:
        return decode_record(cls, response.body)
    except RecordError as error:
        raise UnreadableReplyError(f"the server's answer cannot be read: {error}") from error


def problem_type(response: Response) -> str:
    """NAME of `urn:handheld:problem:NAME`; empty for an answer that is no problem document."""
    try:
        return decode_record(Problem, response.body).type.removeprefix(_PROBLEM)
    except RecordError:
        return ""


def detail_of(response: Response) -> str:
    """What a problem document tells a person."""
    try:
        return decode_record(Problem, response.body).detail
    except RecordError:
        return f"status {response.status} without a problem document"


@lru_cache(maxsize=64)
def _public_key(text: str) -> PublicKey:
    return PublicKey(text)


@lru_cache(maxsize=64)
def read_cached_manifest(data: bytes, runtime_version: str) -> Manifest:
    """`read_manifest`; an emulated fleet reads the same one a thousand times."""
    return read_manifest(data, runtime_version)


def refusal_of(state: ClientState, assignment: Assignment) -> str | None:
    """Why this client takes no part in an assignment whatever it holds; None where it may."""
    if assignment.encoding != "float32":
        return f"this client sends updates as float32, the assignment asks for {assignment.encoding}"
    if state.kind == "real" and assignment.rotation:
        return f"rotation must be 0 on a real device, got {assignment.rotation}: its splits would overlap in the ledger"
    if not all(map(is_sha256, _files_of(assignment))) or not _ASSIGNMENT_ID.fullmatch(assignment.assignment_id):
        return "an assignment must name its files by sha256 and itself by letters, digits, - and _"
    return None


def files_named_by(assignment: Assignment, manifest: bytes, runtime_version: str) -> tuple[str, ...]:
    """sha256 of the blobs that an assignment needs beside its manifest.

    Raises:
        ArtifactError, PackError: The manifest cannot be read or does not suit this runtime.
    """
    if assignment.kind == "measure":
        return tuple(dict.fromkeys(entry.sha256 for entry in decode_manifest(manifest, "the manifest").entries))
    artifact = read_cached_manifest(manifest, runtime_version)
    frozen = () if artifact.frozen is None else (artifact.frozen.sha256,)
    return (artifact.gradient_sha256, artifact.evaluate_sha256, *frozen, *_files_of(assignment)[1:])


def _files_of(assignment: Assignment) -> tuple[str, ...]:
    parameters = assignment.parameters_sha256
    return (assignment.artifact_id,) if parameters is None else (assignment.artifact_id, parameters)


def is_sha256(text: str) -> bool:
    """Whether a text is a sha256 as we write it; blobs are files of that name."""
    return _SHA256.fullmatch(text) is not None
