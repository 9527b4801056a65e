from dataclasses import replace

import pytest

from pipeline.limits import broken_limits, limits_in_words, needs_of, over_memory
from pipeline.run_result import Accuracy, ClassCost, ModelResult, RunResult, TrialResult, UnknownPlatformError
from search.architecture import Architecture, Stem
from search.candidate import Candidate, HyperParameters

CANDIDATE = Candidate(Architecture((1, 8, 8), 2, Stem(4)), HyperParameters(0.1, local_steps=1, batch_size=4))
COSTS = (ClassCost("cheap", "entry", 4.0, 12.0, 0.25, 1.5), ClassCost("dear", "high", 1.0, 3.0, 0.25, 1.5))


def make(budgets, *platforms):
    """A run with one model for each group of platforms."""
    accuracy = Accuracy(0.5, 0.4, 0.6, 9, "plain")
    return RunResult(
        name="run",
        kind="real",
        seed=0,
        data="digits",
        spec=None,
        num_clients=2,
        algorithm="fednas",
        fleet={},
        models=tuple(ModelResult(i, names, 10, "a", "b", accuracy) for i, names in enumerate(platforms)),
        trials=tuple(TrialResult(i, CANDIDATE, 10, 0.5, False, 9, COSTS) for i in range(len(platforms))),
        costs=(),
        versions={},
        budgets=budgets,
    )


def test_each_platform_is_held_to_the_limits_of_its_own_class():
    result = make({"entry": {"latency_ms": 4.0}, "default": {"latency_ms": 0.5, "size_kib": 2.0}}, ("cheap", "dear"))
    cheap, dear = needs_of(result, result.main)
    assert cheap.is_met  # a limit is met where exactly it is needed
    assert not dear.is_met
    assert limits_in_words(cheap) == "meets its limits on cheap: yes (predicted latency 4 of 4 ms)"
    assert limits_in_words(dear) == "meets its limits on dear: NO (predicted latency 1 of 0.5 ms, size 1.5 of 2 KiB)"


@pytest.mark.parametrize("name", ["latency_ms", "training_step_ms", "memory_mib", "size_kib"])
def test_a_model_over_any_limit_is_a_warning_that_names_it(name):
    result = make({"entry": {name: 0.1}}, ("dear",), ("cheap",))
    (warning,) = broken_limits(result)
    assert warning.startswith("trial 1 meets its limits on cheap: NO")
    assert "of 0.1" in warning
    assert broken_limits(make({"entry": {name: 99.0}}, ("cheap", "dear"))) == ()


def test_a_compiled_step_over_a_limit_that_its_prediction_keeps_is_told_with_both():
    result = make(
        {"entry": {"memory_mib": 0.3}, "high": {"memory_mib": 0.26, "latency_ms": 2.0}}, ("cheap",), ("dear",)
    )
    (warning,) = over_memory(result, {0: 0.3, 1: 0.265}.__getitem__)
    assert warning.startswith("trial 1 on dear: its compiled training step takes 0.265 MiB, over memory_mib = 0.26 (")
    assert "0.25): search again with a lower memory_mib" in warning
    everywhere = replace(result, models=(replace(result.models[0], platforms=("cheap", "dear")),))
    assert [line[:15] for line in over_memory(everywhere, lambda trial: 0.5)] == ["trial 0 on chea", "trial 0 on dear"]


def test_a_compiled_step_is_looked_at_where_a_limit_of_memory_holds_and_is_kept_by_prediction():
    asked = []
    for limits in ({}, {"latency_ms": 9.0}, {"memory_mib": 0.1}):
        assert over_memory(make({"entry": limits}, ("cheap",)), asked.append) == ()
    assert asked == []  # what is over by prediction is told already


def test_without_limits_there_is_nothing_to_break():
    result = make({}, ("cheap",))
    assert limits_in_words(needs_of(result, result.main)[0]) == "meets its limits on cheap: it has none"
    assert needs_of(result, replace(result.main, platforms=())) == ()


def test_a_model_is_found_by_its_platform_and_must_be_named_among_several():
    result = make({}, ("cheap",), ("dear",))
    assert result.model_for("dear").trial == 1
    assert result.main_platform == "cheap"
    with pytest.raises(UnknownPlatformError, match="this run has 2 models: name a platform, cheap, dear"):
        result.model_for(None)
    with pytest.raises(UnknownPlatformError, match="no platform 'mine': name one of cheap, dear"):
        result.model_for("mine")
    assert make({}, ()).model_for(None).trial == 0
