"""Compile a measurement pack into a folder: graphs of whole networks, a manifest with hashes."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx

from device_runtime.measurement_pack import GRAPHS, MANIFEST, Pack, PackEntry, PackManifest, archive_of, read_pack
from pipeline.compile.builder import OPSET, CompileError
from pipeline.compile.versions import MINIMUM_RUNTIME, compiler_versions
from pipeline.packs.networks import CALL, call_graph, network_graphs
from profiles.kernel import Kernel
from profiles.records import encode_record
from profiles.schema import Direction
from search.architecture import Architecture
from search.cost import KERNELS_OF

Graph = tuple[int, Direction, int, tuple[Kernel, ...], onnx.ModelProto]


def compile_pack(
    networks: Sequence[Architecture],
    batch_size: int,
    folder: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    further: Sequence[Architecture] = (),
) -> Pack:
    """Write the pack of `networks` into `folder` (made, or replaced when it holds a pack) and read it back.

    The same networks give the same bytes.

    Args:
        networks: The most telling first.
        batch_size: B, the examples of one training step.
        advance: Called after each network, for a progress bar.
        further: Ones without `evaluate`, which tells the least: many whole networks tell what sums of kernels do not.

    Raises:
        CompileError: A network cannot be compiled, or `folder` holds something else; it is then untouched.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".packing-") as temporary:
        built = Path(temporary) / "pack"
        built.mkdir()
        _write(_graphs(networks, batch_size, further, advance), built)
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        built.rename(folder)
    return read_pack(folder)


def _graphs(
    networks: Sequence[Architecture], batch_size: int, further: Sequence[Architecture], advance: Callable[[], None]
) -> Iterator[Graph]:
    yield 0, "forward", 1, (CALL,), call_graph()
    for number, network in enumerate((*networks, *further), 1):
        for direction, model in network_graphs(network, batch_size).items():
            if direction != "evaluate" or number <= len(networks):
                its_batch = 1 if direction == "forward" else batch_size
                yield number, direction, its_batch, KERNELS_OF[direction](network), model
        advance()


def _write(graphs: Iterator[Graph], folder: Path) -> None:
    places: dict[Kernel, int] = {}
    entries, written = [], []
    for number, direction, batch_size, kernels, model in graphs:
        written.append(model.SerializeToString(deterministic=True))
        found = tuple(places.setdefault(kernel, len(places)) for kernel in kernels)
        entries.append(PackEntry(found, batch_size, direction, number, hashlib.sha256(written[-1]).hexdigest()))
    manifest = PackManifest(tuple(places), tuple(entries), OPSET, MINIMUM_RUNTIME, compiler_versions())
    (folder / GRAPHS).write_bytes(archive_of(written))
    (folder / MANIFEST).write_bytes(encode_record(manifest))


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CompileError(f"{folder} holds something that is no measurement pack; name an empty or a new folder")
