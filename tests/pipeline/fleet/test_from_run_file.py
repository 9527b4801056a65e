from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from device_runtime.accounting import Budget
from device_runtime.examples import ClientSource, SourceError, split_ids
from pipeline.fleet.from_run_file import fleet_of
from pipeline.fleet.stragglers import StragglerTerms
from pipeline.run_file import parse_run_file
from profiles.catalogue import UnknownProfileError
from profiles.population import UnknownPopulationError, load_population, phones_of
from profiles.records import record_id

FILE = """
[run]
name = "digits"
seed = 7
kind = "emulated"
[data]
source = "digits"
partition = "dirichlet"
alpha = 0.5
clients = 12
min_train_examples = 8
[space]
kinds = ["depthwise"]
widths = [1]
depths = [1]
kernels = [3]
strides = [4]
heads = ["flatten"]
max_stages = 0
[search]
algorithm = "random_search"
trials = 1
rounds = 1
[training]
learning_rate = 0.3
local_epochs = 1
batch_size = 8
[final]
rounds = 1
[round]
cohort_size = 5
min_reports = 3
deadline_s = 600
"""
PRIVACY = """
[privacy]
unit = "example"
noise_at = "device"
delta = 1e-5
target_epsilon = 8.0
update = { sample_rate = 0.5, noise_multiplier = 3.0 }
metrics = { sample_rate = 0.5, noise_multiplier = 3.0 }
test = { sample_rate = 0.5, noise_multiplier = 3.0 }
"""
BUDGET = Budget(8.0, 1e-5, 8)


def read(folder, *changes: tuple[str, str], budget=None):
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return fleet_of(parse_run_file(text), folder, budget)


@pytest.mark.parametrize("seed", range(5))
def test_every_client_has_enough_training_examples_in_every_rotation(seed, tmp_path):
    made = read(tmp_path, ("seed = 7", f"seed = {seed}"))
    assert len(made.data.shares) == 12
    assert Counter(i for share in made.data.shares for i in share) == Counter(made.source.ids())
    for share in made.data.shares:
        split = split_ids(ClientSource(made.source, share), made.data.split_key, made.terms.rotation)
        assert len(split["train"]) >= 8


@pytest.mark.parametrize("first", [0, 15])
def test_five_seeds_from_a_multiple_of_five_test_every_example_once(first, tmp_path):
    tested, validated = Counter(), Counter()
    for seed in range(first, first + 5):
        made = read(tmp_path, ("seed = 7", f"seed = {seed}"))
        splits = split_ids(made.source, made.data.split_key, made.terms.rotation)
        tested.update(splits["test"])
        validated.update(splits["validation"])
    assert tested == validated == Counter(made.source.ids())


def test_the_next_five_seeds_split_by_another_key(tmp_path):
    keys = [read(tmp_path, ("seed = 7", f"seed = {seed}")).data.split_key for seed in (0, 4, 5)]
    assert keys[0] == keys[1] != keys[2]


def test_the_same_file_gives_the_same_fleet_and_another_seed_another(tmp_path):
    made, again = read(tmp_path), read(tmp_path)
    other = read(tmp_path, ("seed = 7", "seed = 8"))
    assert (made.data, made.run) == (again.data, again.run)
    assert made.data.shares != other.data.shares
    assert made.data.seed != other.data.seed


def test_the_run_and_the_places_of_its_files_follow_from_the_file(tmp_path):
    made = read(tmp_path)
    assert (made.run.run_id, made.run.kind, made.run.seed, made.run.budget) == ("digits", "emulated", 7, None)
    assert made.run.spec_id == record_id(made.source.spec)
    assert (made.data.source, made.data.blobs) == ("digits", tmp_path / "blobs")
    assert made.terms.rotation == 2


def test_without_a_fleet_table_the_same_six_phones_take_turns_however_long_the_catalogue_and_are_always_there(tmp_path):
    terms = read(tmp_path).terms
    names = ["galaxy-s9", "huawei-mate-20", "pixel-2-xl", "pixel-4", "redmi-8", "redmi-note-4"]
    assert [profile.name for profile in terms.profiles] == names
    assert (terms.population, terms.has_heat, terms.has_tails) == (None, False, False)
    assert (terms.availability.share, terms.num_workers) == (1.0, 1)


def test_the_fleet_table_says_who_the_phones_are_and_when_they_are_there(tmp_path):
    coming = "availability = 0.5\nmean_spell_s = 60\nstraggler_share = 0.3"
    table = f'[fleet]\nprofiles = ["pixel-4"]\n{coming}\nworkers = 2\n[space]'
    terms = read(tmp_path, ("[space]", table)).terms
    assert [profile.name for profile in terms.profiles] == ["pixel-4"]
    assert (terms.availability.share, terms.availability.mean_spell_s, terms.num_workers) == (0.5, 60.0, 2)
    assert terms.stragglers == StragglerTerms(0.3, 5.0)


def test_a_population_takes_the_place_of_profiles(tmp_path):
    terms = read(tmp_path, ("[space]", '[fleet]\npopulation = "trace-2020"\nheat = true\ntails = true\n[space]')).terms
    assert terms.population == load_population("trace-2020")
    assert tuple(profile.name for profile in terms.profiles) == phones_of(terms.population)
    assert (terms.has_heat, terms.has_tails) == (True, True)


def test_an_unknown_population_names_the_nearest(tmp_path):
    with pytest.raises(UnknownPopulationError, match="did you mean 'trace-2020'"):
        read(tmp_path, ("[space]", '[fleet]\npopulation = "trace2020"\n[space]'))


def test_an_even_partition_is_even(tmp_path):
    made = read(tmp_path, ('partition = "dirichlet"\nalpha = 0.5', 'partition = "iid"'))
    sizes = [len(share) for share in made.data.shares]
    assert max(sizes) - min(sizes) <= 2


def write_owned(folder: Path, owners: list[str]) -> str:
    labels = np.arange(len(owners)) % 2
    images = np.zeros((len(owners), 1, 8, 8), np.uint8)
    np.savez(folder / "owned.npz", x=images, y=labels, client=np.array(owners))
    return f"npz:{folder / 'owned.npz'}"


def test_a_partition_from_the_file_follows_the_owners(tmp_path):
    source = write_owned(tmp_path, ["b"] * 60 + ["a"] * 40)
    changes = ('source = "digits"', f'source = "{source}"'), ("cohort_size = 5\nmin_reports = 3", COHORT_OF_TWO)
    made = read(tmp_path, *changes, ('partition = "dirichlet"\nalpha = 0.5\nclients = 12', 'partition = "file"'))
    assert [len(share) for share in made.data.shares] == [40, 60]


COHORT_OF_TWO = "cohort_size = 2\nmin_reports = 1"


def test_a_cohort_larger_than_the_clients_of_the_data_is_refused(tmp_path):
    source = write_owned(tmp_path, ["b"] * 60 + ["a"] * 40)
    changes = ('source = "digits"', f'source = "{source}"')
    with pytest.raises(SourceError, match=r"\[round\] cohort_size must be <= the 2 clients of the data, got 5"):
        read(tmp_path, changes, ('partition = "dirichlet"\nalpha = 0.5\nclients = 12', 'partition = "file"'))


def test_an_impossible_partition_names_its_cure(tmp_path):
    with pytest.raises(SourceError, match="at most 10 clients can have them"):
        read(tmp_path, ("min_train_examples = 8", "min_train_examples = 100"))


def test_an_unknown_phone_names_the_nearest(tmp_path):
    with pytest.raises(UnknownProfileError, match="did you mean 'pixel-4'"):
        read(tmp_path, ("[space]", '[fleet]\nprofiles = ["pixel4"]\n[space]'))


def test_a_real_run_has_no_fleet(tmp_path):
    with pytest.raises(ValueError, match=r"\[run\] kind must be 'emulated' for a fleet; `handheld serve` waits"):
        read(tmp_path, ('kind = "emulated"', 'kind = "real"'))


def test_a_budget_belongs_to_a_private_run_and_to_no_other(tmp_path):
    private = [
        ("[final]", f"{PRIVACY}\n[final]"),
        ("local_epochs = 1\nbatch_size = 8", "local_steps = 1\nmax_grad_norm = 0.5"),
    ]
    assert read(tmp_path, *private, budget=BUDGET).run.budget == BUDGET
    with pytest.raises(ValueError, match=r"a budget belongs to \[privacy\] and to nothing else, got None"):
        read(tmp_path, *private)
    with pytest.raises(ValueError, match="got Budget"):
        read(tmp_path, budget=BUDGET)
