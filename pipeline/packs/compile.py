"""Compile a measurement pack into a folder: graphs of whole networks, a manifest with hashes."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx

from device_runtime.measurement_pack import MANIFEST, Pack, PackEntry, PackManifest, graph_file, pack_graph, read_pack
from pipeline.compile.builder import OPSET, CompileError
from pipeline.compile.versions import MINIMUM_RUNTIME, compiler_versions
from pipeline.packs.networks import CALL, call_graph, network_graphs, shipped_graph
from profiles.kernel import Kernel
from profiles.records import encode_record
from profiles.schema import Direction
from search.architecture import Architecture
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of

Graph = tuple[int, Direction, int, tuple[Kernel, ...], onnx.ModelProto]


def compile_pack(
    networks: Sequence[Architecture],
    batch_size: int,
    folder: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    shipped: Sequence[Architecture] = (),
) -> Pack:
    """Write the pack of `networks` into `folder` (made, or replaced when it holds a pack) and read it back.

    The same networks give the same bytes.

    Args:
        networks: The most telling first.
        batch_size: B, the examples of one training step.
        advance: Called after each network, for a progress bar.
        shipped: Further ones, of which the pack has the shipped model alone: it takes a hundredth of a gradient's time
            to measure, and many whole networks tell what sums of kernels do not.

    Raises:
        CompileError: A network cannot be compiled, or `folder` holds something else; it is then untouched.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".packing-") as temporary:
        built = Path(temporary) / "pack"
        built.mkdir()
        _write(_graphs(networks, batch_size, shipped, advance), built)
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        built.rename(folder)
    return read_pack(folder)


def _graphs(
    networks: Sequence[Architecture], batch_size: int, shipped: Sequence[Architecture], advance: Callable[[], None]
) -> Iterator[Graph]:
    yield 0, "forward", 1, (CALL,), call_graph()
    for number, network in enumerate(networks, 1):
        kernels: dict[Direction, tuple[int, tuple[Kernel, ...]]] = {
            "forward": (1, kernels_of(network)),
            "evaluate": (batch_size, evaluation_kernels_of(network)),
            "gradient": (batch_size, training_kernels_of(network)),
        }
        for direction, model in network_graphs(network, batch_size).items():
            yield number, direction, *kernels[direction], model
        advance()
    for number, network in enumerate(shipped, len(networks) + 1):
        yield number, "forward", 1, kernels_of(network), shipped_graph(network)
        advance()


def _write(graphs: Iterator[Graph], folder: Path) -> None:
    places: dict[Kernel, int] = {}
    entries = []
    for number, direction, batch_size, kernels, model in graphs:
        data = model.SerializeToString(deterministic=True)
        sha256 = hashlib.sha256(data).hexdigest()
        (folder / graph_file(sha256)).write_bytes(pack_graph(data))
        found = tuple(places.setdefault(kernel, len(places)) for kernel in kernels)
        entries.append(PackEntry(found, batch_size, direction, number, sha256))
    manifest = PackManifest(tuple(places), tuple(entries), OPSET, MINIMUM_RUNTIME, compiler_versions())
    (folder / MANIFEST).write_bytes(encode_record(manifest))


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CompileError(f"{folder} holds something that is no measurement pack; name an empty or a new folder")
