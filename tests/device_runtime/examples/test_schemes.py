import numpy as np
import pytest
from PIL import Image

from device_runtime.examples.schemes import open_source
from device_runtime.examples.source import SourceError, SpecOverrides


def test_the_scheme_decides_what_is_opened(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(tmp_path / "pictures" / label / "0.png")
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 5)), y=np.array(["cat", "dog"]))
    assert open_source(f"images:{tmp_path / 'pictures'}").spec.shape == (3, 2, 3)
    assert open_source(f"npz:{tmp_path / 'data.npz'}").spec.shape == (5,)
    assert open_source(f"images:{tmp_path / 'pictures'}", SpecOverrides(colour="grey")).spec.shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image:photos", "'image:photos' has the unknown scheme 'image': did you mean images:DIR"),
        ("photos", "the unknown scheme 'photos': write one of images:DIR, npz:FILE"),
        ("", "the unknown scheme '': write one of"),
        ("npz", "'npz' must be written npz:FILE"),
    ],
)
def test_what_cannot_be_opened_is_told_how_to_write_it(text, message):
    with pytest.raises(SourceError, match=message):
        open_source(text)
