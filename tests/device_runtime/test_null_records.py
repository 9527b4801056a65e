"""Rows that the network cannot take: errors in ordinary work; in private work null records, and no sign of them."""

import hashlib
from copy import copy
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.artifact import check_artifact
from device_runtime.loaded import Examples, LoadedAssignment, check_trainable
from device_runtime.private_random import PrivateRandom
from device_runtime.scoring import evaluate
from device_runtime.session import StepSession
from device_runtime.specs import LayoutEntry, Manifest
from device_runtime.terms import EvaluateTerms, PrivacyTerms, TrainTerms
from device_runtime.training import train
from pipeline.compile.export import export_forward
from pipeline.compile.graphs import Layout, evaluate_model, gradient_model
from pipeline.compile.losses import Loss
from profiles.records import decode_record, encode_record

RANDOM = PrivateRandom(bytes(32))
PARAMETERS = np.linspace(-0.2, 0.3, 136, dtype=np.float32)
LOSS = "cross_entropy"
ON_SUM = PrivacyTerms("sum", 1.0, 1.0)
TRAIN = TrainTerms(0.5, local_steps=1, max_grad_norm=0.5, privacy=ON_SUM)
ORDINARY = TrainTerms(0.5, local_steps=1, batch_size=9)
EVALUATE = EvaluateTerms("test", ("loss",), 4.0, ON_SUM)


def bad_id(x, y):
    x["counts"][3, 1] = 5


def negative_id(x, y):
    x["counts"][3, 0] = -1


def value_that_is_none(x, y):
    y[3, 1] = np.nan


def value_out_of_range(x, y):
    y[3, 0] = 2


def infinite_x(x, y):
    x["scale"][3] = np.inf


SPOILERS = [bad_id, negative_id, value_that_is_none, value_out_of_range]


@pytest.fixture
def lookup_session(towers_session):
    """Of `bce_with_logits`, whose artifact says that `counts` are ids below 5."""
    session = copy(towers_session("bce_with_logits"))
    session.manifest = replace(session.manifest, num_ids={"x.counts": 5})
    return session


@pytest.fixture
def load(lookup_session):
    return lambda terms: LoadedAssignment(lookup_session, PARAMETERS, terms)


@pytest.mark.parametrize("spoil", [*SPOILERS, infinite_x])
def test_in_private_work_such_a_row_adds_nothing_and_is_counted(load, lookup_session, draw_towers, spoil):
    x, y = draw_towers(9)
    spoil(x, y)
    examples, kept = Examples(x, y), np.arange(9) != 3
    rest = Examples(x[kept], y[kept])
    for terms in (TRAIN, replace(TRAIN, privacy=replace(ON_SUM, noise_at="device"))):
        check_trainable(load(terms), {"train": examples})
        assert train(load(terms), {"train": examples}, RANDOM).num_examples == 9
    found, expected = (train(load(TRAIN), {"train": each}, RANDOM).vector for each in (examples, rest))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    terms = replace(EVALUATE, release=("loss", *lookup_session.manifest.metrics))
    sums = [evaluate(load(terms), each, RANDOM) for each in (examples, rest)]
    assert sums[0].sums == pytest.approx(sums[1].sums, rel=1e-5)
    assert sums[0].num_examples == 9


@pytest.mark.parametrize("spoil", SPOILERS)
def test_in_ordinary_work_it_is_told_before_any_step(load, draw_towers, spoil):
    x, y = draw_towers(9)
    spoil(x, y)
    for terms in (ORDINARY, replace(EVALUATE, privacy=None)):
        with pytest.raises(ValueError, match=r"must (hold ids|be finite|be in)"):
            check_trainable(load(terms), dict.fromkeys(terms.splits, Examples(x, y)))


def test_a_class_that_there_is_not_is_a_null_record_in_private_work(session):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)).astype(np.float32), np.array([0, 7, 2, -1, 1, 0])
    kept = np.array([0, 2, 4, 5])
    terms = [TRAIN, ORDINARY]
    private, ordinary = (LoadedAssignment(session, PARAMETERS[:12], each) for each in terms)
    found, expected = (
        train(private, {"train": Examples(x[rows], y[rows])}, RANDOM).vector for rows in (np.arange(6), kept)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"y must be in \[0, 3\), got -1 to 7"):
        train(ordinary, {"train": Examples(x, y)}, RANDOM)


def test_no_graph_is_given_a_null_record(session, monkeypatch):
    """An id outside its table would end the run with an error, wherever it lies and whatever the mask says."""
    given, run = [], session.gradient_graph.run
    recording = SimpleNamespace(run=lambda names, inputs: given.append(inputs["y"].tolist()) or run(names, inputs))
    monkeypatch.setattr(session, "gradient_graph", recording)
    y = np.array([7, 2, 7, 7, *[7] * 4, 1])  # one row of the first chunk is valid, none of the second
    examples = {"train": Examples(np.ones((9, 3), np.float32), y)}
    train(LoadedAssignment(session, PARAMETERS[:12], TRAIN), examples, RANDOM)
    assert given == [[2] * 4, [0] * 4, [1] * 4]


def test_types_and_shapes_are_public_and_refused(load, draw_towers):
    x, y = draw_towers(9)
    for wrong in (Examples(x, y.astype(float)), Examples(x, y[:, :1]), Examples(x[["pixels", "scale"]], y)):
        with pytest.raises(ValueError, match="must be"):
            check_trainable(load(TRAIN), {"train": wrong})


def compile_session(module, artifact_files):
    """Of a module from 3 numbers to 3 classes, 4 examples a batch."""
    forward = export_forward(module, {"x": torch.zeros(4, 3)})
    layout, loss = Layout(forward.parameters, ("weights",), dict.fromkeys(forward.parameters, "weights")), Loss(LOSS)
    models = gradient_model(forward, layout, loss).model, evaluate_model(forward, layout, loss)
    graphs = [model.SerializeToString(deterministic=True) for model in models]
    sizes = [prod(shape) for shape in layout.shapes.values()]
    entries = [
        LayoutEntry(name, shape, sum(sizes[:i]), "weights") for i, (name, shape) in enumerate(layout.shapes.items())
    ]
    manifest = replace(
        decode_record(Manifest, artifact_files["manifest.json"]),
        layout=tuple(entries),
        segments=("weights",),
        num_parameters=sum(sizes),
        gradient_sha256=hashlib.sha256(graphs[0]).hexdigest(),
        evaluate_sha256=hashlib.sha256(graphs[1]).hexdigest(),
    )
    return StepSession(check_artifact(encode_record(manifest), *graphs))


@pytest.fixture(scope="module")
def saturating(artifact_files):
    """Of a network whose tanh takes infinity to 1: its result is finite and tells nothing of what it was given."""
    return compile_session(nn.Sequential(nn.Tanh(), nn.Linear(3, 3)), artifact_files)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("terms", [TRAIN, replace(ORDINARY, learning_rate=9.0)], ids=["private", "ordinary"])
def test_an_infinite_x_adds_nothing_to_training_whatever_the_network_makes_of_it(saturating, terms, value):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)).astype(np.float32), rng.integers(0, 3, 9)
    x[4, 1] = value
    kept = np.arange(9) != 4
    assignment = LoadedAssignment(saturating, np.linspace(-1, 1, 12, dtype=np.float32), terms)
    both = Examples(x, y), Examples(x[kept], y[kept])
    found, expected = (train(assignment, {"train": each}, RANDOM).vector for each in both)
    share = 1 if terms.privacy is not None else 8 / 9  # of the mean over the batch
    np.testing.assert_allclose(found, expected * share, atol=1e-5)


@pytest.fixture(scope="module")
def overflowing(artifact_files):
    return compile_session(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), artifact_files)


class TestParametersThatZerosDoNotSurvive:
    """Who sends parameters can make the network overflow at zero and at examples of one kind, and not at the others.

    A step that failed wherever a row of zeros fills a place would then tell whether there is such an example.
    """

    PARAMETERS = np.concatenate(
        [np.tile([-1e20, 0, 0], 4), np.full(4, 1e20), np.linspace(-1e30, 1e30, 12), [0.1, 0.2, 0.3]]
    ).astype(np.float32)

    @pytest.fixture
    def examples(self):
        """Nine examples with x[0] = 2, where all is finite, and seven null records: a chunk has nothing else."""
        x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
        x[:9, 0], x[9:] = 2, np.nan
        return Examples(x, np.zeros(16, np.int64))

    @pytest.mark.parametrize("spoilt", [[], [0], [3], [4, 5, 6, 7]], ids=str)
    def test_an_example_that_overflows_adds_nothing_and_neither_do_rows_that_fill_up(
        self, overflowing, examples, spoilt
    ):
        kept = np.setdiff1d(np.arange(9), spoilt)
        expected = [
            overflowing.gradient(self.PARAMETERS, examples.x[[i]], examples.y[[i]], max_grad_norm=0.5)[0] for i in kept
        ]
        examples.x[spoilt, 0] = 0
        found = train(LoadedAssignment(overflowing, self.PARAMETERS, TRAIN), {"train": examples}, RANDOM)
        np.testing.assert_allclose(found.vector, np.sum(expected, axis=0), atol=1e-6)
        assert np.abs(found.vector).max() > 0.1

    def test_where_every_example_overflows_the_sum_is_zero(self, overflowing, examples):
        examples.x[:9, 0] = 0
        assignment = LoadedAssignment(overflowing, self.PARAMETERS, TRAIN)
        assert not train(assignment, {"train": examples}, RANDOM).vector.any()

    def test_scores_are_finite_whatever_overflows(self, overflowing, examples):
        examples.x[3, 0] = 0
        terms = replace(EVALUATE, release=("loss", "accuracy"))
        loss, accuracy = evaluate(LoadedAssignment(overflowing, self.PARAMETERS, terms), examples, RANDOM).sums
        losses, metrics = overflowing.evaluate(self.PARAMETERS, *(a[:9] for a in (examples.x, examples.y)))
        assert np.isinf(losses[3])
        assert loss == pytest.approx(np.delete(losses, 3).sum() / 4 + 1, rel=1e-6)
        assert accuracy == metrics.sum()
