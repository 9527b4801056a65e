from dataclasses import replace

import numpy as np
import pytest

from device_runtime.segments import SegmentError, moving_segments, num_moving, positions_of, segment_weight
from device_runtime.specs import LayoutEntry

# As in a supernet of several stages: architecture weights lie between the weights.
LAYOUT = (
    LayoutEntry("stem", (2, 2), 0, "weights"),
    LayoutEntry("first", (3,), 4, "architecture"),
    LayoutEntry("body", (5,), 7, "weights"),
    LayoutEntry("second", (2,), 12, "architecture"),
    LayoutEntry("head", (), 14, "adapter"),
)


@pytest.fixture
def manifest(artifact):
    return replace(artifact.manifest, layout=LAYOUT, segments=("architecture", "adapter", "weights"), num_parameters=15)


def picked(manifest, segments):
    return np.arange(15)[positions_of(manifest, segments)].tolist()


@pytest.mark.parametrize(
    ("moves", "segments", "count"),
    [
        ("all", ("architecture", "adapter", "weights"), 15),
        ("alternate", ("architecture", "adapter", "weights"), 15),
        ("weights", ("adapter", "weights"), 10),
        ("architecture", ("architecture",), 5),
    ],
)
def test_what_moves(manifest, moves, segments, count):
    assert moving_segments(manifest, moves) == segments
    assert num_moving(manifest, moves) == count == len(picked(manifest, segments))


def test_values_are_picked_in_layout_order_wherever_they_lie(manifest):
    assert manifest.segment_sizes == {"architecture": 5, "adapter": 1, "weights": 9}
    assert picked(manifest, {"architecture"}) == [4, 5, 6, 12, 13]
    assert picked(manifest, {"weights", "adapter"}) == [0, 1, 2, 3, 7, 8, 9, 10, 11, 14]
    assert picked(manifest, manifest.segments) == list(range(15))
    assert picked(manifest, ()) == []


def test_values_side_by_side_are_not_copied(manifest):
    assert positions_of(manifest, {"adapter"}) == slice(14, 15)
    assert positions_of(manifest, manifest.segments) == slice(0, 15)


def test_the_graph_is_told_in_its_own_order(manifest):
    assert segment_weight(manifest, {"weights", "architecture"}).tolist() == [1, 0, 1]
    assert segment_weight(manifest, manifest.segments) is None


@pytest.mark.parametrize("moves", ["architecture", "alternate"])
def test_a_network_without_architecture_weights_cannot_move_them(artifact, moves):
    with pytest.raises(SegmentError, match=f"moves = '{moves}' needs .* this one has the segments weights, adapter"):
        moving_segments(artifact.manifest, moves)
    assert moving_segments(artifact.manifest, "weights") == moving_segments(artifact.manifest, "all")
