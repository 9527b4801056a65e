"""Run forward once and refuse what a graph cannot repeat: numbers read or drawn, gradients stopped, changed state."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pipeline.compile.builder import CompileError
from pipeline.compile.places import current_place

_READING = frozenset({"__bool__", "__float__", "__int__", "__index__", "__contains__", "item", "tolist", "numpy"})
_ARRAY = frozenset({"__array__", "equal", "allclose", "is_nonzero"})


class Watched(TorchFunctionMode):
    """Follow what depends on inputs and trained parameters; a number read from it would be a constant of the graph.

    Sizes are plain numbers outside of a trace, so they are free to decide anything.
    """

    def __init__(self, followed: Iterable[Tensor]) -> None:
        super().__init__()
        self._followed = {id(tensor): tensor for tensor in followed}  # held, so that no id is used again

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; raises CompileError where it reads a number, draws one or stops a gradient."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if not any(id(value) in self._followed for value in given):
            return _without_drawing(name, func, args, kwargs)
        if name in _READING or name in _ARRAY:
            raise CompileError(
                f"forward reads a number from its tensors at {current_place()} ({name}), which a graph would hold "
                "fixed for every example; compute with tensors (torch.where, a product), or decide by sizes"
            )
        needs_gradient = any(value.requires_grad for value in given)
        result = _without_drawing(name, func, args, kwargs)
        made = [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor)]
        if needs_gradient and _is_cut(func, made):
            raise CompileError(
                f"forward stops the gradient of trained parameters at {current_place()} (detach, .data or no_grad), "
                "and the compiled gradient would not stop; freeze them with requires_grad_(False) and leave it out"
            )
        # What is written into holds the values from now on.
        written = given[:1] if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) else []
        self._followed |= {id(value): value for value in (*made, *written)}
        return result


def watch_forward(module: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """What forward gives, on tensors [B, ...] by the graph's names.

    Raises:
        CompileError: It reads a number from a tensor, draws one, stops a gradient, or changes a parameter or a buffer.
    """
    before = {name: value.detach().clone() for name, value in _state(module).items()}
    trained = [value for value in module.parameters() if value.requires_grad]
    with torch.enable_grad(), Watched([*batch.values(), *trained]):
        result = module(*batch.values())
    after = _state(module)
    for name, value in before.items():
        if name not in after or not torch.equal(value.nan_to_num(), after[name].detach().nan_to_num()):
            raise CompileError(
                f"forward changes {name!r}, which a step would never do; call .eval() on its layer, or give it its "
                "values before compiling"
            )
    return result


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _without_drawing(name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    before = torch.get_rng_state()
    result = func(*args, **kwargs)
    if not torch.equal(before, torch.get_rng_state()):
        raise CompileError(
            f"forward draws random numbers at {current_place()} ({name}), which a graph cannot repeat on every "
            "runtime; call .eval() on the layer that drops values, or draw them before compiling"
        )
    return result


def _is_cut(func: Callable[..., Any], made: list[Tensor]) -> bool:
    stops = func in {torch.detach, Tensor.detach} or func == Tensor.data.__get__  # type: ignore[attr-defined]
    if not stops and torch.is_grad_enabled():
        return False
    return any(value.is_floating_point() and not value.requires_grad for value in made)
