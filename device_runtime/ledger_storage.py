"""Where a ledger's bytes lie: in a file, or in memory for an emulated phone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from device_runtime.durable_files import append_durably, cut_durably, write_durably


class LedgerStorage(Protocol):
    """Where a ledger lies; what `append` and `write_head` were given survives a power cut once they return."""

    def read(self) -> bytes: ...
    def read_head(self) -> bytes: ...
    def append(self, data: bytes) -> None: ...
    def cut(self, size: int) -> None: ...
    def write_head(self, data: bytes) -> None: ...


class LedgerFile:
    """A ledger at `path`, its head beside it as `NAME.head`."""

    def __init__(self, path: Path) -> None:
        self._path, self._head = path, path.with_name(f"{path.name}.head")

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""

    def read_head(self) -> bytes:
        return self._head.read_bytes() if self._head.exists() else b""

    def append(self, data: bytes) -> None:
        append_durably(self._path, data)

    def cut(self, size: int) -> None:
        cut_durably(self._path, size)

    def write_head(self, data: bytes) -> None:
        write_durably(self._head, data)


@dataclass
class LedgerMemory:
    """A ledger of an emulated phone; whoever owns it saves both fields with the run."""

    content: bytearray = field(default_factory=bytearray)
    head: bytes = b""

    def __str__(self) -> str:
        return "the emulated ledger"

    def read(self) -> bytes:
        return bytes(self.content)

    def read_head(self) -> bytes:
        return self.head

    def append(self, data: bytes) -> None:
        self.content += data

    def cut(self, size: int) -> None:
        del self.content[size:]

    def write_head(self, data: bytes) -> None:
        self.head = data
