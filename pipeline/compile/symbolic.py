"""What every symbolic function needs: one operator of the domain `handheld`, and a refusal that names the layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from pipeline.compile.builder import CompileError

DOMAIN = "handheld"
Symbolic = Callable[..., Any]


@contextmanager
def exporting(symbolics: Mapping[str, Symbolic], opset: int) -> Iterator[None]:
    """Let the TorchScript exporter use these functions for torch's operators."""
    for name, symbolic in symbolics.items():
        register_custom_op_symbolic(f"aten::{name}", symbolic, opset)
    try:
        yield
    finally:
        for name in symbolics:
            unregister_custom_op_symbolic(f"aten::{name}", opset)


def operator(g: Any, name: str, x: Any, *others: Any, sizes: Sequence[int] | None = None, **attributes: Any) -> Any:
    """One operator with an output of x's type, and of x's shape unless `sizes` is given; x holds no whole numbers."""
    if not x.type().dtype().is_floating_point:
        raise refused(g, f"takes numbers of type {x.type().dtype()} where float32 is needed", "cast them with .float()")
    kind = x.type() if sizes is None else x.type().with_sizes(list(sizes))
    return g.op(f"{DOMAIN}::{name}", x, *others, **attributes).setType(kind)


def refused(g: Any, why: str, cure: str) -> CompileError:
    """The error for a layer that cannot be exported, with its path in the module."""
    layer = g.original_node.scopeName().rpartition("::")[2] or "forward"
    return CompileError(f"layer {layer!r} ({g.original_node.kind().removeprefix('aten::')}) {why}; {cure}")
