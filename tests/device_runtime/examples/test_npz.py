import numpy as np
import pytest

from device_runtime.examples.npz import open_npz
from device_runtime.examples.source import SourceError, SpecOverrides
from device_runtime.specs import ExampleSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def test_bytes_become_numbers_from_zero_to_one(save):
    source = open_npz(save(x=PIXELS, y=Y))
    assert source.spec == ExampleSpec((3, 4, 5), ("0", "1", "2"), colour="rgb", scale=1 / 255)
    x, y = source.get(["5", "0"])
    np.testing.assert_allclose(x, PIXELS[[5, 0]] / 255.0, rtol=1e-6)
    assert y.tolist() == [2, 0]
    assert source.clients() is None


def test_planes_get_a_channel_and_floats_stay_as_they_are(save):
    values = PIXELS[:, 0].astype(np.float64)
    source = open_npz(save(x=values, y=Y))
    assert (source.spec.shape, source.spec.colour, source.spec.scale) == ((1, 4, 5), "grey", 1.0)
    np.testing.assert_array_equal(source.get(source.ids())[0][:, 0], values)


def test_rows_of_features_are_no_images(save):
    assert open_npz(save(x=PIXELS[:, 0, 0], y=Y)).spec.colour == "none"


def test_class_names_are_sorted_and_owners_are_kept(save):
    names = np.array(["dog", "cat", "eel", "dog", "cat", "eel"])
    source = open_npz(save(x=PIXELS, y=names, client=np.array([7, 7, 8, 8, 9, 9])))
    assert source.spec.labels == ("cat", "dog", "eel")
    assert source.class_indices().tolist() == [1, 0, 2, 1, 0, 2]
    assert source.clients() == dict(zip("012345", "778899", strict=True))


def test_overrides_are_heard(save):
    source = open_npz(save(x=PIXELS, y=Y), SpecOverrides(scale=1.0, mean=(1.0, 2.0, 3.0), version="x"))
    expected = PIXELS[:1] - np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(source.get(["0"])[0], expected, rtol=1e-6)
    assert source.spec.version == "x"


def test_a_manifests_labels_decide_even_where_a_client_holds_few_of_them(save):
    wanted = ExampleSpec((3, 4, 5), ("ant", "cat", "dog", "eel"), colour="rgb", scale=1 / 255)
    assert open_npz(save(x=PIXELS[:2], y=np.array(["eel", "cat"])), wanted).class_indices().tolist() == [3, 1]
    assert open_npz(save(x=PIXELS[:1], y=np.array([2])), wanted).class_indices().tolist() == [2]
    assert open_npz(save(x=PIXELS[:1], y=np.array([2])), wanted).spec == wanted
    with pytest.raises(SourceError, match="y has the class 'fox'; the network knows ant, cat, dog, eel"):
        open_npz(save(x=PIXELS[:2], y=np.array(["fox", "cat"])), wanted)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, "lacks y, it has x; save x and y"),
        ({"images": PIXELS}, "lacks x and y, it has images"),
        ({"x": PIXELS, "y": Y[:5]}, r"y must hold one label for each of 6 examples in x, got shape \[5\]"),
        ({"x": PIXELS, "y": Y, "client": Y[:2]}, "client must name an owner for each of 6 examples in x, got 2"),
        ({"x": PIXELS, "y": Y * 0}, r"y has 1 class \(0\); a classifier needs two"),
        ({"x": PIXELS[:0], "y": Y[:0]}, "y has 0 class"),
        ({"x": PIXELS, "y": Y - 1}, "labels must be 0 to 1, got -1 to 1"),
        ({"x": PIXELS, "y": Y / 2}, r"y must hold class indices \(integers\) or class names \(strings\), got float64"),
        ({"x": PIXELS.transpose(0, 2, 3, 1), "y": Y}, r"looks channels last; store numpy\.transpose"),
        ({"x": PIXELS.astype(str), "y": Y}, "x must hold numbers that float32 can hold"),
        ({"x": PIXELS.astype(object), "y": Y}, r"cannot be read: Object arrays .* write it with numpy\.savez"),
        ({"x": np.zeros(6), "y": Y}, r"or \[n, features\], got \[6\]"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named_with_the_cure(save, arrays, message):
    with pytest.raises(SourceError, match=message):
        open_npz(save(**arrays))


def test_resizing_is_left_to_image_folders(save):
    with pytest.raises(SourceError, match="resize and crop apply to images:DIR; store x in its final size"):
        open_npz(save(x=PIXELS, y=Y), SpecOverrides(resize=(2, 2)))


def test_a_file_that_is_no_npz_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", Y)
    for name in ("text.npz", "one.npy", "none.npz"):
        with pytest.raises(SourceError, match=rf"{name} cannot be read: .*; write it with numpy\.savez"):
            open_npz(tmp_path / name)
