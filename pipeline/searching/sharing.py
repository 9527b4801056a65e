"""Weights that the trials of a search share: each parameter moves by its mean change over the trials that trained it.

w_j = sum_k c_k w_kj / sum_k c_k over the k that trained parameter j; untouched parameters stay ("FedorAS",
arXiv:2206.11239; "HeteroFL", arXiv:2010.01264).
"""

from dataclasses import dataclass, field

import numpy as np

from device_runtime.arrays import Flags, Floats, Vector
from device_runtime.segments import Positions
from device_runtime.vectors import read_vector, write_vector
from pipeline.coordinator.blobs import BlobFolder, add_blob
from pipeline.coordinator.store import Store
from pipeline.server_optimizer import ServerOptimizer, State


@dataclass(frozen=True)
class SharedWeights:
    """A supernet's weights between the steps of a search.

    Attributes:
        parameters: f32[P].
        optimizer: What each link of the server's optimiser carries, each f32[P]; empty before the first step.
    """

    parameters: Vector = field(repr=False)
    optimizer: tuple[State, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class KeptWeights:
    """Shared weights as they are kept: the sha256 of a blob for each vector."""

    parameters: str
    optimizer: tuple[tuple[str, ...], ...]


class OverlapMean:
    """Adds up changes of parts of a vector of P values, in float64."""

    def __init__(self, num_parameters: int) -> None:
        self._total, self._weight = np.zeros(num_parameters), np.zeros(num_parameters)

    def add(self, where: Positions, change: Vector, weight: float) -> None:
        """Add one part's change f32[p], which lies at `where`, none of it twice.

        Raises:
            ValueError: When weight is not > 0.
        """
        if not weight > 0:
            raise ValueError(f"weight must be > 0, got {weight}")
        self._total[where] += weight * change.astype(np.float64)
        self._weight[where] += weight

    @property
    def is_moved(self) -> Flags:
        """Which values any part had, bool[P]."""
        return self._weight > 0

    def mean(self) -> Vector:
        """The mean change f32[P]; 0 where no part was."""
        mean: Floats = np.divide(self._total, self._weight, out=np.zeros_like(self._total), where=self._weight > 0)
        return mean.astype(np.float32)


def step_shared(shared: SharedWeights, changes: OverlapMean, optimizer: ServerOptimizer) -> SharedWeights:
    """The weights after the server's step along a mean change; what nobody trained stays, and so does its memory."""
    states = shared.optimizer or optimizer.init(len(shared.parameters))
    states, parameters = optimizer.step(states, shared.parameters, changes.mean(), changes.is_moved)
    return SharedWeights(parameters, states)


def keep_shared(store: Store, blobs: BlobFolder, shared: SharedWeights) -> KeptWeights:
    """Write shared weights as blobs, in a transaction of its own; what the optimiser carries is no phone's to read."""
    with store.transaction():
        parameters = add_blob(store, blobs, write_vector("parameters", shared.parameters), "parameters")
        optimizer = tuple(
            tuple(add_blob(store, blobs, write_vector("parameters", vector), "optimizer") for vector in state)
            for state in shared.optimizer
        )
    return KeptWeights(parameters, optimizer)


def read_shared(blobs: BlobFolder, kept: KeptWeights, num_parameters: int) -> SharedWeights:
    """Read kept weights of P parameters."""

    def read(sha256: str) -> Vector:
        return read_vector(blobs.get(sha256), "parameters", num_parameters)

    return SharedWeights(read(kept.parameters), tuple(tuple(map(read, state)) for state in kept.optimizer))
