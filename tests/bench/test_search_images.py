import io
import tarfile

import numpy as np
from PIL import Image

from bench.search_images import write_npz
from device_runtime.examples import SpecOverrides, open_source


def test_an_archive_of_photographs_becomes_one_npz_of_small_ones(tmp_path):
    archive = tmp_path / "few.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name, grey in (("train/cat/1", 10), ("train/dog/1", 200), ("test/cat/2", 30), ("test/dog/2", 90)):
            data = io.BytesIO()
            Image.new("RGB", (32, 32), (grey,) * 3).save(data, "PNG")
            member = tarfile.TarInfo(f"few/{name}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    path = tmp_path / "few.npz"
    write_npz(archive, path)
    source = open_source(f"npz:{path}", SpecOverrides())
    assert (source.spec.shape, source.spec.labels, len(source.ids())) == ((3, 16, 16), ("cat", "dog"), 4)
    x, y = source.get(source.ids())
    red, blue = x[:, 0].mean((1, 2)) * 0.229 + 0.485, x[:, 2].mean((1, 2)) * 0.225 + 0.406
    assert sorted(zip(y.tolist(), (255 * red).round().tolist(), strict=True)) == [(0, 10), (0, 30), (1, 90), (1, 200)]
    np.testing.assert_allclose(red, blue, atol=1e-6)
    archive.unlink()
    write_npz(archive, path)  # what is there is not read again
