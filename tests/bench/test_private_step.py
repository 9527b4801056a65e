import json

import pytest

from bench import private_step
from bench.measuring import print_result
from search.architecture import Architecture, Stage, Stem

TINY = Architecture((1, 6, 6), 3, Stem(2), (Stage("depthwise", 3, stride=2),))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_all_four_steps_are_timed_in_one_run_and_told_as_json(capsys):
    result = private_step.measure(TINY, batch_size=4, rounds=3)
    print_result(result, private_step.COLUMNS)
    plain = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plain["bench"] == "private_step"
    assert plain["bars"] == []
    assert {"torch", "opacus", "onnxruntime-training-cpu"} <= set(plain["versions"])
    assert {row["name"] for row in plain["rows"]} == {*private_step.PRIVATE, *private_step.ORDINARY}
    for row in plain["rows"]:
        assert len(row["times_ms"]) == 3
        assert 0 < row["min_ms"] <= row["p25_ms"] <= row["median_ms"] <= row["p75_ms"] <= row["max_ms"]
        assert row["parameters"] == 2 * 9 + 2 + 2 * 9 + 2 + 6 + 3 + 3 * 27 + 3
        assert (row["batch_size"], row["threads"]) == (4, 1)
    reference = next(row for row in plain["rows"] if row["name"] == private_step.ORDINARY[0])
    assert reference["vs_ort"] == 1


@pytest.mark.parametrize("second", [0.5, 0.9])
def test_steps_that_do_not_do_the_same_work_are_not_compared(second):
    losses = {name: iter([1.0, 0.9]) for name in (*private_step.PRIVATE, *private_step.ORDINARY)}
    losses[private_step.PRIVATE[1]] = iter([1.0, second])
    steps = {name: lambda own=own: next(own) for name, own in losses.items()}
    if second == 0.9:
        private_step._check_same_work(steps)
    else:
        with pytest.raises(RuntimeError, match="so they do not do the same work"):
            private_step._check_same_work(steps)
