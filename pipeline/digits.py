"""`digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels, for demos, tests and benches."""

from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits

from device_runtime.examples.memory import ArraySource
from device_runtime.examples.schemes import SCHEMES, Opener
from device_runtime.examples.source import DataSet, Wanted, check_spec
from device_runtime.specs import ExampleSpec

SPEC = ExampleSpec((1, 8, 8), tuple("0123456789"), colour="grey", scale=1 / 16)


def open_digits(wanted: Wanted | None = None) -> ArraySource:
    """Open x f32[n, 1, 8, 8] in 0..1 (unless `wanted` scales otherwise) and y i64[n], in scikit-learn's order.

    Raises:
        SpecMismatchError: A manifest's specification is of other data.
    """
    data = load_digits()
    x = np.asarray(data.images, np.float32)[:, None]
    return ArraySource(x, np.asarray(data.target), _spec(wanted))


def _spec(wanted: Wanted | None) -> ExampleSpec:
    if wanted is None:
        return SPEC
    spec = wanted if isinstance(wanted, ExampleSpec) else wanted.apply(SPEC)
    # How pixels are scaled and what the version is called may be chosen; the rest is what digits are.
    free = replace(SPEC, scale=spec.scale, mean=spec.mean, deviation=spec.deviation, version=spec.version)
    check_spec(free, spec)
    return spec


def _open(_path: str, wanted: Wanted) -> DataSet:
    return open_digits(wanted)


DATA_SCHEMES: dict[str, tuple[Opener, str]] = {"digits": (_open, "digits"), **SCHEMES}
