"""Exact figures over all emulated clients' splits together: for benches and curves, never for a choice or a stop."""

from dataclasses import dataclass, field

import numpy as np

from device_runtime.arrays import Vector
from device_runtime.artifact import Artifact
from device_runtime.examples import ClientSource, DataSet, split_ids
from device_runtime.loaded import Examples
from device_runtime.session import StepSession
from device_runtime.terms import Split
from pipeline.fleet.workers import FleetData

MOST_SESSIONS = 16  # of networks whose trials may go on side by side


@dataclass
class PooledExamples:
    """All clients' examples by split, read once; the sessions of the last networks stay open."""

    data: FleetData
    source: DataSet
    rotation: int
    _splits: dict[Split, Examples] = field(default_factory=dict)
    _sessions: dict[str, StepSession] = field(default_factory=dict)

    def accuracy(self, artifact: Artifact, parameters: Vector, split: Split) -> float:
        """Share of right examples of all clients' split."""
        examples = self.examples(split)
        _, metrics = self._session(artifact).evaluate(parameters, examples.x, examples.y)
        return float(metrics[:, artifact.manifest.metrics.index("accuracy")].mean())

    def examples(self, split: Split) -> Examples:
        """All clients' examples of a split, in the order of the clients."""
        if split not in self._splits:
            shares = self.by_client(split)
            x, y = (np.concatenate([getattr(share, name) for share in shares]) for name in ("x", "y"))
            self._splits[split] = Examples(x, y)
        return self._splits[split]

    def by_client(self, split: Split) -> tuple[Examples, ...]:
        """Each client's examples of a split."""
        sources = (ClientSource(self.source, share) for share in self.data.shares)
        return tuple(
            Examples(*source.get(split_ids(source, self.data.split_key, self.rotation)[split])) for source in sources
        )

    def _session(self, artifact: Artifact) -> StepSession:
        """Opening one takes longer than all it computes here, and trials side by side take turns."""
        session = self._sessions.pop(artifact.artifact_id, None) or StepSession(artifact)
        self._sessions[artifact.artifact_id] = session
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session
