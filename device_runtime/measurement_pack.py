"""Measurement packs: whole networks' graphs, in three directions, that any ONNX Runtime can time.

A folder of a manifest and an archive of the graphs: together they take a third of what they would one by one.

The nodes of a graph are named after the kernels they belong to, so that one run under the runtime's node profiler
yields a time for each kernel: `k3/Conv_7` is of the graph's fourth kernel, `k3k9/Softmax_2` of two alike. What cuts the
parameters' vector into parts and joins it again is called `parameters`, and what comes after the last layer `loss`.
"""

import hashlib
import io
import lzma
import tarfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.external_data import fault_of
from profiles.kernel import Kernel
from profiles.placement import is_of_old_labels
from profiles.records import RecordError, decode_record
from profiles.schema import Direction

MANIFEST, GRAPHS = "manifest.json", "graphs.tar.xz"
CALL_KIND = "call"
DEFAULT_PACK = Path(__file__).parent / "default_pack"


class PackError(ValueError):
    """A folder is no measurement pack, or was altered."""


@dataclass(frozen=True)
class PackEntry:
    """One graph.

    Attributes:
        kernels: In order and with repeats, by their places in the manifest's list.
        network: The graphs of a network share its number.
        sha256: Of the graph, which the archive has as `SHA256.onnx`. Its inputs may hold any values.
    """

    kernels: tuple[int, ...]
    batch_size: int
    direction: Direction
    network: int
    sha256: str

    def __post_init__(self) -> None:
        if not self.kernels or min(self.kernels) < 0 or self.batch_size < 1:
            raise ValueError(f"a graph must have kernels and batch_size >= 1, got {self.kernels}, {self.batch_size}")


@dataclass(frozen=True)
class PackManifest:
    """`manifest.json`; its sha256 is the pack's id.

    Attributes:
        kernels: Of all graphs, each once.
        entries: The first network is an empty call, whose only kernel is of the kind `call`; then those that show most,
            the most telling first.
    """

    kernels: tuple[Kernel, ...]
    entries: tuple[PackEntry, ...]
    opset: int
    minimum_runtime: str
    compiler: dict[str, str]
    schema: int = 1

    def __post_init__(self) -> None:
        places = [place for entry in self.entries for place in entry.kernels]
        if max(places, default=0) >= len(self.kernels):
            raise ValueError(f"entries name kernel {max(places)} of {len(self.kernels)}")

    def kernels_of(self, entry: PackEntry) -> tuple[Kernel, ...]:
        """A graph's kernels, in order and with repeats."""
        return tuple(self.kernels[place] for place in entry.kernels)

    def networks(self) -> tuple[tuple[PackEntry, ...], ...]:
        """The graphs of each network but the empty call."""
        found: dict[int, tuple[PackEntry, ...]] = {}
        for entry in self.entries:
            if not self.is_call(entry):
                found[entry.network] = (*found.get(entry.network, ()), entry)
        return tuple(found.values())

    def call(self) -> PackEntry | None:
        """The empty call."""
        return next((entry for entry in self.entries if self.is_call(entry)), None)

    def is_call(self, entry: PackEntry) -> bool:
        """Whether a graph is nothing but a call."""
        return all(kernel.kind == CALL_KIND for kernel in self.kernels_of(entry))


@dataclass(frozen=True)
class Pack:
    """A pack in memory. It may come from a server, so that no graph of it may read what else lies on the device.

    Attributes:
        graphs: Bytes by sha256.

    Raises:
        PackError: A graph is no ONNX file, or refers to other files.
    """

    pack_id: str
    manifest: PackManifest
    graphs: dict[str, bytes]

    def __post_init__(self) -> None:
        for sha256, graph in self.graphs.items():
            if fault := fault_of(graph):
                where = f"graph {sha256} of measurement pack {self.pack_id[:12]}"
                raise PackError(f"{where} {fault}; compile the pack again (handheld profile pack)")


def archive_of(graphs: Iterable[bytes]) -> bytes:
    """The archive of graphs; the same graphs give the same bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz", preset=9) as archive:
        for sha256, graph in {hashlib.sha256(graph).hexdigest(): graph for graph in graphs}.items():
            member = tarfile.TarInfo(f"{sha256}.onnx")
            member.size = len(graph)
            archive.addfile(member, io.BytesIO(graph))
    return file.getvalue()


def read_pack(folder: Path) -> Pack:
    """Read a pack and check every graph against its hash.

    Raises:
        PackError: Naming the file and the cure.
    """
    data = _read(folder / MANIFEST)
    manifest = decode_manifest(data, str(folder / MANIFEST))
    names = {entry.sha256 for entry in manifest.entries}
    return Pack(hashlib.sha256(data).hexdigest(), manifest, _read_graphs(folder / GRAPHS, names))


def decode_manifest(data: bytes, where: str) -> PackManifest:
    """Read the bytes of a pack's manifest.

    Args:
        where: Names them in a message.

    Raises:
        PackError: They are none, or list no graph.
    """
    try:
        manifest = decode_record(PackManifest, data)
    except RecordError as error:
        cure = "a pack of another version must be compiled again (handheld profile pack)"
        raise PackError(f"{where}: {error}; {cure}") from error
    if is_of_old_labels(manifest.kernels):
        raise PackError(f"{where} labels kernels as older versions did; compile the pack again (handheld profile pack)")
    if not manifest.entries:
        raise PackError(f"{where} lists no graph; compile the pack again (handheld profile pack)")
    return manifest


def default_pack() -> Pack:
    """The pack that comes with the package: small networks for images of 8 and 32 pixels."""
    return read_pack(DEFAULT_PACK)


def _read_graphs(path: Path, names: Collection[str]) -> dict[str, bytes]:
    data, graphs = _read(path), dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None and (name := Path(member.name).stem) in names:
                    graphs[name] = file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise PackError(f"{path} was altered ({error}); compile the pack again (handheld profile pack)") from error
    for name in sorted(names):
        if hashlib.sha256(graphs.get(name, b"")).hexdigest() != name:
            raise PackError(f"graph {name} of {path} was altered; compile the pack again (handheld profile pack)")
    return graphs


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}; name the folder of a measurement pack") from error
