"""The artifacts of a run: compiled when first asked for, never twice."""

from collections.abc import Sequence
from pathlib import Path

from device_runtime.artifact import Artifact
from device_runtime.specs import ExampleSpec
from pipeline.compile.artifact import CompileRequest, cached_artifact
from pipeline.fleet.pool import Pool
from search.architecture import Architecture


class Artifacts:
    """The folder of what a run compiled."""

    def __init__(self, folder: Path, spec: ExampleSpec, batch_size: int, pool: Pool | None = None) -> None:
        """Get ready.

        Args:
            folder: Gets one folder an architecture id.
            batch_size: B of all of them.
            pool: Compiles several networks side by side, to the same bytes; None compiles in this process. It is the
                fleet's, which has little to do meanwhile: processes of their own would take as much memory again.
        """
        self._folder, self._spec, self._batch_size, self._pool = folder, spec, batch_size, pool

    def get(self, architecture: Architecture) -> Artifact:
        """The artifact of an architecture."""
        return cached_artifact(self._request(architecture), self._folder)

    def get_all(self, architectures: Sequence[Architecture]) -> list[Artifact]:
        """The artifacts of architectures, in their order; those that are missing are compiled side by side."""
        requests = [self._request(one) for one in dict.fromkeys(architectures)]
        missing = [one for one in requests if not (self._folder / one.architecture_id()).exists()]
        if self._pool is not None and len(missing) > 1:
            for compiled in [self._pool.begin(_compile, one, self._folder) for one in missing]:
                compiled()
        return [self.get(one) for one in architectures]

    def folder_of(self, artifact: Artifact) -> Path:
        """Where its files lie."""
        return self._folder / artifact.manifest.architecture_id

    def _request(self, architecture: Architecture) -> CompileRequest:
        return CompileRequest(architecture, self._spec, self._batch_size)


def _compile(request: CompileRequest, folder: Path) -> None:
    cached_artifact(request, folder)
