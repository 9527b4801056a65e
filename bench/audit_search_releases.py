"""What an auditor of a whole search sees of one client: every message on the wire, and each release in it.

The auditor knows the artifact, the parameters that were sent, all other examples and the canary. A release is then a
Gaussian mechanism whose centre he can compute, with the canary and without, at the very parameters that it was made
at. Optimisers come after the noise, and he undoes them: one local step of SGD gives its gradient back, and so does
Adam's first step where gradients are about as small as its epsilon.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from unittest.mock import patch

import numpy as np
from sqlalchemy import select

from device_runtime import scoring
from device_runtime.accounting import Release, releases_of_terms
from device_runtime.arrays import Floats, Vector
from device_runtime.client_records import Response
from device_runtime.descent import EPSILON
from device_runtime.lattice_noise import WIDENING
from device_runtime.loaded import Examples, take_records
from device_runtime.segments import moving_segments, num_moving, positions_of, segment_weight
from device_runtime.session import StepSession
from device_runtime.terms import ARCHITECTURE, EvaluateTerms, RewardTerms, Split, TrainTerms
from device_runtime.vectors import read_parameters, read_vector
from device_runtime.wire import DEVICE_HEADER, Assignment, CheckInReply, Report
from device_runtime.work import SessionCache
from pipeline.coordinator import tables
from pipeline.coordinator.store import Store
from pipeline.fleet.asgi import AsgiTransport
from profiles.records import decode_record


class AuditError(RuntimeError):
    """The auditor did not see, or cannot read, all that the client released; the message says what is missing."""


@dataclass
class Wire:
    """What one client and the server told each other.

    Attributes:
        blobs: Bytes by sha256 that anybody downloaded; all public.
        uploads: Likewise that the client sent.
        assignments, reports: The client's, by assignment id.
    """

    device_id: str
    blobs: dict[str, bytes] = field(default_factory=dict, repr=False)
    uploads: dict[str, bytes] = field(default_factory=dict, repr=False)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)

    def note(self, request: tuple[str, str, bytes], is_own: bool, answer: Response) -> None:
        """Note one exchange; whatever the server made of it, what was sent has left the client.

        Raises:
            AuditError: The client sent what no part of an audit looks at.
        """
        method, target, body = request
        route, _, name = target.removeprefix("/v1/").partition("/")
        if (method, route) == ("GET", "blobs") and answer.status == 200:
            self.blobs[name] = answer.body
        if not is_own or method == "GET" or (method, route) == ("POST", "enrolment"):
            return  # a check-in too says nothing but counts and headroom, which are public
        if (method, route) == ("POST", "check-in"):
            reply = decode_record(CheckInReply, answer.body) if answer.status == 200 else CheckInReply()
            if reply.assignment is not None:
                self.assignments[reply.assignment.assignment_id] = reply.assignment
        elif (method, route) == ("PUT", "blobs"):
            self.uploads[name] = body
        elif method == "PUT" and name.endswith("/report"):
            self.reports[name.removesuffix("/report")] = decode_record(Report, body)
        else:
            raise AuditError(f"the client sent {method} {target}, which the audit does not read: add it to `Wire.note`")


@contextmanager
def listening(device_id: str) -> Iterator[Wire]:
    """Hear all exchanges of the emulated fleets that run inside the block."""
    wire, send = Wire(device_id), AsgiTransport.send

    def heard(transport: AsgiTransport, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        answer = send(transport, method, target, headers, body)
        wire.note((method, target, body), headers.get(DEVICE_HEADER) == device_id, answer)
        return answer

    with patch.object(AsgiTransport, "send", heard):
        yield wire


@dataclass(frozen=True)
class Observation:
    """One release in units of its sensitivity, and what its mean would be.

    Attributes:
        release: What it was charged as.
        value: f64[m], as it left the client.
        rest: f64[m], what all other examples add.
        canary: f64[m], what the canary would add; its length is at most 1.
    """

    release: Release
    value: Floats = field(repr=False)
    rest: Floats = field(repr=False)
    canary: Floats = field(repr=False)

    @property
    def deviation(self) -> float:
        """Of the noise on each of the m values."""
        return self.release.noise_multiplier * (1 + WIDENING)

    def log_likelihood_ratio(self) -> float:
        """log p(value | canary) - log p(value | none): <o - s, c> / sigma^2 - |c|^2 / (2 sigma^2)."""
        shift = (self.value - self.rest) @ self.canary - self.canary @ self.canary / 2
        return float(shift) / self.deviation**2

    def information(self) -> float:
        """|c|^2 / sigma^2: the ratio is normal with means of plus and minus half of it, and this variance."""
        return float(self.canary @ self.canary) / self.deviation**2


@dataclass(frozen=True)
class Auditor:
    """Knows all examples of the client.

    Attributes:
        others: By split, without the canaries.
        canaries: One example a split that has one.
    """

    others: Mapping[Split, Examples]
    canaries: Mapping[Split, Examples]
    sessions: SessionCache = field(default_factory=lambda: SessionCache(max_sessions=16), repr=False)

    def observe(self, wire: Wire, charged: Iterable[Release]) -> tuple[Observation, ...]:
        """All releases of a run, on splits with a canary and without.

        Args:
            charged: What the ledger charged the client for.

        Raises:
            AuditError: Something was released that cannot be read, or what was seen is not what was charged.
        """
        if wire.assignments.keys() != wire.reports.keys():
            raise AuditError(f"no report of {sorted(wire.assignments.keys() ^ wire.reports.keys())} was heard")
        unread = wire.uploads.keys() - {report.update_sha256 for report in wire.reports.values()}
        if unread:
            raise AuditError(f"uploads {sorted(unread)} belong to no report")
        found: list[Observation] = []
        for name, assignment in wire.assignments.items():
            session = self.sessions.open(assignment.artifact_id, wire.blobs.__getitem__)
            parameters = read_parameters(wire.blobs[str(assignment.parameters_sha256)], session.manifest)
            report, terms = wire.reports[name], assignment.train or assignment.evaluate
            if terms is not None:
                self._check_report(terms, report)
            if assignment.train is not None:
                found += self._of_training(session, parameters, assignment.train, report, wire)
            elif assignment.evaluate is not None:
                found.append(self._of_metrics(session, parameters, assignment.evaluate, report))
        _check_complete(found, charged)
        return tuple(found)

    def _of_training(
        self, session: StepSession, before: Vector, terms: TrainTerms, report: Report, wire: Wire
    ) -> Iterator[Observation]:
        manifest, releases = session.manifest, {one.kind: one for one in releases_of_terms(terms)}
        segments = moving_segments(manifest, terms.moves)
        moving = positions_of(manifest, segments)
        after = before.copy()
        data = wire.uploads[str(report.update_sha256)]
        after[moving] += read_vector(data, "parameter_update", num_moving(manifest, terms.moves))
        at = before.copy()
        if "architecture" in releases:
            yield self._of_step(releases["architecture"], session, (before, after), terms, (ARCHITECTURE,))
            architecture = positions_of(manifest, (ARCHITECTURE,))
            at[architecture] = after[architecture]  # where the step on the weights begins
            segments = tuple(name for name in segments if name != ARCHITECTURE)
        yield self._of_step(releases["update"], session, (at, after), terms, segments)
        if terms.reward is not None:
            yield self._of_reward(releases["reward"], session, after, terms.reward, report)

    def _of_step(
        self,
        release: Release,
        session: StepSession,
        parameters: tuple[Vector, Vector],
        terms: TrainTerms,
        segments: tuple[str, ...],
    ) -> Observation:
        """A clipped gradient sum, from the parameters before and after the step."""
        before, after = parameters
        positions = positions_of(session.manifest, segments)
        steps = terms if release.kind == "update" or terms.architecture is None else terms.architecture
        clip = float(steps.max_grad_norm or 0)
        moved = (after[positions].astype(np.float64) - before[positions]) / -steps.learning_rate
        if release.kind == "architecture":  # Adam's first step is g / (|g| + epsilon)
            moved *= EPSILON / (1 - np.abs(moved))
        mean = moved - steps.weight_decay * before[positions].astype(np.float64)
        weight = segment_weight(session.manifest, segments)

        def clipped_sum(examples: Examples) -> Floats:
            records = take_records(session.manifest, examples, np.arange(len(examples)))
            total, _, _ = session.gradient(before, *records, max_grad_norm=clip, segment_weight=weight)
            return np.asarray(total[positions].astype(np.float64) / clip)

        return self._observation(release, mean * self._num_examples(release.split) / clip, clipped_sum)

    def _of_reward(
        self, release: Release, session: StepSession, after: Vector, terms: RewardTerms, report: Report
    ) -> Observation:
        # By the code that made it, which may be a broken copy: the auditor knows the code. What a clip would leave of a
        # loss beyond its bound is nothing, and by that nobody could see that the clip is missing.
        def clipped_sum(examples: Examples) -> Floats:
            losses, _ = session.evaluate(after, examples.x, examples.y)
            is_valid = np.ones(len(examples), np.bool_)
            return np.array([scoring._what_is_left(losses.astype(np.float64), is_valid, terms.loss_bound).sum()])

        return self._observation(release, np.array([(report.metric_sums or {})[terms.release]]), clipped_sum)

    def _of_metrics(
        self, session: StepSession, parameters: Vector, terms: EvaluateTerms, report: Report
    ) -> Observation:
        columns = [session.manifest.metrics.index(name) for name in terms.release]
        norm = sqrt(len(columns))

        def clipped_sum(examples: Examples) -> Floats:
            _, metrics = session.evaluate(parameters, examples.x, examples.y)
            return np.asarray(np.clip(metrics[:, columns].astype(np.float64), 0, 1).sum(axis=0) / norm)

        (release,) = releases_of_terms(terms)
        sums = np.array([(report.metric_sums or {})[name] for name in terms.release])
        return self._observation(release, sums / norm, clipped_sum)

    def _observation(self, release: Release, value: Floats, clipped_sum: Callable[[Examples], Floats]) -> Observation:
        if release.sample_rate != 1 or release.unit != "example":
            raise AuditError(f"a release must be of the example unit at rate 1 to have a known mean, got {release}")
        rest, canary = clipped_sum(self.others[release.split]), self.canaries.get(release.split)
        return Observation(release, value, rest, np.zeros_like(rest) if canary is None else clipped_sum(canary))

    def _check_report(self, terms: TrainTerms | EvaluateTerms, report: Report) -> None:
        """Check that what was asked for can be read, and that beside it a report tells public counts alone."""
        if isinstance(terms, EvaluateTerms):
            names, num_scored = terms.release, 0
        else:
            _check_readable(terms)
            names = () if terms.reward is None else (terms.reward.release,)
            num_scored = self._num_examples("validation") if names else 0
        public = Report(report.assignment_id, self._num_examples(terms.splits[0]), num_scored=num_scored)
        expected = replace(public, update_sha256=report.update_sha256, metric_sums=report.metric_sums)
        if report != expected or set(report.metric_sums or ()) != set(names):
            raise AuditError(f"a report must tell {', '.join(names) or 'no sum'} and public counts alone, got {report}")

    def _num_examples(self, split: Split) -> int:
        return len(self.others[split]) + (split in self.canaries)


def charged_releases(database: Path, device_id: str) -> tuple[Release, ...]:
    """What the server's ledger of a run charged a client for; there is one run in the database."""
    row = tables.releases.c
    store = Store(f"sqlite:///{database}", "OFF")
    try:
        with store.transaction():
            rows = store.execute(select(tables.releases).where(row.device_id == device_id)).fetchall()
    finally:
        store.close()
    return tuple(Release(one.kind, one.split, one.sample_rate, one.noise_multiplier, one.num_steps) for one in rows)


def _check_complete(observations: Iterable[Observation], charged: Iterable[Release]) -> None:
    seen, paid = Counter(one.release for one in observations), Counter(charged)
    if seen != paid:
        raise AuditError(
            f"charged and not seen: {[*(paid - seen).elements()]}; seen and not charged: {[*(seen - paid).elements()]}"
        )


def _check_readable(terms: TrainTerms) -> None:
    if terms.local_steps != 1:
        raise AuditError(f"local_steps must be 1, got {terms.local_steps}: nobody sees the steps in between")
    if terms.moves == "all" and terms.architecture is not None:
        raise AuditError("moves = 'all' of a supernet is one release by two optimisers; audit moves = 'alternate'")
    if terms.reward is not None and terms.reward.release != "loss":
        raise AuditError(f"rewards must be losses, got {terms.reward.release}")
