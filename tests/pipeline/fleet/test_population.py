from dataclasses import replace

import pytest

from device_runtime.examples import ClientSource
from device_runtime.work import count_examples
from pipeline.fleet.population import make_phones
from profiles.catalogue import load_profile
from profiles.population import load_population, phones_of
from profiles.records import record_id


def test_phones_take_turns_through_the_profiles(kit, tmp_path):
    terms = kit.terms()
    phones = make_phones(None, terms, kit.data(tmp_path, 5), kit.source)
    assert [phone.profile.name for phone in phones] == ["fast", "slow", "fast", "slow", "fast"]
    assert phones[1].check_in.profile_id == record_id(terms.profiles[1])
    assert phones[1].link.upload_mbit_s == 0.1


def drawn_fleet(kit, folder, num_phones, seed=b"seed"):
    population = load_population("trace-2020")
    profiles = tuple(load_profile(name) for name in phones_of(population))
    return make_phones(
        None, kit.terms(profiles=profiles, population=population), kit.data(folder, num_phones, seed), kit.source
    )


def test_phones_of_a_population_are_drawn_with_their_links_from_the_seed(kit, tmp_path):
    def told(phones):
        return [(phone.profile.name, phone.link) for phone in phones]

    phones = drawn_fleet(kit, tmp_path, 40)
    assert told(phones)[:7] == told(drawn_fleet(kit, tmp_path, 7))  # a larger fleet only adds phones
    assert told(phones) != told(drawn_fleet(kit, tmp_path, 40, b"other"))
    assert {phone.check_in.device_class for phone in phones} == {"entry", "mid", "high"}
    assert all(phone.check_in.profile_id == record_id(phone.profile) for phone in phones)
    assert len({phone.link for phone in phones}) > 10
    assert {phone.link.latency_ms for phone in phones} == {50.0}


@pytest.mark.parametrize("rotation", range(5))
def test_a_phone_tells_the_public_counts_that_the_client_itself_would_count(kit, tmp_path, rotation):
    data = kit.data(tmp_path, 3)
    phones = make_phones(None, kit.terms(rotation=rotation), data, kit.source)
    for phone, share in zip(phones, data.shares, strict=True):
        counted = count_examples(ClientSource(kit.source, share), data.split_key, rotation)
        assert phone.check_in.num_examples == counted


def test_keys_come_from_the_seed_and_say_emulated(kit, tmp_path):
    data = kit.data(tmp_path, 2)
    first, again, other = (
        [phone.state.device_id for phone in make_phones(None, kit.terms(), made, kit.source)]
        for made in (data, data, replace(data, seed=b"other"))
    )
    assert first == again
    assert len({*first, *other}) == 4
    assert make_phones(None, kit.terms(), data, kit.source)[0].state.kind == "emulated"


def test_every_phone_has_a_ledger_of_its_own_in_a_private_run(kit, tmp_path):
    phones = make_phones(kit.budget, kit.terms(), kit.data(tmp_path, 2), kit.source)
    assert phones[0].ledger is not phones[1].ledger
    assert make_phones(None, kit.terms(), kit.data(tmp_path, 1), kit.source)[0].ledger is None
