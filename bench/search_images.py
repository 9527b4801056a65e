"""cifar10-20k as one npz of small photographs, made from the archive beside the project: it is no part of it."""

import tarfile
import tempfile
from pathlib import Path

import numpy as np

from device_runtime.examples import SpecOverrides
from device_runtime.examples.images import decode_image, open_images

ARCHIVE = Path(__file__).parent.parent.parent / "shared" / "data" / "cifar10-20k.tar.xz"
SIDE = 16  # pixels
# Usual means and deviations of photographs' colours, from other data (ImageNet): no client's own are told.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_npz(archive: Path, path: Path) -> None:
    """Write all images of an archive's `train` and `test`, f32[n, 3, 16, 16] around 0, with their class names; once.

    The clients split their own data, so what its author set apart for testing is dealt out like the rest.
    """
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        folder = next(Path(temporary).iterdir())
        source = open_images(folder, SpecOverrides(resize=(SIDE, SIDE)))
        pixels = np.stack([decode_image(folder / name, source.spec) for name in source.ids()])
        y = np.array(source.spec.labels)[source.class_indices()]
    mean, deviation = (np.array(one, np.float32)[:, None, None] for one in (MEAN, DEVIATION))
    x = (pixels.astype(np.float32) / 255 - mean) / deviation
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, x=x, y=y)
    part.rename(path)  # a whole file, or none
