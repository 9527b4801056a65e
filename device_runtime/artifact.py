"""Read a training artifact and refuse, by name, what is corrupt, newer than this runtime, or unknown to it."""

import hashlib
import re
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnxruntime

from device_runtime.specs import Manifest
from profiles.records import RecordError, decode_record

LOSSES = frozenset({"cross_entropy"})
FILES = ("manifest.json", "gradient.onnx", "evaluate.onnx")


class ArtifactError(ValueError):
    """An artifact cannot be used here; the message says why and what to do."""


class RuntimeTooOldError(ArtifactError):
    """The artifact needs a newer ONNX Runtime than the one installed.

    Attributes:
        needed: The artifact's minimum runtime version.
        found: The version installed.
    """

    def __init__(self, needed: str, found: str) -> None:
        self.needed, self.found = needed, found
        super().__init__(f"the artifact needs ONNX Runtime {needed}, this is {found}: update the app or onnxruntime")


@dataclass(frozen=True)
class Artifact:
    """Both graphs, already checked against the manifest's hashes.

    Attributes:
        artifact_id: sha256 (hexadecimal) of the bytes of `manifest.json`.
        gradient: Bytes of `gradient.onnx`.
        evaluate: Bytes of `evaluate.onnx`.
    """

    manifest: Manifest
    artifact_id: str
    gradient: bytes = field(repr=False)
    evaluate: bytes = field(repr=False)


def read_artifact(
    folder: Path, expected_id: str | None = None, runtime_version: str = onnxruntime.__version__
) -> Artifact:
    """Read `manifest.json`, `gradient.onnx` and `evaluate.onnx` from a folder.

    Args:
        expected_id: Artifact id that the folder must have; None to take what is there.

    Raises:
        ArtifactError: A file is missing or altered, or the manifest does not suit this runtime.
    """
    manifest, gradient, evaluate = (_read(folder / name) for name in FILES)
    return check_artifact(manifest, gradient, evaluate, expected_id, runtime_version)


def check_artifact(
    manifest: bytes,
    gradient: bytes,
    evaluate: bytes,
    expected_id: str | None = None,
    runtime_version: str = onnxruntime.__version__,
) -> Artifact:
    """Like `read_artifact`, from bytes that came over the network."""
    if expected_id is not None:
        _check_hash("manifest.json", manifest, expected_id)
    record = read_manifest(manifest, runtime_version)
    _check_hash("gradient.onnx", gradient, record.gradient_sha256)
    _check_hash("evaluate.onnx", evaluate, record.evaluate_sha256)
    return Artifact(record, hashlib.sha256(manifest).hexdigest(), gradient, evaluate)


def read_manifest(data: bytes, runtime_version: str = onnxruntime.__version__) -> Manifest:
    """Decode a manifest and check that this runtime can run what it describes, before anything else is fetched.

    Raises:
        RuntimeTooOldError: `minimum_runtime` is above `runtime_version`.
        ArtifactError: A newer schema, an unknown loss, or a layout that contradicts itself.
    """
    try:
        manifest = decode_record(Manifest, data)
    except RecordError as error:
        raise ArtifactError(f"manifest.json cannot be read: {error}") from error
    if _version(runtime_version) < _version(manifest.minimum_runtime):
        raise RuntimeTooOldError(manifest.minimum_runtime, runtime_version)
    if manifest.loss not in LOSSES:
        known = ", ".join(sorted(LOSSES))
        raise ArtifactError(f"loss {manifest.loss!r} is unknown here; known: {known}; update handheld or recompile")
    if manifest.batch_size < 1:
        raise ArtifactError(f"batch_size must be >= 1, got {manifest.batch_size}; compile the artifact again")
    _check_layout(manifest)
    return manifest


def _check_layout(manifest: Manifest) -> None:
    offset = 0
    for entry in manifest.layout:
        if entry.offset != offset or entry.segment not in manifest.segments:
            raise ArtifactError(
                f"layout entry {entry.name!r} must start at {offset} in one of the segments {list(manifest.segments)}, "
                f"got {entry.offset} in {entry.segment!r}; compile the artifact again"
            )
        offset += prod(entry.shape)
    if offset != manifest.num_parameters or offset == 0:
        raise ArtifactError(
            f"the layout holds {offset} values and num_parameters says {manifest.num_parameters}; compile it again"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); fetch or compile the artifact again") from error


def _check_hash(name: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{name} is corrupt: sha256 expected {expected}, found {found}; delete it and fetch or compile it again"
        )


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: 1.20.0+cpu -> (1, 20)."""
    match = re.match(r"\d+(\.\d+)*", text)
    if match is None:
        raise ArtifactError(f"a runtime version must start with a number, got {text!r}")
    numbers = [int(part) for part in match.group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
