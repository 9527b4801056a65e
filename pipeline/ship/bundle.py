"""`handheld ship`: write a finished run's bundle, whole or not at all; and read one, checked."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.arrays import Inputs
from device_runtime.examples.source import normalize
from pipeline.limits import PlatformNeeds, needs_of
from pipeline.run_result import FinishedRun, read_finished_run
from pipeline.ship.card import CARD, write_card
from pipeline.ship.exporters import EXPORTERS
from pipeline.ship.golden import TENSORS, golden_raw, golden_tensors, random_inputs, write_golden_images
from pipeline.ship.network import INPUT, OUTPUTS, ShipError, TrainedNetwork, exact_outputs, trained_network
from pipeline.ship.parity import Parity, measure_parity
from profiles.records import RecordError, decode_record, encode_record
from search.candidate import candidate_id

BUNDLE, LABELS, SPEC, PARITY = "bundle.json", "labels.txt", "spec.json", "parity.json"
NUM_RANDOM = 64
Progress = Callable[[str], None]


class BundleError(ValueError):
    """A folder is no bundle, or a bundle's file was altered; the message says what to do."""


@dataclass(frozen=True)
class FileEntry:
    """A file's sha256 (hexadecimal) and size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ModelFile:
    """One of the files that hold the model.

    Attributes:
        runtime: It was checked on, with version.
        batch_size: Examples that it takes at a time; None for any number.
        max_difference: From the trained model, see `parity.json`.
    """

    file: str
    runtime: str
    batch_size: int | None
    size_bytes: int
    max_difference: float


@dataclass(frozen=True)
class Variant:
    """One numerical form of the model; all of its files compute the same."""

    name: str
    files: tuple[ModelFile, ...]


@dataclass(frozen=True)
class Bundle:
    """`bundle.json`.

    Attributes:
        input, outputs: Names in the ONNX graph; ExecuTorch has them in this order.
        files: Every other file of the bundle by its name.
        parameters_sha256: Of the run's `parameters.safetensors`.
    """

    run: str
    artifact_id: str
    candidate_id: str
    parameters_sha256: str
    input: str
    outputs: tuple[str, ...]
    files: dict[str, FileEntry]
    variants: tuple[Variant, ...]
    schema: int = 1


@dataclass(frozen=True)
class Shipped:
    """What `handheld ship` made.

    Attributes:
        trial: Whose model it is.
        platforms: That it is for, each with what it is predicted to need there.
    """

    folder: str
    bundle: Bundle
    parity: Parity
    trial: int
    platforms: tuple[PlatformNeeds, ...]


def ship_run(
    run_folder: Path, folder: Path, progress: Progress = lambda _: None, platform: str | None = None
) -> Shipped:
    """Write the bundle of a finished run into `folder`, made or, where it is an older bundle, replaced whole.

    Args:
        progress: Told in words what begins.
        platform: Whose model, by the name of its profile; None for the only one.

    Raises:
        NoResultError: The run is not finished.
        UnknownPlatformError: The run has no such platform, or several models and none was named.
        RecordError, ArtifactError, VectorError, ShipError: The run's folder was altered.
        BundleError: `folder` holds something that is no bundle.
        ParityError: A written file differs from the trained model.
    """
    run = read_finished_run(run_folder, platform)
    network = trained_network(run)
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".shipping-") as temporary:
        built = Path(temporary) / "bundle"
        built.mkdir()
        bundle, parity = _build(run, network, built, progress)
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        built.rename(folder)
    return Shipped(str(folder), bundle, parity, run.model.trial, needs_of(run.result, run.model))


def read_bundle(folder: Path) -> Bundle:
    """Read `bundle.json` and check every file against it.

    Raises:
        BundleError: No bundle, or a file is missing or altered.
    """
    path = folder / BUNDLE
    try:
        bundle = decode_record(Bundle, path.read_bytes())
    except (OSError, RecordError) as error:
        raise BundleError(f"{path} cannot be read ({error}); name the folder that `handheld ship` wrote") from error
    for name, entry in bundle.files.items():
        if not (folder / name).is_file() or _entry_of(folder / name) != entry:
            raise BundleError(f"{name} in {folder} is missing or was altered; ship the run again")
    return bundle


def _build(run: FinishedRun, network: TrainedNetwork, folder: Path, progress: Progress) -> tuple[Bundle, Parity]:
    for file, exporter in EXPORTERS.items():
        progress(f"writing {file}")
        exporter.write(network, folder)
    _write_labels(run, folder)
    (folder / SPEC).write_bytes(encode_record(run.result.spec))
    golden = _write_golden(run, network, folder)
    progress("comparing the files with the trained model")
    inputs = {"golden": golden, "random": random_inputs(run.result.spec, NUM_RANDOM)}
    parity = measure_parity(folder, network, inputs)
    (folder / PARITY).write_bytes(encode_record(parity))
    variant = Variant("float32", tuple(_model_file(folder / file, parity) for file in EXPORTERS))
    sizes = {name: entry.size_bytes for name, entry in _entries(folder).items()}
    (folder / CARD).write_text(write_card(run, parity, sizes), encoding="utf-8")
    bundle = Bundle(
        run=run.result.name,
        artifact_id=run.model.artifact_id,
        candidate_id=candidate_id(run.artifact.manifest.architecture_id, run.trial.candidate.hyper_parameters),
        parameters_sha256=run.model.parameters_sha256,
        input=INPUT,
        outputs=OUTPUTS,
        files=_entries(folder),
        variants=(variant,),
    )
    (folder / BUNDLE).write_bytes(encode_record(bundle))
    return bundle, parity


def _write_labels(run: FinishedRun, folder: Path) -> None:
    labels = run.result.spec.labels
    if broken := [label for label in labels if len(label.splitlines()) != 1]:
        raise ShipError(f"{LABELS} holds one label a line, got the label {broken[0]!r}; rename the class")
    (folder / LABELS).write_bytes("".join(f"{label}\n" for label in labels).encode())


def _write_golden(run: FinishedRun, network: TrainedNetwork, folder: Path) -> Inputs:
    spec = run.result.spec
    images = write_golden_images(spec, folder)
    raw = golden_raw(spec, tuple(folder / name for name in images))
    x = normalize(raw, spec)
    (folder / TENSORS).write_bytes(golden_tensors(raw, x, exact_outputs(network, x)))
    return x


def _model_file(path: Path, parity: Parity) -> ModelFile:
    exporter = EXPORTERS[path.name]
    return ModelFile(
        file=path.name,
        runtime=exporter.runtime_and_version(),
        batch_size=exporter.batch_size,
        size_bytes=path.stat().st_size,
        max_difference=parity.of_file(path.name),
    )


def _entries(folder: Path) -> dict[str, FileEntry]:
    return {path.name: _entry_of(path) for path in sorted(folder.iterdir())}


def _entry_of(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


def _check_replaceable(folder: Path) -> None:
    """Only what an earlier `ship` wrote may be replaced; its files may be missing or altered."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file; name a folder")
    present = {path.name for path in folder.iterdir()}
    try:
        known = {BUNDLE, *decode_record(Bundle, (folder / BUNDLE).read_bytes()).files}
    except (FileNotFoundError, RecordError):
        known = set()
    if others := sorted(present - known):
        raise BundleError(
            f"{folder} holds {', '.join(others[:5])}, which is no part of a bundle; name an empty or a new folder"
        )
