"""Tell a wrong combination of ONNX Runtime packages by name, at import, with the commands that cure it.

`onnxruntime` (the device extra) and `onnxruntime-training-cpu` (the pipeline extra) install into the same folder: with
both, each has overwritten files of the other and the failure shows somewhere else.
"""

from collections.abc import Callable
from importlib import metadata

INFERENCE = "onnxruntime"
TRAINING = "onnxruntime-training-cpu"
_CHOICE = (
    "pip install 'handheld[device]' on a phone's or desktop's client, or pip install 'handheld[pipeline]' on a server"
)

VersionOf = Callable[[str], str | None]


class RuntimeCombinationError(ImportError):
    """This environment has both ONNX Runtime packages, none, or the wrong one."""


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is absent; imports nothing of it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_device_runtime(version_of: VersionOf = installed_version) -> None:
    """Refuse an environment in which `device_runtime` cannot work: it needs exactly one ONNX Runtime package.

    Raises:
        RuntimeCombinationError: Naming what is installed and the pip commands that cure it.
    """
    inference, training = version_of(INFERENCE), version_of(TRAINING)
    if inference and training:
        raise RuntimeCombinationError(
            f"{INFERENCE} {inference} and {TRAINING} {training} are installed together and overwrite each other's "
            f"files; run: pip uninstall -y {INFERENCE} {TRAINING}, then {_CHOICE}"
        )
    if not inference and not training:
        raise RuntimeCombinationError(f"neither {INFERENCE} nor {TRAINING} is installed; run: {_CHOICE}")


def check_pipeline_runtime(version_of: VersionOf = installed_version) -> None:
    """Refuse an environment in which `pipeline` cannot work: it needs the training package, and that one alone.

    Raises:
        RuntimeCombinationError: Naming what is installed and the pip commands that cure it.
    """
    check_device_runtime(version_of)
    if not version_of(TRAINING):
        raise RuntimeCombinationError(
            f"pipeline needs {TRAINING}, but this environment was made for a device, with {INFERENCE} "
            f"{version_of(INFERENCE)}; run: pip uninstall -y {INFERENCE}, then pip install 'handheld[pipeline]'"
        )
