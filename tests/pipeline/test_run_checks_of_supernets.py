"""Rules of run files whose search trains a supernet."""

import pytest

from pipeline.run_file import RunFileError, parse_run_file
from pipeline.run_sections import RunFile
from pipeline.searching.schedule import plan_schedule
from tests.pipeline.searching.test_joint_algorithms import PRIVACY, RUN, SEARCHES

PRIVATE = RUN.replace("\nbatch_size = 64", "\nmax_grad_norm = 0.5")


def told(text: str) -> tuple[str, ...]:
    """The errors of a run file; none of a good one."""
    try:
        parse_run_file(text)
    except RunFileError as error:
        return error.lines
    return ()


ONE = RUN.replace('["skip", "conv_1"]', '"conv_1"')


@pytest.mark.parametrize("moves", ["alternate", "all"])
@pytest.mark.parametrize("name", ["feathers", "fedex", "nas then tuning"])
def test_architecture_weights_need_operations_to_choose_from(name, moves):
    search = SEARCHES[name].replace("rounds = 2", f'rounds = 2\nmoves = "{moves}"', 1)
    assert told(RUN.format(search=search, final=1)) == ()
    (line,) = told(ONE.format(search=search, final=1))
    assert "[cells] operations must be two or more for fe" in line
    assert "got ['conv_1']: add one, e.g. 'skip', or set [search] algorithm = 'fedex' with order = 'tuning'" in line


@pytest.mark.parametrize("search", [SEARCHES["fedex"] + '\norder = "tuning"', SEARCHES["merged halving"]])
def test_what_trains_no_supernet_may_have_one_operation(search):
    assert told(ONE.format(search=search, final=1)) == ()


def explored(gamma: str) -> RunFile:
    search = f'algorithm = "feathers"\nrounds = 1\nconfigurations = 5000\ngamma = {gamma}'
    return parse_run_file(PRIVATE.format(search=search, final=1) + PRIVACY["example"])


def test_no_gamma_explores_more_than_there_are():
    (planned,) = (one for one in plan_schedule(explored("1000.0")).planned if one.release.kind == "reward")
    assert planned.count == 5000


@pytest.mark.parametrize("gamma", ["1000.1", "1e308"])
def test_a_larger_gamma_is_refused_by_name_with_the_largest(gamma):
    with pytest.raises(RunFileError, match=r"\[search\] gamma must be less than or equal to 1000, got 1"):
        explored(gamma)
