"""Exact figures over all emulated clients' splits together: for benches and curves, never for a choice or a stop."""

from dataclasses import dataclass, field

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from device_runtime.examples import ClientSource, DataSet, split_ids
from device_runtime.session import StepSession
from device_runtime.terms import Split
from device_runtime.training import Examples
from pipeline.fleet.workers import FleetData, split_key


@dataclass
class PooledExamples:
    """All clients' examples by split, read once."""

    data: FleetData
    source: DataSet
    rotation: int
    _splits: dict[Split, Examples] = field(default_factory=dict)

    def accuracy(self, artifact: Artifact, parameters: Vector, split: Split) -> float:
        """Share of right examples of all clients' split."""
        examples = self._examples(split)
        _, metrics = StepSession(artifact).evaluate(parameters, examples.x, examples.y)
        return float(metrics[:, artifact.manifest.metrics.index("accuracy")].mean())

    def _examples(self, split: Split) -> Examples:
        if split not in self._splits:
            key = split_key(self.data.seed)
            shares = (ClientSource(self.source, share) for share in self.data.shares)
            ids = [name for share in shares for name in split_ids(share, key, self.rotation)[split]]
            x, y = self.source.get(ids)
            self._splits[split] = Examples(np.asarray(x), np.asarray(y))
        return self._splits[split]
