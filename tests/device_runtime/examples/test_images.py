import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from device_runtime.examples.images import decode_image, open_images
from device_runtime.examples.source import SourceError, SpecOverrides
from device_runtime.examples.splits import split_ids
from device_runtime.specs import ExampleSpec

CIFAR = Path(__file__).parents[4] / "shared" / "data" / "cifar10-20k.tar.xz"
RNG = np.random.default_rng(0)


def write_image(path: Path, size=(4, 6), mode="RGB", **options) -> np.ndarray:
    """Write random pixels (height, width); gives them back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3) if mode == "RGB" else size, np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_image(tmp_path / "cat" / f"{i}.png")
        write_image(tmp_path / "dog" / f"{i}.JPG", quality=90)
    return tmp_path


def test_class_folders_become_labels_and_paths_become_ids(folder):
    (folder / "dog" / ".hidden.png").write_bytes(b"")
    (folder / "dog" / "notes.txt").write_text("not an image")
    source = open_images(folder)
    assert source.ids() == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.JPG", "dog/1.JPG", "dog/2.JPG")
    assert source.spec == ExampleSpec((3, 4, 6), ("cat", "dog"), colour="rgb", scale=1 / 255)
    assert source.class_indices().tolist() == [0, 0, 0, 1, 1, 1]
    assert source.clients() is None
    assert source.test_ids() is None


def test_pixels_come_channels_first_scaled_centred_and_divided(folder):
    pixels = write_image(folder / "cat" / "0.png")
    source = open_images(folder, SpecOverrides(mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.1)))
    x, y = source.get(["dog/1.JPG", "cat/0.png"])
    expected = (pixels.transpose(2, 0, 1) / 255 - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / np.reshape(
        [0.2, 0.2, 0.1], (3, 1, 1)
    )
    assert (x.dtype, y.tolist()) == (np.float32, [1, 0])
    np.testing.assert_allclose(x[1], expected, rtol=1e-4, atol=1e-5)


def test_grey_images_have_one_channel_and_may_be_asked_for(tmp_path):
    write_image(tmp_path / "a" / "0.png", mode="L")
    write_image(tmp_path / "b" / "0.png", mode="L")
    assert open_images(tmp_path).spec.shape == (1, 4, 6)
    assert open_images(tmp_path, SpecOverrides(colour="rgb")).get(["a/0.png"])[0].shape == (1, 3, 4, 6)


def test_shrinking_averages_over_the_area(tmp_path):
    # Stripes of one pixel: without antialiasing they would come out black or white.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    spec = ExampleSpec((1, 8, 8), ("a", "b"), colour="grey", resize=(8, 8))
    assert np.abs(decode_image(tmp_path / "stripes.png", spec).astype(int) - 127).max() < 10


def test_cropping_cuts_from_the_centre(tmp_path):
    pixels = write_image(tmp_path / "image.png", size=(5, 8))
    spec = ExampleSpec((3, 3, 4), ("a", "b"), colour="rgb", crop=(3, 4))
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png", spec), pixels.transpose(2, 0, 1)[:, 1:4, 2:6])


def test_a_photograph_held_sideways_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    pixels = write_image(tmp_path / "image.png", size=(5, 8), exif=exif)
    spec = ExampleSpec((3, 8, 5), ("a", "b"), colour="rgb")
    upright = np.rot90(pixels, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png", spec), upright)


def test_the_cache_is_bounded_and_changes_no_pixel(folder, monkeypatch):
    decoded = []

    def decode(path, spec):
        decoded.append(path.name)
        return decode_image(path, spec)

    monkeypatch.setattr("device_runtime.examples.images.decode_image", decode)
    cached = open_images(folder, cache_bytes=2 * 3 * 4 * 6)
    decoded.clear()
    first = cached.get(["cat/0.png", "cat/1.png", "cat/0.png"])[0]
    assert decoded == ["0.png", "1.png"]
    cached.get(["cat/2.png"])
    again = cached.get(["cat/0.png", "cat/1.png"])[0]
    assert decoded == ["0.png", "1.png", "2.png", "1.png"]  # of two kept, the one unused for longer made room
    np.testing.assert_array_equal(first[:2], again)


def test_train_and_test_folders_are_the_split(folder, tmp_path_factory):
    presplit = tmp_path_factory.mktemp("presplit")
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            for i in range(8):
                write_image(presplit / part / label / f"{i}.png")
    source = open_images(presplit)
    assert source.spec.labels == ("cat", "dog")
    assert source.ids()[0] == "test/cat/0.png"
    split = split_ids(source, b"key")
    assert {example_id.split("/")[0] for example_id in split["test"]} == {"test"}
    assert len(split["test"]) == 16
    assert {example_id.split("/")[0] for example_id in (*split["train"], *split["validation"])} == {"train"}
    (presplit / "val").mkdir()
    with pytest.raises(SourceError, match="has val beside train and test: move them into train or away"):
        open_images(presplit)


def test_clients_csv_names_the_owners(folder):
    lines = "".join(f"{example_id},client {i % 2}\n" for i, example_id in enumerate(open_images(folder).ids()))
    (folder / "clients.csv").write_text("file,client\n" + lines)
    clients = open_images(folder).clients()
    assert clients is not None
    assert clients["cat/1.png"] == "client 1"
    for text, message in (
        ("file,owner\n", "must have the columns file,client, got file,owner"),
        ("file,client\ncat/9.png,a\n", r"names 'cat/9\.png', which is not an image"),
        ("file,client\n" + "\n".join(lines.split("\n")[2:]), r"names no client for 'cat/0\.png' and 1 more"),
    ):
        (folder / "clients.csv").write_text(text)
        with pytest.raises(SourceError, match=message):
            open_images(folder)


def test_a_manifests_labels_decide_even_where_a_client_holds_few_of_them(folder):
    wanted = ExampleSpec((3, 4, 6), ("ant", "cat", "cow", "dog"), colour="rgb", scale=1 / 255)
    source = open_images(folder, wanted)
    assert source.spec == wanted
    assert source.class_indices().tolist() == [1, 1, 1, 3, 3, 3]
    write_image(folder / "fox" / "0.png")
    with pytest.raises(SourceError, match="class folder 'fox'; the network knows ant, cat, cow, dog: move it away"):
        open_images(folder, wanted)
    values = replace(wanted, target="values")
    with pytest.raises(SourceError, match="gives one image and its class, the network wants more: write an npz file"):
        open_images(folder, values)


class TestRefusal:
    def test_one_class(self, tmp_path):
        write_image(tmp_path / "cat" / "0.png")
        with pytest.raises(SourceError, match=r"has one class \(cat\); a classifier needs two: make a folder for each"):
            open_images(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not an image at all", "cut"])
    def test_an_unreadable_image_is_named(self, folder, content):
        path = folder / "dog" / "1.JPG"
        path.write_bytes(path.read_bytes()[:300] if content == "cut" else content)
        with pytest.raises(SourceError, match=r"dog/1\.JPG cannot be decoded as JPEG or PNG .*: replace or remove it"):
            open_images(folder).get(["cat/0.png", "dog/1.JPG"])

    def test_an_unreadable_first_image(self, folder):
        (folder / "cat" / "0.png").write_bytes(b"GIF89a")
        with pytest.raises(SourceError, match=r"cat/0\.png cannot be decoded"):
            open_images(folder)

    def test_images_of_several_sizes_without_resize(self, folder):
        write_image(folder / "dog" / "0.JPG", size=(7, 6))
        with pytest.raises(SourceError, match=r"shape \[3, 7, 6\], the specification \[3, 4, 6\]: set resize"):
            open_images(folder).get(["dog/0.JPG"])
        resized = open_images(folder, SpecOverrides(resize=(2, 3)))
        assert resized.get(resized.ids())[0].shape == (6, 3, 2, 3)

    def test_an_image_smaller_than_the_crop(self, folder):
        with pytest.raises(SourceError, match=r"is \[4, 6\], smaller than crop \[5, 5\]: set resize or crop less"):
            open_images(folder, SpecOverrides(crop=(5, 5)))

    def test_more_than_eight_bits(self, folder):
        Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(folder / "dog" / "16.png")
        with pytest.raises(SourceError, match=r"16\.png has pixels of mode I;16, more than 8 bits: convert it"):
            open_images(folder).get(["dog/16.png"])

    def test_an_empty_class_folder(self, folder):
        (folder / "eel").mkdir()
        with pytest.raises(SourceError, match="eel has no JPEG or PNG file: add images or remove it"):
            open_images(folder)

    def test_no_folder_and_no_classes(self, tmp_path):
        with pytest.raises(SourceError, match="nowhere is not a folder"):
            open_images(tmp_path / "nowhere")
        with pytest.raises(SourceError, match="has no class folder with images"):
            open_images(tmp_path)

    def test_a_colour_that_images_do_not_have(self, folder):
        with pytest.raises(SourceError, match="colour must be grey or rgb for images, got 'none'"):
            open_images(folder, SpecOverrides(colour="none"))

    def test_an_id_that_is_not_there(self, folder):
        with pytest.raises(SourceError, match=r"has no example '\.\./secret\.png'"):
            open_images(folder).get(["../secret.png"])


def is_wanted(path: Path) -> bool:
    """The first 45 training and 15 test images of each class."""
    return path.suffix == ".jpg" and int(path.stem) < (45 if "train" in path.parts else 15)


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 images are not beside the project (shared/data)")
def test_real_photographs_are_read(tmp_path):
    with tarfile.open(CIFAR) as archive:
        archive.extractall(tmp_path, [member for member in archive if is_wanted(Path(member.name))], filter="data")
    source = open_images(tmp_path / "cifar10-20k", SpecOverrides(resize=(16, 16)))
    assert len(source.ids()) == 600
    assert source.spec.labels[:3] == ("airplane", "automobile", "bird")
    x, y = source.get(source.ids())
    assert x.shape == (600, 3, 16, 16)
    assert 0.4 < x.mean() < 0.55
    assert 0.15 < x.std() < 0.35
    assert np.bincount(y).tolist() == [60] * 10
    assert len(split_ids(source, b"key")["test"]) == 150
