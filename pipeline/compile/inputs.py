"""What a module takes and gives: its inputs by name, their specification, and one run before anything is compiled."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from device_runtime.specs import Colour, DType, ExampleSpec, InputSpec, Target
from pipeline.compile.builder import CompileError
from pipeline.compile.losses import Loss
from pipeline.compile.modules import FixedStatistics
from pipeline.compile.places import told_of
from pipeline.compile.watching import watch_forward
from profiles.spelling import cure_of

Example = torch.Tensor | NDArray[Any]
ExampleInputs = Example | Sequence[Example] | Mapping[str, Example]

COLOURS: dict[int, Colour] = {1: "grey", 3: "rgb"}
_DTYPES: dict[torch.dtype, DType] = {torch.float32: "float32", torch.int64: "int64"}
# What torch and a module's own checks raise for an input that does not suit them; the rest is the module's defect.
_OF_SHAPES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


def name_inputs(module: nn.Module, example_inputs: ExampleInputs) -> dict[str, torch.Tensor]:
    """One example's inputs under the names that `forward` gives them, in its order.

    Args:
        example_inputs: Without the batch: a tensor or array, several in forward's order, or by its arguments' names.

    Raises:
        CompileError: For names that forward does not have or takes by keyword alone, for an input that is missing, and
            for what is no tensor of float32 or int64.
    """
    arguments = inspect.signature(module.forward).parameters.values()
    known = [one.name for one in arguments if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    needed = [one.name for one in arguments if one.default is one.empty]
    if by_keyword := [one.name for one in arguments if one.kind == one.KEYWORD_ONLY and one.name in needed]:
        raise CompileError(
            f"forward takes {by_keyword[0]!r} by keyword alone, and a graph has inputs in order; drop the *"
        )
    if isinstance(example_inputs, torch.Tensor | np.ndarray):
        inputs: dict[str, Example] = {known[0] if known else "x": example_inputs}
    elif isinstance(example_inputs, Mapping):
        inputs = _in_order(known, example_inputs)
    else:
        inputs = _in_sequence(known, example_inputs)
    if not inputs:
        raise CompileError("a network needs an input; give an example of each")
    if missing := [name for name in known if name in needed and name not in inputs]:
        raise CompileError(f"forward takes {missing[0]!r} too; give an example of it")
    return {name: _tensor_of(name, value) for name, value in inputs.items()}


def batch_of(inputs: Mapping[str, torch.Tensor], batch_size: int) -> dict[str, torch.Tensor]:
    """The example `batch_size` times, [B, ...], by the graph's names: `x`, or `x.NAME` where there are several."""
    names = ["x"] if len(inputs) == 1 else [f"x.{name}" for name in inputs]
    values = [value[None].expand(batch_size, *value.shape).contiguous() for value in inputs.values()]
    return dict(zip(names, values, strict=True))


def check_forward(module: nn.Module, batch: Mapping[str, torch.Tensor], num_classes: int) -> None:
    """Run the module once, so that what does not fit is told in torch's words and not by an exporter.

    Raises:
        CompileError: forward fails, gives something else than [batch, num_classes], or does what a graph cannot repeat.
    """
    try:
        logits = watch_forward(module, batch)
    except CompileError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
        cure = _cure(error, module, batch)
        raise CompileError(f"forward fails on {shapes} (the batch first): {told_of(error)}; {cure}") from error
    if not isinstance(logits, torch.Tensor):
        raise CompileError(f"forward must return one tensor, the logits; it returns a {type(logits).__name__}")
    batch_size = len(next(iter(batch.values())))
    if logits.ndim != 2 or len(logits) != batch_size:
        raise CompileError(
            f"the network must give [batch, outputs], here [{batch_size}, {num_classes}], got {list(logits.shape)}; "
            "flatten or average in forward"
        )
    if logits.shape[1] != num_classes:
        raise CompileError(
            f"the network gives {logits.shape[1]} outputs and num_classes is {num_classes}; make them agree"
        )


def check_same(module: nn.Module, prepared: nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
    """Compare what `prepare_module` made with the caller's module, which is left as it is; raises CompileError."""
    with torch.no_grad():
        expected, found = copy.deepcopy(module)(*batch.values()), prepared(*batch.values())
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise CompileError(
            f"the module prepared for compiling differs from yours by {float((found - expected).abs().max()):.2g}; "
            "look for a forward that asks for the type or the mode of a layer"
        )


def derive_spec(inputs: Sequence[InputSpec], num_outputs: int, target: Target = "class") -> ExampleSpec:
    """The specification of raw inputs, not normalised, with labels "0", "1" and so on; images where they look so."""
    labels = tuple(map(str, range(num_outputs)))
    if len(inputs) > 1:
        return ExampleSpec((), labels, inputs=tuple(inputs), target=target)
    shape, dtype = inputs[0].shape, inputs[0].dtype
    if len(shape) != 3 or dtype != "float32":
        return ExampleSpec(shape, labels, dtype, target=target)
    colour, channels = COLOURS.get(shape[0], "none"), shape[0]
    mean, deviation = (0.0,) * channels, (1.0,) * channels
    return ExampleSpec(shape, labels, dtype, colour, mean=mean, deviation=deviation, target=target)


def input_specs(inputs: Mapping[str, torch.Tensor]) -> tuple[InputSpec, ...]:
    """Name, shape and dtype of each input."""
    return tuple(InputSpec(name, tuple(value.shape), _DTYPES[value.dtype]) for name, value in inputs.items())


def check_spec(spec: ExampleSpec, inputs: Sequence[InputSpec], num_outputs: int, loss: Loss) -> None:
    """Refuse a specification of other data than the network takes; raises CompileError."""
    own = derive_spec(inputs, num_outputs, loss.target)
    if (found := _in_words(spec)) != (wanted := _in_words(own)):
        raise CompileError(f"the network has {wanted}, the specification says {found}; make them agree")
    if spec.target != own.target:
        raise CompileError(
            f"loss {loss.name} wants the specification's target {own.target!r}, got {spec.target!r}; make them agree"
        )


def _in_words(spec: ExampleSpec) -> str:
    inputs = spec.inputs or (InputSpec("x", spec.shape, spec.dtype),)
    told = ", ".join(f"{each.name} {list(each.shape)} {each.dtype}" for each in inputs)
    return f"{told} and {len(spec.labels)} outputs"


def _tensor_of(name: str, value: Example) -> torch.Tensor:
    if not isinstance(value, torch.Tensor | np.ndarray):
        raise CompileError(f"input {name!r} must be a tensor or an array, got {type(value).__name__}")
    if str(value.dtype).removeprefix("torch.") not in _DTYPES.values():
        raise CompileError(f"input {name!r} is {value.dtype}; convert it to float32, or int64 for whole numbers")
    return torch.as_tensor(value)


def _in_sequence(known: Sequence[str], inputs: Sequence[Example]) -> dict[str, Example]:
    if not isinstance(inputs, Sequence) or not all(isinstance(value, torch.Tensor | np.ndarray) for value in inputs):
        raise CompileError(f"an example must be a tensor or an array of each input, got {inputs!r:.80}")
    if len(inputs) > len(known):
        raise CompileError(
            f"forward names {len(known)} inputs ({', '.join(known)}), got {len(inputs)}; give an example of each"
        )
    return dict(zip(known, inputs, strict=False))


def _in_order(known: Sequence[str], inputs: Mapping[str, Example]) -> dict[str, Example]:
    for name in inputs:
        if name not in known:
            raise CompileError(f"forward has no input {name!r}: {cure_of(name, known, 'it takes {known}')}")
    if gap := [name for name in known[: len(inputs)] if name not in inputs]:
        raise CompileError(f"forward takes {', '.join(known)} and {gap[0]!r} is not given; give it, or put it last")
    return {name: inputs[name] for name in known if name in inputs}


def _cure(error: Exception, module: nn.Module, batch: Mapping[str, torch.Tensor]) -> str:
    if isinstance(error, AttributeError) and FixedStatistics.__name__ in str(error):
        return "a BatchNorm in evaluation mode is folded: call the layer itself, or keep its statistics as buffers"
    tables = {name: layer.num_embeddings for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)}
    ids = [value for value in batch.values() if value.dtype == torch.int64]
    if tables and not ids and "scalar type" in str(error):
        return "an embedding takes whole numbers: give int64 for its input (64:int64)"
    if ids and isinstance(error, IndexError):
        lowest, highest = min(int(value.min()) for value in ids), max(int(value.max()) for value in ids)
        small = {name: rows for name, rows in tables.items() if highest >= rows or lowest < 0} or tables
        rows = "".join(f", embedding {name!r} has {num} rows" for name, num in small.items())
        return f"the example's ids run from {lowest} to {highest}{rows}: give ids, and a length, that every table has"
    if isinstance(error, _OF_SHAPES):
        return "give the shape that forward takes, of one example and without the batch"
    return "mend it"
