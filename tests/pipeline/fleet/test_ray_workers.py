import importlib

import pytest

from pipeline.fleet.ray_workers import RayError
from pipeline.fleet.workers import Workers


def test_without_ray_the_error_names_the_extra(kit, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RayError, match=r"engine = 'ray' needs the library Ray: pip install 'handheld\[ray\]'"):
        Workers(kit.data(tmp_path, 1), kit.source, 1, "ray")


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster of two workers."""
    ray = importlib.import_module("ray")  # only `make test-ray` has it, and there nothing is skipped
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def train(emulate):
    """Two rounds of an emulated run; everything that may be compared."""

    def run(name, num_workers, engine):
        emulation = emulate(name, num_phones=4, num_workers=num_workers, engine=engine)
        emulation.train(2)
        return emulation.everything()

    return run


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_of_two_gives_the_bytes_of_this_process_and_of_a_pool(cluster, train):
    here, pool, actors = train("here", 1, "process"), train("pool", 2, "process"), train("ray", 2, "ray")
    assert any(here["parameters"])
    assert actors == pool == here
    assert cluster.is_initialized()  # who made the connection ends it


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_that_is_too_small_is_refused(cluster, kit, tmp_path):
    with pytest.raises(RayError, match=r"has 2 CPUs for 3 workers; lower \[fleet\] workers"):
        Workers(kit.data(tmp_path, 1), kit.source, 3, "ray")
