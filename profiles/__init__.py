"""What phones can do: the profile schema, a catalogue of phones, and predictors that read profiles."""

from profiles.catalogue import UnknownProfileError, catalogue_names, load_profile
from profiles.kernel import Kernel
from profiles.schema import DeviceProfile, Figure, KernelTime

__all__ = [
    "DeviceProfile",
    "Figure",
    "Kernel",
    "KernelTime",
    "UnknownProfileError",
    "catalogue_names",
    "load_profile",
]
