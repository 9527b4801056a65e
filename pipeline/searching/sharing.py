"""Average what networks learnt that are parts of one: each parameter over those that trained it.

w_j = sum_k c_k w_kj / sum_k c_k over the k that trained parameter j; untouched parameters stay ("FedorAS",
arXiv:2206.11239; "HeteroFL", arXiv:2010.01264).
"""

import numpy as np

from device_runtime.arrays import Floats, Vector
from search.slicing import Indices


class OverlapMean:
    """Adds up changes of parts of a vector of P values, in float64."""

    def __init__(self, num_parameters: int) -> None:
        self._total, self._weight = np.zeros(num_parameters), np.zeros(num_parameters)

    def add(self, where: Indices, change: Vector, weight: float) -> None:
        """Add one part's change f32[p], which lies at `where` int64[p], none of it twice.

        Raises:
            ValueError: When weight is not > 0.
        """
        if not weight > 0:
            raise ValueError(f"weight must be > 0, got {weight}")
        self._total[where] += weight * change.astype(np.float64)
        self._weight[where] += weight

    def mean(self) -> Vector:
        """The mean change f32[P]; 0 where no part was."""
        mean: Floats = np.divide(self._total, self._weight, out=np.zeros_like(self._total), where=self._weight > 0)
        return mean.astype(np.float32)
