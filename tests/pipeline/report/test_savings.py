from dataclasses import replace

import pytest

from pipeline.report.cost_plots import draw_savings
from pipeline.report.savings import savings_of
from search.architecture import Stage


def of_width(candidate, width):
    return replace(candidate, architecture=replace(candidate.architecture, stages=(Stage("depthwise", width),)))


@pytest.fixture
def fednas(made):
    """Two steps on 12 clients in 3 groups: two candidates each, of which one goes on; the second step's for longer.

    Each round costs each client 1 s and 100 bytes.
    """

    def make(*courses, algorithm="fednas"):
        trial = made.trial(0, 0.5, 1.0)
        trials, costs = [replace(trial, rounds=0)], [made.cost("search", 0, FIRST_SECONDS, "evaluate")]
        for index, (width, start, rounds, clients) in enumerate(courses, start=1):
            candidate = of_width(trial.candidate, width)
            trials.append(
                replace(trial, index=index, candidate=candidate, rounds=rounds, start_from=start, num_clients=clients)
            )
            count = rounds * (12 if clients is None else clients)
            cost = made.cost("search", index, float(count))
            costs.append(replace(cost, num_assignments=count, bytes_up=40 * count, bytes_down=60 * count))
        return made.result(algorithm=algorithm, trials=tuple(trials), costs=tuple(costs))

    return make


FIRST_SECONDS, FIRST_BYTES = 5.0, 2048 + 4096  # of scoring the network that all begins from
STEPS = (
    (8, 0, 2, 4),
    (16, 0, 2, 4),
    (16, 2, 3, 4),
    (4, 3, 2, 4),
    (12, 3, 2, 4),
    (12, 5, 4, 4),
)


def test_each_optimisation_is_left_out_alone_and_then_all(fednas):
    found = savings_of(fednas(*STEPS))
    assert [(one.without.partition(":")[0], one.client_rounds) for one in found] == [
        ("", 4 * 15),
        ("groups", 12 * 15),
        ("early dropping", 4 * (5 + 5 + 6 + 6)),
        ("dynamic rounds", 4 * (2 + 6 + 2 + 6)),
        ("all three", 12 * 6 * 4),
    ]
    assert [one.client_seconds for one in found] == pytest.approx([FIRST_SECONDS + one.client_rounds for one in found])
    assert [one.times for one in found] == pytest.approx(
        [(FIRST_SECONDS + one.client_rounds) / (FIRST_SECONDS + 60) for one in found]
    )
    assert [one.num_bytes for one in found] == [FIRST_BYTES + 100 * one.client_rounds for one in found]


def test_the_search_as_it_was_is_the_ledgers_whatever_a_candidate_cost(fednas):
    result = fednas(*STEPS)
    costs = tuple(replace(cost, device_seconds=7.5) if cost.trial == 3 else cost for cost in result.costs)
    final = replace(costs[-1], phase="final")
    first = savings_of(replace(result, costs=(*costs, final)))[0]
    assert first.client_seconds == sum(c.device_seconds for c in costs)
    assert first.num_bytes == sum(c.bytes_up + c.bytes_down for c in costs)
    assert first.client_rounds == sum(c.num_assignments for c in costs if c.kind == "train")


def test_scoring_grows_with_the_clients_and_not_with_the_rounds(fednas):
    result = fednas(*STEPS)
    score = replace(result.costs[0], device_seconds=2.0, bytes_up=0, bytes_down=10)
    scored = savings_of(replace(result, costs=(*result.costs, *(replace(score, trial=i) for i in range(1, 7)))))
    for one, before in zip(scored, savings_of(result), strict=True):
        clients = 3 if one.without.startswith(("groups", "all")) else 1
        assert one.client_rounds == before.client_rounds
        assert one.client_seconds == pytest.approx(before.client_seconds + 6 * clients * 2.0)
        assert one.num_bytes == before.num_bytes + 6 * clients * 10


def test_a_round_has_as_many_clients_as_the_candidates_groups_have_in_the_mean(fednas):
    found = savings_of(fednas((8, 0, 2, 3), (8, 1, 4, 6)))
    assert found[1].client_rounds == round((2 * 3 + 4 * 6) * 12 / 5)


def test_what_saved_nothing_is_not_told(fednas):
    alone = savings_of(fednas((8, 0, 2, 4), (16, 0, 2, 4)))
    assert [one.without.partition(":")[0] for one in alone] == ["", "groups", "all three"]
    assert savings_of(fednas((8, 0, 2, None), (16, 0, 2, None))) == ()


def test_only_fednas_has_such_optimisations(fednas):
    assert savings_of(fednas(*STEPS, algorithm="random_search")) == ()
    assert savings_of(fednas()) == ()


def test_the_picture_tells_how_many_times_as_much_each_would_cost(fednas):
    plot = draw_savings(savings_of(fednas(*STEPS)))
    assert "as it was 65.0, without groups 185" in plot.alt
    assert ">2.85x</text>" in plot.svg
    assert draw_savings(()) is None
