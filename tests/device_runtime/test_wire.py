import pytest

from device_runtime.terms import EvaluateTerms, MeasureTerms, TrainTerms
from device_runtime.wire import Assignment, CheckIn, CheckInReply, Headroom, Report, Window
from profiles.records import RecordError, decode_record, encode_record

TERMS = TrainTerms(learning_rate=0.1, local_steps=2, batch_size=8)
ASSIGNMENT = Assignment("r0-0", "run", "train", "a" * 64, "b" * 64, lease_s=60, train=TERMS)
MESSAGES = [
    ASSIGNMENT,
    Assignment("r1-0", "run", "evaluate", "a", "b", 60, evaluate=EvaluateTerms("validation", ("accuracy",))),
    Assignment("r2-0", "run", "measure", "a" * 64, None, 60, measure=MeasureTerms(is_quick=True)),
    CheckInReply(assignment=ASSIGNMENT),
    CheckInReply(come_back=Window(1.5, 3)),
    CheckIn("1.19.2", 17, "c" * 64, {"train": 36}, headroom=Headroom(8, {"train": 0.25})),
    Report("r0-0", 36, update_sha256="d" * 64),
    Report("r1-0", 12, metric_sums={"accuracy": 7.0}, work_s=0.25),
    Report("r2-0", 0, profile_sha256="e" * 64),
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
    with pytest.raises(ValueError, match="exactly its own terms"):
        Assignment("r0-0", "run", "measure", "a", None, 60, train=TERMS, measure=MeasureTerms())


@pytest.mark.parametrize(
    ("kind", "parameters", "terms"), [("measure", "b", {"measure": MeasureTerms()}), ("train", None, {"train": TERMS})]
)
def test_parameters_are_named_exactly_where_there_are_any(kind, parameters, terms):
    with pytest.raises(ValueError, match="parameters_sha256 must be given to train"):
        Assignment("r0-0", "run", kind, "a", parameters, 60, **terms)


def test_a_report_tells_the_blob_that_comes_before_it():
    assert Report("a", 1, update_sha256="u").blob_sha256 == "u"
    assert Report("a", 0, profile_sha256="p").blob_sha256 == "p"
    assert Report("a", 1, metric_sums={}).blob_sha256 is None


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(RecordError, match=r"'lease'.*did you mean 'lease_s'"):
        decode_record(Assignment, encode_record(ASSIGNMENT).replace(b'"lease_s"', b'"lease"'))
