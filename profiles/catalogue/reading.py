"""The catalogue of phones, and profiles read from files of one's own."""

from importlib.resources import files
from pathlib import Path

from profiles.records import RecordError, decode_record
from profiles.schema import DeviceProfile
from profiles.spelling import cure_of

_FOLDER = files("profiles.catalogue")


class UnknownProfileError(ValueError):
    """No phone of that name in the catalogue and no such file."""


def catalogue_names() -> tuple[str, ...]:
    """Names of the catalogue's phones, sorted."""
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in _FOLDER.iterdir() if entry.name.endswith(".json"))
    )


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Read a phone of the catalogue by its name, or a profile by its path.

    Raises:
        UnknownProfileError: Naming the nearest phone.
        RecordError: When the file is no profile, or of a newer schema.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in catalogue_names():
        return _decode(_FOLDER.joinpath(f"{name}.json").read_bytes(), name)
    if path.is_file():
        return _decode(path.read_bytes(), name)
    cure = cure_of(name, catalogue_names(), "the catalogue has {known}").removesuffix("?")
    raise UnknownProfileError(
        f"profile must be a name of the catalogue or a profile's file, got {name!r}: {cure}; "
        "`handheld profile measure -o FILE` makes one of this machine"
    )


def _decode(data: bytes, where: str) -> DeviceProfile:
    try:
        return decode_record(DeviceProfile, data)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from error
