"""Ordinary steps on weights and architecture weights against a plain torch loop over the same batches."""

from itertools import count

import numpy as np
import pytest
import torch

from device_runtime.descent import DivergedError
from device_runtime.loaded import LoadedAssignment, TooFewExamplesError
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.segments import SegmentError, moving_segments, positions_of
from device_runtime.terms import ArchitectureTerms, PrivacyTerms, RewardTerms, TrainTerms
from device_runtime.training import train
from tests.device_runtime.softmax_regression import PARAMETERS, draw_examples
from tests.device_runtime.supernet import Supernet, draw_images

RANDOM = PrivateRandom(bytes(32))
EXAMPLES = {"train": draw_images(10, 1), "validation": draw_images(7, 2)}
STEPS = {
    "all": {"architecture": ArchitectureTerms(0.02, 0.1)},
    "weights": {},
    "architecture": {"architecture": ArchitectureTerms(0.02, 0.1)},
    "alternate": {"architecture": ArchitectureTerms(0.02, 0.1)},
}
CLIPS = {
    "all": {"max_grad_norm": 0.4},
    "weights": {"max_grad_norm": 0.4},
    "architecture": {"architecture": ArchitectureTerms(0.02, 0.1, max_grad_norm=0.03)},
    "alternate": {"max_grad_norm": 0.4, "architecture": ArchitectureTerms(0.02, 0.1, max_grad_norm=0.03)},
}


def make_terms(moves, **changes):
    of_weights = {} if moves == "architecture" else {"momentum": 0.9, "weight_decay": 0.05}
    return TrainTerms(0.1, **{"local_epochs": 3, "batch_size": 4, "moves": moves} | of_weights | STEPS[moves] | changes)


def batches(split, purpose, batch_size):
    for epoch in count():
        order = RANDOM.permutation(purpose, epoch, len(EXAMPLES[split]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield torch.tensor(EXAMPLES[split].x[rows]), torch.tensor(EXAMPLES[split].y[rows])


def set_gradients(module, parameters, batch, clip):
    """The mean of the examples' gradients, each clipped over these parameters together; one example at a time."""
    clipped = []
    for x, y in zip(*batch, strict=True):
        loss = torch.nn.functional.cross_entropy(module(x[None]), y[None])
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
        clipped.append([gradient * min(1.0, (clip or np.inf) / float(norm)) for gradient in gradients])
    for parameter, gradients in zip(parameters, zip(*clipped, strict=True), strict=True):
        parameter.grad = torch.stack(gradients).mean(0)


def torch_loop(terms, num_steps):
    """Parameters f32[P] after the same steps."""
    module, steps = Supernet(), terms.architecture
    sgd = torch.optim.SGD(module.weights(), terms.learning_rate, terms.momentum, weight_decay=terms.weight_decay)
    rate, decay = (steps.learning_rate, steps.weight_decay) if steps else (0.0, 0.0)
    adam = torch.optim.Adam([module.alpha], rate, (0.5, 0.999), weight_decay=decay)
    of_training = batches("train", Purpose.SAMPLING, terms.batch_size)
    of_validation = batches("validation", Purpose.ARCHITECTURE_SAMPLING, terms.batch_size)
    for _ in range(num_steps):
        if terms.moves in {"architecture", "alternate"}:
            set_gradients(module, [module.alpha], next(of_validation), steps.max_grad_norm)
            adam.step()
        if terms.moves != "architecture":
            moving = list(module.parameters()) if terms.moves == "all" else module.weights()
            set_gradients(module, moving, next(of_training), terms.max_grad_norm)
            sgd.step()
        if terms.moves == "all":
            adam.step()
    return module.flat()


@pytest.mark.parametrize("changes", [STEPS, CLIPS], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("moves", STEPS)
def test_one_client_trains_as_a_plain_torch_loop_does(supernet_session, moves, changes):
    terms, start = make_terms(moves, **changes[moves]), Supernet().flat()
    num_steps = 3 * (2 if moves == "architecture" else 3)
    expected = torch_loop(terms, num_steps)
    moving = positions_of(supernet_session.manifest, moving_segments(supernet_session.manifest, moves))

    update = train(LoadedAssignment(supernet_session, start, terms), EXAMPLES, RANDOM)

    found = start.copy()
    found[moving] += update.vector
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert len(update.vector) == {"all": 125, "alternate": 125, "weights": 123, "architecture": 2}[moves]
    assert (update.vector != 0).sum() > 0.5 * len(update.vector)
    assert update.num_examples == (7 if moves == "architecture" else 10)
    assert update.num_steps == num_steps
    assert update.num_chunks == num_steps * (2 if moves == "alternate" else 1)


def test_a_clip_of_architecture_weights_is_felt(supernet_session):
    clipped, free = (
        train(LoadedAssignment(supernet_session, Supernet().flat(), make_terms("alternate", **each)), EXAMPLES, RANDOM)
        for each in (CLIPS["alternate"], STEPS["alternate"])
    )
    assert np.abs(clipped.vector[:2] - free.vector[:2]).max() > 1e-4


def test_turns_go_on_where_either_split_has_been_passed_through(supernet_session):
    """Ten steps of five are five passes over either split; those over seven examples end in batches of two."""
    terms = make_terms("alternate", local_epochs=None, local_steps=10, batch_size=5)
    found = train(LoadedAssignment(supernet_session, Supernet().flat(), terms), EXAMPLES, RANDOM)
    np.testing.assert_allclose(Supernet().flat() + found.vector, torch_loop(terms, 10), rtol=0, atol=1e-6)
    assert found.num_chunks == 10 * 2 + 5 * (2 + 1)  # graphs take four


@pytest.mark.parametrize("moves", STEPS)
def test_a_client_lacks_examples_only_where_they_are_read(supernet_session, monkeypatch, moves):
    monkeypatch.setattr(supernet_session, "gradient_graph", None)
    for terms in (make_terms(moves), make_terms(moves, reward=RewardTerms("gain"))):
        assignment = LoadedAssignment(supernet_session, Supernet().flat(), terms)
        for split in terms.splits:
            with pytest.raises(TooFewExamplesError, match=f"0 examples in its {split} split.* collect more"):
                train(assignment, EXAMPLES | {split: draw_images(0, 0)}, RANDOM)
    assert (
        set(make_terms(moves).splits)
        == {
            "all": {"train"},
            "weights": {"train"},
            "architecture": {"validation"},
            "alternate": {"train", "validation"},
        }[moves]
    )


def test_diverged_architecture_weights_name_their_own_rate(supernet_session):
    terms = make_terms("alternate", architecture=ArchitectureTerms(3e38, 1e38))
    with pytest.raises(DivergedError, match=r"local step \d: lower architecture\.learning_rate, now 3e\+38"):
        train(LoadedAssignment(supernet_session, Supernet().flat(), terms), EXAMPLES, RANDOM)


def test_a_network_without_them_is_refused_before_any_work(session):
    privacy = PrivacyTerms("device", 0.5, 1.0)
    steps = ArchitectureTerms(0.1, max_grad_norm=1.0)
    terms = TrainTerms(0.1, local_steps=1, privacy=privacy, moves="architecture", architecture=steps)
    with pytest.raises(SegmentError, match="train a supernet, or move 'all'"):
        LoadedAssignment(session, PARAMETERS, terms)


def test_without_architecture_weights_all_is_weights(session):
    updates = [
        train(LoadedAssignment(session, PARAMETERS, terms), {"train": draw_examples(10)}, RANDOM).vector
        for terms in (make_terms("all"), make_terms("all", architecture=None), make_terms("weights"))
    ]
    np.testing.assert_array_equal(updates[0], updates[1])
    np.testing.assert_array_equal(updates[0], updates[2])
