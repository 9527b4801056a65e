"""Configurations of hyper-parameters drawn once, and what tuners that choose among them share."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search.architecture import Architecture
from search.candidate import HyperParameters
from search.cell_space import CellSpace
from search.options import HyperParameterOptions
from search.slicing import is_part

Floats = NDArray[np.float64]


@lru_cache(maxsize=8)
def draw_configurations(options: HyperParameterOptions, count: int, seed: int) -> tuple[HyperParameters, ...]:
    """Independent draws of every field, the same for the same seed."""
    rng = np.random.default_rng((seed, count))
    return tuple(options.sample(rng) for _ in range(count))


def without_architecture(hyper_parameters: HyperParameters) -> HyperParameters:
    """For a network that has no architecture weights."""
    return replace(hyper_parameters, architecture_learning_rate=None, architecture_weight_decay=0.0)


def weights_of(supernet: Architecture, network: Architecture) -> Architecture:
    """Whose shared weights a network takes: the supernet's that it is a part of, or fresh ones of its own."""
    return supernet if is_part(supernet, network) else network


def softmax(values: Floats) -> Floats:
    """Of f64[K]."""
    shifted = np.exp(values - values.max())
    return np.asarray(shifted / shifted.sum())


def entropy_of(probabilities: Floats) -> float:
    """Entropy in nats."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())


def initial_architecture_weights(space: CellSpace) -> tuple[float, ...]:
    """Of the supernet before it trains: all alike."""
    cells = [stage.cell for stage in space.supernet().stages if stage.cell is not None]
    edges = [edge for cell in cells for node in cell.nodes for edge in node if len(edge.operations) > 1]
    return (0.0,) * sum(len(edge.operations) for edge in edges)
