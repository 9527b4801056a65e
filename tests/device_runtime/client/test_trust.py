from dataclasses import replace

import pytest

from device_runtime.client import new_client
from device_runtime.client_records import (
    BlobsLost,
    Describe,
    Described,
    Response,
    Sleep,
    Started,
    Stop,
    Woke,
)
from device_runtime.signing import reply_message
from device_runtime.terms import MeasureTerms
from device_runtime.wire import (
    CheckInReply,
    EnrolmentReceipt,
)

MEASURING = {"kind": "measure", "train": None, "measure": MeasureTerms(), "parameters_sha256": None}


class TestFiles:
    def test_a_damaged_download_is_fetched_again_once(self, phone, serving):
        serving.script["blob"] = [Response(200, {}, b"", is_intact=False)]
        phone.run()
        assert len(serving.reports) == 1
        assert serving.seen.count("blob") == 5

    def test_damaged_twice_it_is_given_back(self, phone, serving):
        serving.script["blob"] = [Response(200, {}, b"", is_intact=False)] * 2
        phone.run()
        assert [abort.reason for abort in serving.aborts] == ["failed"]
        assert "came damaged, for the second time" in phone.state.note

    def test_a_file_that_is_gone_at_the_server_is_given_back(self, phone, serving, fakes):
        del serving.files[fakes.PARAMETERS]
        phone.run()
        assert [abort.reason for abort in serving.aborts] == ["failed"]

    def test_files_lost_on_the_device_are_fetched_again_from_the_manifest_on(self, phone, serving):
        phone.work = [BlobsLost("blob is gone")]
        phone.run()
        assert serving.seen.count("blob") == 8
        assert len(serving.reports) == 1

    def test_an_update_lost_before_it_was_sent_is_made_again(self, phone, serving):
        serving.script["upload"] = [BlobsLost("the update is gone")]
        phone.run()
        assert phone.worked == ["run-0", "run-0"]
        assert len(serving.reports) == 1

    def test_files_lost_again_and_again_end_the_assignment(self, phone, serving):
        phone.work = [BlobsLost("blob is gone")] * 2
        phone.run()
        assert [abort.reason for abort in serving.aborts] == ["failed"]

    def test_an_artifact_for_a_newer_runtime_is_refused_before_its_graphs_are_fetched(self, phone, serving, fakes):
        old = replace(fakes.CHECK_IN, runtime_version="1.11.0")
        action = phone.step(Started())
        while not isinstance(action, Sleep):
            action = phone.step(Described(old) if isinstance(action, Describe) else phone.react(action))
        assert [abort.reason for abort in serving.aborts] == ["refused"]
        assert (
            phone.state.note == "the artifact needs ONNX Runtime 1.14.0, this is 1.11.0: update the app or onnxruntime"
        )
        assert serving.seen.count("blob") == 1

    def test_a_manifest_that_cannot_be_read_is_refused(self, phone, serving, artifact_id):
        serving.files[artifact_id] = b'{"schema":2}'
        phone.run()
        assert [abort.reason for abort in serving.aborts] == ["refused"]
        assert "schema is 2, this version reads up to 1" in phone.state.note


class TestTrust:
    def test_a_forged_check_in_reply_is_refused_counted_and_backed_off_from(self, phone, serving, fakes):
        forger = fakes.FakeServer({}, key=fakes.OTHER)
        serving.script["check-in"] = [forger.signed(CheckInReply(serving.assignments[0]), "nonce 2")]
        assert phone.run() == Sleep(0.5, 1.0)
        assert (phone.state.num_forged, phone.state.assignment) == (1, None)
        assert "not signed by the pinned server key" in phone.state.note
        phone.now += 1
        phone.run(Woke())
        assert serving.seen[3] == "server"
        assert len(serving.reports) == 1

    @pytest.mark.parametrize("damage", ["body", "signature", "no signature", "other device", "recorded before"])
    def test_a_reply_that_was_tampered_with_is_refused(self, phone, serving, damage, fakes):
        reply = serving.signed(CheckInReply(serving.assignments[0]), "nonce 2")
        body = reply.body.replace(b'"lease_s":60', b'"lease_s":61')
        other = fakes.SERVER.sign(reply_message(fakes.OTHER.key_id, "nonce 2", reply.body))
        serving.script["check-in"] = [
            {
                "body": replace(reply, body=body),
                "signature": replace(reply, headers={"handheld-signature": "A" * 86}),
                "no signature": replace(reply, headers={}),
                "recorded before": serving.signed(CheckInReply(serving.assignments[0]), "nonce 1"),
                "other device": replace(reply, headers={"handheld-signature": other}),
            }[damage]
        ]
        phone.run()
        assert (phone.state.num_forged, phone.worked) == (1, [])

    def test_another_key_than_the_pinned_one_stops_with_the_cure(self, phone, server, fakes):
        phone.run()
        stop = fakes.Phone(fakes.FakeServer({}, key=fakes.OTHER), phone.state, phone.now + 20).run()
        assert "not the one pinned at enrolment" in stop.reason
        assert "forget the enrolment and enrol again" in stop.reason

    def test_a_key_that_changes_while_it_runs_stops_at_the_next_try(self, phone, server, fakes):
        phone.run()
        server.key = fakes.OTHER
        phone.now += 15
        assert isinstance(phone.run(Woke()), Sleep)
        phone.now += 1
        assert isinstance(phone.run(Woke()), Stop)

    def test_an_enrolment_receipt_for_another_device_is_refused(self, phone, server, fakes):
        server.script["enrolment"] = [
            server.signed(EnrolmentReceipt(fakes.OTHER.key_id, fakes.SERVER.public_key), "nonce 1")
        ]
        assert isinstance(phone.run(), Sleep)
        assert (phone.state.phase, phone.state.num_forged) == ("enrol", 1)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"encoding": "int8"}, "float32"),
            ({"artifact_id": "../../key.pem"}, "by sha256"),
            ({"parameters_sha256": "A" * 64}, "by sha256"),
            ({"assignment_id": "run/../0"}, "letters, digits"),
            (MEASURING | {"artifact_id": "A" * 64}, "by sha256"),
        ],
    )
    def test_an_assignment_that_this_client_cannot_take_is_given_back(
        self, phone, server, make_assignment, change, reason
    ):
        server.assignments = [make_assignment(**change)]
        phone.run()
        assert [abort.reason for abort in server.aborts] == ["refused"]
        assert reason in phone.state.note
        assert phone.worked == []

    @pytest.mark.parametrize(("kind", "num_aborts"), [("real", 1), ("emulated", 0)])
    def test_only_an_emulated_client_rotates_its_splits(self, server, make_assignment, kind, num_aborts, fakes):
        server.assignments = [make_assignment(rotation=2)]
        phone = fakes.Phone(server, new_client(fakes.DEVICE, kind == "emulated"))
        phone.run()
        assert len(server.aborts) == num_aborts
