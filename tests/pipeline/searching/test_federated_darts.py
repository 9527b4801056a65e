"""Federated DARTS of one client is DARTS: a whole run against a plain torch loop over the same batches."""

from itertools import count

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.segments import positions_of
from pipeline.compile.writing import flatten_parameters
from pipeline.fleet.from_run_file import fleet_of
from pipeline.network import Choice, build_module
from pipeline.run_file import parse_run_file
from pipeline.run_result import read_finished_run
from pipeline.searching.exact import PooledExamples
from pipeline.searching.loop import Unwatched
from pipeline.searching.scenes import SearchRequest
from pipeline.searching.session import run_search
from search.layers import layers_of
from search.slicing import inherit

ROUNDS, STEPS, BATCH, SEED = 4, 5, 32, 3
RUN = f"""
[run]
name = "darts"
kind = "emulated"
seed = {SEED}

[data]
source = "digits"
partition = "iid"
clients = 1

[fleet]
profiles = ["pixel-4"]

[cells]
operations = ["none", "skip", "conv_3"]
nodes = 2
width = 4
strides = [2]

[search]
algorithm = "fedex"
order = "nas"
rounds = {ROUNDS}

[search.default]
learning_rate = 0.05
momentum = 0.9
weight_decay = 0.003
architecture_learning_rate = 0.01
architecture_weight_decay = 0.02

[training]
learning_rate = 0.05
local_steps = {STEPS}
batch_size = {BATCH}
artifact_batch_size = 16

[final]
rounds = 0

[round]
cohort_size = 1
min_reports = 1
deadline_s = 600
weighting = "examples"
"""


class Written(Unwatched):
    """Keeps the server's model after each round."""

    def __init__(self):
        self.models = []

    def trained(self, part, num_rounds, model):
        self.models.append(model)


def batches(examples, random, purpose):
    """Shuffled anew in each assignment, whose first epoch is 0."""
    for epoch in count():
        order = random.permutation(purpose, epoch, len(examples))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            yield torch.tensor(examples.x[rows]), torch.tensor(examples.y[rows])


def darts(supernet, examples, seed, restarts):
    """First-order DARTS; gives the parameters f32[P] after as many steps as each round has.

    Args:
        seed: Of the emulated run, whose client draws its batches from it.
        restarts: Whether the optimisers begin anew with each round.
    """
    module, found = build_module(layers_of(supernet), SEED), []
    choices = [layer.weight for layer in module.modules() if isinstance(layer, Choice)]
    weights = [one for one in module.parameters() if all(one is not choice for choice in choices)]
    for number in range(ROUNDS):
        if restarts or number == 0:
            adam = torch.optim.Adam(choices, 0.01, (0.5, 0.999), weight_decay=0.02)
            sgd = torch.optim.SGD(weights, 0.05, 0.9, weight_decay=0.003)
        random = PrivateRandom.derived(seed, f"phone 0/darts-{number}-0")
        validation = batches(examples["validation"], random, Purpose.ARCHITECTURE_SAMPLING)
        training = batches(examples["train"], random, Purpose.SAMPLING)
        for _ in range(STEPS):
            for optimizer, drawn in ((adam, validation), (sgd, training)):
                x, y = next(drawn)
                module.zero_grad()
                cross_entropy(module(x), y).backward()
                optimizer.step()
        found.append(flatten_parameters(module))
    return found


@pytest.mark.slow
def test_a_run_of_one_client_is_darts_whose_optimisers_begin_anew_with_each_round(tmp_path):
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    written = Written()
    result = run_search(SearchRequest(tmp_path / "run.toml", tmp_path / "run"), written)
    supernet, manifest = written.models[0].candidate.architecture, written.models[0].artifact.manifest
    made = fleet_of(parse_run_file(RUN), tmp_path / "run")
    pooled = PooledExamples(made.data, made.source, made.terms.rotation)
    examples = {split: pooled.by_client(split)[0] for split in ("train", "validation")}

    expected = darts(supernet, examples, made.data.seed, restarts=True)

    # After 20 steps the two are 1e-7 apart, in the last bit of float32.
    np.testing.assert_allclose([model.parameters for model in written.models], expected, rtol=0, atol=1e-6)
    choices = positions_of(manifest, {"architecture"})
    told = [trial.architecture_weights for trial in result.trials[:ROUNDS]]
    np.testing.assert_allclose(told, [parameters[choices] for parameters in expected], rtol=0, atol=1e-6)
    assert np.abs(told[-1]).max() > 0.05
    found = read_finished_run(tmp_path / "run")
    shipped = inherit(supernet, expected[-1], found.trial.candidate.architecture, "first")
    np.testing.assert_allclose(found.parameters, shipped, rtol=0, atol=1e-6)
    # Moments that last from round to round are another search.
    lasting = darts(supernet, examples, made.data.seed, restarts=False)
    assert [
        np.abs(model.parameters - one).max() > 0.01 for model, one in zip(written.models, lasting, strict=True)
    ] == [number > 0 for number in range(ROUNDS)]
