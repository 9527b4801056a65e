import numpy as np
import pytest

from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from pipeline.compile.comparison import Comparison, errors_of_float32, gradient_errors, median_of, relative, worst_of
from pipeline.compile.reference import Reference

LAYOUT = (LayoutEntry("w", (2,), 0, "weights"), LayoutEntry("b", (1,), 2, "weights"))
MANIFEST = Manifest(
    {}, "", ExampleSpec((1,), ("a", "b")), "cross_entropy", LAYOUT, ("weights",), 2, 3, (), (), 17, "1.12", "", "", {}
)
REFERENCE = Reference(np.array([1.0, 2.0]), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 12.0]]))
BOTH = np.ones(2)


def test_each_parameters_error_is_relative_to_its_own_gradient():
    errors = gradient_errors(MANIFEST, np.array([3.0, 4.5, 12.3]), REFERENCE, BOTH)
    assert errors == pytest.approx({"w": 0.1, "b": 0.025})


def test_examples_that_cancel_are_measured_by_what_was_summed():
    cancelling = Reference(np.zeros(2), np.array([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0]]))
    errors = gradient_errors(MANIFEST, np.array([1e-6, 0.0, 0.0]), cancelling, BOTH)
    assert errors == pytest.approx({"w": 1e-6 / (0.01 * 10), "b": 0})


def test_medians_and_worst_are_taken_error_by_error():
    found = [Comparison(float(i), 3.0 - i, {"w": i * i}) for i in range(3)]
    assert median_of(found) == Comparison(1.0, 2.0, {"w": 1.0})
    assert worst_of(found) == Comparison(2.0, 3.0, {"w": 4.0})


def test_a_nan_is_never_dropped():
    found = [Comparison(0.0, 0.0, {"w": value}) for value in (0.0, float("nan"), 0.0)]
    assert np.isnan(worst_of(found).gradient["w"])
    assert np.isnan(median_of(found).gradient["w"])


def test_the_rounding_of_float32_is_measured_like_a_step():
    single = Reference(REFERENCE.losses * 1.01, REFERENCE.gradients * 1.001)
    errors = errors_of_float32(MANIFEST, single, REFERENCE)
    assert (errors.loss, errors.norm) == pytest.approx((0.01, 0.001))
    assert errors.gradient == pytest.approx({"w": 0.001, "b": 0.001})


def test_an_error_is_relative_down_to_a_floor():
    assert relative(np.array([1.1]), np.array([1.0])) == pytest.approx(0.1)
    assert relative(np.array([1.1]), np.array([1.0]), floor=10) == pytest.approx(0.01)
    assert relative(np.zeros(2), np.zeros(2)) == 0
