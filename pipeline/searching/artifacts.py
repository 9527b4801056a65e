"""The artifacts of a run: compiled when first asked for, never twice."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from device_runtime.artifact import Artifact
from device_runtime.specs import ExampleSpec
from pipeline.compile.artifact import CompileRequest, cached_artifact
from search.architecture import Architecture


class Artifacts:
    """Owns the folder of what a run compiled, and the processes that compile several networks side by side."""

    def __init__(self, folder: Path, spec: ExampleSpec, batch_size: int, num_workers: int = 1) -> None:
        """Get ready; processes start when several networks are missing, and stay: each has to import torch first.

        Args:
            folder: Gets one folder an architecture id.
            batch_size: B of all of them.
            num_workers: 1 compiles in this process, more in as many others, to the same bytes.
        """
        self._folder, self._spec, self._batch_size = folder, spec, batch_size
        # Spawned, never forked: a forked ONNX Runtime session hangs.
        self._pool = ProcessPoolExecutor(num_workers, get_context("spawn")) if num_workers > 1 else None

    def get(self, architecture: Architecture) -> Artifact:
        """The artifact of an architecture."""
        return cached_artifact(self._request(architecture), self._folder)

    def get_all(self, architectures: Sequence[Architecture]) -> list[Artifact]:
        """The artifacts of architectures, in their order; those that are missing are compiled side by side."""
        requests = [self._request(one) for one in dict.fromkeys(architectures)]
        missing = [one for one in requests if not (self._folder / one.architecture_id()).exists()]
        if self._pool is not None and len(missing) > 1:
            list(self._pool.map(_compile, missing, repeat(self._folder)))
        return [self.get(one) for one in architectures]

    def folder_of(self, artifact: Artifact) -> Path:
        """Where its files lie."""
        return self._folder / artifact.manifest.architecture_id

    def close(self) -> None:
        """Let the processes go."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _request(self, architecture: Architecture) -> CompileRequest:
        return CompileRequest(architecture, self._spec, self._batch_size)


def _compile(request: CompileRequest, folder: Path) -> None:
    cached_artifact(request, folder)
