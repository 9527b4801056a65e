"""A profile with three measured kernels and round figures."""

import pytest

from profiles.kernel import Kernel
from profiles.schema import DeviceProfile, Figure, KernelTime, Rates, Runtime, Throughput

CONV = Kernel("conv", (4, 8, 8), (8, 8, 8), kernel=3)
DEPTHWISE = Kernel("conv", (4, 8, 8), (4, 8, 8), kernel=3, groups=4)


def figure(value: float, unit: str) -> Figure:
    return Figure(value, unit, "measured", "a test")


@pytest.fixture(scope="session")
def profile() -> DeviceProfile:
    """Compute 1 GMAC/s, 1 GB/s, 1 ms a layer, 2 ms a call; backward all twice."""
    forward = Rates(figure(1, "GMAC/s"), figure(1, "GB/s"), figure(1, "ms"))
    gradient = Rates(figure(0.5, "GMAC/s"), figure(0.5, "GB/s"), figure(2, "ms"))
    return DeviceProfile(
        name="test-phone",
        device_class="mid",
        soc="a SoC",
        clusters=(),
        ram_mib=figure(2048, "MiB"),
        abi="arm64-v8a",
        os="an OS",
        runtime=Runtime("onnxruntime", "1.19.2"),
        threads=1,
        throughput=Throughput(forward, forward, gradient, call_overhead_ms=figure(2, "ms")),
        kernels=(
            KernelTime(CONV, 1, "forward", 12.0, 13.0, 11.0, 0.1, 30),
            KernelTime(CONV, 16, "gradient", 102.0, 110.0, 100.0, 0.1, 30),
            KernelTime(DEPTHWISE, 1, "forward", 5.0, 6.0, 4.0, 0.1, 30),
        ),
    )
