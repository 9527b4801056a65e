import pytest

from profiles.kernel import Kernel
from profiles.placement import placed
from search.architecture import Architecture, Stage, Stem
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of

WIDE, NARROW = ((16, 8, 8), (8, 8, 8))
CONV, DEPTHWISE = Kernel("conv", WIDE, WIDE, 3), Kernel("conv", NARROW, NARROW, 3, groups=8)
RELU, SWISH = (Kernel(kind, WIDE, WIDE) for kind in ("fused_relu", "hard_swish"))
ADD = Kernel("add", WIDE, WIDE)
MEAN = Kernel("global_average", WIDE, (16,))
NARROWING, WIDENING = Kernel("conv", WIDE, NARROW), Kernel("conv", NARROW, WIDE)


@pytest.mark.parametrize(
    ("kernels", "reads", "wanted"),
    [
        ([CONV], None, [""]),
        ([CONV, CONV, CONV], None, ["after", "both", "before"]),
        ([CONV, RELU, CONV, RELU, MEAN], None, ["after", "", "before", "", ""]),
        ([CONV, SWISH, CONV, SWISH, CONV], None, ["", "", "", "", ""]),
        ([CONV, SWISH, CONV, ADD, SWISH], None, ["", "", "sum", "sum", ""]),
        ([CONV, SWISH, CONV, ADD, SWISH], [[], [0], [1], [2, 1], [3]], ["", "", "", "", ""]),
        (
            [CONV, RELU, CONV, ADD, CONV],
            [[], [0], [1], [2, 1], [3]],
            ["after", "", "before, sum", "sum, after", "before"],
        ),
        ([CONV, CONV, RELU, ADD, CONV], [[], [0], [1], [0, 2], [3]], ["after", "both", "", "both", "before"]),
        ([CONV, CONV, SWISH], [[], [0], [0]], ["", "before", ""]),
        ([NARROWING, WIDENING, CONV], None, ["", "after", "before"]),
        ([NARROWING, DEPTHWISE, WIDENING], None, ["after", "before", ""]),
        ([], None, []),
    ],
    ids=lambda given: "-".join(one.kind for one in given) if given and isinstance(given[0], Kernel) else "",
)
def test_a_kernel_is_told_what_is_in_blocks_beside_it(kernels, reads, wanted):
    found = placed(kernels, reads)
    assert [kernel.beside for kernel in found] == wanted
    assert placed([Kernel(**{**vars(one), "beside": ""}) for one in found], reads) == found


@pytest.mark.parametrize(("channels", "wanted"), [(16, "after"), (12, "")])
def test_values_are_joined_in_blocks_where_each_is_of_whole_ones(channels, wanted):
    shape = (channels, 8, 8)
    conv, concat = Kernel("conv", (3, 8, 8), shape, 3), Kernel("concat", shape, (2 * channels, 8, 8))
    first, second, _ = placed([conv, conv, concat], [[], [], [0, 1]])
    assert first.beside == second.beside == wanted


def test_only_a_shipped_model_is_computed_in_blocks():
    network = Architecture((3, 8, 8), 4, Stem(16), (Stage("depthwise", 16),), normalization="none")
    assert {kernel.beside for kernel in kernels_of(network)} >= {"after", "both"}
    others = *evaluation_kernels_of(network), *training_kernels_of(network)
    assert {kernel.beside for kernel in others} == {""}
