"""Whether a profile may be relied on, and what it lacks."""

from collections.abc import Iterable

from profiles.placement import is_of_old_labels
from profiles.schema import DeviceProfile, KernelKey

_CURE = "close other programs, let the device cool down, plug it in and measure again"
OLD_LABELS = (
    "measured with an older version's pack, which labels kernels otherwise: measure again (handheld-device measure)"
)


class UnstableProfileError(ValueError):
    """A profile whose times differed from round to round; the message names the cure."""


def check_stable(profiles: Iterable[DeviceProfile]) -> None:
    """Refuse profiles whose times cannot be relied on.

    Raises:
        UnstableProfileError: For the first of them.
    """
    for profile in profiles:
        if not profile.is_stable:
            raise UnstableProfileError(
                f"profile {profile.name!r} is unstable, its times cannot be relied on: {_CURE}, or take it as it is "
                "with --allow-unstable"
            )


def find_holes(profile: DeviceProfile, wanted: Iterable[KernelKey]) -> tuple[KernelKey, ...]:
    """Kernels that nobody measured on the device, as often as they are wanted once."""
    return tuple(key for key in dict.fromkeys(wanted) if key not in profile.times_by_kernel)


def find_faults(profile: DeviceProfile) -> tuple[str, ...]:
    """Why a profile should not be relied on, in words; nothing where it may."""
    faults = []
    if not profile.kernels:
        faults.append("nothing was measured: run handheld-device measure on the device")
    elif not profile.sessions:
        faults.append("measured by an older version, kernel by kernel: measure again (handheld-device measure)")
    if is_of_old_labels(one.kernel for one in profile.kernels):
        faults.append(OLD_LABELS)
    if not profile.is_stable:
        faults.append(f"unstable: {_CURE}")
    return tuple(faults)
