import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.records import RecordError, decode_record, encode_record, record_id
from search.architecture import Architecture, Cell, Edge, Stage, Stem

SMALL = Architecture((1, 8, 8), 10, Stem(4), (Stage("inverted", 8, expansion=2),))

MIXED = Cell(((Edge(0, ("skip", "conv_3", "none")), Edge(1, ("max_pool",))), (Edge(2, ("skip",)),)))


@given(st.data())
def test_every_architecture_survives_the_round_trip(architectures, data):
    architecture = data.draw(architectures)
    assert decode_record(Architecture, encode_record(architecture)) == architecture


def test_the_id_of_an_architecture_never_changes():
    # The compile cache and every saved search go by it.
    assert record_id(SMALL) == "d3e0d79070b8d985963d08b5d3d6c82b20beecd494c55e159b019387d39f2da5"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stem(0), "width must be >= 1, got 0"),
        (lambda: Stem(4, kernel=2), "kernel must be odd and >= 1, got 2"),
        (lambda: Stem(4, kernel=-1), "kernel must be odd and >= 1, got -1"),
        (lambda: Stem(4, stride=0), "stride must be >= 1, got 0"),
        (lambda: Stage("inverted", 4, kernel=4), "kernel must be odd"),
        (lambda: Stage("inverted", 4, depth=0), "depth must be >= 1, got 0; leave the stage out"),
        (lambda: Stage("inverted", 4, expansion=0), "expansion must be >= 1 for inverted blocks and 1 for others"),
        (lambda: Stage("depthwise", 4, expansion=2), "expansion must be .* 1 for others, got 2"),
        (lambda: Stage("cell", 4), "a stage of kind 'cell' and no other must have a cell"),
        (lambda: Stage("inverted", 4, cell=MIXED), "a stage of kind 'cell' and no other must have a cell"),
        (lambda: Stage("cell", 4, kernel=5, cell=MIXED), "leave kernel out, got 5"),
        (lambda: Edge(-1, ("skip",)), "source must be >= 0, got -1"),
        (lambda: Edge(0, ("skip", "skip")), "operations must name at least one, each once"),
        (lambda: Edge(0, ()), "operations must name at least one"),
        (lambda: Edge(0, ("none",)), "leave it out"),
        (lambda: Cell(()), "at least one node"),
        (lambda: Cell(((Edge(2, ("skip",)),),)), r"node 0 must have edges from different sources below 2.* got \[2\]"),
        (lambda: Cell(((Edge(1, ("skip",)), Edge(0, ("skip",))),)), r"in their order, got \[1, 0\]"),
        (lambda: Architecture((1, 0, 8), 10, Stem(4)), "input_shape must be .* got \\(1, 0, 8\\)"),
        (lambda: Architecture((1, 8, 8), 1, Stem(4)), "num_classes must be >= 2, got 1"),
    ],
)
def test_an_impossible_architecture_names_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_cells_survive_the_round_trip_and_say_whether_they_have_architecture_weights():
    supernet = Architecture((1, 8, 8), 10, Stem(4), (Stage("cell", 4, cell=MIXED),))
    assert decode_record(Architecture, encode_record(supernet)) == supernet
    assert supernet.is_supernet
    assert not SMALL.is_supernet
    assert not Cell(((Edge(0, ("skip",)),),)).is_mixed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clases": 3}, "Architecture has an unknown key 'num_clases': did you mean 'num_classes'?"),
        ({"head": "average"}, "Architecture.head must be one of 'flatten', 'global_average', got 'average'"),
        ({"input_shape": [8, 8]}, "Architecture.input_shape must be a list of 3"),
        ({"stem": {"width": 4, "kernel": 6}}, "Architecture.stem: kernel must be odd and >= 1, got 6"),
        ({"schema": 7}, "Architecture.schema is 7, this version reads up to 1"),
    ],
)
def test_an_architecture_file_is_told_what_is_wrong_and_where(changes, message):
    plain = json.loads(encode_record(SMALL)) | changes
    with pytest.raises(RecordError, match=message):
        decode_record(Architecture, json.dumps(plain))
