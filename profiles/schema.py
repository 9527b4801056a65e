"""The device profile: what one phone or desktop can do, as a record in which every figure says where it comes from."""

from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal

from profiles.kernel import Kernel
from profiles.records import later
from profiles.sessions import Session

Provenance = Literal["measured", "published", "estimated"]
DeviceClass = Literal["entry", "mid", "high", "flagship", "desktop"]
Direction = Literal["forward", "evaluate", "gradient"]
KernelKey = tuple[Kernel, int, Direction]


@dataclass(frozen=True)
class Figure:
    """One number and where it comes from.

    Attributes:
        provenance: `measured` by Handheld on the device itself, `published` by others, or `estimated` from other
            figures.
        source: Which file or publication, and for an estimate how.
    """

    value: float
    unit: str
    provenance: Provenance
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.value < inf:
            raise ValueError(f"value must be >= 0 and finite, got {self.value} {self.unit}")
        if not self.unit or not self.source:
            raise ValueError(f"a figure must name its unit and its source, got {self.unit!r} and {self.source!r}")


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        core: Name of the core, or the model string of a desktop's CPU.
        max_mhz: Highest frequency; its source stands for the number of cores too. None where the system does not tell.
    """

    core: str
    num_cores: int
    max_mhz: Figure | None


@dataclass(frozen=True)
class Link:
    """A connection: how fast bytes go each way, and how long the first one takes."""

    download_mbit_s: Figure
    upload_mbit_s: Figure
    latency_ms: Figure


@dataclass(frozen=True)
class Runtime:
    """The inference library that the times belong to."""

    name: str
    version: str


@dataclass(frozen=True)
class KernelTime:
    """What a kernel took, in milliseconds of one run of its graph.

    Where the profile has networks it is the time of the kernel's nodes within them, once; else that of a graph of this
    kernel alone, the call included.

    Attributes:
        batch_size: Examples in a run.
        direction: `forward` as in a shipped model, `evaluate` as in evaluate.onnx, `gradient` for forward and backward
            with the clipped sum of each example's gradient as in gradient.onnx.
        spread: Distance of the quartiles divided by the median.
        repetitions: Timed runs.
        samples_ms: Some of these runs, evenly taken over the rounds, in order.
    """

    kernel: Kernel
    batch_size: int
    direction: Direction
    median_ms: float
    p90_ms: float
    min_ms: float
    spread: float
    repetitions: int
    samples_ms: tuple[float, ...] = later(())


@dataclass(frozen=True)
class NetworkTime:
    """What a whole graph took, in milliseconds of a run that nothing watched, the call included; see `KernelTime`.

    Attributes:
        kernels: With repeats, as `search.cost` lists them for the direction.
    """

    kernels: tuple[Kernel, ...]
    batch_size: int
    direction: Direction
    median_ms: float
    p90_ms: float
    min_ms: float
    spread: float
    repetitions: int
    samples_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """How a network's time follows from its kernels', and how far a prediction is to be trusted.

    Attributes:
        factor: A network's time divided by the sum of its kernels' and the call's overhead; > 0.
        low80, high80, low95, high95: Ends of the intervals in multiples of the prediction.
        p90_over_p50: Of a network's single runs.
        source: As a figure's.
    """

    direction: Direction
    factor: float
    low80: float
    high80: float
    low95: float
    high95: float
    p90_over_p50: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.low95 <= self.low80 <= self.high80 <= self.high95 < inf:
            ends = self.low95, self.low80, self.high80, self.high95
            raise ValueError(f"intervals must be > 0 and within each other, low95 <= low80 <= high80 <= high95: {ends}")
        if not 0 < self.factor < inf or self.p90_over_p50 < 1:
            raise ValueError(f"factor must be > 0, p90_over_p50 >= 1, got {self.factor} and {self.p90_over_p50}")


@dataclass(frozen=True)
class Rates:
    """How fast kernels run that nobody measured: overhead + multiply-accumulates / gmac_s + bytes / memory_gb_s.

    Multiply-accumulates and bytes are those of the forward pass in every direction: the rates of the gradient hold what
    the backward pass adds.

    Attributes:
        gmac_s: 1e9 multiply-accumulates a second; > 0.
        memory_gb_s: 1e9 bytes a second; > 0.
        layer_overhead_ms: Of each layer, whatever its size.
    """

    gmac_s: Figure
    memory_gb_s: Figure
    layer_overhead_ms: Figure

    def __post_init__(self) -> None:
        if min(self.gmac_s.value, self.memory_gb_s.value) <= 0:
            raise ValueError(f"rates must be > 0, got {self.gmac_s.value} and {self.memory_gb_s.value}")

    def kernel_ms(self, kernel: Kernel, batch_size: int) -> float:
        """Milliseconds of one kernel for a batch."""
        compute = batch_size * kernel.multiply_accumulates() / (self.gmac_s.value * 1e6)
        memory = kernel.bytes_moved(batch_size) / (self.memory_gb_s.value * 1e6)
        return self.layer_overhead_ms.value + compute + memory


@dataclass(frozen=True)
class Throughput:
    """What kernels that nobody measured are predicted from: rates for each direction.

    Attributes:
        call_overhead_ms: Of each run of a graph, whatever is in it.
    """

    forward: Rates
    evaluate: Rates
    gradient: Rates
    call_overhead_ms: Figure

    def kernel_ms(self, kernel: Kernel, batch_size: int, direction: Direction) -> float:
        """Milliseconds of one kernel for a batch, without the call's overhead."""
        rates: Rates = getattr(self, direction)
        return rates.kernel_ms(kernel, batch_size)


@dataclass(frozen=True)
class DeviceProfile:
    """What one device can do; its id is the sha256 of its canonical JSON.

    Attributes:
        name: Of the device, as in the catalogue.
        clusters: The slowest first.
        abi: Instruction set, e.g. `arm64-v8a`.
        threads: Threads that the times belong to.
        affinity: Which cores ran them; None for the system's choice.
        link: None where nothing is known.
        kernels: Measured times; empty for a phone known from publications only.
        is_stable: Whether the times can be relied on; `warnings` tell why not.
        battery_mah: Capacity of the battery when new; None where nothing is known, or there is none.
        networks: Whole graphs of a measured device.
        sessions: In which it was measured, the oldest first.
        calibrations: Given for a device that nobody measured; unused where its own networks are enough to learn from.
    """

    name: str
    device_class: DeviceClass
    soc: str
    clusters: tuple[Cluster, ...]
    ram_mib: Figure
    abi: str
    os: str
    runtime: Runtime
    threads: int
    throughput: Throughput
    affinity: str | None = None
    link: Link | None = None
    kernels: tuple[KernelTime, ...] = ()
    is_stable: bool = True
    warnings: tuple[str, ...] = ()
    schema: int = 1
    battery_mah: Figure | None = later(None)
    networks: tuple[NetworkTime, ...] = later(())
    sessions: tuple[Session, ...] = later(())
    calibrations: tuple[Calibration, ...] = later(())

    def __post_init__(self) -> None:
        if not self.name or self.threads < 1:
            raise ValueError(f"a profile must have a name and threads >= 1, got {self.name!r} and {self.threads}")

    def __hash__(self) -> int:
        """Cheap, for the caches of the predictor: a profile holds thousands of kernels and is looked up for each."""
        return hash((self.name, self.soc, self.threads, len(self.kernels)))

    @cached_property
    def times_by_kernel(self) -> dict[KernelKey, KernelTime]:
        """Measured times by what was measured."""
        return {(time.kernel, time.batch_size, time.direction): time for time in self.kernels}
