import io

import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from pipeline.command_line.profile_memory import Graphs, PeakMemories, memory_table, predict_memories
from pipeline.compile.process_memory import predict_inference_memory, predict_memory, predict_step_memory
from search.architecture import Architecture, Stem

NETWORK = Architecture((1, 8, 8), 10, Stem(4))


def graph(batch, operator="Relu", **sizes) -> bytes:
    shapes = {"x": [batch, 64, 4], "y": [batch, 64, 4]} | sizes
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    made = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "a test", [x], [y])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def told(memory):
    return memory.resident / 2**20, tuple(end / 2**20 for end in memory.interval80)


def test_an_architectures_step_is_counted_without_compiling_it_and_its_inference_as_it_is_shipped():
    found = predict_memories(NETWORK, Graphs(), 16)
    step, inference = found.training_step, found.inference
    assert (step.peak_mib, step.interval80_mib) == told(predict_step_memory(NETWORK, 16))
    assert (step.method, inference.method, found.warnings) == ("architecture", "graph", ())
    assert 0 < inference.peak_mib < step.peak_mib
    for one in (step, inference):
        (low80, high80), (low95, high95) = one.interval80_mib, one.interval95_mib
        assert low95 < low80 < one.peak_mib < high80 < high95
    assert predict_memories(NETWORK, Graphs(), 64).training_step.peak_mib > step.peak_mib
    assert predict_memories(NETWORK, Graphs(), 64).inference == inference


def test_an_artifacts_step_is_counted_on_its_graph_where_that_is_for_as_many_examples():
    graphs = Graphs(gradient=graph(16), batch_size=16)
    same, other = (predict_memories(NETWORK, graphs, size).training_step for size in (16, 8))
    assert (same.peak_mib, same.method) == (told(predict_memory(graph(16)))[0], "graph")
    assert other == predict_memories(NETWORK, Graphs(), 8).training_step
    module = predict_memories(None, graphs, 16)
    assert (module.training_step, module.inference) == (same, None)
    assert "does not hold the model as it is shipped; predict its ONNX file" in module.warnings[0]
    (_, warning) = predict_memories(None, graphs, 8).warnings
    assert "the artifact's steps are of 16 examples; compile it for 8" in warning


@pytest.mark.parametrize("batch", ["n", 1, None])
def test_a_files_inference_is_of_one_example_where_its_batch_is_free_and_its_step_is_not_known(batch):
    found = predict_memories(None, Graphs(shipped=graph(batch)), 16)
    assert (found.inference.peak_mib, found.inference.interval80_mib) == told(predict_inference_memory(graph(1)))
    assert found.training_step is None
    assert found.warnings == (
        "the peak memory of a gradient step is not predicted: compile the module and predict its artifact",
    )


@pytest.mark.parametrize(
    ("shipped", "reason"),
    [
        (graph(1, x=[1, "height"], y=[1, "height"]), "the shape of 'y' is not fixed"),
        (graph(1, "Unheard"), "ONNX Runtime does not open the graph"),
    ],
)
def test_a_file_that_cannot_be_followed_says_why(shipped, reason):
    found = predict_memories(None, Graphs(shipped=shipped), 16)
    assert found.inference is None
    assert f"the peak memory of an inference is not predicted: {reason}" in found.warnings[0]


def test_sizes_that_are_fixed_stay():
    assert (
        predict_memories(None, Graphs(shipped=graph(512)), 16).inference.peak_mib
        > predict_memories(None, Graphs(shipped=graph(1)), 16).inference.peak_mib
    )
    assert onnx.load_from_string(graph(512)).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 512


def test_the_table_shows_both_with_their_intervals_and_leaves_out_what_is_not_known():
    both = predict_memories(NETWORK, Graphs(), 16)
    console = Console(file=io.StringIO(), width=80)
    console.print(memory_table(PeakMemories(None, both.training_step)))
    rows = [line for line in console.file.getvalue().splitlines() if "inference" in line or "gradient step" in line]
    assert not any(sign.isdigit() for sign in rows[0])
    step = both.training_step
    shown = (step.peak_mib, *step.interval80_mib, *step.interval95_mib)
    assert all(f"{number:.3g}" in rows[1] for number in shown)
    assert "architecture" in rows[1]
