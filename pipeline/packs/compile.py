"""Compile a measurement pack into a folder: a graph for each kernel, batch and direction; a manifest with hashes."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from device_runtime.measurement_pack import MANIFEST, Pack, PackEntry, PackManifest, graph_file, read_pack
from pipeline.compile.builder import OPSET, CompileError
from pipeline.compile.versions import MINIMUM_RUNTIME, compiler_versions
from pipeline.packs.kernel_graphs import kernel_graph
from profiles.records import encode_record
from profiles.schema import KernelKey


def compile_pack(keys: Sequence[KernelKey], folder: Path, advance: Callable[[], None] = lambda: None) -> Pack:
    """Write the pack of `keys` into `folder` (made, or replaced when it holds a pack) and read it back.

    The same keys give the same bytes.

    Args:
        advance: Called after each graph, for a progress bar.

    Raises:
        CompileError: For a kernel of an unknown kind, or when `folder` holds something else; it is then untouched.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".packing-") as temporary:
        built = Path(temporary) / "pack"
        built.mkdir()
        entries = [_write_graph(key, built, advance) for key in keys]
        manifest = PackManifest(tuple(entries), OPSET, MINIMUM_RUNTIME, compiler_versions())
        (built / MANIFEST).write_bytes(encode_record(manifest))
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        built.rename(folder)
    return read_pack(folder)


def _write_graph(key: KernelKey, folder: Path, advance: Callable[[], None]) -> PackEntry:
    graph = kernel_graph(*key).SerializeToString(deterministic=True)
    sha256 = hashlib.sha256(graph).hexdigest()
    (folder / graph_file(sha256)).write_bytes(graph)
    advance()
    return PackEntry(*key, sha256)


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CompileError(f"{folder} holds something that is no measurement pack; name an empty or a new folder")
