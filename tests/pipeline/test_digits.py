import numpy as np
import pytest
from sklearn.datasets import load_digits

from device_runtime.examples.partition import DealTerms, deal, training_flags
from device_runtime.examples.schemes import open_source
from device_runtime.examples.source import SourceError, SpecMismatchError, SpecOverrides
from pipeline.digits import DATA_SCHEMES, SPEC, open_digits


def test_digits_are_images_of_one_channel_from_zero_to_one():
    source = open_digits()
    x, y = source.get(source.ids())
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1797, 1, 8, 8), np.float32, 0, 1)
    np.testing.assert_array_equal(x[:, 0] * 16, load_digits().images)
    np.testing.assert_array_equal(y, load_digits().target)
    assert source.spec.labels == tuple("0123456789")


def test_digits_are_opened_by_name_beside_the_devices_schemes(tmp_path):
    assert open_source("digits", schemes=DATA_SCHEMES).spec == SPEC
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 5)), y=np.array([0, 1]))
    assert open_source(f"npz:{tmp_path / 'data.npz'}", schemes=DATA_SCHEMES).spec.shape == (5,)
    with pytest.raises(SourceError, match="did you mean digits"):
        open_source("digit", schemes=DATA_SCHEMES)
    with pytest.raises(SourceError, match="'digits:here' must be written digits"):
        open_source("digits:here", schemes=DATA_SCHEMES)


def test_thirty_clients_get_at_least_eight_training_examples():
    source = open_digits()
    is_train = training_flags(source, b"key")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        shares = deal(source.ids(), source.class_indices(), is_train, DealTerms(30, 8, 0.5), rng)
        assert min(sum(is_train[int(example_id)] for example_id in share) for share in shares) >= 8


def test_the_scale_may_be_chosen_and_read_back_from_a_manifest():
    source = open_digits(SpecOverrides(mean=(0.3,), deviation=(0.4,)))
    again = open_digits(source.spec)
    np.testing.assert_array_equal(source.get(["7"])[0], again.get(["7"])[0])
    assert source.get(source.ids())[0].min() == pytest.approx(-0.75)


def test_a_specification_of_other_data_is_refused():
    with pytest.raises(SpecMismatchError, match=r"resize is None, the network wants \(16, 16\)"):
        open_digits(SpecOverrides(resize=(16, 16)))
