import re

import pytest

from pipeline.run_file import parse_run_file
from tests.pipeline.test_run_file import ORDINARY, edited, errors_of

PRIVATE = (
    ORDINARY.replace("local_epochs = 1\nbatch_size = 8", "local_steps = 1\nmax_grad_norm = 0.5").replace(
        "momentum = 0.9", "momentum = 0.0"
    )
    + """
[privacy]
unit = "example"
noise_at = "device"
delta = 1e-5
target_epsilon = 8
update = {sample_rate = 0.25, noise_multiplier = 1.4}
metrics = {sample_rate = 1.0, noise_multiplier = 10}
test = {sample_rate = 1.0, noise_multiplier = 10}
"""
)
ON_SUM = PRIVATE.replace('"device"', '"sum"').replace("[round]", '[round]\nweighting = "examples"')


@pytest.mark.parametrize("text", [PRIVATE, ON_SUM])
def test_a_private_run_file_is_read(text):
    privacy = parse_run_file(text).privacy
    assert (privacy.update.sample_rate, privacy.update.noise_multiplier) == (0.25, 1.4)


@pytest.mark.parametrize("key", ["unit", "noise_at", "delta", "target_epsilon"])
def test_no_privacy_parameter_has_a_default(key):
    text = re.sub(rf"^{key} = .*$", "", PRIVATE, flags=re.MULTILINE)
    assert errors_of(text) == (f"run.toml: [privacy] lacks {key}",)


@pytest.mark.parametrize("release", ["update", "metrics", "test"])
def test_no_release_has_a_default(release):
    text = re.sub(rf"^{release} = .*$", "", PRIVATE, flags=re.MULTILINE)
    assert errors_of(text) == (f"run.toml: lacks the table [privacy.{release}]",)


def test_a_release_needs_both_its_parameters():
    text = edited(PRIVATE, ", noise_multiplier = 1.4", "")
    assert errors_of(text) == ("run.toml: [privacy.update] lacks noise_multiplier",)
