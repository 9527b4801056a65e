import hashlib
import itertools
from dataclasses import replace

import onnx
import onnxruntime
import pytest

from device_runtime.accounting import Budget
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.measure import FULL, QUICK
from device_runtime.measure_work import load_pack, measure_assignment, plan_of
from device_runtime.measurement_pack import PackError, PackManifest, read_pack
from device_runtime.probe import Host
from device_runtime.terms import MeasureTerms, TrainTerms
from device_runtime.wire import Assignment
from device_runtime.work import WorkRefusedError, abort_reason_of, charge_assignment, releases_of, timed_report
from profiles.records import decode_record, encode_record
from profiles.schema import Cluster, DeviceProfile, Figure

HOST = Host("made up", (Cluster("core", 2, None),), Figure(512.0, "MiB", "measured", "a test"), "arm64-v8a", "OS 1", ())


@pytest.fixture(scope="module")
def blobs(tiny_pack, tmp_path_factory):
    folder = tiny_pack(tmp_path_factory.mktemp("work") / "pack")
    pack = read_pack(folder)
    return {pack.pack_id: (folder / "manifest.json").read_bytes(), **pack.graphs}


@pytest.fixture
def assignment(blobs):
    return Assignment("run-0-0", "run", "measure", next(iter(blobs)), None, 60.0, measure=MeasureTerms(is_quick=True))


def measure(assignment, blobs):
    ticks = itertools.count()
    return measure_assignment(
        assignment, "ab" * 32, "entry", blobs.__getitem__, lambda: next(ticks) / 1e3, lambda: HOST
    )


def test_the_result_is_the_profile_of_this_device_over_the_whole_pack(assignment, blobs):
    result = measure(assignment, blobs)
    profile = decode_record(DeviceProfile, result.update)
    assert encode_record(profile) == result.update
    assert (profile.name, profile.device_class, profile.soc) == ("device-abababababab", "entry", "made up")
    assert profile.runtime.version == onnxruntime.__version__
    assert [time.median_ms for time in profile.networks] == [pytest.approx(1.0)] * 3
    assert len(profile.kernels) == 6
    assert assignment.artifact_id[:12] in profile.throughput.call_overhead_ms.source


def test_the_report_names_the_profile_and_no_example(assignment, blobs):
    result = measure(assignment, blobs)
    report = timed_report(assignment, result.report, 2.5)
    assert report.profile_sha256 == hashlib.sha256(result.update).hexdigest()
    assert (report.num_examples, report.update_sha256, report.metric_sums, report.work_s) == (0, None, None, 2.5)


def test_measuring_spends_no_privacy_and_needs_no_budget(assignment):
    ledger = Ledger(LedgerMemory(), "source", Budget(8.0, 1e-5, 5))
    for one in (ledger, None):
        charge_assignment(assignment, one)
    assert releases_of(assignment) == ()
    assert ledger.releases() == ()


def test_the_terms_say_how_long():
    assert (plan_of(MeasureTerms(is_quick=True)), plan_of(MeasureTerms())) == (QUICK, FULL)


def test_a_manifest_of_something_else_is_refused():
    with pytest.raises(PackError, match="measurement pack 000000000000: PackManifest lacks") as refused:
        load_pack("0" * 64, lambda _: b"{}")
    assert abort_reason_of(refused.value) == "refused"


@pytest.mark.parametrize(
    ("make_graph", "why"),
    [(lambda graph: read_from(graph, "photo"), "refers to other files"), (lambda _: b"none", "is no protocol buffer")],
    ids=["reads a file", "is none"],
)
def test_a_graph_that_could_read_files_of_the_device_is_refused_before_any_runs(
    assignment, blobs, monkeypatch, make_graph, why
):
    manifest = decode_record(PackManifest, blobs[assignment.artifact_id])
    last = manifest.entries[-1]
    graph = make_graph(blobs[last.sha256])
    sha256 = hashlib.sha256(graph).hexdigest()
    data = encode_record(replace(manifest, entries=(*manifest.entries[:-1], replace(last, sha256=sha256))))
    pack_id = hashlib.sha256(data).hexdigest()
    opened = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *given, **options: opened.append(given))
    with pytest.raises(PackError, match=f"graph {sha256} of measurement pack {pack_id[:12]} {why}") as refused:
        measure(replace(assignment, artifact_id=pack_id), {**blobs, pack_id: data, sha256: graph})
    assert (abort_reason_of(refused.value), opened) == ("refused", [])


def read_from(graph, path):
    """The graph with a tensor that lies in a file."""
    model = onnx.load_from_string(graph)
    tensor = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return model.SerializeToString()


def test_only_an_assignment_to_measure_is_measured(blobs):
    training = Assignment("a", "run", "train", "0" * 64, "1" * 64, 60.0, train=TrainTerms(0.1, 1, batch_size=4))
    with pytest.raises(WorkRefusedError, match="the assignment is to train"):
        measure(training, blobs)
