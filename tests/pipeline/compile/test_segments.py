import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.export import Forward, export_forward
from pipeline.compile.segments import layout_of, match_names


@pytest.fixture(scope="module")
def forward() -> Forward:
    return export_forward(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)), {"x": torch.zeros(2, 4)})


def test_without_patterns_everything_is_weights(forward):
    layout = layout_of(forward, {})
    assert layout.segments == ("weights",)
    assert list(layout.shapes) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert set(layout.segment_of.values()) == {"weights"}


def test_the_first_pattern_that_matches_has_the_parameter_and_the_rest_are_weights(forward):
    layout = layout_of(forward, {"head": "2.*", "biases": "*.bias"})
    assert layout.segments == ("head", "biases", "weights")
    assert layout.segment_of == {
        "0.weight": "weights",
        "0.bias": "biases",
        "1.weight": "weights",
        "1.bias": "biases",
        "2.weight": "head",
        "2.bias": "head",
    }


def test_weights_is_left_out_where_nothing_is_left(forward):
    assert layout_of(forward, {"early": "[01].*", "late": "*"}).segments == ("early", "late")


def test_what_is_named_weights_is_joined_by_the_rest(forward):
    layout = layout_of(forward, {"weights": "0.*", "head": "2.*"})
    assert layout.segments == ("weights", "head")
    assert layout.segment_of["0.bias"] == layout.segment_of["1.bias"] == "weights"


def test_weights_alone_would_be_all_and_is_refused(forward):
    with pytest.raises(CompileError, match=r"'weights' is what no pattern matches; call the one of '2\.\*' otherwise"):
        layout_of(forward, {"weights": "2.*"})


def test_a_segment_that_earlier_patterns_emptied_is_refused(forward):
    with pytest.raises(CompileError, match=r"'head' is empty: earlier patterns have all that '2.weight' matches; put"):
        layout_of(forward, {"all": "2.*", "head": "2.weight"})


def test_a_segment_of_frozen_parameters_is_refused():
    module = nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2))
    frozen = export_forward(module, {"x": torch.zeros(2, 4)})
    with pytest.raises(CompileError, match=r"'body' is empty: nothing that '0\.\*' matches is trained; leave it out"):
        layout_of(frozen, {"body": "0.*"})
    assert layout_of(frozen, {"weights_of_all": "*.weight"}).segment_of["1.weight"] == "weights_of_all"


def test_a_pattern_without_match_names_the_nearest():
    names = ["features.0.weight", "classifier.weight", "classifier.bias"]
    assert match_names("classifier.*", names) == ["classifier.weight", "classifier.bias"]
    with pytest.raises(CompileError, match=r"'clasifier.*' matches no parameter; near it are classifier.bias, class"):
        match_names("clasifier.*", names)
    with pytest.raises(CompileError, match=r"near it are features.0.weight, classifier.weight"):
        match_names("~", names)


def test_only_what_is_trained_is_in_the_layout():
    module = nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2))
    layout = layout_of(export_forward(module, {"x": torch.zeros(2, 4)}), {})
    assert list(layout.shapes) == ["1.weight", "1.bias"]
    assert layout.num_parameters == 3 * 2 + 2
