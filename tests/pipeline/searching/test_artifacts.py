from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.digits import SPEC
from pipeline.fleet.pool import Pool
from pipeline.searching import artifacts
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from search.architecture import Architecture, Stem
from tests.pipeline.searching.conftest import ORDINARY

SMALL = Architecture((1, 8, 8), 10, Stem(1, 3, 4))
NETWORKS = (SMALL, replace(SMALL, stem=Stem(2, 3, 4)), replace(SMALL, stem=Stem(3, 3, 4)))


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of the artifacts but certificates and ORT Training's own, which differ from one writing to the next."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.*") if path.name != _TIMED}


_TIMED = "certificate.json"


@pytest.fixture
def make_artifacts(tmp_path):
    with closing(Pool(2)) as pool:
        yield lambda name, is_pooled: Artifacts(tmp_path / name, SPEC, 16, pool if is_pooled else None)


@pytest.mark.slow
def test_processes_compile_the_bytes_that_this_one_would(make_artifacts, tmp_path):
    found = [make_artifacts(name, is_pooled).get_all(NETWORKS) for name, is_pooled in (("here", False), ("pool", True))]
    assert [one.artifact_id for one in found[0]] == [one.artifact_id for one in found[1]]
    assert files_of(tmp_path / "here") == files_of(tmp_path / "pool")
    assert len(files_of(tmp_path / "pool")) == len(NETWORKS) * 4


@pytest.mark.slow
def test_the_networks_that_are_missing_are_compiled_by_the_processes(make_artifacts, tmp_path, monkeypatch):
    made = make_artifacts("pool", True)
    first = made.get(SMALL)
    monkeypatch.setattr("pipeline.compile.artifact.compile_architecture", None)  # here; the processes have their own
    again = made.get_all((*NETWORKS, SMALL))
    assert [one.manifest.num_parameters for one in again] == [60, 110, 160, 60]
    assert again[0].artifact_id == first.artifact_id
    assert len(list((tmp_path / "pool").iterdir())) == len(NETWORKS)


def test_a_network_is_compiled_once(make_artifacts, monkeypatch):
    made = make_artifacts("here", False)
    first, again = made.get_all((SMALL, SMALL))
    monkeypatch.setattr("pipeline.compile.artifact.compile_architecture", None)
    assert made.get(SMALL).artifact_id == first.artifact_id == again.artifact_id


class Here:
    """Stands for a pool of processes; all is done in this one."""

    def __init__(self, num_processes, _context, _start, arguments):
        (open_process,) = arguments
        open_process()

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, cancel_futures):
        pass


def test_a_search_compiles_with_the_processes_of_its_fleet_and_has_no_others(tmp_path, write_run_file, monkeypatch):
    made, compiled = [], []
    monkeypatch.setattr("pipeline.fleet.pool.ProcessPoolExecutor", lambda *terms: made.append(terms) or Here(*terms))
    compile_one = artifacts._compile
    monkeypatch.setattr(artifacts, "_compile", lambda *terms: compiled.append(terms) or compile_one(*terms))
    text = ORDINARY.replace("[space]", "workers = 2\n\n[space]").replace("trials = 2", "trials = 2\nparallel = 2")
    run_search(SearchRequest(write_run_file(text), tmp_path / "run"), Unwatched())
    assert len(compiled) == 2
    assert [num_processes for num_processes, *_ in made] == [2]
