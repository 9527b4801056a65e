"""Whom a winner's final training asks: the clients whose own limits of training its network meets."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.run_sections import RunFile
from pipeline.searching.rounds import RunClient
from search.architecture import Architecture
from search.budget import Feasibility, Limits


class NoTraineesError(RuntimeError):
    """No client may train a winner, or not all in a private run; the message says why and what would help."""


@dataclass(frozen=True)
class Trainees:
    """Who takes part in a final training.

    Attributes:
        eligible: Ids of the devices; None for all, those included that come later.
        left_out: The others of those that the run began with.
    """

    eligible: tuple[str, ...] | None
    left_out: tuple[RunClient, ...] = ()

    def warnings(self, trial: int) -> tuple[str, ...]:
        """What whoever ships the model should know of its training."""
        if not self.left_out:
            return ()
        num_clients = len(self.eligible or ()) + len(self.left_out)
        message = (
            f"{len(self.left_out)} of {num_clients} clients took no part in the final training of trial {trial}, which "
            f"is over their own limits of training: {_counted(self.left_out)}"
        )
        return (message,)


def trainees_of(
    run_file: RunFile, limits: Feasibility, clients: Sequence[RunClient], network: Architecture
) -> Trainees:
    """Divide the clients by whether a network meets the `memory_mib` and `training_step_ms` of their own profiles.

    Of whom nobody knows anything takes part, as in the search. Who names a device class that no target is of, and that
    has such limits, does not: nobody can tell whether they are met.

    Raises:
        NoTraineesError: Nobody is left; or anybody is left out of a private run, whose search names no network that
            breaks a limit.
    """
    left_out = _who_may_not(limits, clients, network)
    if not left_out:
        return Trainees(None)
    eligible = tuple(client.device_id for client in clients if client not in left_out)
    if run_file.privacy is not None:
        raise NoTraineesError(
            f"a private run trains with all its clients, and the winner is over the limits of {_counted(left_out)}: "
            "this is an error of the search; begin anew without the limits of training"
        )
    if not eligible:
        raise NoTraineesError(
            f"no client may train a winner: it is over the memory_mib or training_step_ms of {_counted(left_out)}; "
            "begin anew with higher limits for those, or with clients of the platform that the winner is for"
        )
    return Trainees(eligible, left_out)


def check_all_known(limits: Feasibility, clients: Sequence[RunClient]) -> None:
    """Refuse a private run with clients of whom nobody can tell what they may train, before anything is spent.

    Raises:
        ValueError: Naming their device classes.
    """
    unknown = [client for client in clients if _is_stranger(limits.of_training, client)]
    if unknown:
        raise ValueError(
            f"no [run] targets are of the device class of {_counted(unknown)}, whose budgets limit training: name a "
            "target of each, or take memory_mib and training_step_ms out of their budgets"
        )


def _who_may_not(limits: Feasibility, clients: Sequence[RunClient], network: Architecture) -> tuple[RunClient, ...]:
    training = limits.of_training
    broken = {name for name, own in training.platforms.items() if not own.is_feasible(network)}
    return tuple(client for client in clients if client.profile in broken or _is_stranger(training, client))


def _is_stranger(training: Feasibility, client: RunClient) -> bool:
    """Whether a client's device class limits its training, and no platform tells what it can train."""
    is_known = client.profile in training.platforms or not client.device_class
    return not is_known and training.limits_of(client.device_class) != Limits()


def _counted(clients: Iterable[RunClient]) -> str:
    """As in `3 of redmi-8, 1 of class mid`."""
    counts = Counter(client.profile or f"class {client.device_class}" for client in clients)
    return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
