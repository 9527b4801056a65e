import pytest

from profiles.kernel import Kernel, placed
from search.architecture import Architecture, Stage, Stem
from search.cost import evaluation_kernels_of, kernels_of, training_kernels_of

CONV = Kernel("conv", (8, 8, 8), (8, 8, 8), 3)
RELU, SWISH = (Kernel(kind, (8, 8, 8), (8, 8, 8)) for kind in ("fused_relu", "hard_swish"))
ADD = Kernel("add", (8, 8, 8), (8, 8, 8))
MEAN = Kernel("global_average", (8, 8, 8), (8,))


@pytest.mark.parametrize(
    ("kernels", "wanted"),
    [
        ([CONV], [""]),
        ([CONV, CONV, CONV], ["after", "both", "before"]),
        ([CONV, RELU, CONV, RELU, MEAN], ["after", "", "both", "", "before"]),
        ([CONV, SWISH, CONV, SWISH, CONV], ["", "", "", "", ""]),
        ([CONV, SWISH, CONV, ADD, SWISH], ["", "", "after", "before", ""]),
        ([], []),
    ],
)
def test_a_kernel_is_told_which_neighbours_are_computed_in_blocks_too(kernels, wanted):
    found = placed(kernels)
    assert [kernel.beside for kernel in found] == wanted
    assert placed([Kernel(**{**vars(one), "beside": ""}) for one in found]) == found


def test_a_family_is_one_of_its_own_beside_other_kernels():
    first, second = placed([CONV, CONV])
    assert first.family == second.family == CONV.family
    assert len({first.placed_family, second.placed_family, CONV.placed_family}) == 3


def test_only_a_shipped_model_is_computed_in_blocks():
    network = Architecture((3, 8, 8), 4, Stem(8), (Stage("depthwise", 8),), normalization="none")
    assert {kernel.beside for kernel in kernels_of(network)} >= {"after", "both"}
    others = *evaluation_kernels_of(network), *training_kernels_of(network)
    assert {kernel.beside for kernel in others} == {""}
