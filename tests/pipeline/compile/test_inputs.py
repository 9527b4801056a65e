import pytest
import torch
from torch import nn

from device_runtime.specs import ExampleSpec, InputSpec
from pipeline.compile.builder import CompileError
from pipeline.compile.inputs import batch_of, check_forward, check_spec, derive_spec, input_specs, name_inputs
from pipeline.compile.losses import Loss

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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idz": IDS, "image": IMAGE}, "forward has no input 'idz': did you mean 'ids'?"),
        ({"ids": IDS, "q": IMAGE}, "forward has no input 'q': it takes ids, image, scale"),
        ({"ids": IDS, "scale": IMAGE}, "forward takes ids, image, scale and 'image' is not given"),
        ([IDS] * 4, r"forward names 3 inputs \(ids, image, scale\), got 4"),
        ([], "a network needs an input"),
        ({"ids": IDS.int()}, "input 'ids' is torch.int32; convert it to float32, or int64 for whole numbers"),
        ([IDS, IMAGE.double()], "input 'image' is torch.float64; convert it"),
    ],
)
def test_inputs_that_forward_does_not_take_are_told(given, message):
    with pytest.raises(CompileError, match=message):
        name_inputs(Pair(), given)


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
            r"forward fails on x \[2, 3, 4, 4\] \(the batch first\): mat1 and",
        ),
        (Returns(lambda x: (x, x)), "forward must return one tensor, the logits; it returns a tuple"),
        (Returns(lambda x: x), r"give \[batch, outputs\], here \[2, 5\], got \[2, 3, 4, 4\]; flatten or average"),
        (Returns(lambda x: x.reshape(1, -1)[:, :5]), r"here \[2, 5\], got \[1, 5\]"),
        (Returns(lambda x: x.sum()), r"here \[2, 5\], got \[\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), "gives 7 outputs and num_classes is 5; make them agree"),
    ],
    ids=["shape", "tuple", "image", "batch", "scalar", "classes"],
)
def test_a_forward_that_does_not_fit_is_told(module, message):
    with pytest.raises(CompileError, match=message):
        check_forward(module, batch_of(name_inputs(module, IMAGE), 2), 5)


@pytest.mark.parametrize(("ids", "told"), [(IDS + 7, "7 to 12"), (IDS - 1, "-1 to 4")])
def test_ids_beyond_an_embedding_are_told_with_its_size(ids, told):
    batch = batch_of(name_inputs(Pair(), (ids, IMAGE)), 2)
    with pytest.raises(CompileError, match=f"index out of range in self; the ids run from {told} and the embedding"):
        check_forward(Pair(), batch, 5)


def test_a_missing_input_is_told_in_pythons_words():
    with pytest.raises(CompileError, match="missing 1 required positional argument: 'image'"):
        check_forward(Pair(), batch_of(name_inputs(Pair(), IDS), 2), 5)


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
