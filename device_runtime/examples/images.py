"""`images:DIR`: a folder for each class with JPEG or PNG files, decoded when asked for."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from device_runtime.arrays import Inputs, Labels
from device_runtime.examples.source import SourceError, SpecOverrides, Wanted, check_channels, normalize
from device_runtime.specs import Colour, ExampleSpec

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
CLIENTS_FILE = "clients.csv"
CACHE_BYTES = 64 * 2**20
MODES = {"grey": "L", "rgb": "RGB"}
# Modes that convert to 8 bits without loss of meaning; 16-bit and float images would be cut off at 255.
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder: class names, and each image's class by its path below the folder ("cat/1.png")."""

    labels: tuple[str, ...]
    classes: dict[str, str]
    is_presplit: bool


class ImageFolder:
    """Images below a folder; an example's id is its path below it, with `/`.

    Only what `get` was asked for is decoded, and at most `cache_bytes` of decoded 8-bit pixels are kept.
    """

    def __init__(self, folder: Path, listing: _Listing, spec: ExampleSpec, cache_bytes: int = CACHE_BYTES) -> None:
        self._folder, self._listing, self._spec = folder, listing, check_channels(spec)
        self._ids = tuple(sorted(listing.classes))
        self._clients = _read_clients(folder, listing)
        image_bytes = int(np.prod(spec.shape))
        self._pixels = lru_cache(maxsize=cache_bytes // image_bytes)(self._decode)

    @property
    def spec(self) -> ExampleSpec:
        return self._spec

    def ids(self) -> tuple[str, ...]:
        return self._ids

    def get(self, ids: Sequence[str]) -> tuple[Inputs, Labels]:
        raw = np.zeros((len(ids), *self._spec.shape), np.uint8)
        for i, example_id in enumerate(ids):
            raw[i] = self._pixels(example_id)
        return normalize(raw, self._spec), self._classes(ids)

    def class_indices(self) -> Labels:
        return self._classes(self._ids)

    def clients(self) -> dict[str, str] | None:
        return self._clients

    def test_ids(self) -> frozenset[str] | None:
        if not self._listing.is_presplit:
            return None
        return frozenset(example_id for example_id in self._ids if example_id.startswith("test/"))

    def _classes(self, ids: Sequence[str]) -> Labels:
        index = {label: i for i, label in enumerate(self._spec.labels)}
        return np.array([index[self._listing.classes[example_id]] for example_id in ids], np.int64)

    def _decode(self, example_id: str) -> NDArray[np.uint8]:
        if example_id not in self._listing.classes:
            raise SourceError(f"{self._folder} has no example {example_id!r}")
        path = self._folder / example_id
        pixels = decode_image(path, self._spec)
        if pixels.shape != self._spec.shape:
            raise SourceError(
                f"{path} has shape {list(pixels.shape)}, the specification {list(self._spec.shape)}: "
                "set resize so that all images get one size"
            )
        return pixels


def open_images(folder: Path, wanted: Wanted = SpecOverrides(), cache_bytes: int = CACHE_BYTES) -> ImageFolder:  # noqa: B008  (frozen)
    """Open class folders with JPEG or PNG files.

    Either `DIR/CLASS/*`, split by keyed hash, or `DIR/train/CLASS/*` and `DIR/test/CLASS/*`. `DIR/clients.csv` (columns
    `file,client`) may name every image's owner. Colour, and without `resize` the size, are those of the first image.

    Args:
        wanted: A manifest's specification, which must know these folders' labels, or what to set in place of guesses.

    Raises:
        SourceError: Names the folder or file that does not fit, and the cure.
    """
    listing = _list_images(folder)
    if isinstance(wanted, ExampleSpec):
        if wanted.inputs or wanted.target != "class":
            raise SourceError(f"{folder} gives one image and its class, the network wants more: write an npz file")
        unknown = sorted(set(listing.labels) - set(wanted.labels))
        if unknown:
            known = ", ".join(wanted.labels)
            raise SourceError(f"{folder} has the class folder {unknown[0]!r}; the network knows {known}: move it away")
        return ImageFolder(folder, listing, wanted, cache_bytes)
    if len(listing.labels) < 2:
        raise SourceError(
            f"{folder} has one class ({listing.labels[0]}); a classifier needs two: make a folder for each class"
        )
    return ImageFolder(folder, listing, _guess_spec(folder, listing, wanted), cache_bytes)


def decode_image(path: Path, spec: ExampleSpec) -> NDArray[np.uint8]:
    """Pixels u8[channels, height, width]: upright (EXIF), in the specification's colour, resized, cropped.

    Resizing is bilinear and antialiased: each pixel is a triangle-weighted mean over the area it shrinks from.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            _check_mode(path, image.mode)
            upright = ImageOps.exif_transpose(image).convert(MODES[_colour(spec)])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path} cannot be decoded as JPEG or PNG ({error}): replace or remove it") from error
    if spec.resize is not None:
        upright = upright.resize(spec.resize[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(upright, np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    # A copy, since a view would keep what was cut away in the cache.
    return np.ascontiguousarray(pixels if spec.crop is None else _crop(path, pixels, spec.crop))


def _check_mode(path: Path, mode: str) -> None:
    if mode not in EIGHT_BIT_MODES:
        raise SourceError(f"{path} has pixels of mode {mode}, more than 8 bits: convert it to an 8-bit image")


def _colour(spec: ExampleSpec) -> Colour:
    if spec.colour not in MODES:
        raise SourceError(f"colour must be grey or rgb for images, got {spec.colour!r}; set colour")
    return spec.colour


def _crop(path: Path, pixels: NDArray[np.uint8], crop: tuple[int, int]) -> NDArray[np.uint8]:
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape[1:], crop, strict=True))
    if min(top, left) < 0:
        raise SourceError(
            f"{path} is {list(pixels.shape[1:])}, smaller than crop {list(crop)}: set resize or crop less"
        )
    return pixels[:, top : top + crop[0], left : left + crop[1]]


def _guess_spec(folder: Path, listing: _Listing, wanted: SpecOverrides) -> ExampleSpec:
    first = folder / min(listing.classes)
    # The shape follows from decoding one image as the rest of the specification says.
    guess = wanted.apply(ExampleSpec((1,), listing.labels, colour=_guess_colour(first), scale=1 / 255))
    return replace(guess, shape=decode_image(first, guess).shape)


def _guess_colour(path: Path) -> Colour:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return "grey" if image.mode in {"1", "L", "LA"} else "rgb"
    except OSError as error:
        raise SourceError(f"{path} cannot be decoded as JPEG or PNG ({error}): replace or remove it") from error


def _list_images(folder: Path) -> _Listing:
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; images:DIR wants one with a folder for each class")
    names = _folders(folder)
    is_presplit = {"train", "test"} <= set(names)
    if is_presplit and len(names) > 2:
        others = ", ".join(sorted(set(names) - {"train", "test"}))
        raise SourceError(f"{folder} has {others} beside train and test: move them into train or away")
    roots = ("train", "test") if is_presplit else ("",)
    classes = {
        path.relative_to(folder).as_posix(): label
        for root in roots
        for label in _folders(folder / root)
        for path in _images(folder / root / label)
    }
    if not classes:
        raise SourceError(f"{folder} has no class folder with images; put them into DIR/CLASS/*.jpg or *.png")
    return _Listing(tuple(sorted(set(classes.values()))), classes, is_presplit)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not images:
        raise SourceError(f"class folder {folder} has no JPEG or PNG file: add images or remove it")
    return images


def _read_clients(folder: Path, listing: _Listing) -> dict[str, str] | None:
    path = folder / CLIENTS_FILE
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        reader: csv.DictReader[Any] = csv.DictReader(file)
        if set(reader.fieldnames or ()) != {"file", "client"}:
            raise SourceError(f"{path} must have the columns file,client, got {','.join(reader.fieldnames or ())}")
        clients = {row["file"]: row["client"] for row in reader}
    strays = sorted(set(clients) - set(listing.classes))
    if strays:
        raise SourceError(
            f"{path} names {strays[0]!r}, which is not an image below {folder}: write paths like CLASS/1.jpg"
        )
    orphans = sorted(set(listing.classes) - set(clients))
    if orphans:
        raise SourceError(f"{path} names no client for {orphans[0]!r} and {len(orphans) - 1} more: add them")
    return clients
