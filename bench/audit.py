"""Does a private step leak no more than it claims? Attacks the real `train` and turns what they find into epsilons.

*Two worlds* ("Adversary Instantiation", arXiv:2101.04535, and "Tight Auditing", arXiv:2302.07956): one step at sample
rate 1 with and without one canary, many times, each with a key of its own. The auditor knows the parameters, all other
examples and the canary's gradient, and tests the released update along it; here the Gaussian mechanism is as weak as
its accounting says, so every wrong factor shows. *One run* ("Privacy Auditing with One (1) Training Run",
arXiv:2305.08846): ten Poisson-sampled steps on canaries that are in or out by a coin; the auditor guesses which.

Each attack runs on the code as it is shipped and on two broken copies, made here and only here: no noise, and a clip
that is twice too loose. Bars: as shipped, the lower bound (95%) stays at or below the claimed epsilon; broken, it is
above. One run has too few guesses to see a loose clip, so that row has no bar.

What it rests on: the two worlds' bound takes the mechanism to be Gaussian, which the lattice makes it up to rounding;
`any_mechanism` is the bound without that. A pass shows that these attacks found nothing, no more.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.audit_bounds import guessed_epsilon_at_least, two_worlds_bounds
from bench.fleet import compile_network
from bench.fleet_scene import SOURCE
from bench.measuring import Bar, Result, new_result, print_result
from device_runtime.accounting import epsilon_of_schedule, releases_of_terms
from device_runtime.arrays import Flags, Floats, Inputs, Labels, Vector
from device_runtime.artifact import read_artifact
from device_runtime.loaded import Examples, LoadedAssignment
from device_runtime.private_random import PrivateRandom
from device_runtime.session import StepSession
from device_runtime.terms import PrivacyTerms, TrainTerms
from device_runtime.training import train

DELTA, LEVEL = 1e-5, 0.05
CLIP = 0.5  # every example below has a gradient of twice that norm at least, so each is clipped in every variant
NOISE_MULTIPLIERS = (4.0, 1.5, 0.7)
CALIBRATION_SHARE = 0.1
ONE_RUN_NOISE, ONE_RUN_RATE, ONE_RUN_STEPS = (6.0, 3.0), 0.5, 10
CANARIES, GUESSES = 200, 100
PACKAGES = ("onnxruntime-training-cpu", "onnxruntime", "numpy", "scipy", "torch")
COLUMNS = ("audit", "variant", "noise_multiplier", "claimed_epsilon", "lower_bound", "any_mechanism")
Row = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """One client with digits, and canaries: sparse bright images with drawn labels, their gradients nearly orthogonal.

    Attributes:
        parameters: f32[P], as the auditor knows them.
    """

    session: StepSession
    parameters: Vector = field(repr=False)
    digits: Examples
    canaries: Examples

    def train(self, terms: TrainTerms, examples: Examples, label: str) -> Floats:
        """What the client releases, as the sum of its steps' noised gradient sums in units of the clip, f64[P]."""
        assignment = LoadedAssignment(self.session, self.parameters, terms)
        update = train(assignment, {"train": examples}, PrivateRandom.derived(b"audit", label))
        rate = 1.0 if terms.privacy is None else terms.privacy.sample_rate
        return update.vector.astype(np.float64) * -(rate * len(examples) / (terms.learning_rate * CLIP))

    def gradients(self, examples: Examples) -> Floats:
        """Each example's clipped gradient in units of the clip, f64[n, P]: rows of length 1."""
        rows = []
        for i in range(len(examples)):
            x, y = examples.x[i : i + 1], examples.y[i : i + 1]
            gradient, _, norms = self.session.gradient(self.parameters, x, y, max_grad_norm=CLIP)
            if norms[0] < 2 * CLIP:
                raise RuntimeError(f"an example's gradient has norm {norms[0]:.3g}; it must be clipped, lower CLIP")
            rows.append(gradient.astype(np.float64) / CLIP)
        return np.stack(rows)


@contextmanager
def _without_noise(_: Scene) -> Iterator[None]:
    with patch("device_runtime.training.add_lattice_noise", lambda values, *_: values):
        yield


@contextmanager
def _twice_too_loose(scene: Scene) -> Iterator[None]:
    gradient = scene.session.gradient

    def loose(  # noqa: PLR0913  (as the method that it stands for)
        parameters: Vector, x: Inputs, y: Labels, mask: Flags, *, max_grad_norm: float, segment_weight: Vector | None
    ) -> tuple[Vector, float, Vector]:
        return gradient(parameters, x, y, mask, max_grad_norm=2 * max_grad_norm, segment_weight=segment_weight)

    with patch.object(scene.session, "gradient", loose):
        yield


VARIANTS: dict[str, Callable[[Scene], AbstractContextManager[None]]] = {
    "as shipped": lambda _: nullcontext(),
    "no noise": _without_noise,
    "clip twice too loose": _twice_too_loose,
}


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs, one noise multiplier")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON object to this file as well")
    arguments = parser.parse_args()
    print_result(measure(arguments.quick), COLUMNS, arguments.output)


def measure(is_quick: bool) -> Result:
    """All rows and bars."""
    result = new_result("audit", PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder))
        for name in VARIANTS:
            for noise_multiplier in NOISE_MULTIPLIERS[1:2] if is_quick else NOISE_MULTIPLIERS:
                result.rows.append(two_worlds(scene, name, noise_multiplier, 2_000 if is_quick else 20_000))
            for noise_multiplier in ONE_RUN_NOISE:
                result.rows.append(one_run(scene, name, noise_multiplier))
    return replace(result, bars=[bar for row in result.rows for bar in bars_of(row)])


def make_scene(folder: Path) -> Scene:
    """The demo network, compiled, with initial parameters."""
    model = compile_network(folder / "artifact")
    rng = np.random.default_rng(0)
    shape = (CANARIES, *SOURCE.spec.shape)
    x = rng.normal(0, 10, shape) * (rng.random(shape) < 0.1)
    canaries = Examples(x.astype(np.float32), rng.integers(0, len(SOURCE.spec.labels), CANARIES))
    digits = Examples(*SOURCE.get(SOURCE.ids()[:15]))
    return Scene(StepSession(read_artifact(model.artifact)), model.parameters, digits, canaries)


def two_worlds(scene: Scene, variant: str, noise_multiplier: float, num_runs: int) -> Row:
    """Test one canary's presence in `num_runs` releases of each world, a tenth of which only set the threshold."""
    terms = _terms(1.0, noise_multiplier, 1)
    canary = Examples(scene.canaries.x[:1], scene.canaries.y[:1])
    direction = scene.gradients(canary)[0]
    worlds = [_joined(scene.digits, canary, np.array([is_in])) for is_in in (False, True)]
    with VARIANTS[variant](scene):
        scores = [
            np.array([direction @ scene.train(terms, world, f"{terms} {i} {run}") for run in range(num_runs)])
            for i, world in enumerate(worlds)
        ]
    num_calibrating = int(num_runs * CALIBRATION_SHARE)
    threshold = float(np.mean([part[:num_calibrating].mean() for part in scores]))
    out, inside = (part[num_calibrating:] for part in scores)
    bounds = two_worlds_bounds(out, inside, threshold, DELTA, LEVEL)
    return _row("two worlds", variant, terms) | {"mu_claimed": 1 / noise_multiplier, **bounds}


def one_run(scene: Scene, variant: str, noise_multiplier: float) -> Row:
    """Guess of half the canaries whether they were in, from one release: a quarter up, a quarter down."""
    terms = _terms(ONE_RUN_RATE, noise_multiplier, ONE_RUN_STEPS)
    is_in = np.random.default_rng(1).random(CANARIES) < 0.5
    examples = _joined(scene.digits, scene.canaries, is_in)
    gradients = np.concatenate([scene.gradients(scene.digits), scene.gradients(scene.canaries)])
    with VARIANTS[variant](scene):
        released = scene.train(terms, examples, f"one run {noise_multiplier}")
    # Least squares over every example that may have taken part: what each one's gradient alone explains.
    scores = np.linalg.lstsq(gradients.T, released, rcond=None)[0][len(scene.digits) :]
    order = np.argsort(scores)
    correct = int((~is_in[order[: GUESSES // 2]]).sum() + is_in[order[-GUESSES // 2 :]].sum())
    bound = guessed_epsilon_at_least(CANARIES, GUESSES, correct, DELTA, LEVEL)
    return _row("one run", variant, terms) | {
        "lower_bound": bound,
        "any_mechanism": bound,
        "canaries": CANARIES,
        "guesses": GUESSES,
        "correct": correct,
    }


def bars_of(row: Row) -> Iterator[Bar]:
    """What one row must show."""
    claimed, bound, variant = row["claimed_epsilon"], row["lower_bound"], row["variant"]
    name = f"{row['audit']}, noise multiplier {row['noise_multiplier']:g}, {variant}: lower bound"
    if variant == "as shipped":
        yield Bar(f"{name} at most the claim", bound, claimed, bound <= claimed)
    elif row["audit"] == "two worlds" or variant == "no noise":
        yield Bar(f"{name} above the claim", bound, claimed, bound > claimed)


def _terms(sample_rate: float, noise_multiplier: float, num_steps: int) -> TrainTerms:
    # Steps so small that gradients stay where the auditor computed them.
    privacy = PrivacyTerms("device", sample_rate, noise_multiplier)
    return TrainTerms(0.01, local_steps=num_steps, max_grad_norm=CLIP, privacy=privacy)


def _row(audit: str, variant: str, terms: TrainTerms) -> Row:
    (release,) = releases_of_terms(terms)
    return {
        "audit": audit,
        "variant": variant,
        "noise_multiplier": release.noise_multiplier,
        "sample_rate": release.sample_rate,
        "num_steps": release.num_steps,
        "delta": DELTA,
        "claimed_epsilon": epsilon_of_schedule([release], DELTA),
    }


def _joined(first: Examples, second: Examples, is_in: np.ndarray[Any, Any]) -> Examples:
    """All examples; those of `second` that are not in are null records, so the count is the same."""
    x = second.x.copy()
    x[~is_in] = np.nan
    return Examples(np.concatenate([first.x, x]), np.concatenate([first.y, second.y]))


if __name__ == "__main__":
    main()
