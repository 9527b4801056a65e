"""Accuracy of a bundle's files over labelled examples: what an app will see."""

from pathlib import Path

import numpy as np

from device_runtime.arrays import Inputs, Labels
from pipeline.ship.bundle import read_bundle
from pipeline.ship.exporters import EXPORTERS


def evaluate_bundle(folder: Path, x: Inputs, y: Labels) -> dict[str, float]:
    """Share of right answers by model file (`model.onnx`, `model.ort`, `model.pte`), each on its own runtime.

    Args:
        x: f32[n, *shape], n >= 1, prepared as the bundle's `spec.json` says.
        y: i64[n], indices of the bundle's labels.

    Raises:
        BundleError: `folder` is no bundle, or one of its files was altered.
        ValueError: x and y do not belong together.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y must hold the same number of examples, at least 1, got {len(x)} and {len(y)}")
    read_bundle(folder)
    return {
        file: float(np.mean(exporter.run(folder / file, x).logits.argmax(1) == y))
        for file, exporter in EXPORTERS.items()
    }
