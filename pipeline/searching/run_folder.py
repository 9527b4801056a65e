"""The folder of one search: its run file, database, blobs, artifacts, result and model."""

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from device_runtime.folder_lock import FolderInUseError, lock_folder
from device_runtime.vectors import write_vector
from pipeline.coordinator.database import is_disk_error
from pipeline.run_file import read_run_file
from pipeline.run_result import ARTIFACT, MODELS, PARAMETERS, RESULT, RunResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.trials import Model
from profiles.records import encode_record

RUN_FILE = "run.toml"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class RunFolderError(ValueError):
    """The folder does not fit what is asked of it."""


class DiskError(RuntimeError):
    """The disk took no more of a search."""


@dataclass(frozen=True)
class RunFolder:
    """Where a search keeps what it knows.

    Attributes:
        path: Made when it is first opened.
    """

    path: Path

    @property
    def artifacts(self) -> Path:
        """What was compiled, by architecture id."""
        return self.path / "artifacts"

    @property
    def result(self) -> Path:
        """Written last."""
        return self.path / RESULT

    @contextmanager
    def open(self, run_file: Path, is_resumed: bool) -> Iterator[RunFile]:
        """Copy the run file in, or check that it is the one the search began with; until left, nobody else may.

        Raises:
            RunFolderError: The folder holds another search, or nothing to resume, or another process searches in it.
            RunFileError: The file cannot be used.
        """
        checked = read_run_file(run_file)
        if is_resumed and not self._kept.exists():  # before the folder is made
            raise RunFolderError(f"{self.path} holds no search to resume; leave --resume out to begin one")
        self.path.mkdir(parents=True, exist_ok=True)
        with self.held():
            self._keep(run_file, checked, is_resumed)
            yield checked

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process search in the folder until this is left; whoever only reads a finished run need not ask.

        Raises:
            RunFolderError: Another process searches in it.
        """
        try:
            lock = lock_folder(self.path)
        except FolderInUseError as error:
            raise RunFolderError(
                f"another process searches in {self.path}, maybe one that is suspended: wait until it ends, or end it "
                "and go on with --resume, or name another folder with --output"
            ) from error
        with closing(lock):
            yield

    @contextmanager
    def disk_errors_told(self) -> Iterator[None]:
        """Tell errors of a full disk with the folder and what to do.

        Raises:
            DiskError: Files or database cannot be written.
        """
        try:
            yield
        except (OSError, DBAPIError) as error:
            if not (error.errno in _FULL if isinstance(error, OSError) else is_disk_error(error)):
                raise
            reason = error if isinstance(error, OSError) else error.orig
            raise DiskError(
                f"the disk took no more of the search in {self.path} ({reason}): free space, then go on with --resume"
            ) from error

    @property
    def _kept(self) -> Path:
        return self.path / RUN_FILE

    def _keep(self, run_file: Path, checked: RunFile, is_resumed: bool) -> None:
        kept = self._kept
        if not is_resumed and kept.exists():
            raise RunFolderError(
                f"{self.path} holds a search already: continue it with --resume, or name a new folder with --output"
            )
        if is_resumed and _deciding(read_run_file(kept)) != _deciding(checked):
            raise RunFolderError(
                f"{run_file} is not the run file that {self.path} began with ({kept}): resume with that one, or begin "
                "anew in another folder"
            )
        if not is_resumed:
            partial = kept.with_suffix(".partial")
            shutil.copyfile(run_file, partial)
            partial.replace(kept)  # whole or not there: a search killed here begins anew

    def give_back(self) -> None:
        """Forget a search that was refused before it began, so that a mended run file may take its folder."""
        self._kept.unlink(missing_ok=True)

    def finish(self, models: Mapping[int, Model], artifacts: Artifacts, result: RunResult) -> None:
        """Write the models, each under its trial's index, then the result: a folder with a result has its models."""
        target = self.path / MODELS
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".models-") as temporary:
            built = Path(temporary) / MODELS
            for trial, model in models.items():
                shutil.copytree(artifacts.folder_of(model.artifact), built / str(trial) / ARTIFACT)
                (built / str(trial) / PARAMETERS).write_bytes(write_vector("parameters", model.parameters))
            if target.exists():
                shutil.rmtree(target)
            built.rename(target)
        partial = self.result.with_suffix(".partial")
        partial.write_bytes(encode_record(result))
        partial.replace(self.result)


def _deciding(run_file: RunFile) -> RunFile:
    """The run file without what no result depends on: who ran out of memory goes on with fewer workers."""
    if run_file.fleet is None:
        return run_file
    fleet = run_file.fleet.model_copy(update={"workers": 1, "engine": "process"})
    return run_file.model_copy(update={"fleet": fleet})
