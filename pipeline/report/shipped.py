"""What was shipped of a run, read from the bundle's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run_result import ModelResult, RunResult
from profiles.records import decode_record

if TYPE_CHECKING:
    from pipeline.ship.bundle import Bundle
    from pipeline.ship.parity import Parity

BUNDLE_FOLDER = "bundle"  # in the run's folder, where `handheld ship RUN -o RUN/bundle` puts it


class OtherBundleError(ValueError):
    """The bundle was not shipped from this run, or is not there."""


@dataclass(frozen=True)
class ShippedBundle:
    """A bundle whose files were checked.

    Attributes:
        model: Which of the run's it holds.
        sizes: Bytes of every file by name, `bundle.json` included.
        roles: What each of them is for, by name; empty for one that this version does not know.
    """

    model: ModelResult
    bundle: "Bundle"
    parity: "Parity"
    sizes: dict[str, int]
    roles: dict[str, str]


_ROLES = {
    "model.onnx": "the model for ONNX Runtime and for converters",
    "model.ort": "the model for ONNX Runtime on Android and iOS",
    "model.pte": "the model for ExecuTorch, XNNPACK kernels",
    "labels.txt": "names of the classes, one a line, in the order of the outputs",
    "spec.json": "how an app makes inputs of raw examples",
    "parity.json": "how far each file is from the trained model",
    "MODEL_CARD.md": "what the model is and how far to trust it",
    "golden.safetensors": "inputs with the outputs to expect",
    "bundle.json": "the list of all this, with hashes",
    "model.required_operators.config": "the operators of a smaller build of ONNX Runtime",
}


_GOLDEN = "an image as an app would meet it, of the golden inputs"


def find_bundle(run_folder: Path, bundle_folder: Path | None, result: RunResult) -> ShippedBundle | None:
    """Read the bundle of a run.

    Args:
        bundle_folder: None for the folder `bundle` of the run, if it is there.

    Returns:
        None where nothing was shipped.

    Raises:
        OtherBundleError: The folder is missing, or was shipped from another run.
        BundleError, RecordError: It is no bundle, or a file was altered.
    """
    folder = run_folder / BUNDLE_FOLDER if bundle_folder is None else bundle_folder
    if not folder.is_dir():
        if bundle_folder is None:
            return None
        raise OtherBundleError(f"{folder} is no folder; ship the run with `handheld ship {run_folder} -o {folder}`")
    from pipeline.ship.bundle import BUNDLE, PARITY, read_bundle  # noqa: PLC0415  (torch, for runs that were shipped)
    from pipeline.ship.parity import Parity  # noqa: PLC0415

    bundle = read_bundle(folder)
    shipped = (bundle.artifact_id, bundle.parameters_sha256)
    model = next((one for one in result.models if (one.artifact_id, one.parameters_sha256) == shipped), None)
    if model is None:
        known = " or ".join(one.parameters_sha256[:12] for one in result.models)
        raise OtherBundleError(
            f"{folder} holds another model than {run_folder} ({bundle.run}, parameters "
            f"{bundle.parameters_sha256[:12]} instead of {known}): ship this run, or name its own bundle with --bundle"
        )
    sizes = {name: entry.size_bytes for name, entry in bundle.files.items()}
    sizes[BUNDLE] = (folder / BUNDLE).stat().st_size
    roles = {name: _ROLES.get(name, _GOLDEN if name.startswith("golden-") else "") for name in sizes}
    return ShippedBundle(model, bundle, decode_record(Parity, (folder / PARITY).read_bytes()), sizes, roles)
