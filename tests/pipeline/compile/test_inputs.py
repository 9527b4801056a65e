import copy

import numpy as np
import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.compile.builder import CompileError
from pipeline.compile.inputs import (
    batch_of,
    check_forward,
    check_same,
    check_spec,
    derive_spec,
    input_specs,
    name_inputs,
)
from pipeline.compile.losses import Loss
from pipeline.compile.modules import prepare_module

IDS, IMAGE = torch.arange(6), torch.zeros(3, 4, 4)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.linear = nn.Linear(6 * 4 + 3 * 16, 5)

    def forward(self, ids, image, scale=None):
        return self.linear(torch.cat([self.embedding(ids).flatten(1), image.flatten(1)], 1))


def test_one_input_is_called_x_in_the_graphs():
    inputs = name_inputs(nn.Flatten(), IMAGE)
    batch = batch_of(inputs, 2)
    assert list(batch) == ["x"]
    assert batch["x"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    "given", [(IDS, IMAGE), [IDS, IMAGE], {"image": IMAGE, "ids": IDS}], ids=["tuple", "list", "dict"]
)
def test_several_inputs_are_named_and_ordered_as_in_forward(given):
    inputs = name_inputs(Pair(), given)
    assert input_specs(inputs) == (InputSpec("ids", (6,), "int64"), InputSpec("image", (3, 4, 4)))
    batch = batch_of(inputs, 2)
    assert list(batch) == ["x.ids", "x.image"]
    assert torch.equal(batch["x.ids"], torch.stack([IDS, IDS]))
    check_forward(Pair(), batch, 5)


def test_arrays_are_as_good_as_tensors():
    inputs = name_inputs(Pair(), (IDS.numpy(), IMAGE.numpy()))
    assert torch.equal(inputs["ids"], IDS)
    assert torch.equal(inputs["image"], IMAGE)
    assert list(name_inputs(nn.Flatten(), IMAGE.numpy())) == ["input"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idz": IDS, "image": IMAGE}, "forward has no input 'idz': did you mean 'ids'?"),
        ({"ids": IDS, "q": IMAGE}, "forward has no input 'q': it takes ids, image, scale"),
        ({"ids": IDS, "scale": IMAGE}, "forward takes ids, image, scale and 'image' is not given"),
        ([IDS] * 4, r"forward names 3 inputs \(ids, image, scale\), got 4; give an example of each"),
        (IDS, "forward takes 'image' too; give an example of it"),
        ({"ids": IDS}, "forward takes 'image' too"),
        ([IDS, 3.0], r"an example must be a tensor or an array of each input, got \[tensor"),
        (None, "an example must be a tensor or an array of each input, got None"),
        ({"ids": IDS, "image": [0.0]}, "input 'image' must be a tensor or an array, got list"),
        ([IDS, np.zeros(3)], "input 'image' is float64; convert it to float32"),
        ([], "a network needs an input"),
        (
            {"ids": IDS.int(), "image": IMAGE},
            "input 'ids' is torch.int32; convert it to float32, or int64 for whole numbers",
        ),
        ([IDS, IMAGE.double()], "input 'image' is torch.float64; convert it"),
    ],
)
def test_inputs_that_forward_does_not_take_are_told(given, message):
    with pytest.raises(CompileError, match=message):
        name_inputs(Pair(), given)


class ByKeyword(nn.Module):
    def forward(self, x, *, scale, offset=0):
        return x * scale + offset


class Variadic(nn.Module):
    def forward(self, *inputs):
        return sum(inputs)


@pytest.mark.parametrize("given", [IMAGE, {"x": IMAGE, "scale": IMAGE}])
def test_an_input_by_keyword_alone_is_refused(given):
    with pytest.raises(CompileError, match=r"forward takes 'scale' by keyword alone, .* drop the \*"):
        name_inputs(ByKeyword(), given)


def test_inputs_without_names_are_refused_where_there_are_several():
    assert list(name_inputs(Variadic(), IMAGE)) == ["x"]
    with pytest.raises(CompileError, match=r"forward names 0 inputs \(\), got 2"):
        name_inputs(Variadic(), [IMAGE, IMAGE])


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(9, 5)),
            r"forward fails on x \[2, 3, 4, 4\] \(the batch first\): RuntimeError: mat1 and .*; give the shape",
        ),
        (Returns(lambda x: {}["logits"]), r"KeyError: 'logits' \(at test_inputs.py:\d+\); mend it"),
        (Returns(lambda x: (x, x)), "forward must return one tensor, the logits; it returns a tuple"),
        (Returns(lambda x: x), r"give \[batch, outputs\], here \[2, 5\], got \[2, 3, 4, 4\]; flatten or average"),
        (Returns(lambda x: x.reshape(1, -1)[:, :5]), r"here \[2, 5\], got \[1, 5\]"),
        (Returns(lambda x: x.sum()), r"here \[2, 5\], got \[\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), "gives 7 outputs and num_classes is 5; make them agree"),
    ],
    ids=["shape", "own", "tuple", "image", "batch", "scalar", "classes"],
)
def test_a_forward_that_does_not_fit_is_told(module, message):
    with pytest.raises(CompileError, match=message):
        check_forward(module, batch_of(name_inputs(module, IMAGE), 2), 5)


@pytest.mark.parametrize(("ids", "told"), [(IDS + 7, "7 to 12"), (IDS - 1, "-1 to 4")])
def test_ids_beyond_an_embedding_are_told_with_its_size(ids, told):
    batch = batch_of(name_inputs(Pair(), (ids, IMAGE)), 2)
    with pytest.raises(
        CompileError, match=f"the example's ids run from {told}, embedding 'embedding' has 10 rows: give"
    ):
        check_forward(Pair(), batch, 5)


class Positioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 5), nn.Embedding(4, 5)

    def forward(self, ids):
        return (self.words(ids) + self.places(torch.arange(ids.shape[1]))).mean(1)


def test_a_text_that_is_longer_than_its_table_of_places_is_told():
    batch = batch_of(name_inputs(Positioned(), IDS), 2)
    with pytest.raises(CompileError, match="from 0 to 5, embedding 'places' has 4 rows: give ids, and a length, that"):
        check_forward(Positioned(), batch, 5)
    table = torch.zeros(4, 5)
    with pytest.raises(
        CompileError, match=r"IndexError: .*test_inputs.py:\d+\); the example's ids run from 0 to 5: give"
    ):
        check_forward(Returns(lambda ids: table[ids].mean(1)), batch, 5)


def test_ids_that_are_no_whole_numbers_are_told():
    batch = batch_of(name_inputs(Positioned(), IDS.float()), 2)
    with pytest.raises(CompileError, match="an embedding takes whole numbers: give int64 for its input"):
        check_forward(Positioned(), batch, 5)


@pytest.mark.parametrize(("channels", "colour"), [(1, "grey"), (3, "rgb"), (2, "none")])
def test_a_derived_specification_has_the_shape_and_the_classes(channels, colour):
    spec = derive_spec((InputSpec("x", (channels, 5, 6)),), 3)
    assert (spec.shape, spec.labels, spec.colour) == ((channels, 5, 6), ("0", "1", "2"), colour)
    assert len(spec.mean) == len(spec.deviation) == channels


def test_a_derived_specification_of_other_inputs_prepares_nothing():
    assert derive_spec((InputSpec("ids", (64,), "int64"),), 2) == ExampleSpec((64,), ("0", "1"), "int64")
    assert derive_spec((InputSpec("x", (40,)),), 1, "values") == ExampleSpec((40,), ("0",), target="values")
    pair = (InputSpec("ids", (6,), "int64"), InputSpec("image", (3, 4, 4)))
    assert derive_spec(pair, 2) == ExampleSpec((), ("0", "1"), inputs=pair)


@pytest.mark.parametrize(
    ("spec", "loss", "message"),
    [
        (ExampleSpec((3, 4, 5), ("a", "b")), Loss(), r"has x \[3, 4, 4\] float32 and 2 outputs, .* says x \[3, 4, 5\]"),
        (ExampleSpec((3, 4, 4), ("a", "b", "c")), Loss(), "and 2 outputs, the specification says .* and 3 outputs"),
        (ExampleSpec((3, 4, 4), ("a", "b"), "int64"), Loss(), "says x .* int64"),
        (
            ExampleSpec((3, 4, 4), ("a", "b")),
            Loss("mse"),
            "loss mse wants the specification's target 'values', got 'class'",
        ),
    ],
)
def test_a_specification_of_other_data_is_refused(spec, loss, message):
    with pytest.raises(CompileError, match=message):
        check_spec(spec, (InputSpec("input", (3, 4, 4)),), 2, loss)


def test_a_specification_of_the_same_data_passes_whatever_it_calls_a_single_input():
    check_spec(ExampleSpec((3, 4, 4), ("a", "b"), mean=(0.5,)), (InputSpec("input", (3, 4, 4)),), 2, Loss())


class AsksForTheType(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * (2 if isinstance(self[0], nn.Dropout) else 1)


class AsksForTheMode(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + (0.01 if self[1].training else 0)


@pytest.mark.parametrize("kind", [AsksForTheType, AsksForTheMode])
def test_a_module_that_is_another_one_once_prepared_is_refused(kind):
    module = kind(nn.Dropout().eval(), nn.BatchNorm1d(3).eval(), nn.Linear(3, 2))
    batch = {"x": torch.ones(2, 3)}
    check_same(module, module, batch)
    with pytest.raises(CompileError, match=r"prepared for compiling differs from yours by .*; look for a forward that"):
        check_same(module, prepare_module(module), batch)


def test_a_prepared_module_may_differ_by_rounding_and_hold_what_is_not_finite():
    module, prepared = nn.Linear(3, 2), nn.Linear(3, 2)
    prepared.load_state_dict({name: value * (1 + 1e-6) for name, value in module.state_dict().items()})
    check_same(module, prepared, {"x": torch.ones(2, 3)})
    check_same(module, prepared, {"x": torch.full((2, 3), torch.nan)})
    prepared.load_state_dict({name: value + 0.01 for name, value in module.state_dict().items()})
    with pytest.raises(CompileError, match="differs from yours"):
        check_same(module, prepared, {"x": torch.ones(2, 3)})


def test_comparing_with_the_prepared_module_leaves_the_callers_as_it_is():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_same(module, copy.deepcopy(module), {"x": torch.randn(4, 3)})
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
