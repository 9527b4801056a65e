"""What little is known of a new phone: times of some kernels and of whole models, measured quickly or by other tools.

`few.json` is such a record, written by hand or by `handheld profile import`; a measured profile is one as well. The
shortest one by hand:

    {"source": "my own stopwatch", "models": [{"model": "mobilenet_v1", "median_ms": 41.5}]}
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from profiles.kernel import Kernel
from profiles.known_models import KNOWN_MODELS
from profiles.records import RecordError, from_plain, parse_json
from profiles.samples import summarize
from profiles.schema import DeviceProfile, Direction, KernelTime, NetworkTime, Runtime

UNKNOWN_VERSION = "unknown"  # of a runtime, where a tool's file tells its name alone


@dataclass(frozen=True)
class ModelLatency:
    """What a whole model took.

    Attributes:
        model: A name of `profiles.known_models`, or any name where `kernels` or `architecture` tell what it is.
        median_ms: Or a mean, where no more is known.
        architecture: File of an Architecture, beside this one; whoever reads the file resolves it to kernels.
        kernels: With repeats, in order.
    """

    model: str
    median_ms: float
    p90_ms: float | None = None
    repetitions: int = 1
    batch_size: int = 1
    direction: Direction = "forward"
    architecture: str | None = None
    kernels: tuple[Kernel, ...] = ()

    def __post_init__(self) -> None:
        p90_ms = self.median_ms if self.p90_ms is None else self.p90_ms
        if not 0 < self.median_ms <= p90_ms:
            raise ValueError(
                f"model {self.model!r} must have 0 < median_ms <= p90_ms, got {self.median_ms} and {p90_ms}"
            )
        if min(self.batch_size, self.repetitions) < 1:
            raise ValueError(f"model {self.model!r} must have batch_size and repetitions >= 1")


@dataclass(frozen=True)
class FewTimes:
    """What little is known of a phone.

    Attributes:
        source: Who measured, with what.
        kernels: Without the call of their graph, unless one of kind `call` tells what that takes.
        networks: Whole graphs whose kernels are known.
        models: Likewise, by name.
    """

    source: str
    kernels: tuple[KernelTime, ...] = ()
    networks: tuple[NetworkTime, ...] = ()
    models: tuple[ModelLatency, ...] = ()
    runtime: Runtime | None = None
    threads: int = 1
    schema: int = 1


def read_few(data: bytes | str, what: str) -> FewTimes | DeviceProfile:
    """Read `few.json`: a FewTimes, or the profile of a phone that was measured quickly.

    Args:
        what: Name of the file, for messages.

    Raises:
        RecordError: It is neither.
    """
    plain = parse_json(data, what)
    if not isinstance(plain, dict):
        raise RecordError(f"{what} must be an object with kernels, networks or models, got {type(plain).__name__}")
    try:
        return from_plain(DeviceProfile, plain) if "throughput" in plain else from_plain(FewTimes, plain)
    except RecordError as error:
        raise RecordError(f"{what}: {error}") from error


def few_of(profile: DeviceProfile) -> FewTimes:
    """The times of a measured profile."""
    source = f"profile {profile.name!r}, measured by Handheld"
    return FewTimes(source, profile.kernels, profile.networks, (), profile.runtime, profile.threads)


def join_few(all_times: Sequence[FewTimes]) -> FewTimes:
    """Times of one phone from several files, of which some may not tell their runtime, or its version.

    Raises:
        ValueError: They are of other runtimes or numbers of threads.
    """
    first = max(all_times, key=lambda one: _told(one.runtime))
    for one in all_times:
        if one.threads != first.threads or not _may_be_one(one.runtime, first.runtime):
            raise ValueError(
                f"times of one phone must be of one runtime and number of threads, got {first.source!r} "
                f"({_name_of(first.runtime)}) with {first.threads} thread(s) and {one.source!r} "
                f"({_name_of(one.runtime)}) with {one.threads}: measure them alike"
            )
    return replace(
        first,
        source="; ".join(dict.fromkeys(one.source for one in all_times)),
        kernels=tuple(time for one in all_times for time in one.kernels),
        networks=tuple(network for one in all_times for network in one.networks),
        models=tuple(model for one in all_times for model in one.models),
    )


def _told(runtime: Runtime | None) -> int:
    return 0 if runtime is None else 1 if runtime.version == UNKNOWN_VERSION else 2


def _name_of(runtime: Runtime | None) -> str:
    return "runtime not told" if runtime is None else f"{runtime.name} {runtime.version}"


def _may_be_one(runtime: Runtime | None, other: Runtime | None) -> bool:
    if runtime is None or other is None:
        return True
    return runtime.name == other.name and (UNKNOWN_VERSION in (runtime.version, other.version) or runtime == other)


def with_networks(few: FewTimes) -> FewTimes:
    """The same times, models turned into networks.

    Raises:
        ValueError: A model of which nothing but an unknown name is told.
    """
    return replace(few, networks=(*few.networks, *map(_network_of, few.models)), models=())


def _network_of(model: ModelLatency) -> NetworkTime:
    kernels = model.kernels or KNOWN_MODELS.get(model.model, ())
    if not kernels:
        raise ValueError(
            f"model {model.model!r} is not known: give its `architecture` (a file of an Architecture) or `kernels`, "
            f"or measure one of {', '.join(KNOWN_MODELS)}"
        )
    p90_ms = model.median_ms if model.p90_ms is None else model.p90_ms
    times = model.median_ms, p90_ms, model.median_ms, 0.0, model.repetitions
    return NetworkTime(kernels, model.batch_size, model.direction, *times)


def kernel_time(kernel: Kernel, batch_size: int, samples_ms: Sequence[float]) -> KernelTime:
    """Summarise the runs of a kernel, forward; of a mean alone the spread is 0 and all quantiles are the mean."""
    summary = summarize([samples_ms])
    told = summary.samples_ms if len(samples_ms) > 1 else ()
    return KernelTime(kernel, batch_size, "forward", **asdict(replace(summary, samples_ms=told)))
