"""Files that were edited, cut off, or are other tools': refused with their name, the place and the cure."""

import json

import pytest

from profiles.importing import FORMS, ForeignTableError, import_times
from profiles.importing.lookup_table import PLAIN

NODE = {
    "cat": "Node",
    "ph": "X",
    "name": "one_kernel_time",
    "dur": 40,
    "args": {
        "op_name": "Conv",
        "input_type_shape": [{"float": [1, 4, 8, 8]}, {"float": [8, 4, 3, 3]}],
        "output_type_shape": [{"float": [1, 8, 4, 4]}],
    },
}
OTHERS = (None, [], {}, "x", 3, -1, 1e300, True, [1], [None], {"a": 1}, [{"float": None}], [{"float": ["a"]}], [{}])


def profile_with(**changes):
    changed = json.loads(json.dumps(NODE))
    for key, value in changes.items():
        (changed["args"] if key in changed["args"] else changed)[key] = value
    return json.dumps([NODE, changed])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dur": "40"}, "dur must be a number of microseconds >= 0, got '40'"),
        ({"dur": -1}, "dur must be a number of microseconds >= 0, got -1"),
        ({"args": None}, "args must be an object, got None"),
        ({"op_name": ["Conv"]}, "op_name must be a string, got"),
        ({"input_type_shape": ["float"]}, "input_type_shape must be a list of shapes by type"),
        ({"output_type_shape": [{"float": [1, "8"]}]}, "output_type_shape must be a list of shapes by type"),
    ],
)
def test_an_event_of_the_profiler_that_is_malformed_is_named_with_its_file_and_the_cure(changes, message):
    with pytest.raises(ForeignTableError) as told:
        import_times(profile_with(**changes), "ort-profile", what="phone.json")
    assert str(told.value).startswith(f"phone.json: event 2 ('one_kernel_time'): {message}")
    assert str(told.value).endswith("give the file as end_profiling() wrote it")


@pytest.mark.parametrize("key", ["args", "dur"])
def test_an_event_of_the_profiler_that_lacks_a_part_is_named(key):
    cut = {name: value for name, value in NODE.items() if name != key}
    with pytest.raises(ForeignTableError, match=rf"event 1 \('one_kernel_time'\) lacks {key}"):
        import_times(json.dumps([cut]))


@pytest.mark.parametrize("key", ["dur", "args", "op_name", "input_type_shape", "output_type_shape", "name", "cat"])
@pytest.mark.parametrize("value", OTHERS, ids=repr)
def test_whatever_an_event_holds_it_is_read_or_refused(key, value):
    try:
        assert import_times(profile_with(**{key: value}), "ort-profile").few.kernels
    except ForeignTableError as error:
        assert "event 2" in str(error)  # noqa: PT017  (both outcomes are right)


def test_shapes_that_are_no_convolution_are_told_as_unused():
    for shapes in ([{"float": [1, 8]}], [{"float": [1, 8, 0, 0]}]):
        (unused,) = import_times(profile_with(output_type_shape=shapes, name="two_kernel_time")).unused
        assert unused.where == "node two (Conv)"


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("etdump", "", "must have the columns event_name, event_block_name and p50"),
        ("etdump", '[{"event_name": "Method::execute", "p50": 3}]', "must have the columns event_name"),
        ("etdump", "name,p50\nMethod::execute,3\n", "write it with Inspector.save_data_to_tsv"),
        ("etdump", "event_block_name,event_name,p50\nExecute,Method::execute,nan\n", "must have an event Method::exec"),
        ("ort-perf-test", "", "must have lines MODEL,SECONDS,PEAK BYTES,CPU %,RUN, got none"),
        ("ort-perf-test", "net,-1,1,1,0\nnet,inf,1,1,1\n", "onnxruntime_perf_test -I -m times"),
        ("ort-profile", "{}", "must be a list of events"),
        ("tflite-benchmark", "Inference (avg): 1e999\n", "must hold 'Inference (avg)'"),
        ("lookup-table", "", "must be PaddleSlim's, Paddle Lite's or a CSV"),
        ("lookup-table", f"{PLAIN}\nconv,1,8,²,4,16,3,1,1,1,2\n", "height must be a whole number > 0, got '²'"),
        ("lookup-table", f"{PLAIN}\nconv,1,8,{'9' * 5000},4,16,3,1,1,1,2\n", "height must be a whole number > 0"),
        ("lookup-table", f"{PLAIN}\nconv,1,8,4,4,16,3,1,3,1,2\n", "has channels that are no groups: 8 in 3"),
        ("lookup-table", f"{PLAIN}\nconv,1,8,4,4,16,3,1,1,1,1e999\n", "a latency must be a number > 0, got '1e999'"),
    ],
)
def test_a_file_of_another_layout_is_refused_with_its_name_and_the_cure(form, text, message):
    with pytest.raises(ForeignTableError) as told:
        import_times(text, form, "mobilenet_v1", what="phone.txt")
    assert str(told.value).startswith("phone.txt: ")
    assert message in str(told.value)


def test_a_table_of_paddle_lite_without_dimensions_is_told_line_by_line(forms):
    broken = forms["lite"].replace("[1 96 112 112]", "[1]", 1).replace("[1 8 64 64]", "[1 0 64 64]", 1)
    reasons = [one.reason for one in import_times(broken).unused]
    assert "has no batch of values: [1]" in reasons
    assert "a size must be a whole number > 0, got '0'" in reasons


def test_a_line_of_benchmark_models_csv_that_is_cut_off_is_unused(forms):
    cut = forms["tflite csv"].replace(
        "AVERAGE_POOL_2D, 0.123291, 0.026, 0.0272269, 13.1394%", "AVERAGE_POOL_2D, 0.1\n", 1
    )
    assert import_times(cut, model="mobilenet_v1").unused[1].where == "line 15 (AVERAGE_POOL_2D )"


def test_a_file_that_is_no_text_is_refused():
    with pytest.raises(ForeignTableError, match=r"a\.txt must be text in UTF-8"):
        import_times("Inference (avg): 1".encode("utf-16"), what="a.txt")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", ["tflite printed", "tflite csv", "perf test", "slim", "lite", "etdump", "json"])
def test_a_file_of_each_form_is_read_or_refused_as_every_other(forms, form, other):
    text = {**forms, "json": '{"event_name": 1, "event_block_name": [1, 2]}'}[other]
    try:
        assert import_times(text, form, "mobilenet_v1").few.source
    except ForeignTableError as error:
        assert str(error).startswith("the table: ")  # noqa: PT017  (both outcomes are right)
