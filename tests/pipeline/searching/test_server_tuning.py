"""The server's hyper-parameters as a part of each drawn configuration, from the run file to the weights."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest

from pipeline.digits import SPEC
from pipeline.report.candidates import candidates_of, settings_of
from pipeline.report.fronts import fronts_of
from pipeline.report.tuning import tuning_of
from pipeline.run_result import read_finished_run
from pipeline.run_sections import RunFile
from pipeline.searching.choices import algorithm_of, space_of
from pipeline.searching.loop import Unwatched
from pipeline.searching.rounds import RunClient
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.schedule import plan_schedule
from pipeline.searching.session import run_search, trained_candidates
from pipeline.ship.card import write_card
from pipeline.ship.parity import Parity
from search.candidate import Observation
from tests.pipeline.searching.conftest import ORDINARY, PRIVACY
from tests.pipeline.searching.test_joint_algorithms import PRIVACY as JOINT_PRIVACY
from tests.pipeline.searching.test_joint_algorithms import RUN
from tests.pipeline.searching.test_session import kill_during
from tests.pipeline.test_run_checks import CELLS
from tests.pipeline.test_server_rules import REFUSED, SETTINGS

PAIRS = 'algorithm = "merged_halving"\ncandidates = 2\nnetworks = 1\nrounds = 2\neta = 2\ngroup_size = 6'
RATES, MOMENTA = (0.25, 0.5, 1.0), (0.0, 0.4, 0.8)
TUNED = (
    RUN.format(search=PAIRS, final=1)
    .replace("learning_rate = [0.05, 0.1, 0.2]", "learning_rate = 0.1\nserver_learning_rate = [0.25, 0.5, 1.0]")
    .replace("[final]", 'server_momentum = { low = 0.0, high = 0.8, count = 3, scale = "linear" }\n\n[final]')
    .replace("seed = 3", "seed = 0")
)


def run_file(text):
    return RunFile.model_validate(tomllib.loads(text))


def with_server(rate, momentum):
    """TUNED with single numbers."""
    text = TUNED.replace("server_learning_rate = [0.25, 0.5, 1.0]", f"server_learning_rate = {rate}")
    return text.replace(
        'server_momentum = { low = 0.0, high = 0.8, count = 3, scale = "linear" }', f"server_momentum = {momentum}"
    )


def ask_all(text):
    """All trials that a search asks for, told that the later the better."""
    phones = [RunClient(str(i), {"train": 10, "validation": 4, "test": 4}) for i in range(6)]
    algorithm = algorithm_of(run_file(text), SPEC, (), phones)
    state, trials = algorithm.init(0), []
    while asked := algorithm.ask(state, 4):
        trials += asked
        state = algorithm.tell(state, [Observation(trial, 0.5 + trial.index / 1000) for trial in asked])
    return trials


def test_the_servers_lists_and_intervals_are_what_the_search_draws_from():
    options = space_of(run_file(TUNED), SPEC).hyper_parameters
    assert (options.server_learning_rate, options.server_momentum) == (RATES, pytest.approx(MOMENTA))
    assert options.server_beta2 == options.server_epsilon == ()
    adam = TUNED.replace("[final]", 'server_optimizer = "fedadam"\nserver_beta2 = [0.9, 0.99]\n\n[final]')
    options = space_of(run_file(adam), SPEC).hyper_parameters
    assert (options.server_beta2, options.server_epsilon) == ((0.9, 0.99), (1e-3,))


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - set(REFUSED)))
def test_candidates_differ_in_the_servers_step(name):
    settings = {"algorithm": name, **SETTINGS[name][1]}
    own = "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in settings.items())
    if SETTINGS[name][0] is CELLS:
        text = TUNED.replace(PAIRS, own)
    else:
        before, search, after = ORDINARY.partition('algorithm = "random_search"\ntrials = 2\nrounds = 1')
        assert search
        text = (before + own + after).replace("[training]", "[training]\nserver_learning_rate = [0.25, 0.5, 1.0]")
    rates = {trial.candidate.hyper_parameters.server_learning_rate for trial in ask_all(text)}
    assert len(rates) > 1
    assert rates <= set(RATES)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A finished joint search whose two pairs have the same network and clients, and other steps of the server."""
    return finish(tmp_path_factory.mktemp("tuned"), TUNED)


def finish(folder, text):
    """Request and result of a run."""
    (folder / "run.toml").write_text(text, encoding="utf-8")
    request = SearchRequest(folder / "run.toml", folder / "run")
    return request, run_search(request, Unwatched())


@pytest.mark.slow
def test_a_pair_trains_with_the_step_that_it_drew_as_a_run_of_that_step_alone_would(tuned, tmp_path):
    request, result = tuned
    models, _ = trained_candidates(request, "validation")  # the two pairs', then the winner's
    first, second = (trial.candidate.hyper_parameters for trial in result.trials[:2])
    assert first.server_learning_rate != second.server_learning_rate
    assert first.server_momentum != second.server_momentum
    assert not np.allclose(models[0].parameters, models[1].parameters, atol=1e-3)
    for place, hyper in enumerate((first, second)):
        folder = tmp_path / str(place)
        folder.mkdir()
        alone, _ = finish(folder, with_server(hyper.server_learning_rate, hyper.server_momentum))
        apart, _ = trained_candidates(alone, "validation")
        assert apart[place].candidate == models[place].candidate
        np.testing.assert_array_equal(apart[place].parameters, models[place].parameters)


@pytest.mark.parametrize(
    "event", [300, pytest.param(700, marks=pytest.mark.slow)], ids=["in the rung", "in final training"]
)
def test_the_drawn_step_survives_a_stop(tuned, tmp_path, monkeypatch, event):
    request, result = tuned
    stopped = replace(request, output=tmp_path / "run")
    kill_during(stopped, event, monkeypatch)
    assert run_search(replace(stopped, is_resumed=True), Unwatched()) == result


def test_report_and_card_tell_the_servers_step_of_each_configuration(tuned):
    request, result = tuned
    columns = {column.head: column.cells for column in candidates_of(result, fronts_of(result)).columns}
    rates = {f"{trial.candidate.hyper_parameters.server_learning_rate:g}" for trial in result.trials}
    assert set(columns["server learning rate"]) == rates
    assert "server momentum" in columns
    assert "learning rate" not in columns  # all have one
    assert tuning_of(result).names == ("server learning rate", "server momentum")
    searched = {setting.name for setting in settings_of(result) if setting.was_searched}
    assert searched == {"server learning rate", "server momentum"}
    run = read_finished_run(request.output)
    drawn = run.trial.candidate.hyper_parameters
    card = write_card(run, Parity("torch", 0.0, "", ()), {})
    assert f"| server_learning_rate | {drawn.server_learning_rate} |" in card
    assert f"| server_momentum | {drawn.server_momentum} |" in card


@pytest.mark.parametrize("unit", ["example", "client"])
def test_the_servers_step_costs_no_privacy(unit):
    """It is taken after the noise."""
    privacy = JOINT_PRIVACY[unit].partition("\nreward")[0]

    def planned(text):
        if unit == "example":
            text = text.replace("\nbatch_size = 64", "\nmax_grad_norm = 0.5")
        return plan_schedule(run_file(text + privacy))

    several, one = planned(TUNED), planned(with_server(1.0, 0.0))
    assert several.planned == one.planned
    assert (several.epsilon, several.order) == (one.epsilon, one.order)


@pytest.mark.slow
def test_with_noise_on_the_sum_the_two_learning_rates_are_one_product(tmp_path):
    """The mean gradient is stepped along by learning_rate times server_learning_rate."""
    text = (
        ORDINARY.replace("local_epochs = 1\nbatch_size = 16", "local_steps = 1\nmax_grad_norm = 0.5")
        .replace("widths = [2, 4]", "widths = [2]")
        .replace("strides = [2, 3]", "strides = [3]")
        .replace("trials = 2\nrounds = 1", "trials = 1\nrounds = 2")
        .replace("[final]\nrounds = 1", "[final]\nrounds = 0")
    ) + PRIVACY.replace('"device"', '"sum"')
    found = []
    for name, rate, server_rate in (("a", 0.2, 1.0), ("b", 0.1, 2.0), ("c", 0.2, 2.0)):
        (tmp_path / name).mkdir()
        rates = f"learning_rate = {rate}\nserver_learning_rate = {server_rate}\nserver_momentum = 0.5"
        request, _ = finish(tmp_path / name, text.replace("learning_rate = [0.1, 0.3]", rates))
        found.append(read_finished_run(request.output).parameters)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-3
