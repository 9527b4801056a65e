"""From hyper-parameters and the run file to the terms of a round, and from its sums back to means."""

from device_runtime.terms import (
    ArchitectureTerms,
    ClientPrivacyTerms,
    EvaluateTerms,
    PrivacyTerms,
    RewardTerms,
    Split,
    TrainTerms,
)
from pipeline.privacy_sections import PrivacySection
from pipeline.searching.schedule import Table, example_terms_of, terms_of
from search.candidate import HyperParameters, Moves, Reward


def train_terms(
    privacy: PrivacySection | None,
    hyper: HyperParameters,
    moves: Moves,
    reward: Reward | None,
    expected_reports: int,
) -> TrainTerms:
    """How a round trains.

    Args:
        expected_reports: Of the round, see `terms_of`.

    Raises:
        ScheduleError: [privacy] lacks the table of something that is to be released.
        ValueError: Such training cannot be done, or cannot be accounted for.
    """
    has_weights = moves != "architecture"
    return TrainTerms(
        learning_rate=hyper.learning_rate,
        local_steps=hyper.local_steps,
        local_epochs=hyper.local_epochs,
        batch_size=hyper.batch_size,
        momentum=hyper.momentum if has_weights else 0.0,
        proximal=hyper.proximal if has_weights else 0.0,
        weight_decay=hyper.weight_decay if has_weights else 0.0,
        max_grad_norm=hyper.max_grad_norm if has_weights else None,
        privacy=terms_of(privacy, "update" if has_weights else "architecture", expected_reports),
        moves=moves,
        architecture=_architecture_terms(privacy, hyper, moves),
        reward=None if reward is None else _reward_terms(privacy, reward, expected_reports),
    )


def evaluate_terms(privacy: PrivacySection | None, split: Split, expected_reports: int) -> EvaluateTerms:
    """How a round scores."""
    table: Table = "test" if split == "test" else "metrics"
    return EvaluateTerms(split, ("accuracy",), privacy=terms_of(privacy, table, expected_reports))


def mean_of(total: float, num_examples: int, privacy: PrivacyTerms | ClientPrivacyTerms | None) -> float:
    """A sum over a round's reports as a mean over examples; in the client unit over the clients that were expected.

    Args:
        num_examples: Of the reporters' splits together.
    """
    if isinstance(privacy, ClientPrivacyTerms):
        return total / privacy.expected_reports
    return total / ((1.0 if privacy is None else privacy.sample_rate) * num_examples)


def _architecture_terms(
    privacy: PrivacySection | None, hyper: HyperParameters, moves: Moves
) -> ArchitectureTerms | None:
    """Of steps on architecture weights; None where none move, or where they move as the weights do."""
    if moves == "weights" or hyper.architecture_learning_rate is None:
        return None
    is_apart = moves == "alternate" and privacy is not None and privacy.unit == "example"
    return ArchitectureTerms(
        hyper.architecture_learning_rate,
        hyper.architecture_weight_decay,
        max_grad_norm=None if moves == "all" else hyper.max_grad_norm,
        privacy=example_terms_of(privacy, "architecture") if privacy is not None and is_apart else None,
    )


def _reward_terms(privacy: PrivacySection | None, reward: Reward, expected_reports: int) -> RewardTerms:
    section = None if privacy is None else privacy.reward
    bound = None if section is None else section.loss_bound
    return RewardTerms(reward, bound, terms_of(privacy, "reward", expected_reports))
