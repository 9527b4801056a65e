import pytest

from device_runtime.terms import EvaluateTerms, TrainTerms
from device_runtime.wire import Assignment, CheckIn, CheckInReply, Headroom, Report, Window
from profiles.records import RecordError, decode_record, encode_record

TERMS = TrainTerms(learning_rate=0.1, local_steps=2, batch_size=8)
ASSIGNMENT = Assignment("r0-0", "run", "train", "a" * 64, "b" * 64, lease_s=60, train=TERMS)
MESSAGES = [
    ASSIGNMENT,
    Assignment("r1-0", "run", "evaluate", "a", "b", 60, evaluate=EvaluateTerms("validation", ("accuracy",))),
    CheckInReply(assignment=ASSIGNMENT),
    CheckInReply(come_back=Window(1.5, 3)),
    CheckIn("1.19.2", 17, "c" * 64, {"train": 36}, headroom=Headroom(8, {"train": 0.25})),
    Report("r0-0", 36, update_sha256="d" * 64),
    Report("r1-0", 12, metric_sums={"accuracy": 7.0}, work_s=0.25),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_survive_the_wire(message):
    assert decode_record(type(message), encode_record(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_of_a_newer_schema_is_refused_by_name(message):
    newer = encode_record(message).replace(b'"schema":1', b'"schema":2')
    with pytest.raises(RecordError, match=r"schema is 2, this version reads up to 1: update handheld"):
        decode_record(type(message), newer)


def test_an_assignment_carries_exactly_its_own_terms():
    with pytest.raises(ValueError, match="exactly its own terms"):
        Assignment("r0-0", "run", "train", "a", "b", 60)
    with pytest.raises(ValueError, match="exactly its own terms"):
        Assignment("r0-0", "run", "evaluate", "a", "b", 60, train=TERMS)


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(RecordError, match=r"'lease'.*did you mean 'lease_s'"):
        decode_record(Assignment, encode_record(ASSIGNMENT).replace(b'"lease_s"', b'"lease"'))
