"""The artifacts of a run: compiled when first asked for, never twice."""

from dataclasses import dataclass
from pathlib import Path

from device_runtime.artifact import Artifact
from device_runtime.specs import ExampleSpec
from pipeline.compile.artifact import CompileRequest, cached_artifact
from search.architecture import Architecture


@dataclass(frozen=True)
class Artifacts:
    """Where a run keeps what it compiled.

    Attributes:
        folder: One folder an architecture id.
        batch_size: B of all of them.
    """

    folder: Path
    spec: ExampleSpec
    batch_size: int

    def get(self, architecture: Architecture) -> Artifact:
        """The artifact of an architecture."""
        return cached_artifact(CompileRequest(architecture, self.spec, self.batch_size), self.folder)

    def folder_of(self, artifact: Artifact) -> Path:
        """Where its files lie."""
        return self.folder / artifact.manifest.architecture_id
