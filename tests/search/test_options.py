import numpy as np
import pytest

from profiles.records import RecordError, decode_record, encode_record
from search.architecture import Stage
from search.options import HyperParameterOptions, StageOptions, StemOptions

BOTH = StageOptions(("depthwise", "inverted"), (4, 8), expansions=(2, 4))


def test_depthwise_stages_have_expansion_1_whatever_is_listed():
    stages = BOTH.enumerate_stages()
    assert len(stages) == len(set(stages)) == BOTH.size() == 2 + 2 * 2
    assert all(stage in BOTH for stage in stages)
    assert {stage.expansion for stage in stages if stage.kind == "depthwise"} == {1}
    assert {stage.expansion for stage in stages if stage.kind == "inverted"} == {2, 4}
    assert Stage("inverted", 4, expansion=1) not in BOTH


def test_drawn_stages_are_of_the_options_and_each_kind_is_as_likely():
    rng = np.random.default_rng(0)
    drawn = [BOTH.sample(rng) for _ in range(400)]
    assert set(drawn) == set(BOTH.enumerate_stages())
    assert 160 < sum(stage.kind == "depthwise" for stage in drawn) < 240


@pytest.mark.parametrize(
    ("before", "kind", "expansions"),
    [
        (Stage("depthwise", 4), "inverted", {2, 4}),
        (Stage("inverted", 4, expansion=4), "depthwise", {1}),
    ],
)
def test_another_kind_brings_an_expansion_of_its_own(before, kind, expansions):
    rng = np.random.default_rng(0)
    changed = {change(rng) for change in BOTH.changes(before) for _ in range(20)}
    of_other_kind = {stage for stage in changed if stage.kind == kind}
    assert {stage.expansion for stage in of_other_kind} == expansions
    assert {stage.width for stage in of_other_kind} == {before.width}
    assert before not in changed


def test_a_hyper_parameter_without_options_is_none():
    choices = HyperParameterOptions((0.1,), batch_size=(8,)).choices()
    assert choices["local_steps"] == choices["max_grad_norm"] == (None,)
    assert choices["batch_size"] == (8,)


@pytest.mark.parametrize("options", [StemOptions((4,)), BOTH, HyperParameterOptions((0.1, 0.5), max_grad_norm=(1.0,))])
def test_options_survive_the_round_trip(options):
    assert decode_record(type(options), encode_record(options)) == options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StemOptions(()), "width needs at least one option"),
        (lambda: StemOptions((4,), (3, 4)), "kernel must be odd and >= 1, got 4"),
        (lambda: StageOptions((), (4,)), "kind needs at least one option"),
        (lambda: StageOptions(("depthwise",), (4, 4)), "width must list each option once"),
        (lambda: StageOptions(("depthwise",), (4,), expansions=(0,)), "expansion must be"),
        (lambda: HyperParameterOptions((0.1, -1.0)), "learning_rate must be > 0 and finite, got -1.0"),
        (lambda: HyperParameterOptions((0.1,), momentum=()), "momentum needs at least one option"),
    ],
)
def test_an_impossible_option_is_refused_before_anything_is_drawn(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_saved_kind_of_block_that_nobody_knows_is_refused():
    with pytest.raises(RecordError, match="must be one of 'depthwise', 'inverted', 'cell', got 'residual'"):
        decode_record(StageOptions, b'{"kinds":["residual"],"widths":[4]}')
