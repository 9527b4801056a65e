"""Of what a row was made: the inputs that decide its figures beside the run file, and the commit that made it."""

import hashlib
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.fleet.from_run_file import phone_names
from pipeline.run_file import RunFileError, parse_run_file
from pipeline.run_sections import FleetSection
from profiles.catalogue import load_profile
from profiles.records import record_id

Inputs = dict[str, Any]


@lru_cache
def inputs_of(run_file: str) -> Inputs | None:
    """Ids of the phones' profiles, and the hash of the data where it is a file; None for what is no run file.

    A row of other inputs is another measurement, though its run file is the same text.
    """
    try:
        read = parse_run_file(run_file)
    except RunFileError:
        return None
    names = phone_names(read.fleet or FleetSection())
    _, _, path = read.data.source.partition(":")
    data = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else None
    return {"profiles": {name: record_id(load_profile(name)) for name in names}, "data": data}


@lru_cache
def commit_of(folder: Path = Path(__file__).parent) -> str | None:
    """The commit that a folder's code is of, with `+` where it was changed since; None outside of a repository."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.toml", "*.json")
        return ask("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
