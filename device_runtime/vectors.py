"""Float32 tensors as safetensors bytes, checked when read: vectors (parameters, updates, sums) and frozen tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from safetensors.numpy import save

from device_runtime.arrays import Vector
from device_runtime.specs import Manifest

VectorName = Literal["parameters", "parameter_update", "gradient_sum"]


class VectorError(ValueError):
    """A safetensors file does not hold the float32 vector or tensors that were asked for."""


def write_vector(name: VectorName, vector: Vector) -> bytes:
    """Safetensors bytes with one float32 vector; equal vectors give equal bytes."""
    if vector.ndim != 1 or vector.dtype != np.float32:
        raise ValueError(f"{name} must be a float32 vector, got {vector.dtype} of shape {vector.shape}")
    return save({name: np.ascontiguousarray(vector)})


def read_vector(data: bytes | Path, name: VectorName, num_parameters: int) -> Vector:
    """Read the vector `name` [num_parameters] from a file or its bytes.

    Raises:
        VectorError: Not safetensors, another tensor, dtype or length, or a value that is not finite.
    """
    tensors = _tensors(data)
    if set(tensors) != {name}:
        raise VectorError(f"safetensors must hold exactly the tensor {name!r}, got {sorted(tensors)}")
    tensor = tensors[name]
    if tensor["dtype"] != "F32" or list(tensor["shape"]) != [num_parameters]:
        raise VectorError(
            f"{name} must be float32 of shape [{num_parameters}], got {tensor['dtype']} of shape {tensor['shape']}; "
            "is it of another architecture?"
        )
    vector: Vector = np.frombuffer(tensor["data"], "<f4").astype(np.float32)
    num_bad = int((~np.isfinite(vector)).sum())
    if num_bad:
        raise VectorError(
            f"{name} must be finite, got {num_bad} of {num_parameters} values NaN or infinite; "
            "lower learning_rate or set max_grad_norm"
        )
    return vector


def read_parameters(data: bytes | Path, manifest: Manifest) -> Vector:
    """Read parameters f32[P] in the manifest's layout order from a file or its bytes; raises `VectorError`."""
    return read_vector(data, "parameters", manifest.num_parameters)


def write_frozen(tensors: Mapping[str, Vector]) -> bytes:
    """`frozen.safetensors`: float32 tensors by name; equal tensors give equal bytes, so that artifacts share a file."""
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"frozen tensor {name!r} must be float32 and finite, got {tensor.dtype}")
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def read_frozen(data: bytes | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Vector]:
    """Read float32 tensors of these names and shapes from a file or its bytes; read-only.

    Raises:
        VectorError: Not safetensors, other tensors, another dtype or shape, or a value that is not finite.
    """
    tensors = _tensors(data)
    if set(tensors) != set(shapes):
        raise VectorError(f"safetensors must hold exactly the tensors {sorted(shapes)}, got {sorted(tensors)}")
    frozen = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor["dtype"] != "F32" or tuple(tensor["shape"]) != shape:
            raise VectorError(
                f"{name} must be float32 of shape {list(shape)}, got {tensor['dtype']} of shape {tensor['shape']}; "
                "compile the artifact again"
            )
        frozen[name] = np.frombuffer(tensor["data"], "<f4").reshape(shape)
        if not np.isfinite(frozen[name]).all():
            raise VectorError(f"{name} must be finite, it has values that are NaN or infinite; compile it again")
    return frozen


def _tensors(data: bytes | Path) -> dict[str, dict[str, Any]]:
    try:
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise VectorError(f"no safetensors file: {error}; fetch it again") from error
