from dataclasses import replace

import pytest

from profiles.few import FewTimes, few_of, join_few, read_few, with_networks
from profiles.importing import FORMS, ForeignTableError, import_times
from profiles.kernel import Kernel
from profiles.known_models import KNOWN_MODELS, known_model_in
from profiles.records import encode_record
from profiles.schema import Runtime

LINEAR = Kernel("linear", (4,), (2,))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("tflite printed", "tflite-benchmark"),
        ("tflite csv", "tflite-benchmark"),
        ("perf test", "ort-perf-test"),
        ("slim", "lookup-table"),
        ("lite", "lookup-table"),
        ("etdump", "etdump"),
    ],
)
def test_each_form_is_told_from_the_others(forms, name, form):
    assert [known for known, reader in FORMS.items() if reader.is_form(forms[name])] == [form]
    assert import_times(forms[name], model="mobilenet_v1").form == form


def test_what_was_imported_is_read_again(forms):
    few = import_times(forms["slim"]).few
    assert read_few(encode_record(few), "few.json") == few


def test_a_file_of_no_form_is_refused_with_the_forms():
    with pytest.raises(
        ForeignTableError, match="none of the known forms; name one with --format: ort-profile, ort-perf"
    ):
        import_times("hello\n")


def test_a_model_nobody_named_is_told_and_one_named_is_kept(forms):
    with pytest.raises(ForeignTableError, match=r"say with --model what it is \(41.6 ms a run\)"):
        import_times(forms["etdump"])
    (named,) = import_times(forms["etdump"], model="my net", kernels=(LINEAR,)).few.models
    assert (named.model, named.kernels, named.median_ms, named.p90_ms) == ("my net", (LINEAR,), 41.6, 42.9)
    assert "--model has no use" in import_times(forms["slim"], model="mobilenet_v1").notes[-1]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("mobilenet_v1_1.0_224.tflite", "mobilenet_v1"),
        ("MobileNetV2", "mobilenet_v2"),
        ("mobilenetv2-12", "mobilenet_v2"),
        ("mobilenet_v1_1.0_224_quant.tflite", None),
        ("mobilenet_v1_0.25_128.tflite", None),
        ("ssd_mobilenet_v1.tflite", None),
        ("resnet50", None),
    ],
)
def test_file_names_tell_a_known_model_but_no_other_variant(text, model):
    assert known_model_in(text) == model


def test_models_become_networks_of_their_kernels(forms):
    few = with_networks(import_times(forms["tflite printed"]).few)
    (network,) = few.networks
    assert (network.kernels, network.median_ms, network.batch_size) == (KNOWN_MODELS["mobilenet_v1"], 41.8123, 1)
    assert few.models == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be an object with kernels, networks or models, got list"),
        ('{"source": "me", "model": 3}', "unknown key 'model': did you mean 'models'"),
        ('{"source": "me", "models": [{"model": "a", "median_ms": 0}]}', "0 < median_ms <= p90_ms"),
        ('{"source": "me", "models": [{"model": "a", "median_ms": 2, "p90_ms": 1}]}', "got 2.0 and 1.0"),
        ('{"source": "me", "models": [{"model": "a", "median_ms": 2, "batch_size": 0}]}', "batch_size and repetitions"),
        ('{"throughput": 3}', "DeviceProfile"),
    ],
)
def test_few_times_that_are_wrong_are_told_with_the_file(text, message):
    with pytest.raises(ValueError, match=r"few\.json") as told:
        read_few(text, "few.json")
    assert message in str(told.value)


def test_several_files_of_one_phone_are_joined_unless_they_were_measured_unlike(forms):
    slim, lite = (import_times(forms[name]).few for name in ("slim", "lite"))
    both = join_few([slim, lite, slim])
    assert both.kernels == (*slim.kernels, *lite.kernels, *slim.kernels)
    assert both.source == f"{slim.source}; {lite.source}"
    with pytest.raises(ValueError, match=r"got .* with 1 thread.* and .* with 4: measure them alike"):
        join_few([slim, replace(lite, threads=4)])


def test_files_that_do_not_tell_a_runtime_or_its_version_are_joined_with_those_that_do():
    told = [None, Runtime("onnxruntime", "unknown"), Runtime("onnxruntime", "1.19.2")]
    times = [FewTimes(str(runtime), runtime=runtime) for runtime in told]
    assert join_few(times).runtime == join_few(times[::-1]).runtime == told[2]
    for other in (Runtime("onnxruntime", "1.20.0"), Runtime("tflite", "unknown")):
        with pytest.raises(ValueError, match=r"\(onnxruntime 1\.19\.2\) with 1 thread.*: measure them alike"):
            join_few([*times, FewTimes("other", runtime=other)])


def test_a_model_without_kernels_or_known_name_is_refused_with_the_cure():
    few = read_few('{"source": "me", "models": [{"model": "my net", "median_ms": 2}]}', "few.json")
    with pytest.raises(ValueError, match=r"give its `architecture` .* or measure one of mobilenet_v1, mobilenet_v2"):
        with_networks(few)


def test_a_quickly_measured_profile_is_few_times_too(profile):
    read = read_few(encode_record(profile), "few.json")
    assert read == profile
    assert few_of(read) == FewTimes(
        "profile 'test-phone', measured by Handheld", profile.kernels, (), (), profile.runtime
    )
