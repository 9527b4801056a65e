import copy
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, InputSpec, LayoutEntry, Manifest
from pipeline.compile.builder import CompileError
from pipeline.compile.reference import Batch, Reference, draw_batch, draw_mask, map_inputs, torch_step

GRADIENTS = np.array([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]])
REFERENCE = Reference(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 1.0]), GRADIENTS)
RNG = np.random.default_rng
NORMAL = RNG(0).standard_normal


def manifest_of(module: nn.Module, spec: ExampleSpec, loss: str = "cross_entropy", smoothing: float = 0.0) -> Manifest:
    entries, offset = [], 0
    for name, value in module.named_parameters():
        if value.requires_grad:
            entries.append(LayoutEntry(name, tuple(value.shape), offset, "weights"))
            offset += value.numel()
    rest = ((), (), 17, "1.12", "", "", {}, smoothing)
    return Manifest({}, "", spec, loss, tuple(entries), ("weights",), 2, offset, *rest)


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate([value.detach().numpy().ravel() for value in module.parameters() if value.requires_grad])


SPEC = ExampleSpec((1, 2, 2), ("a", "b", "c"))
SOFTMAX = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("max_grad_norm", "mask", "factors"),
    [
        (1.0, [1, 1, 1], [0.2, 1, 1]),
        (0.25, [1, 1, 1], [0.05, 1, 0.5]),
        (inf, [1, 1, 1], [1, 1, 1]),
        (1.0, [0, 1, 0], [0, 1, 0]),
    ],
)
def test_factors_are_those_of_the_design(max_grad_norm, mask, factors):
    np.testing.assert_allclose(REFERENCE.factors(np.array(mask, np.float32), max_grad_norm), factors)


def test_a_reference_can_be_restricted_to_values_and_to_examples():
    np.testing.assert_allclose(REFERENCE.restricted(np.array([0.0, 1.0])).norms, [4, 0, 0.4])
    taken = REFERENCE.taken(np.array([False, True, True]))
    np.testing.assert_array_equal(taken.losses, [2, 3])
    np.testing.assert_array_equal(taken.metrics, [0.5, 1])
    np.testing.assert_array_equal(taken.gradients, GRADIENTS[1:])


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_every_batch_has_masked_examples_and_can_be_unmasked(batch_size):
    mask = draw_mask(batch_size, RNG(0))
    assert 0 < (mask == 0).sum() <= max(1, 0.4 * batch_size)
    batch = draw_batch(manifest_of(SOFTMAX, SPEC), lambda rng, n: rng.standard_normal((n, 1, 2, 2)), RNG(0), batch_size)
    assert batch.x.shape == (batch_size, 1, 2, 2)
    assert set(batch.y) <= {0, 1, 2}
    assert (batch.unmasked().mask == 1).all()
    np.testing.assert_array_equal(batch.unmasked().x, batch.x)


@pytest.mark.parametrize(("loss", "lowest", "highest"), [("bce_with_logits", 0, 1), ("mse", -9, 9)])
def test_values_are_drawn_as_the_loss_takes_them(loss, lowest, highest):
    y = draw_batch(manifest_of(SOFTMAX, SPEC, loss), lambda _, n: np.zeros(n), RNG(0), 50).y
    assert y.shape == (50, 3)
    assert y.dtype == np.float32
    assert lowest <= y.min() < y.max() <= highest
    assert (y.min() < 0) == (loss == "mse")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_reference_is_the_closed_form_of_softmax_regression(smoothing):
    weight, bias = NORMAL((3, 4)).astype(np.float32), NORMAL(3).astype(np.float32)
    batch = Batch(NORMAL((5, 1, 2, 2)).astype(np.float32), RNG(1).integers(0, 3, 5), np.ones(5, np.float32))
    parameters = np.concatenate([weight.ravel(), bias])
    manifest = manifest_of(SOFTMAX, SPEC, smoothing=smoothing)
    found = torch_step(SOFTMAX, manifest).reference(parameters, batch)
    rows = batch.x.reshape(5, 4).astype(np.float64)
    logits = rows @ weight.T.astype(np.float64) + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.eye(3)[batch.y] * (1 - smoothing) + smoothing / 3
    expected = np.concatenate(
        [((shares - target)[:, :, None] * rows[:, None, :]).reshape(5, 12), shares - target], axis=1
    )
    np.testing.assert_allclose(found.losses, -(target * np.log(shares)).sum(1), rtol=1e-12)
    np.testing.assert_array_equal(found.metrics, logits.argmax(1) == batch.y)
    np.testing.assert_allclose(found.gradients, expected, rtol=1e-12, atol=1e-15)
    single = torch_step(SOFTMAX, manifest, np.float32).reference(parameters, batch)
    assert 0 < np.abs(single.gradients - expected).max() < 1e-6


def test_losses_of_values_are_the_mean_over_an_examples_outputs():
    batch = Batch(NORMAL((2, 1, 2, 2)).astype(np.float32), RNG(1).random((2, 3), np.float32), np.ones(2, np.float32))
    logits = SOFTMAX(torch.from_numpy(batch.x)).detach().numpy().astype(np.float64)
    found = torch_step(SOFTMAX, manifest_of(SOFTMAX, SPEC, "mse")).reference(flat(SOFTMAX), batch)
    np.testing.assert_allclose(found.losses, ((logits - batch.y) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.metrics, np.maximum(0, 1 - np.abs(logits - batch.y)).mean(1), rtol=1e-5)
    found = torch_step(SOFTMAX, manifest_of(SOFTMAX, SPEC, "bce_with_logits")).reference(flat(SOFTMAX), batch)
    expected = (np.log1p(np.exp(logits)) - logits * batch.y).mean(1)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    np.testing.assert_allclose(found.metrics, ((logits > 0) == (batch.y > 0.5)).mean(1))


class TwoInputs(nn.Module):
    """Ids into a table that is used twice, numbers through a frozen layer, and a table that forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.frozen = nn.Linear(2, 3).requires_grad_(False)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        positions = torch.linspace(0, 1, 3)
        return self.head(self.table(ids) + torch.tanh(self.frozen(numbers) * self.scale) @ torch.diag(positions))


def test_several_inputs_frozen_tensors_and_shared_ones_are_in_float64_and_the_module_is_left_alone():
    module = TwoInputs()
    before = copy.deepcopy(module.state_dict())
    inputs = (InputSpec("ids", (), "int64"), InputSpec("numbers", (2,)))
    spec = ExampleSpec((), tuple("abcde"), inputs=inputs)
    x = np.zeros(2, spec.row_dtype())
    x["ids"], x["numbers"] = [4, 1], NORMAL((2, 2))
    batch = Batch(x, np.array([0, 3]), np.ones(2, np.float32))
    manifest = manifest_of(module, spec)
    assert [entry.name for entry in manifest.layout] == ["table.weight", "head.bias"]
    found = torch_step(module, manifest).reference(flat(module), batch)
    double = copy.deepcopy(module).double()
    table = double.table.weight
    for i in range(2):
        hidden = torch.tanh(double.frozen(torch.from_numpy(x["numbers"][i : i + 1]).double()) * 2)
        logits = (table[x["ids"][i]] + hidden * torch.linspace(0, 1, 3).double()) @ table.T + double.head.bias
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(batch.y[i : i + 1]))
        own = torch.autograd.grad(loss, [table, double.head.bias])
        np.testing.assert_allclose(found.losses[i], loss.item(), rtol=1e-13)
        np.testing.assert_allclose(found.gradients[i], torch.cat([part.reshape(-1) for part in own]), atol=1e-14)
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None and value.dtype == torch.float32 for value in module.parameters())


def test_a_parameter_that_torch_cuts_off_has_a_zero_gradient():
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.second(self.first(x.flatten(1)).detach())

    module = Detached()
    batch = Batch(NORMAL((2, 1, 2, 2)).astype(np.float32), np.array([0, 2]), np.ones(2, np.float32))
    gradients = torch_step(module, manifest_of(module, SPEC)).reference(flat(module), batch).gradients
    assert not gradients[:, :20].any()
    assert gradients[:, 20:].any()


def test_a_module_that_insists_on_float32_is_told_so():
    class Insisting(nn.Sequential):
        def forward(self, x):
            return super().forward(x.float())

    module = Insisting(nn.Flatten(), nn.Linear(4, 3))
    batch = Batch(np.zeros((1, 1, 2, 2), np.float32), np.array([0]), np.ones(1, np.float32))
    with pytest.raises(CompileError, match=r"forward cannot run in float64, which .*; let forward take"):
        torch_step(module, manifest_of(module, SPEC)).reference(flat(module), batch)


def test_ids_made_of_numbers_that_leave_their_table_are_told_so():
    class Rounding(nn.Sequential):
        def forward(self, x):
            return super().forward(x.long())

    module = Rounding(nn.Flatten(), nn.Embedding(4, 3))
    batch = Batch(np.full((1, 1, 2, 2), 7, np.float32), np.array([0]), np.ones(1, np.float32))
    with pytest.raises(CompileError, match=r"looks something up beyond its size .*; take ids as an input of whole"):
        torch_step(module, manifest_of(module, SPEC)).reference(flat(module), batch)


def test_layers_are_told_by_their_path_in_the_order_of_forward_and_the_logits_last():
    module = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), nn.Linear(4, 3))
    batch = Batch(NORMAL((2, 1, 2, 2)).astype(np.float32), np.array([0, 2]), np.ones(2, np.float32))
    step = torch_step(module, manifest_of(module, SPEC))
    outputs = step.layer_outputs(flat(module), batch)
    assert list(outputs) == ["0", "1.0", "1.1", "2", "logits"]
    assert outputs["1.0"].min() < 0  # before the next layer changes it in place
    np.testing.assert_allclose(outputs["1.1"], np.maximum(outputs["1.0"], 0))
    np.testing.assert_array_equal(outputs["2"], outputs["logits"])
    assert not any(layer._forward_hooks for layer in step.module.modules())


def test_no_examples_have_no_gradients():
    batch = Batch(np.zeros((0, 1, 2, 2), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert torch_step(SOFTMAX, manifest_of(SOFTMAX, SPEC)).reference(flat(SOFTMAX), batch).gradients.shape == (0, 15)


def test_numbers_are_changed_and_ids_are_not():
    rows = np.zeros(2, [("ids", "int64", (2,)), ("numbers", "float32", (3,))])
    rows["ids"], rows["numbers"] = 3, 1
    changed = map_inputs(rows, lambda value: value * np.float32(5))
    assert (changed["ids"] == 3).all()
    assert (changed["numbers"] == 5).all()
    assert (rows["numbers"] == 1).all()
    assert (map_inputs(np.full(3, 2), np.zeros_like) == 2).all()
    assert (map_inputs(np.ones(3, np.float32), np.zeros_like) == 0).all()
