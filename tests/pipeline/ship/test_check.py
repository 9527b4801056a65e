from pathlib import Path

import numpy as np
import pytest

from pipeline.ship.bundle import BundleError
from pipeline.ship.check import evaluate_bundle
from pipeline.ship.exporters import EXPORTERS


def test_every_file_reaches_the_trained_models_test_accuracy(shipped, digits):
    accuracies = evaluate_bundle(Path(shipped.folder), digits.test.x, digits.test.y)
    assert accuracies.keys() == EXPORTERS.keys()
    for accuracy in accuracies.values():
        assert accuracy == pytest.approx(digits.accuracy, abs=0.005)


def test_labels_of_other_examples_are_not_reached(shipped, digits):
    wrong = (digits.test.y + 1) % 10
    assert max(evaluate_bundle(Path(shipped.folder), digits.test.x, wrong).values()) < 0.2


def test_a_folder_that_is_no_bundle_is_told(tmp_path, digits):
    with pytest.raises(BundleError, match="name the folder that `handheld ship` wrote"):
        evaluate_bundle(tmp_path, digits.test.x, digits.test.y)


@pytest.mark.parametrize(("num_x", "num_y"), [(2, 3), (0, 0)])
def test_examples_and_labels_must_match(shipped, digits, num_x, num_y):
    with pytest.raises(ValueError, match=f"same number of examples, at least 1, got {num_x} and {num_y}"):
        evaluate_bundle(Path(shipped.folder), digits.test.x[:num_x], np.zeros(num_y, np.int64))
