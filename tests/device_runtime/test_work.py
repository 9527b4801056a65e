import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from device_runtime.accounting import Budget, BudgetExceededError, Release
from device_runtime.artifact import ArtifactError, RuntimeTooOldError
from device_runtime.descent import DivergedError
from device_runtime.examples.images import open_images
from device_runtime.examples.memory import ArraySource
from device_runtime.examples.source import SourceError, SpecMismatchError
from device_runtime.examples.splits import split_ids
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.loaded import Examples, LoadedAssignment, TooFewExamplesError
from device_runtime.private_random import PrivateRandom
from device_runtime.scoring import evaluate
from device_runtime.specs import ExampleSpec, Manifest
from device_runtime.terms import EvaluateTerms, MeasureTerms, PrivacyTerms, TrainTerms
from device_runtime.training import train
from device_runtime.vectors import VectorError, read_vector, write_vector
from device_runtime.wire import Assignment
from device_runtime.work import (
    Holdings,
    SessionCache,
    WorkRefusedError,
    abort_reason_of,
    count_examples,
    perform,
    perform_charged,
    releases_of,
    timed_report,
)
from profiles.records import decode_record, encode_record
from tests.device_runtime.softmax_regression import write_softmax_regression

KEY, RANDOM = b"k" * 32, PrivateRandom(bytes(32))
START = np.linspace(-1, 1, 12, dtype=np.float32)
PRIVATE = TrainTerms(0.5, local_steps=2, max_grad_norm=0.8, privacy=PrivacyTerms("device", 0.5, 2.0))
ORDINARY = TrainTerms(0.5, local_steps=2, batch_size=4)
BUDGET = Budget(8.0, 1e-5, 5)
MEASURING = Assignment("run-0-0", "run", "measure", "0" * 64, None, 60.0, measure=MeasureTerms())


def make_source(num_examples=40, shape=(3,), labels=("0", "1", "2")):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, *shape)).astype(np.float32)
    return ArraySource(x, rng.integers(0, 3, num_examples), ExampleSpec(shape, labels))


@pytest.fixture
def blobs(artifact_files):
    contents = (*artifact_files.values(), write_vector("parameters", START))
    return {hashlib.sha256(data).hexdigest(): data for data in contents}


@pytest.fixture
def make_assignment(artifact_files):
    def make(terms):
        kind = "train" if isinstance(terms, TrainTerms) else "evaluate"
        artifact_id = hashlib.sha256(artifact_files["manifest.json"]).hexdigest()
        parameters = hashlib.sha256(write_vector("parameters", START)).hexdigest()
        return Assignment("run-0-0", "run", kind, artifact_id, parameters, 60.0, **{kind: terms})

    return make


@pytest.fixture
def holdings():
    return Holdings(make_source(), KEY, None)


@pytest.fixture
def private_holdings():
    return Holdings(make_source(), KEY, Ledger(LedgerMemory(), "source", BUDGET))


@pytest.fixture
def work(blobs):
    def do(assignment, holdings, function=perform):
        return function(assignment, holdings, blobs.__getitem__, RANDOM, SessionCache())

    return do


def examples_of(holdings, split, rotation=0):
    return Examples(*holdings.source.get(split_ids(holdings.source, KEY, rotation)[split]))


class TestPerform:
    @pytest.mark.parametrize("rotation", [0, 3])
    def test_training_is_train_on_the_training_split(self, work, make_assignment, holdings, session, rotation):
        result = work(replace(make_assignment(ORDINARY), rotation=rotation), holdings)
        examples = examples_of(holdings, "train", rotation)
        expected = train(LoadedAssignment(session, START, ORDINARY), {"train": examples}, RANDOM)
        np.testing.assert_array_equal(read_vector(result.update, "parameter_update", 12), expected.vector)
        assert result.report.update_sha256 == hashlib.sha256(result.update).hexdigest()
        assert (result.report.num_examples, result.num_chunks) == (len(examples), expected.num_chunks)

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_evaluation_is_evaluate_on_the_split_that_is_asked_for(
        self, work, make_assignment, holdings, session, split
    ):
        terms = EvaluateTerms(split, ("accuracy", "loss"))
        result = work(make_assignment(terms), holdings)
        expected = evaluate(LoadedAssignment(session, START, terms), examples_of(holdings, split), RANDOM)
        assert result.report.metric_sums == dict(zip(expected.names, expected.sums, strict=True))
        assert (result.update, result.report.num_examples) == (None, expected.num_examples)

    def test_a_private_release_is_charged_before_the_graphs_run(
        self, work, make_assignment, private_holdings, monkeypatch
    ):
        def no_graph(*arguments):
            raise DivergedError("the graph ran")

        monkeypatch.setattr("device_runtime.work.train", no_graph)
        with pytest.raises(DivergedError):
            work(make_assignment(PRIVATE), private_holdings)
        assert private_holdings.ledger.releases() == (Release("update", "train", 0.5, 2.0, 2),)

    def test_done_twice_it_is_charged_twice(self, work, make_assignment, private_holdings):
        for _ in range(2):
            work(make_assignment(PRIVATE), private_holdings)
        assert len(private_holdings.ledger.releases()) == 2

    def test_who_charged_elsewhere_is_not_charged_here(self, work, make_assignment, private_holdings):
        with_charge = work(make_assignment(PRIVATE), private_holdings)
        assert work(make_assignment(PRIVATE), private_holdings, perform_charged) == with_charge
        assert len(private_holdings.ledger.releases()) == 1

    def test_sessions_are_opened_once_and_the_oldest_go(self, make_assignment, holdings, blobs):
        read = []
        sessions = SessionCache(max_sessions=1)
        for _ in range(2):
            perform(
                make_assignment(ORDINARY),
                holdings,
                lambda sha256: read.append(sha256) or blobs[sha256],
                RANDOM,
                sessions,
            )
        assert len(read) == 5  # manifest, two graphs, parameters; then parameters
        first = sessions.open(make_assignment(ORDINARY).artifact_id, blobs.__getitem__)
        assert sessions.open(make_assignment(ORDINARY).artifact_id, None) is first


def cut_short(path):
    path.write_bytes(path.read_bytes()[:60])


def make_16_bit(path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)


def make_smaller(path):
    Image.new("RGB", (3, 4)).save(path)


class TestUnreadableExample:
    """One image in thirty that is none any more."""

    TERMS = (
        replace(PRIVATE, privacy=PrivacyTerms("device", 1.0, 2.0)),
        EvaluateTerms("validation", ("loss", "accuracy"), 4.0, PrivacyTerms("device", 1.0, 2.0)),
    )

    @pytest.fixture
    def folder(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
        for i, image in enumerate(pixels):
            path = tmp_path / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
        return tmp_path

    @pytest.fixture
    def prepare(self, folder, blobs, make_assignment):
        """An assignment of these terms for these images, and what it works on."""

        def prepare(terms):
            source = open_images(folder)
            manifest, *graphs = write_softmax_regression((3, 4, 4), 2, 4).values()
            manifest = encode_record(replace(decode_record(Manifest, manifest), spec=source.spec))
            contents = [manifest, *graphs, write_vector("parameters", np.linspace(-1, 1, 98, dtype=np.float32))]
            ids = [hashlib.sha256(data).hexdigest() for data in contents]
            blobs.update(zip(ids, contents, strict=True))
            assignment = replace(make_assignment(terms), artifact_id=ids[0], parameters_sha256=ids[-1])
            ledger = Ledger(LedgerMemory(), "source", BUDGET) if terms.privacy else None
            return assignment, Holdings(source, KEY, ledger)

        return prepare

    @pytest.mark.parametrize("spoil", [cut_short, make_16_bit, make_smaller])
    @pytest.mark.parametrize("terms", TERMS, ids=["train", "evaluate"])
    def test_in_private_work_it_is_a_null_record(self, prepare, work, folder, spoil, terms):
        assignment, holdings = prepare(terms)
        intact, victim = work(assignment, holdings), self.victim(holdings, terms)
        holdings.source.get = with_null(holdings.source.get, victim)
        with_null_record = work(assignment, holdings)
        spoil(folder / victim)
        assignment, holdings = prepare(terms)
        assert work(assignment, holdings) == with_null_record != intact
        assert len(holdings.ledger.releases()) == 1

    @pytest.mark.parametrize("terms", [ORDINARY, replace(TERMS[1], privacy=None)], ids=["train", "evaluate"])
    def test_in_ordinary_work_it_is_named(self, prepare, work, folder, terms):
        assignment, holdings = prepare(terms)
        victim = self.victim(holdings, terms)
        cut_short(folder / victim)
        with pytest.raises(SourceError, match=f"{victim} cannot be decoded as JPEG or PNG"):
            work(assignment, holdings)

    @staticmethod
    def victim(holdings, terms):
        return split_ids(holdings.source, KEY)["train" if isinstance(terms, TrainTerms) else terms.split][1]


def with_null(get, victim):
    def get_with_null(ids):
        x, y = get(ids)
        x[list(ids).index(victim)] = np.nan
        return x, y

    return get_with_null


class TestTrust:
    def test_raw_sums_go_only_to_a_server_that_the_app_trusts(self, make_assignment, work, private_holdings):
        terms = replace(PRIVATE, local_steps=1, momentum=0.0, privacy=PrivacyTerms("sum", 0.5, 2.0))
        with pytest.raises(WorkRefusedError, match=r"--trust-server-with-sums allows it"):
            work(make_assignment(terms), private_holdings)
        assert private_holdings.ledger.releases() == ()
        trusting = replace(private_holdings, trusts_sums=True)
        assert work(make_assignment(terms), trusting).update is not None


class TestRelease:
    def test_it_says_what_leaves(self, make_assignment):
        private = PrivacyTerms("sum", 0.3, 4.0)
        metrics = EvaluateTerms("validation", ("loss",), 2.0, private)
        assert releases_of(make_assignment(PRIVATE)) == (Release("update", "train", 0.5, 2.0, 2),)
        assert releases_of(make_assignment(metrics)) == (Release("metrics", "validation", 0.3, 4.0, 1),)
        assert releases_of(make_assignment(ORDINARY)) == ()

    def test_time_is_told_of_ordinary_work_alone(self, make_assignment, work, holdings, private_holdings):
        for terms, held, told in ((ORDINARY, holdings, 2.5), (PRIVATE, private_holdings, None)):
            assignment = make_assignment(terms)
            assert timed_report(assignment, work(assignment, held).report, 2.5).work_s == told

    def test_counts_are_of_the_splits(self):
        counts = count_examples(make_source(), KEY)
        assert sum(counts.values()) == 40
        assert counts["train"] == len(split_ids(make_source(), KEY)["train"])


class TestRefusal:
    @pytest.fixture
    def refuse(self, work):
        def check(error, reason, match, of):
            assignment, holdings = of
            with pytest.raises(error, match=match) as refused:
                work(assignment, holdings)
            assert abort_reason_of(refused.value) == reason
            if holdings.ledger is not None:
                assert holdings.ledger.releases() == ()

        return check

    def test_a_private_assignment_without_a_budget(self, refuse, make_assignment, holdings):
        match = "this client has no budget; give it one"
        refuse(BudgetExceededError, "budget", match, (make_assignment(PRIVATE), holdings))

    def test_an_ordinary_assignment_where_there_is_a_budget(self, refuse, make_assignment, private_holdings):
        match = "it would spend an infinite epsilon and this client's is 8"
        refuse(BudgetExceededError, "budget", match, (make_assignment(ORDINARY), private_holdings))

    def test_more_than_the_budget(self, refuse, make_assignment, private_holdings):
        terms = replace(PRIVATE, privacy=PrivacyTerms("device", 1.0, 0.5))
        match = "one more update on the train split would spend epsilon"
        refuse(BudgetExceededError, "budget", match, (make_assignment(terms), private_holdings))

    def test_no_example_in_the_split(self, refuse, make_assignment, private_holdings):
        few = replace(private_holdings, source=make_source(1))
        terms = next(
            EvaluateTerms(split, ("accuracy",), privacy=PRIVATE.privacy)
            for split, count in count_examples(few.source, KEY).items()
            if count == 0
        )
        refuse(TooFewExamplesError, "too-few-examples", "0 examples", (make_assignment(terms), few))

    @pytest.mark.parametrize(
        ("source", "match"),
        [
            (make_source(shape=(4,)), r"shape is \(4,\), the network wants \(3,\)"),
            (
                make_source(labels=("a", "b", "c")),
                "labels is .*, the network wants .*: open the source with the manifest",
            ),
        ],
    )
    def test_examples_of_another_specification(self, refuse, make_assignment, private_holdings, source, match):
        holdings = replace(private_holdings, source=source)
        refuse(SpecMismatchError, "refused", match, (make_assignment(PRIVATE), holdings))

    def test_parameters_of_another_network(self, refuse, make_assignment, private_holdings, blobs):
        data = write_vector("parameters", START[:5])
        blobs["5" * 64] = data
        assignment = replace(make_assignment(PRIVATE), parameters_sha256="5" * 64)
        refuse(VectorError, "refused", r"shape \[12\]", (assignment, private_holdings))

    def test_a_corrupt_artifact(self, refuse, make_assignment, private_holdings, blobs, artifact):
        blobs[artifact.manifest.gradient_sha256] += b"x"
        match = "gradient.onnx is corrupt"
        refuse(ArtifactError, "refused", match, (make_assignment(PRIVATE), private_holdings))

    def test_a_graph_that_is_none(self, refuse, make_assignment, private_holdings, blobs, artifact):
        digest = hashlib.sha256(b"no graph").hexdigest()
        manifest = encode_record(replace(artifact.manifest, gradient_sha256=digest))
        blobs |= {digest: b"no graph", hashlib.sha256(manifest).hexdigest(): manifest}
        assignment = replace(make_assignment(PRIVATE), artifact_id=hashlib.sha256(manifest).hexdigest())
        match = "gradient.onnx is no protocol buffer"
        refuse(ArtifactError, "refused", match, (assignment, private_holdings))

    def test_a_runtime_older_than_the_artifact_needs(self, refuse, make_assignment, private_holdings, blobs, artifact):
        manifest = encode_record(replace(artifact.manifest, minimum_runtime="99.0"))
        blobs[hashlib.sha256(manifest).hexdigest()] = manifest
        assignment = replace(make_assignment(PRIVATE), artifact_id=hashlib.sha256(manifest).hexdigest())
        match = "needs ONNX Runtime 99.0"
        refuse(RuntimeTooOldError, "refused", match, (assignment, private_holdings))

    def test_measuring(self, refuse, make_assignment, private_holdings):
        refuse(WorkRefusedError, "refused", "nothing to train or evaluate", (MEASURING, private_holdings))
