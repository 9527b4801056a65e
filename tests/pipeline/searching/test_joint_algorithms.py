"""FEATHERS, FedEx, TPE and merged halving on an emulated fleet: whole searches of tiny cells."""

from pathlib import Path

import pytest

from pipeline.report.costs import thrown_away
from pipeline.report.curves import curves_of
from pipeline.report.spending import spent_lines
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from tests.pipeline.searching.test_joint_search import charged, planned

RUN = """
[run]
name = "joint"
kind = "emulated"
seed = 3

[data]
source = "digits"
partition = "iid"
clients = 6

[fleet]
profiles = ["pixel-4"]

[cells]
operations = ["skip", "conv_1"]
nodes = 1
width = 4
strides = [2]

[search]
{search}

[training]
learning_rate = [0.05, 0.1, 0.2]
architecture_learning_rate = 0.01
local_steps = 1
batch_size = 64
artifact_batch_size = 64

[final]
rounds = {final}

[round]
cohort_size = 6
min_reports = 1
deadline_s = 600
weighting = "examples"
"""
SEARCHES = {
    "feathers": (
        'algorithm = "feathers"\nrounds = 2\nevaluation_rounds = 2\nconfigurations = 2\ngamma = 3.0\nperiod = 2'
    ),
    "fedex": 'algorithm = "fedex"\nrounds = 2\nconfigurations = 3',
    "nas then tuning": (
        'algorithm = "fedex"\norder = "nas_then_tuning"\nrounds = 2\nconfigurations = 2\n[search.default]\n'
        "learning_rate = 0.1\nmomentum = 0.5\nweight_decay = 0.001\narchitecture_learning_rate = 0.01"
    ),
    "merged halving": 'algorithm = "merged_halving"\ncandidates = 4\nnetworks = 2\neta = 2',
    "tpe": 'algorithm = "tpe"\ntrials = 2\nrounds = 1\nrandom = 1',
}
PRIVACY = {
    "example": """
[privacy]
unit = "example"
noise_at = "device"
delta = 1e-5
target_epsilon = 50.0
update = { sample_rate = 0.5, noise_multiplier = 3.0 }
metrics = { sample_rate = 0.8, noise_multiplier = 4.0 }
test = { sample_rate = 0.9, noise_multiplier = 4.0 }
reward = { sample_rate = 0.7, noise_multiplier = 4.0, loss_bound = 3.0 }
architecture = { sample_rate = 0.7, noise_multiplier = 4.0 }
""",
    "client": """
[privacy]
unit = "client"
noise_at = "device"
delta = 1e-5
target_epsilon = 50.0
max_participations = 9
max_norm = 0.5
update = { noise_multiplier = 3.0 }
metrics = { noise_multiplier = 4.0 }
test = { noise_multiplier = 4.0 }
reward = { noise_multiplier = 4.0, loss_bound = 3.0 }
""",
}
LABELS = {"feathers": "end", "fedex": "end", "merged halving": "rung 2"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_whole_search_ships_a_network_of_cells_and_tells_how_it_chose(name, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(search=SEARCHES[name], final=0 if name == "feathers" else 1), encoding="utf-8")
    folder = Path(tmp_path / "out")
    result = run_search(SearchRequest(path, folder), Unwatched())
    shipped = result.trial(result.main.trial).candidate
    assert not shipped.architecture.is_supernet
    assert result.main.accuracy.num_examples > 0
    assert run_search(SearchRequest(path, folder, is_resumed=True), Unwatched()) == result
    if name in LABELS:
        assert result.tuning is not None
        assert result.tuning.labels[-1] == LABELS[name]
    if name in {"fedex", "nas then tuning"}:
        assert thrown_away(result) == 0
    if name == "feathers":
        explored = [trial for trial in result.trials if not trial.is_kept]
        assert {trial.phase for trial in explored} == {"search", "final"}
        assert thrown_away(result) == pytest.approx(4 / 6)
        assert result.main.num_parameters < result.trials[0].num_parameters


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), [("feathers", "example"), ("fedex", "example"), ("fedex", "client")])
def test_a_private_search_charges_what_it_planned(name, unit, tmp_path):
    text = RUN.format(search=SEARCHES[name], final=1).replace("deadline_s = 600", "deadline_s = 20")
    if unit == "example":
        text = text.replace("\nbatch_size = 64", "\nmax_grad_norm = 0.5")
    else:
        text = text.replace('weighting = "examples"', 'weighting = "uniform"')
    path = tmp_path / "run.toml"
    path.write_text(text + PRIVACY[unit], encoding="utf-8")
    result = run_search(SearchRequest(path, tmp_path / "out"), Unwatched())
    schedule, expected = planned(text + PRIVACY[unit])
    assert charged(result) == expected
    assert result.privacy.epsilon == pytest.approx(schedule.epsilon)
    own, *final = spent_lines(result.privacy, result.trials, curves_of(result))
    if name == "feathers":  # whose second phase trains one round that is kept, before [final] its own
        assert (own.name, len(own.epsilons), len(final)) == ("the search's own", 1, 1)
        assert own.epsilons[0] < final[0].epsilons[0] <= schedule.epsilon
    kinds = {kind for _, _, kind in expected}
    assert kinds == {"update", "reward", "metrics"} | ({"architecture"} if unit == "example" else set())
