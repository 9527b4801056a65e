from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from device_runtime.specs import ExampleSpec
from pipeline.digits import SPEC
from pipeline.ship.golden import golden_raw, random_inputs, write_golden_images

PHOTOGRAPHS = ExampleSpec(
    (3, 24, 20), ("a", "b"), colour="rgb", resize=(32, 32), crop=(24, 20), scale=1 / 255, mean=(0.5,), deviation=(0.25,)
)
READINGS = ExampleSpec((2, 5), ("a", "b"), scale=0.1, mean=(3.0, -1.0), deviation=(2.0, 0.5))


def test_a_bundle_goes_from_the_image_over_raw_values_to_x(shipped):
    golden = load_file(Path(shipped.folder) / "golden.safetensors")
    for i, (raw, x) in enumerate(zip(golden["raw"], golden["x"], strict=True)):
        pixels = np.asarray(Image.open(Path(shipped.folder) / f"golden-{i}.png"))
        np.testing.assert_array_equal(pixels, raw[0])
        np.testing.assert_allclose(x, pixels[None] / 16, rtol=1e-6)
        assert 4 < pixels.max() <= 16  # what digits stores


def test_golden_images_need_the_resize_and_the_crop_of_the_specification(tmp_path):
    names = write_golden_images(PHOTOGRAPHS, tmp_path)
    raw = golden_raw(PHOTOGRAPHS, tuple(tmp_path / name for name in names))
    assert raw.shape == (3, 3, 24, 20)
    with Image.open(tmp_path / names[0]) as image:
        assert (image.mode, image.size) == ("RGB", (48, 48))
        resized = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(raw[0], resized[:, 4:28, 6:26])


def test_a_crop_alone_gets_a_margin(tmp_path):
    spec = ExampleSpec((1, 6, 6), ("a", "b"), colour="grey", crop=(6, 6), scale=1 / 255)
    names = write_golden_images(spec, tmp_path)
    assert golden_raw(spec, tuple(tmp_path / name for name in names)).shape == (3, 1, 6, 6)
    with Image.open(tmp_path / names[0]) as image:
        assert (image.mode, image.size) == ("L", (10, 10))


def test_golden_images_are_the_same_every_time_and_unlike_each_other(tmp_path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files.append([(tmp_path / name / file).read_bytes() for file in write_golden_images(SPEC, tmp_path / name)])
    assert files[0] == files[1]
    assert len(set(files[0])) == 3


def test_what_is_no_image_has_raw_values_that_normalise_to_about_one(tmp_path):
    assert write_golden_images(READINGS, tmp_path) == ()
    raw = golden_raw(READINGS, ())
    assert (raw.dtype, raw.shape) == (np.float32, (3, 2, 5))
    x = random_inputs(READINGS, 200)[2:]
    np.testing.assert_allclose(x.mean(axis=(0, 2)), 0, atol=0.15)
    np.testing.assert_allclose(x.std(axis=(0, 2)), 1, atol=0.15)


@pytest.mark.parametrize(("spec", "low", "high"), [(SPEC, 0, 1), (PHOTOGRAPHS, -2, 2)])
def test_random_inputs_reach_both_ends_of_the_range(spec, low, high):
    x = random_inputs(spec, 8)
    assert x.dtype == np.float32
    np.testing.assert_allclose([x[0].min(), x[0].max(), x[1].min(), x[1].max()], [low, low, high, high])
    assert x[2:].std() > (high - low) / 5
