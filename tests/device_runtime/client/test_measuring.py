import hashlib
from dataclasses import replace

import pytest

from device_runtime.client_records import BlobsLost, Measure, Request, Started, WorkFailed
from device_runtime.measurement_pack import PackManifest, read_pack
from device_runtime.terms import MeasureTerms
from profiles.records import decode_record, encode_record

MEASURING = ["server", "enrolment", "check-in", *["blob"] * 5, "upload", "report", "check-in"]


@pytest.fixture(scope="module")
def pack_files(tiny_pack, tmp_path_factory):
    """Manifest first, then the four graphs, by sha256."""
    folder = tiny_pack(tmp_path_factory.mktemp("measuring") / "pack")
    pack = read_pack(folder)
    return {pack.pack_id: (folder / "manifest.json").read_bytes(), **pack.graphs}


@pytest.fixture
def measuring(server, make_assignment, pack_files):
    """A server with one assignment to measure."""
    terms = {"kind": "measure", "train": None, "measure": MeasureTerms(), "parameters_sha256": None}
    server.files = dict(pack_files)
    server.assignments = [make_assignment(artifact_id=next(iter(pack_files)), **terms)]
    return server


def change_manifest(server, change):
    data = encode_record(change(decode_record(PackManifest, server.files[server.assignments[0].artifact_id])))
    server.files[server.assignments[0].artifact_id] = data


def test_it_fetches_the_pack_measures_uploads_and_reports(phone, measuring, fakes):
    phone.run()
    assert measuring.seen == MEASURING
    (report,) = measuring.reports
    assert (report.profile_sha256, report.num_examples, report.update_sha256) == (fakes.PROFILE, 0, None)
    assert phone.state.num_reported == 1


def test_it_asks_for_every_file_once_and_the_manifest_first(phone, measuring, pack_files):
    change_manifest(measuring, lambda manifest: replace(manifest, entries=manifest.entries * 2))
    asked = []
    action = phone.step(Started())
    while not isinstance(action, Measure):
        asked += [action.save_as] if isinstance(action, Request) and action.save_as else []
        action = phone.step(phone.react(action))
    assert asked[0] == next(iter(pack_files))
    assert sorted(asked) == sorted(pack_files)


def test_a_profile_that_was_stored_is_sent_again_after_a_kill(phone, measuring, fakes):
    action = phone.step(Started())
    while not (isinstance(action, Request) and action.blob):
        action = phone.step(phone.react(action))
    assert action.blob == fakes.PROFILE
    phone.run()
    assert len(measuring.reports) == len(phone.worked) == 1


@pytest.mark.parametrize("sha256", ["../../key.pem", hashlib.sha256(b"x").hexdigest().upper()])
def test_a_pack_whose_graphs_have_other_names_is_refused_before_they_are_fetched(phone, measuring, sha256):
    change_manifest(
        measuring, lambda manifest: replace(manifest, entries=(replace(manifest.entries[0], sha256=sha256),))
    )
    phone.run()
    assert [abort.reason for abort in measuring.aborts] == ["refused"]
    assert "must name its graphs by sha256" in phone.state.note
    assert measuring.seen.count("blob") == 1


@pytest.mark.parametrize(("data", "note"), [(b"{}", "lacks kernels, entries"), (b'{"schema":2}', "reads up to 1")])
def test_what_is_no_pack_is_refused(phone, measuring, data, note):
    measuring.files[measuring.assignments[0].artifact_id] = data
    phone.run()
    assert [abort.reason for abort in measuring.aborts] == ["refused"]
    assert note in phone.state.note


def test_a_graph_that_was_lost_is_fetched_again(phone, measuring):
    phone.work = [BlobsLost("a graph was damaged on this device")]
    phone.run()
    assert len(measuring.reports) == 1
    assert measuring.seen.count("blob") == 10


def test_a_device_that_cannot_measure_gives_its_place_back(phone, measuring):
    phone.work = [WorkFailed("failed", "no memory")]
    phone.run()
    assert [abort.reason for abort in measuring.aborts] == ["failed"]
