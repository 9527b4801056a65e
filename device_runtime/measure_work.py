"""Do a `measure` assignment: time the pack that it names on this device. No example is read and nothing is charged."""

import hashlib
from collections.abc import Callable

from device_runtime.graph_runs import Clock
from device_runtime.measure import FULL, QUICK, Measurement, MeasurePlan, measure_device
from device_runtime.measurement_pack import Pack, decode_manifest
from device_runtime.probe import Host, probe_host
from device_runtime.terms import MeasureTerms
from device_runtime.wire import Assignment, Report
from device_runtime.work import ReadBlob, WorkRefusedError, WorkResult
from profiles.records import encode_record
from profiles.schema import DeviceClass, DeviceProfile


def measure_assignment(  # noqa: PLR0913, PLR0917  (what measuring needs from outside: who, what, time, where)
    assignment: Assignment,
    device_id: str,
    device_class: DeviceClass,
    read_blob: ReadBlob,
    clock: Clock,
    probe: Callable[[], Host] = probe_host,
) -> WorkResult:
    """Run the assignment's pack; the result's update is the profile, named by the device's id.

    Args:
        read_blob: Gives the bytes of a sha256, checked.
        clock: Seconds, from any start.

    Raises:
        PackError: The blobs are no measurement pack, or a graph of it refers to other files.
        AttributionError: The runtime names nodes in a way that is not known.
        WorkRefusedError: The assignment is not to measure.
        Exception: What ONNX Runtime or `read_blob` raises.
    """
    if assignment.measure is None:
        raise WorkRefusedError(f"this pack is to be measured, the assignment is to {assignment.kind}")
    pack, plan = load_pack(assignment.artifact_id, read_blob), plan_of(assignment.measure)
    measurement = Measurement(pack, probe(), f"device-{device_id[:12]}", device_class, plan)
    return profile_result(assignment, measure_device(measurement, clock, lambda _: None))


def load_pack(pack_id: str, read_blob: ReadBlob) -> Pack:
    """A pack from its blobs; raises PackError, or what `read_blob` raises."""
    manifest = decode_manifest(read_blob(pack_id), f"measurement pack {pack_id[:12]}")
    return Pack(pack_id, manifest, {entry.sha256: read_blob(entry.sha256) for entry in manifest.entries})


def plan_of(terms: MeasureTerms) -> MeasurePlan:
    """How long to measure."""
    return QUICK if terms.is_quick else FULL


def profile_result(assignment: Assignment, profile: DeviceProfile) -> WorkResult:
    """A profile as the result of its assignment."""
    data = encode_record(profile)
    report = Report(assignment.assignment_id, 0, profile_sha256=hashlib.sha256(data).hexdigest())
    return WorkResult(report, data, num_chunks=0)
