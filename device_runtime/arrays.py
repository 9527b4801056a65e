"""Names for the arrays that pass between the device's functions; shapes are in each function's docstring."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # parameters, updates, sums: f32[P]
Inputs = NDArray[Any]  # x: float32 or int64 [n, *shape], or [n] rows with a field for each of several inputs
Labels = NDArray[Any]  # y: i64[n] class indices, or f32[n, K] values
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
