from itertools import count

import pytest

from pipeline.fleet.load import LoadRequest, run_load
from pipeline.run_file import parse_run_file
from pipeline.searching.trials import RoundFailedError

FILE = """
run = { name = "load", seed = 3, kind = "emulated" }
fleet = { profiles = ["pixel-4", "redmi-8"] }
search = { algorithm = "random_search", trials = 1, rounds = 1 }
final = { rounds = 1 }
[data]
source = "digits"
partition = "iid"
clients = 40
[space]
kinds = ["inverted", "depthwise"]
widths = [2, 1]
depths = [1]
kernels = [3, 5]
strides = [1, 4]
heads = ["flatten"]
max_stages = 1
[training]
learning_rate = [0.3, 0.1]
local_epochs = 1
batch_size = 8
[round]
cohort_size = 4
min_reports = 2
deadline_s = 60
"""
PRIVATE = """
[privacy]
unit = "example"
noise_at = "device"
delta = 1e-5
target_epsilon = 1.2
update = { sample_rate = 0.5, noise_multiplier = 3.0 }
metrics = { sample_rate = 0.5, noise_multiplier = 3.0 }
test = { sample_rate = 0.5, noise_multiplier = 3.0 }
"""


@pytest.fixture
def hold(tmp_path):
    def run(text=FILE, num_rounds=2, watch=lambda *_: None, **request):
        ticks = count(0.0, 0.5)
        asked = LoadRequest(parse_run_file(text), num_rounds, **request)
        return run_load(asked, tmp_path / str(next(folders)), lambda: next(ticks), watch)

    folders = count()
    return run


def test_every_round_is_told_with_what_it_took(hold):
    load = hold()
    assert load.phones == {"pixel-4": 20, "redmi-8": 20}
    assert load.num_parameters == 1 * 9 + 1 + 4 * 10 + 10  # the smallest stem, and no stage
    assert (load.compile_s, load.cohort_size, load.num_workers) == (0.5, 4, 1)
    for number, entry in enumerate(load.rounds):
        assert (entry.number, entry.reason, entry.num_reports) == (number, "", 4)
        assert (entry.wall_s, entry.updates_per_s) == (0.5, 8.0)
        assert min(entry.virtual_s, entry.device_seconds) > 0
        assert entry.bytes_up > 4 * 4 * load.num_parameters
    assert load.rounds[1].bytes_down < load.rounds[0].bytes_down  # the graphs are there by then


def test_progress_is_told_by_round_and_report(hold):
    told = []
    hold(watch=lambda *place: told.append(place))
    assert told == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]


def test_the_cohort_grows_and_shrinks_with_the_fleet(hold):
    assert hold(num_phones=80, num_rounds=1).rounds[0].num_reports == 8
    small = hold(num_phones=3, num_rounds=1)
    assert sum(small.phones.values()) == 3
    assert small.rounds[0].num_reports == 1


def test_the_number_of_workers_is_the_one_asked_for(hold):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        hold(num_workers=0)


def test_a_private_load_is_private_and_as_long_as_was_asked_for(hold):
    private = FILE.replace("local_epochs = 1\nbatch_size = 8", "local_steps = 1\nmax_grad_norm = 0.5") + PRIVATE
    assert [entry.num_reports for entry in hold(private, 5).rounds] == [4] * 5


def test_so_is_one_of_whole_clients(hold):
    privacy = PRIVATE.replace('"example"', '"client"').replace("sample_rate = 0.5, ", "")
    private = FILE + privacy + "max_participations = 9\nmax_norm = 1.0\n"
    assert [entry.num_reports for entry in hold(private, 1).rounds] == [4]


def test_a_load_that_gets_too_few_reports_says_so(hold):
    with pytest.raises(RoundFailedError, match="round load/0/train/0 failed 3 times: 0 of at least 2 reports"):
        hold(FILE.replace("deadline_s = 60", "deadline_s = 0.1"))
