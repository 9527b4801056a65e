import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from profiles.importing import ForeignTableError, import_times
from profiles.importing.lookup_table import PLAIN
from profiles.kernel import Kernel
from profiles.schema import Runtime


def graph(path):
    """A convolution, a depthwise one with its activation, a pooling and a product, as ONNX."""
    weights = {"w0": (8, 3, 3, 3), "w1": (8, 1, 5, 5), "w2": (4, 8), "b2": (4,)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], strides=[2, 2], pads=[1] * 4, name="stem"),
        helper.make_node("Conv", ["c0", "w1"], ["c1"], group=8, pads=[2] * 4, name="depthwise"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("MaxPool", ["r1"], ["p"], kernel_shape=[3, 3], strides=[2, 2], name="pool"),
        helper.make_node("HardSwish", ["r1"], ["h"], name="swish"),
        helper.make_node("Add", ["h", "c0"], ["a"], name="sum"),
        helper.make_node("GlobalAveragePool", ["a"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1, name="head"),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, (2, 3, 64, 64))],
        [value("y", TensorProto.FLOAT, (2, 4)), value("p", TensorProto.FLOAT, None)],
        [helper.make_tensor(name, TensorProto.FLOAT, shape, np.ones(shape).ravel()) for name, shape in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> str:
    """What ONNX Runtime's profiler writes of five runs."""
    folder = tmp_path_factory.mktemp("profiled")
    graph(folder / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "run")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(folder / "net.onnx", options, providers=["CPUExecutionProvider"])
    for _ in range(5):
        session.run(None, {"x": np.ones((2, 3, 64, 64), np.float32)})
    return Path(session.end_profiling()).read_text(encoding="utf-8")


def test_onnx_runtimes_profiler_tells_kernels_by_their_shapes(profiled):
    found = import_times(profiled)
    assert found.form == "ort-profile"
    stem, depthwise = (
        Kernel("conv", (3, 64, 64), (8, 32, 32), 3, 2, has_bias=False),
        Kernel("conv", (8, 32, 32), (8, 32, 32), 5, 1, 8, has_bias=False),
    )
    times = {time.kernel: time for time in found.few.kernels}
    swish = Kernel("hard_swish", (8, 32, 32), (8, 32, 32))
    assert {stem, depthwise, swish} <= set(times)
    assert set(times) - {stem, depthwise, swish} <= {
        Kernel("add", (8, 32, 32), (8, 32, 32)),
        Kernel("global_average", (8, 32, 32), (8,)),
        Kernel("linear", (8,), (4,)),
    }
    assert (times[stem].batch_size, times[stem].repetitions) == (2, 4)
    assert times[stem].min_ms <= times[stem].median_ms <= times[stem].p90_ms
    assert len(times[stem].samples_ms) == 4
    told = {one.where: one.reason for one in found.unused}
    assert told["node pool (MaxPool)"] == "tells no window"
    assert told["node flat (Flatten)"] == "is no kernel of Handheld's networks"
    assert "the first of 5 runs is left out" in found.notes[0]
    assert any("hold the activation" in note for note in found.notes)


def events(**changes):
    arguments = {"op_name": "Conv", "node_index": "0", "output_type_shape": [{"float": [1, 8, 4, 4]}]}
    arguments |= {"input_type_shape": [{"float": [1, 4, 8, 8]}, {"float": [8, 4, 3, 3]}]} | changes
    node = {"cat": "Node", "ph": "X", "name": "one_kernel_time", "dur": 40, "args": arguments}
    return json.dumps([node, {"cat": "Session", "ph": "X", "name": "model_run", "dur": 50}])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_type_shape": [{"uint8": [1, 4, 8, 8]}]}, "computes with uint8: profiles are of float32"),
        ({"input_type_shape": []}, "tells no shapes"),
        ({"input_type_shape": [{"float": [1, 4, 8, 8]}]}, "tells no weights of a convolution"),
        ({"input_type_shape": [{"float": [1, 4, 8, 8]}, {"float": [8, 4, 3, 1]}]}, "has no square window"),
        ({"op_name": "Relu", "input_type_shape": [{"float": [4]}]}, "has no batch of values"),
    ],
)
def test_nodes_that_cannot_be_used_are_told(changes, reason):
    both = json.loads(events()) + json.loads(events(node_index="1", **changes))
    (unused,) = import_times(json.dumps(both)).unused
    assert reason in unused.reason
    assert unused.ms == 0.04


def runs_of(*nodes):
    """What the profiler writes of three runs of nodes, by operator and shapes of inputs: of 10, 20, ... us and more."""
    return json.dumps(
        [
            {
                "cat": "Node",
                "ph": "X",
                "name": f"{operator}_{place}_kernel_time",
                "dur": 10 * (place + 1) + number,
                "args": {
                    "op_name": operator,
                    "node_index": str(place),
                    "input_type_shape": [{"float": shape} for shape in shapes],
                    "output_type_shape": [{"float": shapes[0]}],
                },
            }
            for number in range(3)
            for place, (operator, shapes) in enumerate(nodes)
        ]
    )


def test_a_hard_swish_is_one_kernel_whether_it_is_run_as_one_node_or_as_two():
    shape, other = [2, 8, 4, 4], [2, 8, 1, 1]
    one = import_times(runs_of(("HardSwish", [shape])))
    two = import_times(runs_of(("HardSigmoid", [shape]), ("Mul", [shape, shape])))
    for found, samples in ((one, (0.011, 0.012)), (two, (0.032, 0.034))):
        (time,) = found.few.kernels
        assert time.kernel == Kernel("hard_swish", (8, 4, 4), (8, 4, 4))
        assert time.samples_ms == pytest.approx(samples)
        assert (time.batch_size, found.unused) == (2, ())
    apart = import_times(
        runs_of(
            ("HardSigmoid", [other]),
            ("Mul", [shape, other]),
            ("HardSigmoid", [shape]),
            ("Relu", [shape]),
            ("Mul", [shape, shape]),
        )
    )
    assert [time.kernel.kind for time in apart.few.kernels] == ["relu"]
    assert len(apart.unused) == 4


def test_a_profile_of_one_run_says_that_it_is_cold_and_one_cut_off_how_to_end_it():
    found = import_times(events())
    assert found.few.kernels[0].repetitions == 1
    assert "cold start" in found.notes[0]
    with pytest.raises(ForeignTableError, match=r"whole once the session's end_profiling\(\) was called"):
        import_times(events()[:-20])
    with pytest.raises(ForeignTableError, match="must hold runs of nodes, got none"):
        import_times('[{"cat": "Session", "ph": "X", "name": "model_run", "dur": 50}]')


def test_perf_test_tells_the_runs_of_a_model_without_its_first(forms):
    (model,) = import_times(forms["perf test"]).few.models
    assert (model.model, model.repetitions) == ("mobilenet_v2", 10)
    assert (model.median_ms, model.p90_ms) == (pytest.approx(20.3), pytest.approx(23.1))


def test_benchmark_model_tells_its_model(forms):
    found = import_times(forms["tflite printed"])
    (model,) = found.few.models
    assert (model.model, model.median_ms, model.repetitions) == ("mobilenet_v1", 41.8123, 50)
    assert (found.unused, found.notes, found.few.threads) == ((), (), 1)


def test_newer_versions_of_benchmark_model_tell_a_median(forms):
    newer = forms["tflite printed"].replace(
        "avg=41812.3 std=402", "avg=41812.3 std=402 p5=41450 median=41750 p95=42100"
    )
    assert import_times(newer).few.models[0].median_ms == 41.75


def test_operators_of_benchmark_models_csv_are_told_as_of_no_use(forms):
    found = import_times(forms["tflite csv"], model="mobilenet_v1")
    assert found.few.models[0].median_ms == pytest.approx(0.1204)
    assert [one.where for one in found.unused] == [
        "line 14 (CONV_2D [net/conv2d/Conv2D]:0)",
        "line 15 (AVERAGE_POOL_2D [net/pool/AvgPool]:1)",
    ]
    assert found.unused[0].ms == 0.0930388
    assert "run again without --enable_op_profiling" in found.notes[1]


def test_output_of_benchmark_model_without_times_is_refused(forms):
    cut = re.sub(r"(?m)^.*(count=|Inference timings).*$", "", forms["tflite printed"])
    with pytest.raises(ForeignTableError, match=r"must hold 'Inference .avg.' .* keep all that it prints"):
        import_times(cut, "tflite-benchmark")


def test_an_inspectors_table_tells_whole_inferences_in_its_unit(forms):
    found = import_times(forms["etdump"], model="mobilenet_v1")
    assert (found.few.models[0].median_ms, found.few.models[0].p90_ms) == (41.6, 42.9)
    assert [one.where for one in found.unused] == [
        "row 2 (Default: Method::init)",
        "row 3 (Execute: native_call_convolution.out)",
    ]
    micro = forms["etdump"].replace("(ms)", "(us)")
    assert import_times(micro, model="mobilenet_v1").few.models[0].median_ms == pytest.approx(0.0416)
    as_csv = forms["etdump"].replace("\t", ",").replace(" (ms)", "")
    assert import_times(as_csv, model="mobilenet_v1").few.models[0].median_ms == 41.6
    with pytest.raises(ForeignTableError, match="times must be in s, ms, us, ns, got 'cycles"):
        import_times(forms["etdump"].replace("(ms)", "(cycles)"))
    with pytest.raises(ForeignTableError, match=r"must have an event Method::execute, got none; .*EVENT_TRACER=ON"):
        import_times(forms["etdump"].replace("Method::execute", "Method::other"))


def test_paddleslims_table_tells_kernels_and_which_lines_are_none(forms):
    found = import_times(forms["slim"])
    assert {time.kernel: time.median_ms for time in found.few.kernels} == {
        Kernel("conv", (3, 224, 224), (32, 112, 112), 3, 2): 2.9,
        Kernel("conv", (32, 112, 112), (32, 112, 112), 3, 1, 32): 1.4,
        Kernel("relu", (32, 112, 112), (32, 112, 112)): 0.21,
        Kernel("add", (24, 56, 56), (24, 56, 56)): 0.07,
        Kernel("global_average", (1024, 7, 7), (1024,)): 0.03,
        Kernel("max_pool", (64, 56, 56), (64, 28, 28), 3, 2): 0.16,
    }
    assert found.few.source == "PaddleSlim's latency table: Snapdragon 855,Paddle Lite 2.6,2020-02-02"
    assert [(one.where.partition(" (")[0], one.reason) for one in found.unused] == [
        ("line 8", "'softmax' with 5 values is no kernel of Handheld's networks"),
        ("line 9", "'conv2d' with 5 values is no kernel of Handheld's networks"),
    ]


def test_paddle_lites_table_tells_kernels_of_float32(forms):
    found = import_times(forms["lite"])
    assert {time.kernel: time.median_ms for time in found.few.kernels} == {
        Kernel("conv", (96, 112, 112), (48, 112, 112), has_bias=False): 3.52088,
        Kernel("linear", (64,), (1000,)): 0.13779,
        Kernel("average_pool", (8, 64, 64), (8, 32, 32), 2, 2): 0.00983,
        Kernel("relu", (8, 64, 64), (8, 64, 64)): 0.01103,
    }
    assert [one.reason for one in found.unused] == [
        "computes with int8_int8: profiles are of float32",
        "'batchnorm' is no kernel of Handheld's networks",
    ]


def test_lines_of_one_kernel_with_other_times_are_told_with_both():
    text = "kind,channels,latency_ms\nrelu,8,0.4\nlinear,8,2\nrelu,8,0.6\nlinear,8,2.0\n"
    _, *warnings = import_times(text).notes
    (told,) = warnings
    assert told.startswith(
        "line 4 tells 0.6 ms for the relu of line 2, which tells 0.4 ms: the median of all its lines"
    )


def test_tables_tell_their_runtime_and_its_version_where_they_know_it(forms, profiled):
    told = {name: import_times(text, model="mobilenet_v1").few.runtime for name, text in forms.items()}
    assert told == {
        "tflite printed": Runtime("tflite", "unknown"),
        "tflite csv": Runtime("tflite", "unknown"),
        "perf test": Runtime("onnxruntime", "unknown"),
        "slim": Runtime("Paddle-Lite", "2.6"),
        "lite": Runtime("Paddle-Lite", "unknown"),
        "etdump": Runtime("executorch", "unknown"),
    }
    assert import_times(profiled).few.runtime == Runtime("onnxruntime", "unknown")
    assert import_times(f"{PLAIN}\nrelu,1,8,4,4,,,,,,2\n").few.runtime is None


def test_a_plain_table_has_columns_in_any_order_and_lines_of_one_kernel_are_joined():
    text = "latency_ms,kind,channels,height,width,out_channels,kernel,stride\n"
    text += "0.4,conv,8,15,15,16,3,2\n0.6,conv,8,15,15,16,3,2\n"
    (time,) = import_times(text).few.kernels
    assert time.kernel == Kernel("conv", (8, 15, 15), (16, 8, 8), 3, 2)
    assert (time.median_ms, time.repetitions) == (0.5, 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("conv,1,8,4,4,16,3,1,1,1,fast", "a latency must be a number > 0, got 'fast'"),
        ("conv,1,8,4,4,16,3,1,1,1,-1", "a latency must be a number > 0, got '-1'"),
        ("conv,1,8,4.5,4,16,3,1,1,1,2", "height must be a whole number > 0, got '4.5'"),
        ("conv,1,8,0,4,16,3,1,1,1,2", "height must be a whole number > 0, got '0'"),
        ("conv,1,8", "has 3 values for 11 columns"),
        ("lstm,1,8,4,4,16,3,1,1,1,2", "'lstm' is no kernel of Handheld's networks"),
        ("conv,1,,4,4,16,3,1,1,1,2", "tells no channels"),
    ],
)
def test_lines_of_a_plain_table_that_cannot_be_used_say_why(line, reason):
    with pytest.raises(ForeignTableError, match=f"no line of the table can be used: {re.escape(reason)}"):
        import_times(f"{PLAIN}\n{line}\n")
