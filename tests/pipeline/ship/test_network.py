from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from device_runtime.session import StepSession
from device_runtime.vectors import write_vector
from pipeline.run_result import read_finished_run
from pipeline.ship.network import ShipError, exact_outputs, trained_network
from search.architecture import Stem


def test_the_shipped_network_has_the_losses_that_the_phones_computed(digits):
    run = read_finished_run(digits.folder)
    outputs = exact_outputs(trained_network(run), digits.test.x)
    losses, metrics = StepSession(run.artifact).evaluate(run.parameters, digits.test.x, digits.test.y)
    own = -np.log(outputs.probabilities[np.arange(len(losses)), digits.test.y])
    np.testing.assert_allclose(own, losses, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(outputs.logits.argmax(1) == digits.test.y, metrics[:, 0])
    assert metrics.mean() > 0.8


def test_exact_outputs_leave_the_network_in_single_precision(digits):
    network = trained_network(read_finished_run(digits.folder))
    assert exact_outputs(network, digits.test.x[:2]).logits.dtype == np.float64
    assert {str(parameter.dtype) for parameter in network.parameters()} == {"torch.float32"}


def test_parameters_of_another_run_are_refused(run_folder):
    run = read_finished_run(run_folder)
    (run_folder / "models" / "1" / "parameters.safetensors").write_bytes(write_vector("parameters", 2 * run.parameters))
    with pytest.raises(ShipError, match=r"parameters.safetensors is not what the run trained: sha256 .* search"):
        trained_network(read_finished_run(run_folder))


def test_a_model_whose_training_diverged_is_refused_with_the_cure(digits, run_folder, change_result):
    away = write_vector("parameters", 1e9 * read_finished_run(run_folder).parameters)
    (run_folder / "models" / "1" / "parameters.safetensors").write_bytes(away)
    main = read_finished_run(digits.folder).result.main
    model = replace(main, parameters_sha256=sha256(away).hexdigest())
    with pytest.raises(ShipError, match=r"the model of trial 1 has no use: training diverged.* lower learning_rate"):
        trained_network(read_finished_run(change_result(models=(model,))))


def test_a_winner_that_never_ran_is_refused(digits, run_folder, change_result):
    (run_folder / "models" / "1").rename(run_folder / "models" / "7")
    main = read_finished_run(digits.folder).result.main
    with pytest.raises(ShipError, match=r"result.json names trial 7 a winner and does not list it"):
        trained_network(read_finished_run(change_result(models=(replace(main, trial=7),))))


def test_an_artifact_of_another_architecture_is_refused(digits):
    run = read_finished_run(digits.folder)
    trial = run.result.winning
    other = replace(trial.candidate, architecture=replace(trial.candidate.architecture, stem=Stem(4)))
    result = replace(run.result, trials=(replace(trial, candidate=other),))
    with pytest.raises(ShipError, match="is of another architecture or data than the winner"):
        trained_network(replace(run, result=result))


def test_a_layout_that_the_architecture_does_not_have_is_refused(digits):
    run = read_finished_run(digits.folder)
    first, *others = run.artifact.manifest.layout
    manifest = replace(run.artifact.manifest, layout=(replace(first, name="stem.kernel"), *others))
    with pytest.raises(ShipError, match="not that of the architecture in this version"):
        trained_network(replace(run, artifact=replace(run.artifact, manifest=manifest)))
