"""`handheld privacy plan`: what a run will spend, before it spends anything."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table

from device_runtime.console import JsonOption, print_result

if TYPE_CHECKING:
    from pipeline.searching.schedule import Schedule

LARGEST_EPSILON = 50.0  # above it a loss distribution takes minutes and says nothing
EXAMPLE = "handheld privacy plan run.toml"


def plan(
    run_file: Annotated[Path, typer.Argument(help="A run file with a table [privacy].")],
    json: JsonOption = False,
) -> None:
    """Show what each phase of a run will release and whether it fits the budget.

    Leaves with an error that names the noise that would fit when it does not.
    """
    # Help must not wait for what these import.
    from pipeline.run_file import read_run_file  # noqa: PLC0415
    from pipeline.searching.loss_distribution import epsilon_of_fixed_schedule  # noqa: PLC0415
    from pipeline.searching.schedule import check_schedule, plan_schedule  # noqa: PLC0415

    checked = read_run_file(run_file)
    schedule, privacy = plan_schedule(checked), checked.privacy
    if schedule is None or privacy is None:
        raise ValueError(f"{run_file} has no table [privacy]: nothing of such a run is private")
    if schedule.epsilon <= min(privacy.target_epsilon, LARGEST_EPSILON):
        as_fixed = epsilon_of_fixed_schedule(schedule.releases(), schedule.delta)
        schedule = replace(schedule, epsilon_as_fixed=as_fixed)
    print_result(schedule, json, _view(schedule, privacy.target_epsilon))
    check_schedule(checked)


def _view(schedule: "Schedule", target_epsilon: float) -> Group:
    from pipeline.privacy_spent import epsilon_in_words  # noqa: PLC0415  (help must not wait for it)

    is_by_split = schedule.unit == "example"
    table = Table(title=f"what each client releases, at most; the unit is one {schedule.unit}")
    for name in ("phase", "split", "release", "times", "steps", "sample rate", "noise multiplier"):
        table.add_column(name)
    for entry in schedule.planned:
        release = entry.release
        numbers = (str(release.num_steps), f"{release.sample_rate:g}", f"{release.noise_multiplier:g}")
        split = release.split if is_by_split else "all"
        table.add_row(entry.phase, split, release.kind, str(entry.count), *numbers)
    lines = []
    if is_by_split:
        splits = ", ".join(f"{split} {epsilon:.3f}" for split, epsilon in schedule.epsilon_by_split.items())
        lines.append(f"by split: {splits}")
    whose = "the largest of the splits" if is_by_split else "a client's for all that it holds"
    total = f"epsilon {schedule.epsilon:.3f} of {target_epsilon:g} at delta {schedule.delta:g}"
    lines.append(f"{total}, {whose}; RDP order {schedule.order}")
    if schedule.epsilon_as_fixed is not None:
        fixed = f"{schedule.epsilon_as_fixed:.3f} by privacy loss distributions or RDP, whichever is smaller"
        lines.append(f"for reading, not for the stop rule: epsilon {fixed}, if the run keeps exactly to this plan")
    return Group(table, *lines, epsilon_in_words(schedule.unit, schedule.noise_at))
