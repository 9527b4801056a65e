"""`handheld-device ledger` and `handheld-device forget`: look at what was spent, and leave a server for good."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from device_runtime.accounting import rdp_by_split
from device_runtime.console import JsonOption, print_result
from device_runtime.wire import SPLITS

if TYPE_CHECKING:
    from device_runtime.ledger import LedgerContent

StateOption = Annotated[Path, typer.Option(help="The folder that `handheld-device run --state` was given.")]


@dataclass(frozen=True)
class LedgerSummary:
    """One data source's ledger.

    Attributes:
        source: Id of the data source.
        epsilon, delta, order, unit: The budget.
        epsilon_spent: By split, at `delta`, in the budget's unit, zero-out neighbours; the largest is the total.
        num_releases: By split; a release of a client counts on every one.
    """

    source: str
    epsilon: float
    delta: float
    order: int
    unit: str
    epsilon_spent: dict[str, float]
    num_releases: dict[str, int]


@dataclass(frozen=True)
class Forgotten:
    """What `forget` left."""

    state: str
    num_ledgers_kept: int


def ledger(*, state: StateOption, json: JsonOption = False) -> None:
    """Show what each data source has spent of its privacy budget."""
    from device_runtime.state_folder import read_ledgers  # noqa: PLC0415  (imports cryptography)

    summaries = [summarise(content) for content in read_ledgers(state)]
    table = Table("data source", "unit", "split", "epsilon spent", "of", "delta", "order", "releases")
    for summary in summaries:
        for split in SPLITS:
            spent = f"{summary.epsilon_spent[split]:.4g}"
            budget = (f"{summary.epsilon:g}", f"{summary.delta:g}", str(summary.order))
            num_releases = str(summary.num_releases[split])
            table.add_row(summary.source[:12], summary.unit, split, spent, *budget, num_releases)
    table.caption = (
        "unit: one example or one client; neighbours: zero-out; adversary: whoever receives what this device sends (of "
        "runs taken with --trust-server-with-sums: everybody but their server)"
    )
    print_result(summaries, json, table)


def forget(*, state: StateOption, json: JsonOption = False) -> None:
    """Delete key, enrolment, cached files and unsent updates; never the record of spent budget."""
    from device_runtime.state_folder import StateFolder, read_ledgers  # noqa: PLC0415

    kept = len(read_ledgers(state))
    with StateFolder(state) as folder:
        folder.forget()
    done = Forgotten(str(state), kept)
    print_result(done, json, f"{state}: enrolment forgotten; {kept} ledgers and their split keys stay")


def summarise(content: "LedgerContent") -> LedgerSummary:
    """Spending by split."""
    budget, releases = content.budget, content.releases()
    spent = rdp_by_split(releases, budget.order)
    return LedgerSummary(
        content.header.source,
        budget.epsilon,
        budget.delta,
        budget.order,
        budget.unit,
        {split: budget.epsilon_spent(spent.get(split, 0.0)) for split in SPLITS},
        {split: sum(split in release.charged_splits for release in releases) for split in SPLITS},
    )
