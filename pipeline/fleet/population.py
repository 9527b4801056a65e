"""Make the phones of a fleet: their keys, profiles, shares of the data, spells of being there, ledgers."""

from collections import Counter
from dataclasses import dataclass, field, replace

import onnxruntime

from device_runtime.accounting import Budget
from device_runtime.client import new_client
from device_runtime.driver import opset_of
from device_runtime.examples import DataSet, split_ids
from device_runtime.wire import SPLITS, CheckIn
from pipeline.fleet.availability import Availability, AvailabilityTerms
from pipeline.fleet.durations import TimesOf
from pipeline.fleet.phones import Phone, link_speed, new_ledger
from pipeline.fleet.stragglers import StragglerTerms, is_straggler, slowed
from pipeline.fleet.workers import Engine, FleetData, phone_key, split_key
from profiles.records import record_id
from profiles.schema import DeviceProfile


@dataclass(frozen=True)
class FleetTerms:
    """Who the phones are.

    Attributes:
        profiles: The phones take turns through them.
        times_of: How long a chunk takes on a profile.
        rotation: Which fifth of the examples is the test split.
        num_workers: Processes that compute; 1 is this one.
        engine: Whether they are on this machine or on a Ray cluster.
    """

    profiles: tuple[DeviceProfile, ...]
    times_of: TimesOf
    availability: AvailabilityTerms = field(default_factory=AvailabilityTerms)
    stragglers: StragglerTerms = field(default_factory=StragglerTerms)
    rotation: int = 0
    num_workers: int = 1
    engine: Engine = "process"


def make_phones(budget: Budget | None, terms: FleetTerms, data: FleetData, source: DataSet) -> list[Phone]:
    """One phone a share, none of which has met a server yet.

    A straggler computes more slowly than the profile that it checks in with: nobody knows before it trains.

    Args:
        budget: Of each phone's ledger.
        source: All phones' examples.
    """
    check_ins = [_describe(profile, source) for profile in terms.profiles]
    links = [link_speed(profile) for profile in terms.profiles]
    slow = [slowed(profile, terms.stragglers.factor) for profile in terms.profiles]
    seed = int.from_bytes(data.seed, "big")
    phones = []
    for index, counts in enumerate(_count_examples(terms, data, source)):
        turn, key = index % len(terms.profiles), phone_key(data.seed, index)
        phone = Phone(
            index=index,
            key=key,
            profile=(slow if is_straggler(terms.stragglers, seed, index) else terms.profiles)[turn],
            link=links[turn],
            availability=Availability(terms.availability, seed, index),
            check_in=replace(check_ins[turn], num_examples=counts),
            ledger=new_ledger(budget, key.key_id),
            state=new_client(key, is_emulated=True),
        )
        phones.append(phone)
    return phones


def _describe(profile: DeviceProfile, source: DataSet) -> CheckIn:
    return CheckIn(
        runtime_version=onnxruntime.__version__,
        opset=opset_of(onnxruntime.__version__),
        spec_id=record_id(source.spec),
        num_examples={},
        profile_id=record_id(profile),
        device_class=profile.device_class,
    )


def _count_examples(terms: FleetTerms, data: FleetData, source: DataSet) -> list[dict[str, int]]:
    """Each phone's public counts; every example is hashed once, however many phones there are."""
    splits = split_ids(source, split_key(data.seed), terms.rotation)
    split_of = {example_id: split for split, ids in splits.items() for example_id in ids}
    counts = [Counter(split_of[example_id] for example_id in share) for share in data.shares]
    return [{split: count[split] for split in SPLITS} for count in counts]
