"""The folder of one search: its run file, database, blobs, artifacts, result and model."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.vectors import write_vector
from pipeline.run_file import read_run_file
from pipeline.run_result import ARTIFACT, MODELS, PARAMETERS, RESULT, RunResult
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.trials import Model
from profiles.records import encode_record

RUN_FILE = "run.toml"


class RunFolderError(ValueError):
    """The folder does not fit what is asked of it."""


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

    def open(self, run_file: Path, is_resumed: bool) -> RunFile:
        """Copy the run file in, or check that it is the one the search began with.

        Raises:
            RunFolderError: The folder holds another search, or nothing to resume.
            RunFileError: The file cannot be used.
        """
        checked = read_run_file(run_file)
        kept = self.path / RUN_FILE
        if kept.exists() and not is_resumed:
            raise RunFolderError(
                f"{self.path} holds a search already: continue it with --resume, or name a new folder with --output"
            )
        if is_resumed and not kept.exists():
            raise RunFolderError(f"{self.path} holds no search to resume; leave --resume out to begin one")
        if is_resumed and kept.read_bytes() != run_file.read_bytes():
            raise RunFolderError(
                f"{run_file} is not the run file that {self.path} began with ({kept}): resume with that one, or begin "
                "anew in another folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            partial = kept.with_suffix(".partial")
            shutil.copyfile(run_file, partial)
            partial.replace(kept)  # whole or not there: a search killed here begins anew
        return checked

    def give_back(self) -> None:
        """Forget a search that was refused before it began, so that a mended run file may take its folder."""
        (self.path / RUN_FILE).unlink(missing_ok=True)

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
