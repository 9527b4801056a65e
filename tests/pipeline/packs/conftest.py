"""Profiles that hold a time of every kernel of a list."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from profiles.catalogue import load_profile
from profiles.schema import DeviceProfile, KernelKey, KernelTime


@pytest.fixture(scope="session")
def profile_of() -> Callable[[Iterable[KernelKey]], DeviceProfile]:
    """A phone on which each of these kernels took a millisecond."""

    def make(keys: Iterable[KernelKey]) -> DeviceProfile:
        times = tuple(KernelTime(*key, 1.0, 1.0, 1.0, 0.0, 10) for key in keys)
        return replace(load_profile("pixel-4"), kernels=times)

    return make
