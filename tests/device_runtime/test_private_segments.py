"""Private steps on segments: softmax regression whose three biases are architecture weights, in closed form."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.lattice_noise import WIDENING
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom, Purpose
from device_runtime.terms import (
    ArchitectureTerms,
    ClientPrivacyTerms,
    PrivacyTerms,
    RewardTerms,
    TrainTerms,
)
from device_runtime.training import train
from tests.device_runtime.softmax_regression import PARAMETERS, clip, draw_examples, example_gradients

RANDOM = PrivateRandom(bytes(32))
WIDENED = 1 + WIDENING
SPLITS = {"train": draw_examples(10, 1), "validation": draw_examples(7, 2)}
NOTHING = {name: Examples(np.full_like(split.x, np.nan), split.y) for name, split in SPLITS.items()}
WEIGHTS, ARCHITECTURE = slice(9), slice(9, 12)
MOVING = {"all": slice(12), "weights": WEIGHTS, "architecture": ARCHITECTURE}
# The decay of 1 makes the size of a gradient count, which Adam alone would forget.
STEPS = ArchitectureTerms(0.05, 1.0, 0.3, PrivacyTerms("device", 0.4, 2.0))
ALTERNATE = TrainTerms(
    0.5,
    local_steps=3,
    momentum=0.5,
    weight_decay=0.1,
    max_grad_norm=0.8,
    privacy=PrivacyTerms("device", 0.3, 1.5),
    moves="alternate",
    architecture=STEPS,
)


def one_step(moves, noise_at="device", noise_multiplier=1.0, sample_rate=1.0) -> TrainTerms:
    """One private step with a clip of 0.4."""
    privacy = PrivacyTerms(noise_at, sample_rate, noise_multiplier)
    if moves == "architecture":
        steps = ArchitectureTerms(0.1, max_grad_norm=0.4)
        return TrainTerms(1.0, local_steps=1, privacy=privacy, moves=moves, architecture=steps)
    return TrainTerms(1.0, local_steps=1, max_grad_norm=0.4, privacy=privacy, moves=moves)


@dataclass(frozen=True)
class Part:
    """What a kind of step moves, and how it is private."""

    split: str
    values: slice
    clip: float
    privacy: PrivacyTerms
    purposes: tuple[Purpose, Purpose]


BY_TRAINING = Part("train", WEIGHTS, 0.8, ALTERNATE.privacy, (Purpose.SAMPLING, Purpose.NOISE))
OWN = (Purpose.ARCHITECTURE_SAMPLING, Purpose.ARCHITECTURE_NOISE)
BY_VALIDATION = Part("validation", ARCHITECTURE, 0.3, STEPS.privacy, OWN)


class ByHand:
    """DP-SGD on weights and private Adam on architecture weights, f64."""

    def __init__(self):
        self.parameters, self.velocity, self.mean, self.square = PARAMETERS.astype(np.float64), 0.0, 0.0, 0.0

    def noised(self, part, step):
        x, y, rate = SPLITS[part.split].x, SPLITS[part.split].y, part.privacy.sample_rate
        is_drawn = RANDOM.uniforms(part.purposes[0], step, len(x)) < rate
        assert 0 < is_drawn.sum() < len(x)
        total = clip(example_gradients(self.parameters, x, y)[is_drawn, part.values], part.clip).sum(axis=0)
        deviation = part.privacy.noise_multiplier * part.clip * WIDENED
        return (total + deviation * RANDOM.normals(part.purposes[1], step, len(total))) / (rate * len(x))

    def step_weights(self, gradient):
        self.velocity = 0.5 * self.velocity + gradient + 0.1 * self.parameters[WEIGHTS]
        self.parameters[WEIGHTS] -= 0.5 * self.velocity

    def step_architecture(self, gradient, number):
        gradient = gradient + self.parameters[ARCHITECTURE]
        self.mean = 0.5 * self.mean + 0.5 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        root = np.sqrt(self.square / (1 - 0.999**number)) + 1e-8
        self.parameters[ARCHITECTURE] -= 0.05 * self.mean / (1 - 0.5**number) / root


def test_steps_in_turns_have_each_their_own_split_draw_clip_and_noise(searched_session):
    hand = ByHand()
    for step in range(3):
        hand.step_architecture(hand.noised(BY_VALIDATION, step), step + 1)
        hand.step_weights(hand.noised(BY_TRAINING, step))
    update = train(LoadedAssignment(searched_session, PARAMETERS, ALTERNATE), SPLITS, RANDOM)
    np.testing.assert_allclose(PARAMETERS + update.vector, hand.parameters, atol=2e-4)
    assert (update.num_examples, update.num_steps) == (10, 3)


def test_all_segments_are_one_clipped_vector_with_one_noise(searched_session):
    terms = replace(ALTERNATE, moves="all", local_steps=2, architecture=ArchitectureTerms(0.05, 1.0))
    hand = ByHand()
    for step in range(2):
        gradient = hand.noised(replace(BY_TRAINING, values=slice(12)), step)
        hand.step_weights(gradient[WEIGHTS])
        hand.step_architecture(gradient[ARCHITECTURE], step + 1)
    update = train(LoadedAssignment(searched_session, PARAMETERS, terms), SPLITS, RANDOM)
    np.testing.assert_allclose(PARAMETERS + update.vector, hand.parameters, atol=2e-4)


def test_architecture_weights_alone_see_the_validation_split_alone(searched_session):
    steps = replace(STEPS, privacy=None)
    terms = TrainTerms(1.0, local_steps=2, privacy=STEPS.privacy, moves="architecture", architecture=steps)
    hand = ByHand()
    for step in range(2):
        hand.step_architecture(hand.noised(BY_VALIDATION, step), step + 1)
    only = {"validation": SPLITS["validation"]}
    update = train(LoadedAssignment(searched_session, PARAMETERS, terms), only, RANDOM)
    np.testing.assert_allclose(PARAMETERS[ARCHITECTURE] + update.vector, hand.parameters[ARCHITECTURE], atol=2e-4)
    assert update.num_examples == 7


@pytest.mark.parametrize("moves", MOVING)
def test_a_raw_sum_holds_what_moves_clipped_on_its_own(searched_session, moves):
    update = train(LoadedAssignment(searched_session, PARAMETERS, one_step(moves, "sum")), SPLITS, RANDOM)
    split = SPLITS["validation" if moves == "architecture" else "train"]
    gradients = example_gradients(PARAMETERS, split.x, split.y)[:, MOVING[moves]]
    assert np.linalg.norm(gradients, axis=1).max() > 0.4
    np.testing.assert_allclose(update.vector, clip(gradients, 0.4).sum(axis=0), atol=2e-6)
    assert (update.name, update.num_steps) == ("gradient_sum", 1)


@pytest.mark.parametrize("moves", ["all", "weights"])
def test_noise_has_the_promised_deviation_on_what_moves_and_is_nowhere_else(searched_session, moves):
    assignment = LoadedAssignment(searched_session, PARAMETERS, one_step(moves, noise_multiplier=2.0, sample_rate=0.5))
    keys = [PrivateRandom.derived(b"seed", str(i)) for i in range(300)]
    noise = np.stack([train(assignment, NOTHING, key).vector for key in keys])
    assert noise.shape[1] == len(PARAMETERS[MOVING[moves]])
    promised = 2.0 * 0.4 / (0.5 * 10)
    for column in noise.T:
        assert abs(column.std() / promised - 1) < 5 / sqrt(2 * len(column))


EXTREME = st.one_of(st.floats(-10, 10, width=32), st.sampled_from([np.nan, np.inf, -1e30, 1e20]))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(MOVING)),
    st.tuples(st.lists(EXTREME, min_size=3, max_size=3), st.integers(0, 2)),
    st.integers(0, 6),
    st.integers(0, 1000),
)
def test_a_null_record_in_an_examples_place_moves_the_raw_sum_by_the_clip_at_most(
    searched_session, moves, outlier, place, seed
):
    start = np.random.default_rng(seed).normal(size=12).astype(np.float32)
    assignment, sums = LoadedAssignment(searched_session, start, one_step(moves, "sum")), []
    for row in (outlier[0], [np.nan] * 3):
        replaced = {name: Examples(split.x.copy(), split.y.copy()) for name, split in SPLITS.items()}
        for split in replaced.values():
            split.x[place], split.y[place] = row, outlier[1]
        sums.append(train(assignment, replaced, RANDOM).vector.astype(np.float64))
    assert np.linalg.norm(sums[0] - sums[1]) <= 0.4 * (1 + 1e-5)


@pytest.mark.parametrize("changed", SPLITS)
def test_an_example_moves_only_the_sums_of_its_own_split_and_by_their_own_clip(searched_session, monkeypatch, changed):
    """Before noise is added; what is released in its place here tells nothing, so that the steps stay the same."""
    runs = []
    for row in (3.0, np.nan):
        sums = []
        monkeypatch.setattr(
            "device_runtime.training.add_lattice_noise",
            lambda values, *_, to=sums: (to.append(values.astype(np.float64)), np.ones(len(values)))[1],
        )
        replaced = {name: Examples(split.x.copy(), split.y.copy()) for name, split in SPLITS.items()}
        replaced[changed].x[2], replaced[changed].y[2] = row, 0  # which it looks least like
        everybody = replace(STEPS, privacy=PrivacyTerms("device", 1.0, 2.0))
        terms = replace(ALTERNATE, privacy=PrivacyTerms("device", 1.0, 1.5), architecture=everybody)
        train(LoadedAssignment(searched_session, PARAMETERS, terms), replaced, RANDOM)
        runs.append(sums)
    moved = [float(np.linalg.norm(first - second)) for first, second in zip(*runs, strict=True)]
    by_validation, by_training = moved[::2], moved[1::2]
    of_changed, of_other = (by_validation, by_training) if changed == "validation" else (by_training, by_validation)
    clip_norm = 0.3 if changed == "validation" else 0.8
    assert of_other == [0.0] * 3
    assert 0.5 * clip_norm < max(of_changed) <= clip_norm * (1 + 1e-5)


class Recording(PrivateRandom):
    """Notes every stream that is begun."""

    def __init__(self, key):
        super().__init__(key)
        self.begun = []

    def words(self, purpose, step, count):
        self.begun.append((purpose, step))
        return super().words(purpose, step, count)


ON_CLIENTS = ClientPrivacyTerms("device", 1.0, 5)
REWARD = RewardTerms("gain", 2.0, PrivacyTerms("device", 0.5, 1.0))
BY_CLIENT = TrainTerms(
    0.1,
    local_epochs=3,
    batch_size=4,
    privacy=replace(ON_CLIENTS, max_norm=1.0),
    moves="alternate",
    architecture=ArchitectureTerms(0.1),
    reward=RewardTerms("gain", 2.0, ON_CLIENTS),
)


@pytest.mark.parametrize(
    ("terms", "num_streams"),
    [
        (replace(ALTERNATE, reward=REWARD), 3 * 4 + 2),  # two draws and two noises a step, and the reward's
        (replace(one_step("architecture", sample_rate=0.5), local_steps=4, reward=REWARD), 4 * 2 + 2),
        (BY_CLIENT, 3 + 5 + 1 + 1),  # nine batches each: three and five shuffles, the update's noise, the reward's
    ],
    ids=["alternate", "architecture", "client"],
)
def test_no_stream_of_private_randomness_is_used_twice(searched_session, terms, num_streams):
    random = Recording(bytes(32))
    train(LoadedAssignment(searched_session, PARAMETERS, terms), SPLITS, random)
    assert len(random.begun) == len(set(random.begun)) == num_streams
