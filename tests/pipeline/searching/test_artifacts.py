from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.digits import SPEC
from pipeline.searching.artifacts import Artifacts
from search.architecture import Architecture, Stem

SMALL = Architecture((1, 8, 8), 10, Stem(1, 3, 4))
NETWORKS = (SMALL, replace(SMALL, stem=Stem(2, 3, 4)), replace(SMALL, stem=Stem(3, 3, 4)))


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of the artifacts but certificates and ORT Training's own, which differ from one writing to the next."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.*") if path.name != _TIMED}


_TIMED = "certificate.json"


@pytest.fixture
def make_artifacts(tmp_path):
    made = []

    def make(name: str, num_workers: int) -> Artifacts:
        made.append(Artifacts(tmp_path / name, SPEC, 16, num_workers))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
def test_processes_compile_the_bytes_that_this_one_would(make_artifacts, tmp_path):
    found = [make_artifacts(name, n).get_all(NETWORKS) for name, n in (("here", 1), ("pool", 2))]
    assert [one.artifact_id for one in found[0]] == [one.artifact_id for one in found[1]]
    assert files_of(tmp_path / "here") == files_of(tmp_path / "pool")
    assert len(files_of(tmp_path / "pool")) == len(NETWORKS) * 4


@pytest.mark.slow
def test_the_networks_that_are_missing_are_compiled_by_the_processes(make_artifacts, tmp_path, monkeypatch):
    artifacts = make_artifacts("pool", 2)
    first = artifacts.get(SMALL)
    monkeypatch.setattr("pipeline.compile.artifact.compile_architecture", None)  # here; the processes have their own
    again = artifacts.get_all((*NETWORKS, SMALL))
    assert [one.manifest.num_parameters for one in again] == [60, 110, 160, 60]
    assert again[0].artifact_id == first.artifact_id
    assert len(list((tmp_path / "pool").iterdir())) == len(NETWORKS)


def test_a_network_is_compiled_once(make_artifacts, monkeypatch):
    artifacts = make_artifacts("here", 1)
    first, again = artifacts.get_all((SMALL, SMALL))
    monkeypatch.setattr("pipeline.compile.artifact.compile_architecture", None)
    assert artifacts.get(SMALL).artifact_id == first.artifact_id == again.artifact_id
