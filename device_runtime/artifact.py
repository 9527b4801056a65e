"""Read a training artifact and refuse, by name, what is corrupt, newer than this runtime, or unknown to it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnxruntime

from device_runtime.arrays import Vector
from device_runtime.specs import Manifest, Target
from device_runtime.vectors import VectorError, read_frozen
from profiles.records import RecordError, decode_record

LOSSES: Mapping[str, Target] = {"cross_entropy": "class", "bce_with_logits": "values", "mse": "values"}
FILES = ("manifest.json", "gradient.onnx", "evaluate.onnx")
FROZEN = "frozen.safetensors"  # only where the manifest names it


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
    """Both graphs and the frozen tensors, already checked against the manifest's hashes.

    Attributes:
        artifact_id: sha256 (hexadecimal) of the bytes of `manifest.json`.
        gradient: Bytes of `gradient.onnx`.
        evaluate: Bytes of `evaluate.onnx`.
        frozen: What the graphs take as `frozen.NAME`, by NAME.
    """

    manifest: Manifest
    artifact_id: str
    gradient: bytes = field(repr=False)
    evaluate: bytes = field(repr=False)
    frozen: Mapping[str, Vector] = field(default_factory=dict, repr=False, compare=False)  # the manifest has its hash


def read_artifact(folder: Path, expected_id: str | None = None) -> Artifact:
    """Read `manifest.json`, `gradient.onnx`, `evaluate.onnx` and, where there is one, `frozen.safetensors`.

    Args:
        expected_id: Artifact id that the folder must have; None to take what is there.

    Raises:
        ArtifactError: A file is missing or altered, or the manifest does not suit this runtime.
    """
    manifest, gradient, evaluate = (_read(folder / name) for name in FILES)
    frozen = _read(folder / FROZEN) if (folder / FROZEN).exists() else None
    return check_artifact(manifest, gradient, evaluate, frozen, expected_id)


def check_artifact(
    manifest: bytes,
    gradient: bytes,
    evaluate: bytes,
    frozen: bytes | Mapping[str, Vector] | None = None,
    expected_id: str | None = None,
) -> Artifact:
    """Like `read_artifact`, from bytes that came over the network.

    Args:
        frozen: Bytes of `frozen.safetensors`, only looked at where the manifest names them; or the tensors that an
            artifact with the same `Manifest.frozen` was read with.
    """
    if expected_id is not None:
        _check_hash("manifest.json", manifest, expected_id)
    record = read_manifest(manifest)
    _check_hash("gradient.onnx", gradient, record.gradient_sha256)
    _check_hash("evaluate.onnx", evaluate, record.evaluate_sha256)
    tensors = frozen if isinstance(frozen, Mapping) else _read_frozen(record, frozen)
    return Artifact(record, hashlib.sha256(manifest).hexdigest(), gradient, evaluate, tensors)


def read_manifest(data: bytes, runtime_version: str = onnxruntime.__version__) -> Manifest:
    """Decode a manifest and check that this runtime can run what it describes, before anything else is fetched.

    Raises:
        RuntimeTooOldError: `minimum_runtime` is above `runtime_version`.
        ArtifactError: A newer schema, an unknown loss or one of another kind of labels, or a layout that contradicts
            itself.
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
    if manifest.spec.target != LOSSES[manifest.loss]:
        raise ArtifactError(
            f"loss {manifest.loss} goes with target {LOSSES[manifest.loss]!r}, the specification has "
            f"{manifest.spec.target!r}; compile the artifact again"
        )
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


def _read_frozen(manifest: Manifest, data: bytes | None) -> dict[str, Vector]:
    if manifest.frozen is None:
        return {}
    if data is None:
        raise ArtifactError(f"the artifact needs {FROZEN} and it is not here; fetch or compile the artifact again")
    _check_hash(FROZEN, data, manifest.frozen.sha256)
    try:
        return read_frozen(data, manifest.frozen.shapes)
    except VectorError as error:
        raise ArtifactError(f"{FROZEN}: {error}") from error


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
