"""Joint searches end to end in an emulated fleet, their steps written down: what is charged is what was planned."""

import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import load

from pipeline.coordinator.blobs import BlobFolder
from pipeline.digits import SPEC
from pipeline.fleet.fleet import Fleet
from pipeline.run_result import RESULT, read_result
from pipeline.run_sections import RunFile
from pipeline.search_sections import RandomSearchSection
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.schedule import plan_schedule
from pipeline.searching.session import run_search
from search.architecture import Architecture, Cell, Edge, Stage, Stem
from search.candidate import Candidate, HyperParameters, Observation, Trial
from tests.pipeline.searching.conftest import CLIENT_PRIVACY, ORDINARY, PRIVACY, KilledError

HALVES = ("skip", "conv_1")
SUPERNET = Architecture(
    (1, 8, 8), 10, Stem(2, 3, 3), (Stage("cell", 2, cell=Cell(((Edge(0, HALVES), Edge(1, HALVES)),))),)
)
FOUND = replace(SUPERNET, stages=(Stage("cell", 2, cell=Cell(((Edge(0, ("skip",)), Edge(1, ("conv_1",))),))),))
NETWORK = Architecture((1, 8, 8), 10, Stem(4, 3, 2))  # 690 parameters to read noise from
MORE = """
architecture = { sample_rate = 0.6, noise_multiplier = 1.3 }
reward = { sample_rate = 0.7, noise_multiplier = 1.4, loss_bound = 3.0 }
"""
# Everybody takes part in everything, so that each phone spends all that was planned.
ALL = ORDINARY.replace("cohort_size = 5\nover_selection = 1.2", "cohort_size = 6").replace(
    "deadline_s = 300", "deadline_s = 20"
)
BY_EXAMPLE = (
    ALL.replace("local_epochs = 1\nbatch_size = 16", "local_steps = 2\nmax_grad_norm = 0.5")
    + PRIVACY.replace("target_epsilon = 8.0", "target_epsilon = 50.0")
    + MORE
)
BY_CLIENT = (
    ALL.replace('weighting = "examples"', 'weighting = "uniform"')
    + CLIENT_PRIVACY.replace("participations = 3", "participations = 9").replace(
        "target_epsilon = 8.0", "target_epsilon = 50.0"
    )
    + "reward = { noise_multiplier = 4.0, loss_bound = 3.0 }\n"
)


@dataclass(frozen=True)
class Seen:
    """Steps taken, and all that was told."""

    step: int = 0
    told: tuple[Observation, ...] = ()


@dataclass(frozen=True)
class Written:
    """A search whose steps are written down; the last trial names the winner."""

    steps: tuple[tuple[Trial, ...], ...]
    state_type = Seen

    def init(self, seed):
        return Seen()

    def ask(self, state, count):
        return self.steps[state.step] if state.step < len(self.steps) else ()

    def tell(self, state, observations):
        return Seen(state.step + 1, (*state.told, *observations))

    def winners(self, state, observations):
        return dict.fromkeys(("pixel-4", "redmi-8"), observations[-1].trial.index)


def joint_steps(hyper, names, last_moves="architecture"):
    """Explore, tune by groups, train weights, then architecture weights; train what was found, score and name it."""
    search, found = Candidate(SUPERNET, hyper), Candidate(FOUND, replace(hyper, architecture_learning_rate=None))
    halves = tuple(names[:3]), tuple(names[3:])
    quiet = {"supernet": SUPERNET, "is_scored": False}
    explore = [Trial(i, search, 1, moves="alternate", reward="gain", is_kept=False, **quiet) for i in range(2)]
    groups = [Trial(2 + i, search, 1, clients=half, reward="loss", **quiet) for i, half in enumerate(halves)]
    return (
        tuple(explore),
        tuple(groups),
        (Trial(4, search, 1, moves="weights", **quiet),),
        (Trial(5, search, 1, moves=last_moves, **quiet),),
        (Trial(6, found, 1, supernet=FOUND, is_scored=False, phase="final"),),
        (Trial(7, found, 0, supernet=FOUND, phase="final"),),
    )


# A client's part in them, whatever it is: two explorations and one group, and so on.
PLANNED = (
    ("search", "update", 2 + 1 + 1),
    ("search", "architecture", 2 + 1),
    ("search", "reward", 2 + 1),
    ("final", "update", 1),
    ("final", "metrics", 1),
)
STEPPING = HyperParameters(0.1, server_momentum=0.5, architecture_learning_rate=0.01)
PRIVATE_STEPS = replace(STEPPING, local_steps=2, max_grad_norm=0.5)
PLAIN_STEPS = replace(STEPPING, local_epochs=1, batch_size=16)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder with all networks, so that not every run compiles them again."""
    folder = tmp_path_factory.mktemp("compiled")
    Artifacts(folder, SPEC, 16).get_all([SUPERNET, FOUND, NETWORK])
    return folder


@pytest.fixture
def joint(compiled, tmp_path, monkeypatch) -> Callable[..., SearchRequest]:
    """Write a run file whose search takes joint steps; gives the request to run it."""

    def make(text, hyper, planned=PLANNED, last_moves="architecture", steps=joint_steps):
        def make_algorithm(section, problem):
            return Written(steps(hyper, sorted(client.name for client in problem.clients), last_moves))

        monkeypatch.setattr(RandomSearchSection, "make", make_algorithm)
        monkeypatch.setattr(RandomSearchSection, "planned", lambda section, run_file: planned)
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        for name in ("run", "killed"):
            shutil.copytree(compiled, tmp_path / name / "artifacts")
        return SearchRequest(tmp_path / "run.toml", tmp_path / "run")

    return make


def charged(result):
    """Releases by phase, split and kind, on the client that made most."""
    return {(row.phase, row.split, row.kind): row.num_releases for row in result.privacy.phases}


def planned(text):
    """Likewise as planned, on the account that each counts on."""
    schedule = plan_schedule(RunFile.model_validate(tomllib.loads(text)))
    split = (lambda release: release.split) if schedule.unit == "example" else (lambda release: "all")
    return schedule, {(one.phase, split(one.release), one.release.kind): one.count for one in schedule.planned}


def test_every_kind_of_release_of_a_private_joint_search_is_charged_as_it_was_planned(joint):
    """Leave one out of `planned`, of the terms' releases or of the ledger, and the two differ."""
    result = run_search(joint(BY_EXAMPLE, PRIVATE_STEPS), Unwatched())
    schedule, expected = planned(BY_EXAMPLE)
    assert charged(result) == expected
    assert len(expected) == 6
    assert {kind for _, _, kind in expected} == {"update", "architecture", "reward", "metrics"}
    spent = {split: pytest.approx(epsilon) for split, epsilon in schedule.epsilon_by_split.items()}
    assert result.privacy.epsilon_by_split == spent
    assert (result.privacy.unit, result.privacy.epsilon) == ("example", pytest.approx(schedule.epsilon))


@pytest.mark.slow
def test_in_the_client_unit_likewise_on_one_account(joint):
    # An update that holds both segments is one release, and architecture weights alone are another table's.
    times = tuple(("search", "update", 5) if one[:2] == ("search", "update") else one for one in PLANNED)
    times = tuple(one for one in times if one[1] != "architecture")
    result = run_search(joint(BY_CLIENT, PLAIN_STEPS, times, "alternate"), Unwatched())
    schedule, expected = planned(BY_CLIENT)
    assert charged(result) == expected
    assert {split for _, split, _ in expected} == {"all"}
    assert result.privacy.epsilon_by_split == {"all": pytest.approx(schedule.epsilon)}
    assert "one client" in result.privacy.neighbours
    assert "without noise" in result.privacy.adversary
    # Rounds wait for their deadlines: six of the search, a score, the final training and the test.
    assert result.emulator_only.virtual_s >= 8 * 20


def test_an_ordinary_joint_search_learns_and_tells_what_it_did(joint):
    result = run_search(joint(ALL, PLAIN_STEPS), Unwatched())
    trials = {trial.index: trial for trial in result.trials}
    assert [trial.is_kept for trial in result.trials] == [False, False] + [True] * 6
    assert [trial.phase for trial in result.trials] == ["search"] * 6 + ["final"] * 2
    assert set(trials[0].metrics) == {"gain"}
    assert set(trials[2].metrics) == {"loss"}
    assert trials[2].num_rewarded > 0
    weights = [trials[i].architecture_weights for i in range(8)]
    assert weights[0] == weights[1] == (0.0,) * 4  # explored, and thrown away
    assert weights[2] == weights[3] != weights[1]
    assert weights[4] == weights[3]  # weights alone moved
    assert weights[5] != weights[4]
    assert weights[6] == weights[7] == ()
    assert (result.main.trial, result.main.num_parameters) == (7, trials[7].num_parameters)
    phases = {(cost.phase, cost.trial) for cost in result.costs}
    assert phases >= {("search", 0), ("final", 6), ("final", 7), ("test", 7)}


@pytest.mark.slow
def test_without_final_rounds_what_the_search_left_is_tested(joint):
    result = run_search(joint(ALL.replace("[final]\nrounds = 1", "[final]\nrounds = 0"), PLAIN_STEPS), Unwatched())
    assert [cost for cost in result.costs if (cost.phase, cost.trial, cost.kind) == ("final", 7, "train")] == []
    assert result.main.accuracy.num_examples > 0


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_joint_search_that_is_killed_goes_on_to_the_same_trace(joint, tmp_path, monkeypatch, share):
    request, events = joint(BY_EXAMPLE, PRIVATE_STEPS), [0]
    step = Fleet._step

    def counted(fleet, end=None):
        events[0] += 1
        if end is not None and events[0] == end:
            raise KilledError
        step(fleet)

    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "_step", counted)
        run_search(request, Unwatched())
    end, events[0] = int(share * events[0]), 0
    killed = replace(request, output=tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "_step", lambda fleet: counted(fleet, end))
        with pytest.raises(KilledError):
            run_search(killed, Unwatched())
    run_search(replace(killed, is_resumed=True), Unwatched())
    assert (tmp_path / "killed" / RESULT).read_bytes() == (tmp_path / "run" / RESULT).read_bytes()
    assert read_result(tmp_path / "killed").privacy is not None


FORTY = BY_CLIENT.replace("clients = 6", "clients = 40").replace("cohort_size = 6", "cohort_size = 40")


@pytest.mark.slow
@pytest.mark.parametrize(("noise_at", "num_draws"), [("sum", 1), ("device", 40)])
def test_forty_clients_get_the_noise_that_they_were_promised(joint, noise_at, num_draws):
    """Steps so small that what is left of the updates is noise, once for the sum or once a client."""
    still = replace(PLAIN_STEPS, learning_rate=1e-12, architecture_learning_rate=None, server_momentum=0.0)

    def steps(hyper, names, _):
        return (Trial(0, Candidate(NETWORK, hyper), 1),), (Trial(1, Candidate(NETWORK, hyper), 0, start_from=0),)

    times = (("search", "update", 1), ("search", "metrics", 2))
    text = FORTY.replace('"sum"', f'"{noise_at}"').split("reward =")[0]
    request = joint(text, still, times, steps=steps)
    result = run_search(request, Unwatched())
    privacy = RunFile.model_validate(tomllib.loads(text)).privacy
    updates = [values for values in aggregates(request) if len(values) == 690]
    assert len(updates) == 1 + 1  # the final round's as well
    expected = privacy.update.noise_multiplier * privacy.max_norm * np.sqrt(num_draws) / 40
    assert np.std(updates) == pytest.approx(expected, rel=0.08)
    assert result.privacy.unit == "client"


def aggregates(request):
    """Every round's mean update, as the server kept it."""
    folder = BlobFolder(request.output / "blobs")
    found = []
    for name in folder.names():
        data = folder.get(name)
        if b"parameter_update" in data[:200]:
            found.append(load(data)["parameter_update"])
    return found
