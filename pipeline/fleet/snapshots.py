"""A phone between two rounds as a record, so that a killed run goes on as if it had never stopped."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from device_runtime.client_records import ClientState, Event, Request
from pipeline.fleet.fleet import Arrival, Delivery, Fleet, Pending, Working
from pipeline.fleet.phones import Phone
from profiles.records import from_plain, later, to_plain

# What may be under way, by the name it is kept under: a request, an event, or work.
_TYPES: dict[str, Any] = {cls.__name__: cls for cls in (Request, *get_args(Event), Working)}


@dataclass(frozen=True)
class PhoneSnapshot:
    """One phone; its ledger is rebuilt from the charges, which are kept apart as they grow.

    Attributes:
        due: When `pending` happens; None for a phone that has stopped.
        kind: Type of what is under way.
        pending: Its fields; bytes in base64.
        cached: Blobs that it holds, the ones used last at the end.
        updates: Stored updates in base64, by sha256.
        stopped: Why it stopped.
        heat, heat_since: Of a phone that work heats, and the moment from which on it rests.
    """

    state: ClientState
    due: float | None
    kind: str
    pending: dict[str, Any]
    cached: tuple[str, ...]
    updates: dict[str, str]
    stopped: str | None = None
    heat: float = later(0.0)
    heat_since: float = later(0.0)
    schema: int = 1


def take_snapshot(fleet: Fleet, index: int) -> PhoneSnapshot:
    """What must not be forgotten of one phone."""
    phone = fleet.phones[index]
    updates = {name: _to_text(data) for name, data in phone.updates.items()}
    if index not in fleet.pending:
        stopped = fleet.stopped[index]
        return PhoneSnapshot(phone.state, None, "", {}, tuple(phone.cached), updates, stopped, *_heat_of(phone))
    due, pending = fleet.pending[index]
    kind, plain = encode_pending(pending)
    return PhoneSnapshot(phone.state, due, kind, plain, tuple(phone.cached), updates, None, *_heat_of(phone))


def restore_phone(fleet: Fleet, index: int, snapshot: PhoneSnapshot) -> None:
    """Put a freshly made phone into the state of a snapshot; work that was under way is computed again."""
    phone = fleet.phones[index]
    phone.state = snapshot.state
    if phone.heat is not None:
        phone.heat = replace(phone.heat, level=snapshot.heat, since=snapshot.heat_since)
    phone.cached.update(dict.fromkeys(snapshot.cached))
    phone.updates.update({name: base64.b64decode(text) for name, text in snapshot.updates.items()})
    if snapshot.due is None:
        fleet.stopped[index] = snapshot.stopped or ""
    else:
        fleet.schedule(index, snapshot.due, decode_pending(snapshot.kind, snapshot.pending))


def _heat_of(phone: Phone) -> tuple[float, float]:
    return (0.0, 0.0) if phone.heat is None else (phone.heat.level, phone.heat.since)


def encode_pending(pending: Pending) -> tuple[str, dict[str, Any]]:
    """Name of the type and plain JSON data of what is under way."""
    value: Any = pending
    if isinstance(pending, Arrival):
        value = pending.request
    elif isinstance(pending, Delivery):
        value = pending.event
    return type(value).__name__, {field.name: _encode(getattr(value, field.name)) for field in fields(value)}


def decode_pending(kind: str, plain: dict[str, Any]) -> Pending:
    """The opposite of `encode_pending`."""
    cls = _TYPES[kind]
    # Messages with bytes hold nothing else that JSON does not; records hold no bytes.
    value = cls(**plain | {"body": base64.b64decode(plain["body"])}) if "body" in plain else from_plain(cls, plain)
    if isinstance(value, Working):
        return value
    return Arrival(value) if isinstance(value, Request) else Delivery(value)


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return _to_text(value)
    return dict(value) if isinstance(value, Mapping) else to_plain(value)


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
