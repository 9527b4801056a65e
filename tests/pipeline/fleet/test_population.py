from dataclasses import replace

import pytest

from device_runtime.examples import ClientSource
from device_runtime.work import count_examples
from pipeline.fleet.population import make_phones
from pipeline.fleet.workers import split_key
from profiles.records import record_id


def test_phones_take_turns_through_the_profiles(kit, tmp_path):
    terms = kit.terms()
    phones = make_phones(None, terms, kit.data(tmp_path, 5), kit.source)
    assert [phone.profile.name for phone in phones] == ["fast", "slow", "fast", "slow", "fast"]
    assert phones[1].check_in.profile_id == record_id(terms.profiles[1])
    assert phones[1].link.upload_mbit_s == 0.1


@pytest.mark.parametrize("rotation", range(5))
def test_a_phone_tells_the_public_counts_that_the_client_itself_would_count(kit, tmp_path, rotation):
    data = kit.data(tmp_path, 3)
    phones = make_phones(None, kit.terms(rotation=rotation), data, kit.source)
    for phone, share in zip(phones, data.shares, strict=True):
        counted = count_examples(ClientSource(kit.source, share), split_key(data.seed), rotation)
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
