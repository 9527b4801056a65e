"""Who takes part in a search, and groups of clients that hold about equally many examples."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """A device as a search knows it.

    Attributes:
        name: Its id, as in `Trial.clients`.
        num_examples: Training examples that it holds, which are public.
        profile: Name of its profile; empty where nobody knows.
        device_class: That it names; empty where it names none, and where its profile tells.
    """

    name: str
    num_examples: int
    profile: str = ""
    device_class: str = ""


def balance(clients: Sequence[Client], num_groups: int) -> tuple[tuple[str, ...], ...]:
    """Names of the clients in groups of nearly equal data: the largest first, always into the lightest group (LPT).

    FedNAS, arXiv:2002.06352, balances the groups that train its candidates so; the rule is that of R. L. Graham,
    "Bounds on Multiprocessing Timing Anomalies" (1969). Nothing depends on the order of `clients`.

    Raises:
        ValueError: When there are not 1 to len(clients) groups.
    """
    if not 1 <= num_groups <= len(clients):
        raise ValueError(
            f"groups must be in [1, {len(clients)} clients], got {num_groups}: ask for fewer, or wait for more clients"
        )
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    heap = [(0, 0, group) for group in range(num_groups)]
    for client in sorted(clients, key=lambda client: (-client.num_examples, client.name)):
        examples, members, group = heapq.heappop(heap)  # of equally heavy groups the one with fewer members
        groups[group].append(client.name)
        heapq.heappush(heap, (examples + client.num_examples, members + 1, group))
    return tuple(tuple(sorted(group)) for group in groups)


def by_platform(clients: Sequence[Client], names: Sequence[str]) -> dict[str, tuple[Client, ...]]:
    """Each platform's own clients, and its share of those of whom nobody knows anything.

    Clients that name a device class, and whose profile is no platform's, are nobody's: who knows what they can train.
    """
    unknown = sorted(
        (one for one in clients if one.profile not in names and not one.device_class), key=lambda one: one.name
    )
    return {
        name: (*(one for one in clients if one.profile == name), *unknown[i :: len(names)])
        for i, name in enumerate(names)
    }
