from dataclasses import replace

import numpy as np
import pytest

from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from pipeline.compile.comparison import (
    Comparison,
    example_errors,
    first_above,
    relative,
    sum_errors,
    worst_of,
    worst_relative,
    wrong_in_norms,
)
from pipeline.compile.reference import Reference

LAYOUT = (LayoutEntry("w", (2,), 0, "weights"), LayoutEntry("b", (1,), 2, "weights"))
MANIFEST = Manifest(
    {}, "", ExampleSpec((1,), ("a", "b")), "cross_entropy", LAYOUT, ("weights",), 2, 3, (), (), 17, "1.12", "", "", {}
)
REFERENCE = Reference(np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 12.0]]))
BOTH = np.ones(2)
NAN = float("nan")


def test_each_parameters_error_is_relative_to_its_own_gradient():
    _, errors = sum_errors(MANIFEST, np.array([3.0, 4.5, 12.3]), REFERENCE, BOTH)
    assert errors == pytest.approx({"w": 0.1, "b": 0.025})


def test_examples_that_cancel_are_measured_by_what_was_summed():
    cancelling = Reference(np.zeros(2), np.zeros(2), np.array([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0]]))
    _, errors = sum_errors(MANIFEST, np.array([1e-6, 0.0, 0.0]), cancelling, BOTH)
    assert errors == pytest.approx({"w": 1e-6 / (0.1 * 10), "b": 0})


def test_the_worst_is_taken_error_by_error_and_a_nan_is_never_dropped():
    found = [Comparison(float(i), 3.0 - i, 0.1 * i, 1.0, {"w": i * i}) for i in range(3)]
    assert worst_of(found) == Comparison(2.0, 3.0, 0.2, 1.0, {"w": 4.0})
    assert np.isnan(worst_of([Comparison(0.0, 0.0, 0.0, 0.0, {"w": value}) for value in (0.0, NAN, 0.0)]).gradient["w"])


def test_an_examples_error_is_of_its_loss_or_of_its_whole_gradient():
    found = Reference(
        np.array([1.1, 2.0]), REFERENCE.metrics, REFERENCE.gradients + np.array([[0.0, 0.0, 0.1], [0.0, 6.0, 0.0]])
    )
    np.testing.assert_allclose(example_errors(found, REFERENCE), [0.1, 0.5])
    assert not example_errors(REFERENCE, REFERENCE).any()


def test_an_examples_metric_counts_as_a_distance():
    found = replace(REFERENCE, metrics=np.array([0.0, 0.98]))
    np.testing.assert_allclose(example_errors(found, REFERENCE), [0, 0.02])


def test_a_segments_error_is_relative_to_a_share_of_the_whole_gradient():
    segment = Reference(np.zeros(2), np.zeros(2), np.array([[0.0, 0.0, 1e-9], [0.0, 0.0, -1e-9]]))
    whole, error, _ = np.array([3.0, 5.0]), *sum_errors(MANIFEST, np.array([0, 0, 1e-7]), segment, BOTH)
    assert error == pytest.approx(1e-7 / (0.1 * 2e-9))
    errors = sum_errors(MANIFEST, np.array([0, 0, 1e-7]), segment, BOTH, whole)
    assert errors == (pytest.approx(1e-7 / (0.01 * 8), rel=1e-6), pytest.approx({"w": 0, "b": 1e-7 / 0.08}, rel=1e-6))


def test_the_whole_sum_may_be_further_off_than_each_of_its_parts():
    found, parts = sum_errors(MANIFEST, np.array([3.0, 4.0, 12.0]) * 1.01, REFERENCE, BOTH)
    assert found == pytest.approx(0.01)
    cancelling = Reference(np.zeros(2), np.zeros(2), np.array([[1.0, 0.0, 0.1], [-1.0, 0.0, 0.1]]))
    found, parts = sum_errors(MANIFEST, np.array([0.1, 0.0, 0.3]), cancelling, BOTH)
    assert found > max(parts.values())


def test_an_example_of_almost_no_gradient_is_measured_by_the_largest():
    small = Reference(np.ones(2), np.zeros(2), np.array([[1e-6, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    off = Reference(np.ones(2), np.zeros(2), np.array([[2e-6, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(example_errors(off, small), [1e-4, 0])


def test_the_first_above_is_from_the_loss_backwards():
    assert first_above({"w": 1.0, "b": 2.0, "c": 0.0}, 0.5) == "b"
    assert first_above({"w": NAN, "b": 0.0}, 0.5) == "w"
    assert first_above({"w": 0.5}, 0.5) is None


@pytest.mark.parametrize(("name", "part"), [("w", slice(0, 2)), ("b", slice(2, 3))])
def test_a_wrong_share_of_the_norms_is_told_by_its_parameter(name, part):
    gradients = np.random.default_rng(0).standard_normal((5, 3))
    squares = (gradients**2).sum(1) + 0.02 * (gradients[:, part] ** 2).sum(1)
    mask = np.array([1, 1, 0, 1, 1], np.float32)
    assert (
        wrong_in_norms(MANIFEST, np.sqrt(squares) * mask, Reference(np.ones(5), np.zeros(5), gradients), mask) == name
    )


def test_an_error_is_relative_down_to_a_floor():
    assert relative(np.array([1.1]), np.array([1.0])) == pytest.approx(0.1)
    assert relative(np.array([1.1]), np.array([1.0]), floor=10) == pytest.approx(0.01)
    assert relative(np.zeros(2), np.zeros(2)) == 0
    assert worst_relative(np.array([1e-7]), np.array([0.0]), floor=0.1) == pytest.approx(1e-6)


def test_the_worst_number_counts_and_not_the_average():
    expected = np.array([100.0, 50.0, 0.0])
    assert worst_relative(np.array([100.0, 55.0, 0.0]), expected) == pytest.approx(0.1)
    assert worst_relative(np.array([100.0, 50.0, 0.5]), expected) == pytest.approx(0.5)
    assert worst_relative(np.zeros(0), np.zeros(0)) == 0
    assert np.isnan(worst_relative(np.array([NAN, 50.0, 0.0]), expected))
