import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from device_runtime.vectors import (
    VectorError,
    read_frozen,
    read_parameters,
    read_vector,
    write_frozen,
    write_vector,
)

VECTOR = np.arange(12, dtype=np.float32)


def test_a_vector_survives_the_round_trip_and_its_bytes_are_fixed(tmp_path, artifact):
    data = write_vector("parameters", VECTOR)
    (tmp_path / "parameters.safetensors").write_bytes(data)
    for source in (data, tmp_path / "parameters.safetensors"):
        np.testing.assert_array_equal(read_parameters(source, artifact.manifest), VECTOR)
    assert hashlib.sha256(data).hexdigest() == "69031d3ba67792b2154aa43fcf71f234eadcc994ea1025dfeb25d05c6c0f13ed"


@pytest.mark.parametrize("bad", [VECTOR.astype(np.float64), VECTOR.reshape(3, 4)])
def test_only_float32_vectors_are_written(bad):
    with pytest.raises(ValueError, match="gradient_sum must be a float32 vector"):
        write_vector("gradient_sum", bad)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no safetensors file"),
        (b"\xff" * 64, "no safetensors file"),
        (write_vector("parameters", VECTOR)[:-1], "no safetensors file"),
        (write_vector("gradient_sum", VECTOR), r"exactly the tensor 'parameters', got \['gradient_sum'\]"),
        (save({"parameters": VECTOR, "more": VECTOR}), r"got \['more', 'parameters'\]"),
        (save({"parameters": VECTOR.astype(np.float64)}), r"must be float32 of shape \[12\], got F64"),
        (save({"parameters": VECTOR.reshape(3, 4)}), r"got F32 of shape \[3, 4\]; is it of another architecture"),
        (write_vector("parameters", VECTOR[:5]), r"of shape \[5\]"),
        (write_vector("parameters", np.where(VECTOR > 9, np.nan, VECTOR)), "got 2 of 12 values NaN or infinite; lower"),
        (write_vector("parameters", np.where(VECTOR > 10, -np.inf, VECTOR)), "got 1 of 12 values"),
    ],
)
def test_what_is_not_one_finite_float32_vector_is_refused(data, message):
    with pytest.raises(VectorError, match=message):
        read_vector(data, "parameters", 12)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VectorError, match="nowhere"):
        read_vector(tmp_path / "nowhere", "parameters", 12)


def test_frozen_tensors_survive_the_round_trip_and_equal_ones_are_equal_bytes():
    tensors = {"b.weight": VECTOR.reshape(3, 4), "a.bias": VECTOR[:1]}
    data = write_frozen(tensors)
    assert write_frozen(dict(reversed(tensors.items()))) == data
    found = read_frozen(data, {"b.weight": (3, 4), "a.bias": (1,)})
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize("bad", [VECTOR.astype(np.float64), np.array([np.nan], np.float32)])
def test_only_finite_float32_tensors_are_frozen(bad):
    with pytest.raises(ValueError, match="frozen tensor 'w' must be float32 and finite"):
        write_frozen({"w": bad})
