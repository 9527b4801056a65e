"""The phone's own record of what its data have been spent on: charged before anything leaves, kept for a lifetime.

One ledger a data source, JSON lines that are only ever added to. Each line is `{"chain":"...","entry":{...}}` with
chain = sha256(chain of the line before, newline, the entry's bytes): a line that was changed, moved or taken out shows.
Beside it lies the head, number and chain of the last line that was charged in full. It is written before `charge`
returns, so that lines missing at the end show too.

An unterminated last line is a power cut in the middle of an append. The head does not count it, so `charge` has not
returned and nothing left the phone: opening drops it. An unterminated line that the head does count is damage.

What this does not protect from: somebody who puts back an older copy of ledger and head together, or deletes both.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from device_runtime.accounting import Budget, Release, check_fits, rdp_by_split
from device_runtime.ledger_storage import LedgerStorage
from device_runtime.runtime_check import installed_version
from device_runtime.terms import Split
from device_runtime.wire import SPLITS, Headroom
from profiles.records import RecordError, canonical_json, decode_record, encode_record, from_plain, parse_json, to_plain

_BEFORE_CHAIN, _AFTER_CHAIN, _END = b'{"chain":"', b'","entry":', b"}"
_ENTRY_STARTS = len(_BEFORE_CHAIN) + 64 + len(_AFTER_CHAIN)
_CURE = (
    "it is left as it is: put back a copy of this ledger and its .head; without one this data takes no further part in "
    "private training, for nobody knows what was spent"
)


class LedgerError(RuntimeError):
    """A ledger cannot be used; the message names the place and the cure, and the file is left as it is."""


@dataclass(frozen=True)
class Header:
    """The first line.

    Attributes:
        source: Id of the data source.
        budget: At first; its order and its unit hold for the ledger's lifetime.
    """

    source: str
    budget: Budget
    created_by: str
    type: Literal["header"] = "header"
    schema: int = 1


@dataclass(frozen=True)
class BudgetChange:
    """The app has set another budget."""

    budget: Budget
    type: Literal["budget"] = "budget"


@dataclass(frozen=True)
class Charge:
    """One release that has left the phone, or may have."""

    assignment_id: str
    release: Release
    type: Literal["release"] = "release"


Entry = Header | BudgetChange | Charge
_ENTRIES: dict[str, type[Header | BudgetChange | Charge]] = {
    "header": Header,
    "budget": BudgetChange,
    "release": Charge,
}


@dataclass(frozen=True)
class Head:
    """What is known to have been written in full."""

    num_lines: int
    chain: str


@dataclass(frozen=True)
class LedgerContent:
    """A ledger as read.

    Attributes:
        size: Bytes of the complete lines.
        head: Of the last complete line.
    """

    header: Header
    budget: Budget
    charges: tuple[Charge, ...]
    size: int
    head: Head

    def releases(self) -> tuple[Release, ...]:
        return tuple(charge.release for charge in self.charges)


def read_ledger(storage: LedgerStorage) -> LedgerContent | None:
    """Read and check a whole ledger without touching it; None where there is none yet.

    Raises:
        LedgerError: It is damaged.
    """
    data, written = storage.read(), _decode_head(storage)
    lines = data.split(b"\n")[:-1]  # what follows the last newline is no line yet
    chain, entries, chains = "", [], []
    for number, line in enumerate(lines, 1):
        entry, chain = _decode_line(storage, number, line, chain)
        entries.append(entry)
        chains.append(chain)
    _check_head(storage, written, chains)
    if not entries:
        return None
    return _content(storage, entries, sum(len(line) + 1 for line in lines), Head(len(lines), chain))


class Ledger:
    """The ledger of one data source, open for charging; one process at a time (the state folder's lock sees to it)."""

    def __init__(self, storage: LedgerStorage, source: str, budget: Budget) -> None:
        """Open the ledger of `source`, or begin it; a budget that differs from the last one is noted as a change.

        Args:
            source: Id of the data source.
            budget: Set by the app alone.

        Raises:
            LedgerError: It is damaged, of another source, or has another order or unit.
        """
        self._storage, self._is_usable, self.budget = storage, True, budget
        self._head, self._spent = Head(0, ""), dict[Split, float]()
        content = read_ledger(storage)
        if content is None:
            self._drop_unfinished(0)
            version = installed_version("handheld") or "of a source tree"
            self._write(Header(source, budget, f"handheld {version}"))
        else:
            self._check_header(content.header, source)
            self._continue(content)

    def charge(self, releases: Iterable[Release], assignment_id: str) -> None:
        """Note all releases of an assignment for good, before anything of them leaves.

        Raises:
            BudgetExceededError: They do not fit together, or are of another unit than the budget; nothing was noted,
                and nothing may leave.
            LedgerError: Writing failed before; open the ledger again.
        """
        releases = tuple(releases)
        check_fits(self.budget, self._spent, releases)
        self._write(*(Charge(assignment_id, release) for release in releases))
        self._add(releases)

    def spent_rdp(self, split: Split) -> float:
        """Renyi divergence spent on a split, at the budget's order."""
        return self._spent.get(split, 0.0)

    def headroom(self) -> Headroom:
        """What may still be spent on each split; 0 where the budget was lowered below what is spent."""
        limit = self.budget.rdp()
        return Headroom(self.budget.order, {split: max(0.0, limit - self.spent_rdp(split)) for split in SPLITS})

    def releases(self) -> tuple[Release, ...]:
        """Everything charged so far, oldest first."""
        content = read_ledger(self._storage)
        return () if content is None else content.releases()

    def _add(self, releases: Iterable[Release]) -> None:
        for split, rdp in rdp_by_split(releases, self.budget.order).items():
            self._spent[split] = self.spent_rdp(split) + rdp

    def _write(self, *entries: Entry) -> None:
        """Add lines in one go; what a power cut leaves of them counts, though nothing left the phone."""
        if not self._is_usable:
            raise LedgerError(f"{self._storage}: writing failed before; free disk space and start again")
        self._is_usable = False  # half a line may lie there until opening drops it
        lines, head = bytearray(), self._head
        for entry in entries:
            line, chain = _encode_line(entry, head.chain)
            lines += line
            head = Head(head.num_lines + 1, chain)
        self._storage.append(bytes(lines))
        self._head = head
        self._storage.write_head(encode_record(self._head))
        self._is_usable = True

    def _continue(self, content: LedgerContent) -> None:
        self._drop_unfinished(content.size)
        # A line that a power cut kept the head from counting is counted from now on.
        self._head = content.head
        self._storage.write_head(encode_record(self._head))
        self._add(content.releases())
        if self.budget != content.budget:
            self._write(BudgetChange(self.budget))

    def _drop_unfinished(self, size: int) -> None:
        if len(self._storage.read()) > size:
            self._storage.cut(size)

    def _check_header(self, header: Header, source: str) -> None:
        if header.source != source:
            raise LedgerError(
                f"{self._storage}, line 1: this is the ledger of data source {header.source}, not of {source}; "
                "name the data that it belongs to"
            )
        if header.budget.unit != self.budget.unit:
            raise LedgerError(
                f"{self._storage}, line 1: the ledger counts what leaves of one {header.budget.unit} for its lifetime, "
                f"the budget is of one {self.budget.unit}; set unit '{header.budget.unit}'"
            )
        if header.budget.order != self.budget.order:
            raise LedgerError(
                f"{self._storage}, line 1: the ledger counts at order {header.budget.order} for its lifetime, the "
                f"budget has order {self.budget.order}; set order {header.budget.order}"
            )


def _encode_line(entry: Entry, previous: str) -> tuple[bytes, str]:
    data = canonical_json(to_plain(entry))
    chain = _chain(previous, data)
    return _BEFORE_CHAIN + chain.encode() + _AFTER_CHAIN + data + _END + b"\n", chain


def _chain(previous: str, entry: bytes) -> str:
    return hashlib.sha256(previous.encode() + b"\n" + entry).hexdigest()


def _decode_line(storage: LedgerStorage, number: int, line: bytes, previous: str) -> tuple[Entry, str]:
    data = line[_ENTRY_STARTS : -len(_END)]
    chain = _chain(previous, data)
    if line != _BEFORE_CHAIN + chain.encode() + _AFTER_CHAIN + data + _END:
        raise LedgerError(
            f"{storage}, line {number}: damaged, it does not continue the line before (a line was changed, moved or "
            f"taken out); {_CURE}"
        )
    try:
        value: Any = parse_json(data, "entry")
        kind = value.get("type") if isinstance(value, dict) else None
        return from_plain(_ENTRIES.get(str(kind), Header), value), chain
    except RecordError as error:
        raise LedgerError(f"{storage}, line {number}: {error}; {_CURE}") from error


def _decode_head(storage: LedgerStorage) -> Head | None:
    data = storage.read_head()
    try:
        return decode_record(Head, data) if data else None
    except RecordError as error:
        raise LedgerError(f"{storage}, its .head: damaged ({error}); {_CURE}") from error


def _check_head(storage: LedgerStorage, written: Head | None, chains: Sequence[str]) -> None:
    if written is None:
        # Beginning a ledger writes the first line, then the head; only in between may there be one without the other.
        if len(chains) > 1:
            raise LedgerError(f"{storage}, its .head: missing; {_CURE}")
        return
    if not 1 <= written.num_lines <= len(chains) or chains[written.num_lines - 1] != written.chain:
        raise LedgerError(
            f"{storage}, line {min(written.num_lines, len(chains) + 1)}: missing or not what the head says, which "
            f"counts {written.num_lines} lines; {_CURE}"
        )


def _content(storage: LedgerStorage, entries: Sequence[Entry], size: int, head: Head) -> LedgerContent:
    header, *rest = entries
    if not isinstance(header, Header) or any(isinstance(entry, Header) for entry in rest):
        raise LedgerError(f"{storage}, line 1: a ledger has one header, as its first line; {_CURE}")
    budgets = [header.budget, *(entry.budget for entry in rest if isinstance(entry, BudgetChange))]
    charges = tuple(entry for entry in rest if isinstance(entry, Charge))
    return LedgerContent(header, budgets[-1], charges, size, head)
