from dataclasses import replace
from io import BytesIO
from zipfile import ZipFile

import numpy as np
import pytest

from device_runtime.examples.npz import open_npz
from device_runtime.examples.source import SourceError, SpecOverrides
from device_runtime.specs import ExampleSpec, InputSpec

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


class TestWholeNumbers:
    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
    def test_rows_of_them_are_ids(self, save, dtype):
        ids = np.arange(24, dtype=dtype).reshape(6, 4)
        source = open_npz(save(x=ids, y=Y))
        assert source.spec == ExampleSpec((4,), ("0", "1", "2"), dtype="int64")
        np.testing.assert_array_equal(source.get(source.ids())[0], ids)
        assert source.get(["0"])[0].dtype == np.int64

    def test_bytes_and_images_are_numbers_to_scale(self, save):
        assert open_npz(save(x=PIXELS[:, 0, 0], y=Y)).spec.dtype == "float32"
        assert open_npz(save(x=PIXELS.astype(np.int64), y=Y)).spec == ExampleSpec(
            (3, 4, 5), ("0", "1", "2"), colour="rgb"
        )

    def test_a_manifest_decides(self, save):
        ids = np.arange(24).reshape(6, 4)
        wanted = ExampleSpec((4,), ("0", "1", "2"), scale=0.5)
        np.testing.assert_array_equal(open_npz(save(x=ids, y=Y), wanted).get(["1"])[0], ids[1:2] / 2)
        wanted = ExampleSpec((4,), ("0", "1", "2"), dtype="int64")
        assert open_npz(save(x=ids.astype(np.uint8), y=Y), wanted).get(["1"])[0].dtype == np.int64
        with pytest.raises(SourceError, match=r"data\.npz: scale must be left out with dtype int64"):
            open_npz(save(x=ids, y=Y), SpecOverrides(scale=0.5))
        with pytest.raises(SourceError, match="x must hold numbers that int64 can hold, got float64"):
            open_npz(save(x=ids / 2, y=Y), wanted)


class TestValues:
    VALUES = np.linspace(0, 1, 12).reshape(6, 2)

    def test_they_are_named_by_their_index_or_as_the_file_says(self, save):
        source = open_npz(save(x=PIXELS, y=self.VALUES))
        assert source.spec == ExampleSpec((3, 4, 5), ("0", "1"), colour="rgb", scale=1 / 255, target="values")
        y = source.get(["5", "0"])[1]
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, self.VALUES[[5, 0]], rtol=1e-6)
        named = open_npz(save(x=PIXELS, y=self.VALUES > 0.5, labels=["cat", "dog"]))
        assert named.spec.labels == ("cat", "dog")
        np.testing.assert_array_equal(named.get(["0", "5"])[1], [[0, 0], [1, 1]])

    def test_one_value_is_enough(self, save):
        assert open_npz(save(x=PIXELS, y=self.VALUES[:, :1])).spec.labels == ("0",)

    def test_there_is_no_class_to_deal_by(self, save):
        with pytest.raises(SourceError, match=r"y holds values, not classes.*: set partition to iid, or to file"):
            open_npz(save(x=PIXELS, y=self.VALUES)).class_indices()

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"y": VALUES[:, 0]}, r"got float64; values to predict are \[n, K\]: store y\[:, None\] for one"),
            ({"y": VALUES[:5]}, r"y must hold 2 values for each of 6 examples in x, got shape \[5, 2\]"),
            ({"y": VALUES[:, :0]}, r"labels must name each of 0 values"),
            ({"y": VALUES.astype(str)}, r"y of shape \[6, 2\] must hold numbers, got <U"),
            ({"y": VALUES * np.nan}, "y must be finite in float32"),
            ({"y": VALUES * 1e300}, "y must be finite in float32"),
            ({"y": VALUES, "labels": ["cat"]}, r"labels must name each of 2 values of y, got shape \[1\]"),
        ],
    )
    def test_what_does_not_fit_is_named_with_the_cure(self, save, arrays, message):
        with pytest.raises(SourceError, match=message):
            open_npz(save(x=PIXELS, **arrays))

    def test_a_network_that_wants_the_other_kind_is_told_apart(self, save):
        spec = open_npz(save(x=PIXELS, y=self.VALUES)).spec
        with pytest.raises(
            SourceError, match=r"the network wants y to hold values, \[n, 2\], got int64 of shape \[6\]"
        ):
            open_npz(save(x=PIXELS, y=Y), spec)
        with pytest.raises(SourceError, match=r"wants y to hold class indices or names, \[n\], got float64 of shape"):
            open_npz(save(x=PIXELS, y=self.VALUES), ExampleSpec((3, 4, 5), ("0", "1"), colour="rgb"))


class TestSeveralInputs:
    IDS = np.arange(18, dtype=np.int32).reshape(6, 3)
    WEIGHTS = np.linspace(0, 1, 6)
    SPEC = ExampleSpec((), ("0", "1", "2"), inputs=(InputSpec("weight", ()), InputSpec("ids", (3,), "int64")))

    def test_they_are_one_array_of_rows_in_the_order_of_the_file(self, save):
        source = open_npz(save(**{"x.weight": self.WEIGHTS, "x.ids": self.IDS}, y=Y))
        assert source.spec == self.SPEC
        x, y = source.get(["4", "1"])
        assert x.dtype == self.SPEC.row_dtype()
        np.testing.assert_array_equal(x["ids"], self.IDS[[4, 1]])
        np.testing.assert_allclose(x["weight"], self.WEIGHTS[[4, 1]], rtol=1e-6)
        assert y.tolist() == [1, 1]
        assert source.get([])[0].shape == (0,)

    def test_a_manifests_order_and_types_decide(self, save):
        wanted = replace(self.SPEC, inputs=(InputSpec("ids", (3,)), InputSpec("weight", ())))
        source = open_npz(save(**{"x.weight": self.WEIGHTS, "x.ids": self.IDS}, y=Y), wanted)
        assert source.spec == wanted
        assert source.get(["0"])[0]["ids"].dtype == np.float32

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x.ids": IDS}, "inputs must be two or more of distinct names"),
            ({"x.ids": IDS, "x": PIXELS}, r"has x beside x\.ids; save one x, or every input as x\.NAME"),
            ({"x.ids": IDS, "x.2nd": IDS}, r"data\.npz: an input's name must be of letters, digits and _"),
            ({"x.ids": IDS, "x.weight": WEIGHTS[:5]}, r"x\.weight must be \[6\], a row for each of 6 y, got \[5\]"),
            ({"x.ids": IDS, "x.word": IDS.astype(str)}, r"x\.word must hold numbers that float32 can hold, got <U"),
        ],
    )
    def test_what_does_not_fit_is_named_with_the_cure(self, save, arrays, message):
        with pytest.raises(SourceError, match=message):
            open_npz(save(**arrays, y=Y))

    @pytest.mark.parametrize("arrays", [{"x": PIXELS}, {"x.ids": IDS}, {"x.ids": IDS, "x.weight": WEIGHTS, "x.c": IDS}])
    def test_a_network_of_other_inputs_names_its_own(self, save, arrays):
        with pytest.raises(SourceError, match=r"the network takes x\.weight, x\.ids; save exactly these"):
            open_npz(save(**arrays, y=Y), self.SPEC)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, "lacks y, it has x; save x and y"),
        ({"images": PIXELS}, "lacks x and y, it has images"),
        ({"x": PIXELS, "y": Y[:5]}, r"y must hold one label for each of 6 examples in x, got shape \[5\]"),
        ({"x": PIXELS, "y": Y, "client": Y[:2]}, "client must name an owner for each of 6 examples in x, got 2"),
        ({"x": PIXELS, "y": Y * 0}, r"y has 1 class \(0\); a classifier needs two"),
        ({"x": PIXELS[:0], "y": Y[:0]}, "y has 0 class"),
        ({"x": PIXELS, "y": Y - 1}, r"labels must be >= 0, got -1; renumber y from 0"),
        ({"x": PIXELS, "y": -(Y // 2)}, r"labels must be >= 0, got -1; renumber y from 0"),
        ({"x": PIXELS, "y": Y * 10**9}, r"labels must be below 100000, got 2000000000; correct it, or renumber"),
        ({"x": PIXELS, "y": Y.astype(np.uint64) + 2**63}, r"labels must be below 100000, got 922337203685477581"),
        ({"x": PIXELS, "y": Y, "client": "a"}, r"client must name an owner for each example, \[n\], got shape \[\]"),
        ({"x": PIXELS, "y": Y, "client": Y[:, None]}, r"client must name an owner .* got shape \[6, 1\]"),
        ({"x": np.full((6, 4), 2**63 + 1, np.uint64), "y": Y}, r"x must hold whole numbers below 2\^63, got 92233"),
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


def test_a_manifests_classes_bound_labels_and_nothing_else_does(save):
    many = ExampleSpec((3, 4, 5), tuple(map(str, range(100_002))), colour="rgb", scale=1 / 255)
    assert open_npz(save(x=PIXELS[:1], y=np.array([100_001])), many).class_indices().tolist() == [100_001]
    few = replace(many, labels=("0", "1"))
    with pytest.raises(SourceError, match="labels must be below 2, got 18446744073709551615"):
        open_npz(save(x=PIXELS[:1], y=np.array([2**64 - 1], np.uint64)), few)


def claim(shape):
    """The bytes of an .npy that says it has this shape, and nothing after it."""
    member = BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return member.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.npy", b"hello"), ("x", b"hello"), ("x.npy", claim((10**13,))), ("x.npy", claim((-5, 4))), ("x.npy", b"")],
)
def test_a_member_that_is_no_array_or_claims_too_much_is_named(save, name, data):
    path = save(y=Y)
    with ZipFile(path, "a") as file:
        file.writestr(name, data)
    with pytest.raises(SourceError, match=r"data\.npz cannot be read: .*; write it with numpy\.savez"):
        open_npz(path)


def test_damage_to_a_compressed_file_is_named(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=PIXELS, y=Y)
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"data\.npz cannot be read: .*; write it with numpy\.savez"):
        open_npz(path)


def test_resizing_is_left_to_image_folders(save):
    with pytest.raises(SourceError, match="resize and crop apply to images:DIR; store x in its final size"):
        open_npz(save(x=PIXELS, y=Y), SpecOverrides(resize=(2, 2)))


def test_a_file_that_is_no_npz_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", Y)
    for name in ("text.npz", "one.npy", "none.npz"):
        with pytest.raises(SourceError, match=rf"{name} cannot be read: .*; write it with numpy\.savez"):
            open_npz(tmp_path / name)
