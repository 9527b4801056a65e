"""Small searches on digits: 6 phones, the smallest networks, a few rounds."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.wire import SPLITS
from pipeline.digits import SPEC
from pipeline.run_sections import RunFile
from pipeline.searching.artifacts import Artifacts
from pipeline.searching.curves import Curves
from pipeline.searching.loop import Search, Unwatched
from pipeline.searching.trials import Trainer
from tests.pipeline.searching.made_up import CLIENTS, Listed, MadeUpRounds


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


ORDINARY = """
[run]
name = "small"
kind = "emulated"
seed = 3

[data]
source = "digits"
partition = "iid"
clients = 6

[fleet]
profiles = ["pixel-4", "redmi-8"]

[space]
kinds = ["depthwise"]
widths = [2, 4]
depths = [1]
kernels = [3]
strides = [2, 3]
max_stages = 0
heads = ["flatten"]

[budgets.default]
size_kib = 64.0

[search]
algorithm = "random_search"
trials = 2
rounds = 1

[training]
learning_rate = [0.1, 0.3]
local_epochs = 1
batch_size = 16
artifact_batch_size = 16

[final]
rounds = 1

[round]
cohort_size = 5
over_selection = 1.2
min_reports = 3
deadline_s = 300
weighting = "examples"
"""

PRIVACY = """
[privacy]
unit = "example"
noise_at = "device"
delta = 1e-5
target_epsilon = 8.0
update = { sample_rate = 0.5, noise_multiplier = 1.0 }
metrics = { sample_rate = 0.8, noise_multiplier = 1.1 }
test = { sample_rate = 0.9, noise_multiplier = 1.2 }
"""

PRIVATE = ORDINARY.replace("local_epochs = 1\nbatch_size = 16", "local_steps = 1\nmax_grad_norm = 0.5") + PRIVACY

# Whole clients are protected, by noise that the server adds to their sums.
CLIENT_PRIVACY = """
[privacy]
unit = "client"
noise_at = "sum"
delta = 1e-5
target_epsilon = 8.0
max_participations = 3
max_norm = 0.5
update = { noise_multiplier = 3.0 }
metrics = { noise_multiplier = 4.0 }
test = { noise_multiplier = 5.0 }
"""

CLIENTS_PRIVATE = (
    ORDINARY.replace('weighting = "examples"', 'weighting = "uniform"').replace("over_selection = 1.2\n", "")
    + CLIENT_PRIVACY
)

# Two platforms, one of which may have half as large a network: each ships its own.
FEDNAS = """
[run]
name = "pruned"
kind = "emulated"
seed = 3

[data]
source = "digits"
partition = "iid"
clients = 4

[fleet]
profiles = ["pixel-4", "redmi-8"]

[space]
kinds = ["depthwise"]
widths = [8]
depths = [1]
kernels = [3]
strides = [2]
max_stages = 2
heads = ["global_average"]

[budgets.entry]
size_kib = 1.1

[budgets.default]
size_kib = 1.5

[search]
algorithm = "fednas"
groups = 2
pretrain_rounds = 2
keep = 1
rounds = 1
first_reduction = 0.3

[training]
learning_rate = 0.1
local_epochs = 1
batch_size = 32
artifact_batch_size = 32

[final]
rounds = 1

[round]
cohort_size = 4
min_reports = 3
deadline_s = 300
weighting = "examples"
"""


@pytest.fixture
def write_run_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a run file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """What the tests compile, once for all of them."""
    return Artifacts(tmp_path_factory.mktemp("artifacts"), SPEC, 16)


@pytest.fixture
def search(artifacts, tmp_path):
    """Run steps of trials; gives the search and its progress."""

    def run(*steps, algorithm=Listed, **moves):
        made = make(algorithm(steps), **moves)
        return made, made.run()

    def make(algorithm, folder="run", **moves):
        run_file = RunFile.model_validate(tomllib.loads(ORDINARY))
        rounds = MadeUpRounds(tmp_path / folder, {int(name[1:]): move for name, move in moves.items()})
        trainer = Trainer(run_file, rounds, artifacts, dict.fromkeys(SPLITS, 6), CLIENTS, 0, lambda *_: None)
        return Search(algorithm, trainer, 3, 4, Unwatched(), Curves(None))

    run.make = make
    return run
