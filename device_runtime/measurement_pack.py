"""Measurement packs: a folder of small graphs, one a kernel, batch and direction, that any ONNX Runtime can time."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from device_runtime.external_data import fault_of
from profiles.records import RecordError, decode_record
from profiles.schema import Direction, Kernel

MANIFEST = "manifest.json"
DEFAULT_PACK = Path(__file__).parent / "default_pack"


class PackError(ValueError):
    """A folder is no measurement pack, or was altered."""


@dataclass(frozen=True)
class PackEntry:
    """One graph.

    Attributes:
        sha256: Of the file `SHA256.onnx`, whose inputs may hold any values.
    """

    kernel: Kernel
    batch_size: int
    direction: Direction
    sha256: str


@dataclass(frozen=True)
class PackManifest:
    """`manifest.json`; its sha256 is the pack's id."""

    entries: tuple[PackEntry, ...]
    opset: int
    minimum_runtime: str
    compiler: dict[str, str]
    schema: int = 1


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


def graph_file(sha256: str) -> str:
    """Name of a graph's file in the folder."""
    return f"{sha256}.onnx"


def read_pack(folder: Path) -> Pack:
    """Read a pack and check every graph against its hash.

    Raises:
        PackError: Naming the file and the cure.
    """
    data = _read(folder / MANIFEST)
    manifest = decode_manifest(data, str(folder / MANIFEST))
    names = {entry.sha256 for entry in manifest.entries}
    graphs = {sha256: _read(folder / graph_file(sha256)) for sha256 in sorted(names)}
    for sha256, graph in graphs.items():
        if hashlib.sha256(graph).hexdigest() != sha256:
            raise PackError(
                f"{folder / graph_file(sha256)} was altered; compile the pack again (handheld profile pack)"
            )
    return Pack(hashlib.sha256(data).hexdigest(), manifest, graphs)


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
        raise PackError(f"{where}: {error}") from error
    if not manifest.entries:
        raise PackError(f"{where} lists no graph; compile the pack again (handheld profile pack)")
    return manifest


def default_pack() -> Pack:
    """The pack that comes with the package: kernels of small networks for images of 8 to 32 pixels."""
    return read_pack(DEFAULT_PACK)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}; name the folder of a measurement pack") from error
