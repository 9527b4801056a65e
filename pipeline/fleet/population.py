"""Make the phones of a fleet: their keys, profiles, shares of the data, spells of being there, ledgers."""

import hashlib
import hmac
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
from pipeline.fleet.phones import LinkSpeed, Phone, link_speed, new_ledger, speed_of
from pipeline.fleet.stragglers import StragglerTerms, is_straggler, slowed
from pipeline.fleet.strain import cool_phone
from pipeline.fleet.workers import Engine, FleetData, phone_key
from profiles.population import Population, draw_links, draw_population
from profiles.records import record_id
from profiles.schema import DeviceProfile
from profiles.sustained import ROUGH_TAIL


@dataclass(frozen=True)
class FleetTerms:
    """Who the phones are.

    Attributes:
        profiles: The phones take turns through them, or have those that `population` draws for them.
        population: None where they take turns. Drawn phones have drawn links as well.
        times_of: How long a chunk takes on a profile.
        rotation: Which fifth of the examples is the test split.
        has_heat, has_tails: Whether work heats phones, and whether single runs scatter about their medians.
        num_workers: Processes that compute; 1 is this one.
        engine: Whether they are on this machine or on a Ray cluster.
    """

    profiles: tuple[DeviceProfile, ...]
    times_of: TimesOf
    availability: AvailabilityTerms = field(default_factory=AvailabilityTerms)
    stragglers: StragglerTerms = field(default_factory=StragglerTerms)
    population: Population | None = None
    has_heat: bool = False
    has_tails: bool = False
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
    cast = _cast_of(terms, data)
    slow = [slowed(profile, terms.stragglers.factor) for profile in terms.profiles]
    seed = int.from_bytes(data.seed, "big")
    phones = []
    for index, counts in enumerate(_count_examples(terms, data, source)):
        (turn, link), key = cast[index], phone_key(data.seed, index)
        phone = Phone(
            index=index,
            key=key,
            profile=(slow if is_straggler(terms.stragglers, seed, index) else terms.profiles)[turn],
            link=link,
            availability=Availability(terms.availability, seed, index),
            check_in=replace(check_ins[turn], num_examples=counts),
            ledger=new_ledger(budget, key.key_id),
            state=new_client(key, is_emulated=True),
            heat=cool_phone(terms.profiles[turn], seed, index) if terms.has_heat else None,
            tail=ROUGH_TAIL if terms.has_tails else None,  # phones in use, not cooled on a bench
        )
        phones.append(phone)
    return phones


def _cast_of(terms: FleetTerms, data: FleetData) -> list[tuple[int, LinkSpeed]]:
    """Which of the profiles each phone has, and its link."""
    num_phones = len(data.shares)
    if terms.population is None:
        links = [link_speed(profile) for profile in terms.profiles]
        return [(index % len(links), links[index % len(links)]) for index in range(num_phones)]
    seed = int.from_bytes(hmac.digest(data.seed, b"population", hashlib.sha256), "big")
    turns = {profile.name: turn for turn, profile in enumerate(terms.profiles)}
    names = draw_population(terms.population, num_phones, seed)
    # Nobody measured the latency of links: the catalogue assumes one for all.
    (latency_ms,) = {profile.link.latency_ms for profile in terms.profiles if profile.link}
    drawn = draw_links(latency_ms, num_phones, seed)
    return [(turns[name], speed_of(link)) for name, link in zip(names, drawn, strict=True)]


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
    splits = split_ids(source, data.split_key, terms.rotation)
    split_of = {example_id: split for split, ids in splits.items() for example_id in ids}
    counts = [Counter(split_of[example_id] for example_id in share) for share in data.shares]
    return [{split: count[split] for split in SPLITS} for count in counts]
