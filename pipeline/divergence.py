"""Tell a trained model whose parameters have run away: finite numbers that a phone computes no answers from."""

import numpy as np

from device_runtime.arrays import Vector

LARGEST_PARAMETER = 1e6  # trained networks stay below 1e3; products of a few larger ones leave float32


def divergence_in_words(trial: int, parameters: Vector) -> str:
    """What is wrong with a trial's trained parameters f32[P] and what to do; empty where nothing is."""
    largest = float(np.abs(parameters).max(initial=0.0))
    if largest <= LARGEST_PARAMETER:  # NaN is above
        return ""
    return (
        f"the model of trial {trial} has no use: training diverged, its largest parameter is {largest:.1e}: search "
        "again with a lower learning_rate or server_learning_rate"
    )
