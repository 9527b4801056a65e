"""Steps against torch's own optimisers."""

import numpy as np
import pytest
import torch

from device_runtime.descent import Adam, Descent, DivergedError, Sgd
from device_runtime.terms import ArchitectureTerms, PrivacyTerms, TrainTerms

NUM_STEPS = 300
START = np.linspace(-1, 1, 12, dtype=np.float32)
PRIVACY = PrivacyTerms("device", 0.5, 1.0)


def torch_steps(make_optimizer, gradients):
    values = torch.nn.Parameter(torch.tensor(START))
    optimizer = make_optimizer([values])
    for gradient in gradients:
        values.grad = torch.tensor(gradient)
        optimizer.step()
    return values.detach().numpy()


def own_steps(optimizer, gradients):
    values = START
    for gradient in gradients:
        values = optimizer.step(values, gradient)
    return values


@pytest.fixture(params=[1e-4, 1.0, 1e3], ids=["tiny gradients", "usual", "huge"])
def gradients(request):
    rng = np.random.default_rng(0)
    return (request.param * rng.normal(size=(NUM_STEPS, 12)) * np.logspace(-3, 0, 12)).astype(np.float32)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_is_torchs(gradients, weight_decay):
    terms = ArchitectureTerms(3e-4, weight_decay)
    expected = torch_steps(
        lambda values: torch.optim.Adam(values, 3e-4, (0.5, 0.999), weight_decay=weight_decay), gradients
    )
    found = own_steps(Adam(START, terms), gradients)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    assert np.abs(found - START).max() > 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_is_torchs(gradients, momentum, weight_decay):
    rate = 1e-3 / np.abs(gradients).max()
    terms = TrainTerms(rate, 1, batch_size=1, momentum=momentum, weight_decay=weight_decay)
    expected = torch_steps(
        lambda values: torch.optim.SGD(values, rate, momentum=momentum, weight_decay=weight_decay), gradients
    )
    found = own_steps(Sgd(START, terms), gradients)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(found - START).max() > 1e-3


def test_the_pull_of_the_start_is_beside_the_decay():
    terms = TrainTerms(0.5, 1, batch_size=1, proximal=0.1, weight_decay=0.2)
    sgd, values = Sgd(START, terms), START + 1
    expected = values - 0.5 * (3 + 0.2 * values + 0.1)
    np.testing.assert_allclose(sgd.step(values, np.full(12, 3, np.float32)), expected, atol=1e-6)


class TestSegments:
    """Softmax regression whose last three values are architecture weights."""

    ALTERNATING = TrainTerms(
        0.5, 1, batch_size=1, weight_decay=0.1, moves="alternate", architecture=ArchitectureTerms(0.25)
    )

    @pytest.mark.parametrize(("segments", "moved"), [(("weights",), range(9)), (("architecture",), range(9, 12))])
    def test_a_step_moves_its_own_segment_and_no_other(self, searched_session, segments, moved):
        descent = Descent(searched_session.manifest, START, self.ALTERNATING)
        descent.step(np.ones(12, np.float32), segments, 1)
        assert np.flatnonzero(descent.parameters != START).tolist() == list(moved)
        np.testing.assert_array_equal(descent.start, np.linspace(-1, 1, 12, dtype=np.float32))

    def test_a_step_on_all_is_sgd_on_weights_and_adam_on_architecture_weights(self, searched_session):
        terms = TrainTerms(0.5, 1, batch_size=1, weight_decay=0.1, architecture=ArchitectureTerms(0.25, 0.2))
        descent, gradient = Descent(searched_session.manifest, START, terms), np.linspace(1, 2, 12, dtype=np.float32)
        descent.step(gradient, ("weights", "architecture"), 1)
        np.testing.assert_allclose(descent.parameters[:9], (START - 0.5 * (gradient + 0.1 * START))[:9], atol=1e-6)
        np.testing.assert_allclose(descent.parameters[9:], START[9:] - 0.25, atol=1e-6)  # Adam's first: the sign

    def test_without_terms_of_their_own_architecture_weights_move_like_the_others(self, searched_session):
        descent = Descent(searched_session.manifest, START, TrainTerms(0.5, 1, batch_size=1))
        descent.step(np.ones(12, np.float32), ("weights", "architecture"), 1)
        np.testing.assert_array_equal(descent.parameters, START - np.float32(0.5))

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            (("weights",), r"after local step 7: lower learning_rate, now 0\.5, or set max_grad_norm, now None"),
            (("architecture",), r"after local step 7: lower architecture\.learning_rate, now 0\.25"),
        ],
    )
    def test_what_leaves_the_finite_numbers_names_its_own_cure(self, searched_session, segments, message):
        descent = Descent(searched_session.manifest, START, self.ALTERNATING)
        with pytest.raises(DivergedError, match=message):
            descent.step(np.full(12, np.inf, np.float32), segments, 7)
