import tomllib
from dataclasses import replace

import pytest

from device_runtime.specs import ExampleSpec
from pipeline.run_sections import RunFile
from pipeline.searching.choices import UnfitDataError, reachable_space, space_of
from search.cell_space import CellSpace
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY

SPEC = ExampleSpec((1, 8, 8), tuple("0123456789"))


def space(text: str, spec: ExampleSpec = SPEC):
    return space_of(RunFile.model_validate(tomllib.loads(text)), spec)


def test_the_stem_has_the_strides_of_the_stages_or_its_own():
    shared, own = space(FEDNAS), space(FEDNAS.replace("strides = [2]", "strides = [2]\nstem_strides = [1, 3]"))
    assert shared.stem.strides == shared.stages.strides == own.stages.strides == (2,)
    assert own.stem.strides == (1, 3)
    assert {candidate.architecture.stem.stride for candidate in own.enumerate_candidates()} == {1, 3}


def test_networks_fit_the_examples():
    made = space(ORDINARY, ExampleSpec((3, 6, 5), ("cat", "dog")))
    assert (made.input_shape, made.num_classes) == ((3, 6, 5), 2)
    with pytest.raises(UnfitDataError, match=r"images of \(channels, height, width\), the data are \[64\]: reshape"):
        space(ORDINARY, ExampleSpec((64,), ("cat", "dog")))


SETTINGS = FEDNAS[FEDNAS.index('algorithm = "fednas"') : FEDNAS.index("[training]")]


@pytest.mark.parametrize("algorithm", ["fednas", "nested_race", "uniform_width", "random_pruning"])
def test_a_search_that_prunes_comes_to_widths_that_its_space_does_not_list(algorithm):
    settings = SETTINGS if algorithm == "fednas" else f'algorithm = "{algorithm}"\n'
    text = FEDNAS.replace(SETTINGS, settings).replace("widths = [8]", "widths = [12]")
    reached = reachable_space(RunFile.model_validate(tomllib.loads(text)), SPEC)
    assert reached.stem.widths == reached.stages.widths == (4, 8, 12)
    assert replace(reached, stem=space(text).stem, stages=space(text).stages) == space(text)


def test_other_searches_come_to_the_networks_of_their_space():
    made = RunFile.model_validate(tomllib.loads(ORDINARY))
    assert reachable_space(made, SPEC) == space(ORDINARY)


BLOCKS = ORDINARY[ORDINARY.index("[space]") : ORDINARY.index("[budgets.default]")]
CELLS = """
[cells]
operations = ["none", "skip", "conv_3"]
nodes = 2
width = 6
strides = [1, 2]
depth = 2
edges_kept = 1
head = "global_average"
normalization = "none"
activation = "hard_swish"
"""


def test_cells_are_a_space_of_their_own():
    text = ORDINARY.replace(BLOCKS, CELLS)
    made = space(text)
    assert made == CellSpace(
        input_shape=(1, 8, 8),
        num_classes=10,
        operations=("none", "skip", "conv_3"),
        nodes=2,
        width=6,
        strides=(1, 2),
        hyper_parameters=space(ORDINARY).hyper_parameters,
        depth=2,
        final_depth=2,  # as the supernet's where left out
        edges_kept=1,
        head="global_average",
        normalization="none",
        activation="hard_swish",
    )
    assert space(text.replace("depth = 2", "depth = 2\nfinal_depth = 3")).final_depth == 3
    with pytest.raises(UnfitDataError, match=r"\[cells\] makes networks for images"):
        space(text, ExampleSpec((64,), ("cat", "dog")))


def test_hyper_parameters_of_all_steps_are_what_the_search_chooses_from():
    steps = "weight_decay = [0.0, 0.1]\narchitecture_learning_rate = 0.01\narchitecture_weight_decay = 0.001\n"
    options = space(ORDINARY.replace("[training]\n", f"[training]\n{steps}")).hyper_parameters
    assert options.weight_decay == (0.0, 0.1)
    assert (options.architecture_learning_rate, options.architecture_weight_decay) == ((0.01,), (0.001,))
    assert space(ORDINARY).hyper_parameters.architecture_learning_rate == ()
