import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compile.artifact import compile_artifact
from pipeline.compile.compiled_step import open_step
from pipeline.compile.reference import Batch
from pipeline.compile.writing import flatten_parameters


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 65).requires_grad_(False), nn.Linear(65, 64), nn.Tanh(), nn.Linear(64, 2))
    module[1].requires_grad_(False)  # 4160 weights: too many for a constant
    artifact = compile_artifact(
        module,
        torch.zeros(3),
        2,
        tmp_path_factory.mktemp("step") / "artifact",
        batch_size=2,
        segments={"bias": "*bias"},
    )
    assert list(artifact.frozen) == ["1.weight"]
    return open_step(artifact, flatten_parameters(module))


def batch_of(x: np.ndarray, mask: tuple[float, float] = (1, 1)) -> Batch:
    return Batch(x.astype(np.float32), np.array([0, 1]), np.array(mask, np.float32))


def test_the_bare_graphs_give_what_a_session_does(step):
    batch = batch_of(np.random.default_rng(0).standard_normal((2, 3)))
    outputs = step.bare_outputs(batch)
    gradient_sum, loss_sum, norms = step.gradient(batch, 1.0)
    np.testing.assert_array_equal(outputs["gradient_sum"], gradient_sum)
    np.testing.assert_array_equal(outputs["norms"], norms)
    np.testing.assert_array_equal(outputs["losses"], step.evaluate(batch)[0])
    np.testing.assert_array_equal(outputs["metrics"][:, 0], step.evaluate(batch)[1])
    assert outputs["loss_sum"] == pytest.approx(loss_sum)
    assert set(outputs) == {"gradient_sum", "loss_sum", "norms", "losses", "metrics"}


def test_a_segment_can_be_left_out(step):
    batch = batch_of(np.ones((2, 3)))
    whole, _, _ = step.gradient(batch)
    parts = [step.gradient(batch, segment_weight=np.array(weight, np.float32))[0] for weight in ([1, 0], [0, 1])]
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-6)
    assert all(part.any() for part in parts)


def test_what_is_not_finite_is_hidden_by_a_session_and_not_by_the_bare_graphs(step):
    batch = batch_of(np.array([[np.nan] * 3, [1.0] * 3]))
    assert np.isfinite(step.gradient(batch)[0]).all()
    assert not np.isfinite(step.bare_outputs(batch)["gradient_sum"]).all()
