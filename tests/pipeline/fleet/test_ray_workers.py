import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.fleet import ray_workers
from pipeline.fleet.errors import FleetError
from pipeline.fleet.ray_workers import LOST, RayError
from pipeline.fleet.workers import Workers

NOISY = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_without_ray_the_error_names_the_extra(kit, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RayError, match=r"engine = 'ray' needs the library Ray: pip install 'handheld\[ray\]'"):
        Workers(kit.data(tmp_path, 1), kit.source, 1, "ray")


class StandIn:
    """A cluster of two CPUs as Ray describes it; an actor's answer is what it raises, None, or never there.

    Attributes:
        begun: What each actor's `ready` gives; of an actor that gets no CPU `NEVER`.
    """

    NEVER = "never"

    def __init__(self, begun, num_free):
        self.exceptions = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in LOST})
        self.begun, self.num_free, self.timeouts, self.killed = begun, num_free, [], []
        self.outcome = None

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2.0}

    def available_resources(self):
        return {"CPU": float(self.num_free)} if self.num_free else {}  # Ray leaves out what is used up

    def remote(self, num_cpus):
        answers = iter(self.begun)

        def start(*given):
            answer = next(answers)
            work = SimpleNamespace(remote=lambda phone, assignment: self.outcome)
            return SimpleNamespace(ready=SimpleNamespace(remote=lambda: answer), perform=work)

        return lambda actor: SimpleNamespace(remote=start)

    def wait(self, answers, num_returns, timeout):
        self.timeouts.append(timeout)
        return tuple([one for one in answers if (one == self.NEVER) is late] for late in (False, True))

    def get(self, answer):
        for one in answer if isinstance(answer, list) else [answer]:
            if isinstance(one, Exception):
                raise one

    def kill(self, actor):
        self.killed.append(actor)


@pytest.fixture
def open_on(kit, tmp_path, monkeypatch):
    """Two workers on a stand-in for a cluster."""

    def on(begun=(None, None), num_free=2):
        ray = StandIn(begun, num_free)
        monkeypatch.setattr(importlib, "import_module", lambda name: ray)
        return ray, lambda: Workers(kit.data(tmp_path, 1), kit.source, 2, "ray")

    return on


@pytest.mark.parametrize("num_free", [0, 1])
def test_a_busy_cluster_is_given_up_with_what_it_has_and_its_actors_go(open_on, num_free):
    ray, start = open_on([None] * num_free + [StandIn.NEVER] * (2 - num_free), num_free)
    told = f"{num_free} of 2 workers began within 60 s; the Ray cluster had {num_free} of its 2 CPUs free: lower "
    with pytest.raises(RayError, match=told):
        start()
    assert ray.timeouts == [ray_workers.READY_S]
    assert len(ray.killed) == 2


def test_an_actor_that_fails_as_it_begins_says_why(open_on):
    ray, start = open_on()
    failed = ray.exceptions.RayActorError("The actor died.\nTraceback\nFileNotFoundError: no digits here\n")
    ray.begun = [None, failed]
    with pytest.raises(RayError, match=r"^a worker of the Ray cluster could not begin: FileNotFoundError: no digits"):
        start()
    assert len(ray.killed) == 2


@pytest.mark.parametrize("name", LOST)
def test_a_worker_that_dies_in_mid_run_is_an_error_that_says_how_to_go_on(open_on, name):
    ray, start = open_on()
    workers = start()
    ray.outcome = getattr(ray.exceptions, name)("fifteen lines of Ray")
    outcome = workers.begin(0, None)
    told = r"^a worker of the Ray cluster died, perhaps out of memory: lower \[fleet\] workers, .* search --resume$"
    with pytest.raises(FleetError, match=told):
        outcome()


def test_what_is_wrong_with_the_work_itself_stays_what_it_is(open_on):
    ray, start = open_on()
    workers = start()
    ray.outcome = KeyError("a defect")
    with pytest.raises(KeyError, match="a defect"):
        workers.begin(0, None)()


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
@NOISY
def test_a_cluster_of_two_gives_the_bytes_of_this_process_and_of_a_pool(cluster, train):
    here, pool, actors = train("here", 1, "process"), train("pool", 2, "process"), train("ray", 2, "ray")
    assert any(here["parameters"])
    assert actors == pool == here
    assert cluster.is_initialized()  # who made the connection ends it


@pytest.mark.ray
@NOISY
def test_a_cluster_that_is_too_small_is_refused(cluster, kit, tmp_path):
    with pytest.raises(RayError, match=r"has 2 CPUs for 3 workers; lower \[fleet\] workers"):
        Workers(kit.data(tmp_path, 1), kit.source, 3, "ray")


@pytest.mark.ray
@NOISY
def test_a_cluster_whose_cpus_others_hold_is_refused_after_a_while(cluster, kit, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "READY_S", 5.0)
    other = cluster.remote(num_cpus=1)(Other).remote()
    cluster.get(other.is_here.remote())
    with pytest.raises(RayError, match="workers began within 5 s; the Ray cluster had 1 of its 2 CPUs free"):
        Workers(kit.data(tmp_path, 1), kit.source, 2, "ray")
    cluster.kill(other)


@pytest.mark.ray
@NOISY
def test_a_worker_that_is_killed_in_mid_run_ends_it_with_a_cure(cluster, emulate):
    emulation = emulate("killed", num_phones=4, num_workers=1, engine="ray")
    emulation.train(1)
    (actor,) = emulation.rounds.workers._actors._actors
    cluster.kill(actor)
    with pytest.raises(FleetError, match="a worker of the Ray cluster died"):
        emulation.train(1)


@pytest.mark.ray
@NOISY
def test_a_machine_of_the_cluster_without_the_data_says_so(cluster, kit, tmp_path):
    data = replace(kit.data(tmp_path, 1), source=f"npz:{tmp_path}/missing.npz")
    with pytest.raises(RayError, match=r"could not begin: .*missing\.npz"):
        Workers(data, kit.source, 1, "ray")


class Other:
    """What somebody else computes on the cluster."""

    def is_here(self):
        return True
