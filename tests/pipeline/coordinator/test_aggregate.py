import numpy as np
import pytest

from device_runtime.lattice_noise import WIDENING, granularity
from device_runtime.private_random import PrivateRandom
from device_runtime.specs import LayoutEntry
from device_runtime.terms import ArchitectureTerms, ClientPrivacyTerms, PrivacyTerms, TrainTerms
from pipeline.coordinator.aggregate import aggregate_sums, aggregate_updates
from pipeline.coordinator.plans import AskedSums
from tests.pipeline.conftest import make_manifest

RANDOM = PrivateRandom(bytes(32))
GENERATOR = np.random.default_rng(0)
VECTORS = GENERATOR.normal(size=(5, 1000)).astype(np.float32)
COUNTS = [3, 10, 1, 7, 20]
UPDATES = list(zip(VECTORS, COUNTS, strict=True))
MANIFEST = make_manifest(layout=(LayoutEntry("weight", (1000,), 0, "weights"),), num_parameters=1000)


def test_the_uniform_mean_is_numpys(world):
    mean = aggregate_updates(world.plan(), MANIFEST, iter(UPDATES), RANDOM)
    assert np.allclose(mean, VECTORS.astype(np.float64).mean(axis=0), rtol=0, atol=1e-12)


def test_the_mean_by_examples_is_numpys(world):
    mean = aggregate_updates(world.plan(weighting="examples"), MANIFEST, iter(UPDATES), RANDOM)
    assert np.allclose(mean, np.average(VECTORS.astype(np.float64), axis=0, weights=COUNTS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_updates_that_are_noised_on_the_phone_get_no_more_noise(world, weighting):
    plain, private = world.plan(weighting=weighting), world.private_training("device") | {"weighting": weighting}
    assert np.array_equal(
        aggregate_updates(world.plan(**private), MANIFEST, UPDATES, RANDOM),
        aggregate_updates(plain, MANIFEST, UPDATES, RANDOM),
    )


def noise_on_the_sum(world, noise_multiplier, key=0):
    """What `noise_at = "sum"` adds to the gradient sum: the step, undone."""
    plan = world.plan(**world.private_training("sum", noise_multiplier))
    step = aggregate_updates(plan, MANIFEST, UPDATES, PrivateRandom(key.to_bytes(32)))
    gradient_sum = step * (0.25 * sum(COUNTS)) / -plan.train.learning_rate
    return gradient_sum - VECTORS.astype(np.float64).sum(axis=0)


def test_without_noise_the_private_step_is_the_sum_over_the_expected_batch(world):
    assert np.allclose(noise_on_the_sum(world, 2.0**-20), 0, atol=5e-6)


@pytest.mark.parametrize("noise_multiplier", [1.0, 8.0])
def test_noise_on_the_sum_has_the_deviation_that_the_ledger_counts(world, noise_multiplier):
    """Once for the whole sum, not once a client: multiplier times clip norm, over 20,000 draws."""
    noise = np.concatenate([noise_on_the_sum(world, noise_multiplier, key) for key in range(20)])
    assert noise.std() == pytest.approx(noise_multiplier * 0.5, rel=0.02)
    assert abs(noise.mean()) < noise_multiplier * 0.5 * 0.03


def test_a_noised_sum_lies_on_the_lattice_whatever_the_clients_sent(world):
    noised = noise_on_the_sum(world, 2.0) + VECTORS.astype(np.float64).sum(axis=0)
    counts = noised / granularity(1000, 0.5, 2.0 * 0.5 * (1 + WIDENING))
    assert np.allclose(counts, np.rint(counts), rtol=0, atol=1e-4)
    assert np.abs(counts).max() > 1000


def test_another_key_draws_other_noise(world):
    assert not np.allclose(noise_on_the_sum(world, 1.0, 0), noise_on_the_sum(world, 1.0, 1))


def test_the_order_given_is_the_order_summed_so_equal_reports_give_equal_bytes(world):
    plan = world.plan(weighting="examples")
    first = aggregate_updates(plan, MANIFEST, iter(UPDATES), RANDOM)
    assert first.tobytes() == aggregate_updates(plan, MANIFEST, list(UPDATES), RANDOM).tobytes()


def test_updates_are_taken_one_at_a_time(world):
    alive = []

    def stream():
        for vector, count in UPDATES:
            alive.append(1)
            yield vector.copy(), count
            alive.pop()
            assert not alive

    aggregate_updates(world.plan(), MANIFEST, stream(), RANDOM)


def test_nothing_to_aggregate_is_an_error(world):
    with pytest.raises(ValueError, match="'first' has no update to aggregate"):
        aggregate_updates(world.plan(), MANIFEST, [], RANDOM)
    with pytest.raises(ValueError, match="'first' does not train"):
        aggregate_updates(world.plan(**world.evaluation()), MANIFEST, UPDATES, RANDOM)


# Architecture weights lie in the middle, as in a network.
SUPERNET = make_manifest(
    layout=(
        LayoutEntry("stem", (2,), 0, "weights"),
        LayoutEntry("choice", (2,), 2, "architecture"),
        LayoutEntry("classifier", (1,), 4, "weights"),
    ),
    num_parameters=5,
    segments=("weights", "architecture"),
)
SILENT = 2.0**-20  # the least noise there is, of which a sum of ones shows nothing in five digits
BY_EXAMPLE = PrivacyTerms("sum", 0.5, SILENT)
STEPS = ArchitectureTerms(0.25)


@pytest.mark.parametrize(
    ("changes", "values", "update"),
    [
        # Sums 4 and 8 of 2 + 6 examples at rate 0.5: a mean gradient of 3, times -0.1 and -0.25.
        ({"moves": "all", "architecture": STEPS}, [0, 1, 2, 3, 4], [-0.3, -0.3, -0.75, -0.75, -0.3]),
        ({"moves": "all"}, [0, 1, 2, 3, 4], [-0.3] * 5),
        ({"moves": "weights"}, [0, 1, 4], [-0.3] * 3),
        (
            {"moves": "architecture", "architecture": ArchitectureTerms(0.25, max_grad_norm=0.5)},
            [2, 3],
            [-0.75, -0.75],
        ),
    ],
    ids=["two rates", "one rate", "weights", "architecture"],
)
def test_a_private_step_moves_what_moves_each_at_its_own_rate(world, changes, values, update):
    clip = None if changes["moves"] == "architecture" else 0.5
    terms = TrainTerms(0.1, local_steps=1, max_grad_norm=clip, privacy=BY_EXAMPLE, **changes)
    plan = world.plan(train=terms, weighting="examples")
    sums = [(np.full(len(values), 4.0, np.float32), 2), (np.full(len(values), 8.0, np.float32), 6)]
    np.testing.assert_allclose(aggregate_updates(plan, SUPERNET, sums, RANDOM), update, rtol=1e-5)


@pytest.mark.parametrize("moves", ["weights", "architecture", "alternate", "all"])
def test_the_mean_of_ordinary_updates_is_of_what_moves(world, moves):
    steps = None if moves == "weights" else STEPS
    terms = TrainTerms(0.1, local_steps=1, batch_size=4, moves=moves, architecture=steps)
    size = {"weights": 3, "architecture": 2}.get(moves, 5)
    updates = [(np.arange(size, dtype=np.float32), 1), (np.full(size, 4.0, np.float32), 3)]
    mean = aggregate_updates(world.plan(train=terms, weighting="examples"), SUPERNET, updates, RANDOM)
    np.testing.assert_allclose(mean, (np.arange(size) + 3 * 4) / 4)


def test_noise_on_a_step_of_architecture_weights_is_of_their_own_clip(world):
    steps = ArchitectureTerms(1.0, max_grad_norm=3.0)
    privacy = PrivacyTerms("sum", 1.0, 2.0)
    terms = TrainTerms(0.1, local_steps=1, privacy=privacy, moves="architecture", architecture=steps)
    plan, still = world.plan(train=terms, weighting="examples"), [(np.zeros(2, np.float32), 1)]
    noise = [aggregate_updates(plan, SUPERNET, still, PrivateRandom(key.to_bytes(32))) for key in range(3000)]
    assert np.std(noise) == pytest.approx(2.0 * 3.0, rel=0.03)


def by_client(noise_at="sum", noise_multiplier=SILENT, **changes):
    """A plan of the client unit that expects 4 reports of norm 5 at most."""
    privacy = ClientPrivacyTerms(noise_at, noise_multiplier, expected_reports=4, max_norm=5.0)
    terms = TrainTerms(0.1, local_steps=1, batch_size=4, privacy=privacy)
    return {"train": terms, "is_at_deadline": True, "weighting": "uniform", **changes}


TWO = [(np.float32([3, 4, 0, 0, 0]), 100), (np.float32([0, 0, 30, 40, 0]), 1)]  # norms 5 and 50


def test_in_the_client_unit_the_server_clips_again_and_divides_by_a_constant(world):
    mean = aggregate_updates(world.plan(**by_client()), SUPERNET, TWO, RANDOM)
    np.testing.assert_allclose(mean, np.float64([3, 4, 3, 4, 0]) / 4, atol=1e-4)
    alone = aggregate_updates(world.plan(**by_client()), SUPERNET, TWO[:1], RANDOM)
    np.testing.assert_allclose(alone, np.float64([3, 4, 0, 0, 0]) / 4, atol=1e-4)


def test_in_the_client_unit_what_was_noised_on_the_phone_is_summed_as_it_is(world):
    mean = aggregate_updates(world.plan(**by_client("device", 1.0)), SUPERNET, TWO, RANDOM)
    np.testing.assert_allclose(mean, np.float64([3, 4, 30, 40, 0]) / 4)


def test_in_the_client_unit_noise_is_drawn_once_for_all_clients(world):
    plan = world.plan(**by_client(noise_multiplier=1.5))
    means = [aggregate_updates(plan, SUPERNET, TWO, PrivateRandom(key.to_bytes(32))) for key in range(2000)]
    noise = 4 * np.array(means) - [3, 4, 3, 4, 0]
    assert noise.std() == pytest.approx(1.5 * 5.0, rel=0.03)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_one_client_moves_the_mean_by_its_share_at_most(world, direction):
    """The sensitivity that the noise is for: whatever it sends in place of zeros."""
    plan, others = world.plan(**by_client()), TWO[:1]
    outlier = (np.full(5, direction * 1e20, np.float32), 10**6)
    without = aggregate_updates(plan, SUPERNET, [*others, (np.zeros(5, np.float32), 1)], RANDOM)
    moved = aggregate_updates(plan, SUPERNET, [*others, outlier], RANDOM) - without
    assert np.linalg.norm(moved) == pytest.approx(5.0 / 4, rel=1e-4)


REPORTS = [{"accuracy": 1.0, "loss": 0.5}, {"loss": 2.0, "accuracy": 3.0}]
NAMES = ("loss", "accuracy")


@pytest.mark.parametrize("privacy", [None, PrivacyTerms("device", 0.5, 2.0)], ids=["plain", "noised on the phone"])
def test_metric_sums_add_up_by_name(privacy):
    assert aggregate_sums(AskedSums(NAMES, 4.0, privacy), REPORTS, RANDOM) == {"loss": 2.5, "accuracy": 4.0}


def noise_on(asked, reports, num_draws=4000):
    """What the server adds to metric sums, f64[draws, names]."""
    exact = aggregate_sums(AskedSums(asked.names, asked.loss_bound, None), reports, RANDOM)
    draws = [aggregate_sums(asked, reports, PrivateRandom(key.to_bytes(32))) for key in range(num_draws)]
    return np.array([[draw[name] - exact[name] for name in asked.names] for draw in draws])


@pytest.mark.parametrize("privacy", [PrivacyTerms("sum", 0.5, 3.0), ClientPrivacyTerms("sum", 3.0, 2)], ids=str)
def test_noise_on_metric_sums_has_the_deviation_of_their_joint_sensitivity(privacy):
    noise = noise_on(AskedSums(NAMES, 4.0, privacy), [{"loss": 0.5, "accuracy": 0.25}] * 2)
    assert noise.std(axis=0) == pytest.approx([3.0 * np.sqrt(2)] * 2, rel=0.05)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06


def test_a_reward_is_one_number_of_sensitivity_one():
    noise = noise_on(AskedSums(("gain",), 4.0, ClientPrivacyTerms("sum", 3.0, 2)), [{"gain": -0.5}, {"gain": 0.25}])
    assert noise.std() == pytest.approx(3.0, rel=0.05)


def test_in_the_client_unit_a_clients_means_are_clipped_to_what_they_can_be():
    asked = AskedSums(("gain", "accuracy"), 4.0, ClientPrivacyTerms("sum", SILENT, 2))
    sums = aggregate_sums(asked, [{"gain": -9.0, "accuracy": 9.0}, {"gain": 0.25, "accuracy": -9.0}], RANDOM)
    assert sums == pytest.approx({"gain": -0.75, "accuracy": 1.0}, abs=1e-4)


def test_update_and_reward_of_a_round_are_noised_from_streams_of_their_own(world):
    """The same key, and no word of it twice: else a known reward would give the update's noise away."""
    privacy = ClientPrivacyTerms("sum", 1.0, 1, max_norm=1.0)
    terms = TrainTerms(0.1, local_steps=1, batch_size=4, privacy=privacy, moves="architecture", architecture=STEPS)
    plan = world.plan(train=terms, is_at_deadline=True)
    asked = AskedSums(("loss", "accuracy"), 1.0, ClientPrivacyTerms("sum", 1.0, 1))
    still = [(np.zeros(2, np.float32), 1)]
    pairs = []
    for key in range(1000):
        random = PrivateRandom(key.to_bytes(32))
        update = aggregate_updates(plan, SUPERNET, still, random)
        reward = aggregate_sums(asked, [{"loss": 0.0, "accuracy": 0.0}], random)
        pairs.append([update[0], reward["loss"]])
    assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.12
