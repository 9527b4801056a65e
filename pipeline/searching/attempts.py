"""Hold rounds side by side, and those that fail again, a few times."""

from collections.abc import Callable, Sequence
from itertools import count

from pipeline.coordinator.plans import RoundPlan
from pipeline.coordinator.round_rows import find_round
from pipeline.coordinator.rounds import RoundResult
from pipeline.searching.rounds import Rounds


def hold_rounds(
    rounds: Rounds, keys: Sequence[str], plan: Callable[[int, str], RoundPlan], max_attempts: int
) -> list[RoundResult | str]:
    """One round a key; a text says why one has no result.

    Args:
        keys: Unique in the run.
        plan: Of the round with that place in `keys`, by the key of its attempt.
    """
    results: dict[int, RoundResult | str] = {}
    reasons: list[list[str]] = [[] for _ in keys]
    for attempt in count():
        suffix = f"/attempt {attempt + 1}" if attempt else ""
        waiting = [i for i in range(len(keys)) if i not in results]
        if not waiting:
            return [results[i] for i in range(len(keys))]
        were_held = {i for i in waiting if _is_held(rounds, keys[i] + suffix)}
        plans = [plan(i, keys[i] + suffix) for i in waiting]
        for i, result in zip(waiting, rounds.hold_all(plans), strict=True):
            if result.status == "closed":
                results[i] = result
                continue
            # Of real phones, what failed before this search was resumed is no reason to give up now; emulated ones
            # must come to the same result as if it had never stopped.
            if i not in were_held or rounds.run.kind == "emulated":
                reasons[i].append(result.reason)
            if len(reasons[i]) == max_attempts:
                more = "" if rounds.run.kind == "emulated" else "bring more clients and resume, or "
                results[i] = (
                    f"round {keys[i]} failed {max_attempts} times: {'; then: '.join(reasons[i])}; "
                    f"{more}begin anew with a longer round.deadline_s or a smaller round.min_reports"
                )
    raise AssertionError("count() never ends")


def _is_held(rounds: Rounds, key: str) -> bool:
    with rounds.store.transaction():
        found = find_round(rounds.store, rounds.run.run_id, key)
    return found is not None and found.status != "open"
