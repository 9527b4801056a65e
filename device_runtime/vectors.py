"""Flat float32 vectors as safetensors bytes: parameters, parameter updates and gradient sums, checked when read."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from safetensors.numpy import save

from device_runtime.arrays import Vector
from device_runtime.specs import Manifest

VectorName = Literal["parameters", "parameter_update", "gradient_sum"]


class VectorError(ValueError):
    """A safetensors file does not hold the one float32 vector that was asked for."""


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


def _tensors(data: bytes | Path) -> dict[str, dict[str, Any]]:
    try:
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise VectorError(f"no safetensors file: {error}; fetch it again") from error
