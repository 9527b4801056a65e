import pytest
from starlette.exceptions import HTTPException

from device_runtime.wire import Problem
from pipeline.coordinator.rounds import RoundClosedError
from pipeline.server.problems import PROBLEMS, internal_problem, problem_of


def test_a_problem_has_the_name_and_status_of_its_error_and_tells_the_cure():
    problem = problem_of(RoundClosedError("round r has ended; check in again"))
    assert problem == Problem(
        "urn:handheld:problem:round-closed", "The round takes nothing more", 409, "round r has ended; check in again"
    )


def test_a_subclass_is_told_as_its_nearest_ancestor():
    class VeryClosedError(RoundClosedError):
        pass

    assert problem_of(VeryClosedError("x")).status == 409


@pytest.mark.parametrize("error", PROBLEMS, ids=lambda error: error.__name__)
def test_every_row_is_a_client_error_with_a_name_and_a_title(error):
    name, status, title = PROBLEMS[error]
    assert 400 <= status < 500
    assert name == name.lower()
    assert title[0].isupper()


def test_names_decide_one_status():
    assert len({name: status for name, status, _ in PROBLEMS.values()}) == len(
        {(name, status) for name, status, _ in PROBLEMS.values()}
    )


def test_what_the_framework_refuses_is_a_problem_too():
    problem = problem_of(HTTPException(405))
    assert (problem.type, problem.status) == ("urn:handheld:problem:method-not-allowed", 405)


def test_a_defect_tells_nothing_of_itself():
    assert (internal_problem().status, internal_problem().detail) == (500, "The server failed; come back later")
