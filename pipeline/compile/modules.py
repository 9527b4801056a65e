"""Make a torch module ready to be compiled: layers that mix examples or are random are replaced or refused by name."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from pipeline.compile.builder import CompileError
from pipeline.compile.values import CouplingError

MOST_GROUPS = 32  # the default of "Group Normalization", arXiv:1803.08494
FEWEST_CHANNELS_A_GROUP = 4  # below, the statistics of a small image are few numbers


class FixedStatistics(nn.Module):
    """Normalise with statistics that no batch changes: what a BatchNorm in evaluation mode does, under its names."""

    def __init__(self, norm: _NormBase) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("mean", norm.running_mean)
        self.register_buffer("deviation", torch.sqrt(cast(Tensor, norm.running_var) + norm.eps))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, ...], each channel scaled and shifted by itself."""
        scale = torch.reciprocal(cast(Tensor, self.deviation))
        scale = scale if self.weight is None else scale * self.weight
        shift = -cast(Tensor, self.mean) * scale
        shift = shift if self.bias is None else shift + self.bias
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * scale.reshape(shape) + shift.reshape(shape)


def prepare_module(module: nn.Module, *, replace_batchnorm: bool = False) -> nn.Module:
    """A copy whose layers each work on one example alone; parameters keep their names, and layers their modes.

    So in evaluation mode BatchNorm keeps its running statistics, Dropout passes everything.

    Args:
        replace_batchnorm: Put a GroupNorm with the same scale and shift in the place of every BatchNorm in training
            mode, in `group_count` groups.

    Raises:
        CouplingError: For a layer that mixes the examples of a batch.
        CompileError: For a layer that draws random numbers, is recurrent, has no parameters yet, or would lose what a
            subclass, a hook or a parametrization adds to it; and if no BatchNorm is there to replace.
    """
    prepared = _copied(module)
    has_replaced = False
    for path, layer in list(prepared.named_modules(remove_duplicate=False)):
        replacement = _replacement(path or "the module", layer, replace_batchnorm)
        if replacement is None:
            continue
        has_replaced |= isinstance(replacement, nn.GroupNorm)
        if not path:
            prepared = replacement
        else:
            prepared.set_submodule(path, replacement)
    if replace_batchnorm and not has_replaced:
        raise CompileError(
            "there is no BatchNorm in training mode to replace, and one in evaluation mode is folded; leave "
            "replace_batchnorm (--replace-batchnorm) out"
        )
    return prepared


def group_count(num_channels: int) -> int:
    """Groups that replace a BatchNorm: the most that divide the channels, up to 32, of at least 4 channels each."""
    most = max(1, min(MOST_GROUPS, num_channels // FEWEST_CHANNELS_A_GROUP))
    return max(count for count in range(1, most + 1) if num_channels % count == 0)


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:  # a tensor that was computed, as the older weight_norm keeps one
        raise CompileError(
            f"the module cannot be copied: {str(error).splitlines()[0]}; keep parameters and buffers alone in it, and "
            "use torch.nn.utils.parametrizations.weight_norm in the place of torch.nn.utils.weight_norm"
        ) from error


def _check_stock(path: str, layer: nn.Module) -> None:
    """Refuse to replace a layer that does more than torch's own."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    is_own = "forward" in vars(layer) or not type(layer).forward.__module__.startswith("torch.nn.")
    for is_added, what in (
        (is_own, "a forward of its own"),
        (any(hooks), "hooks"),
        (is_parametrized(layer), "parametrizations"),
    ):
        if is_added:
            raise CompileError(
                f"layer {path!r} ({type(layer).__name__}) has {what}, which replacing it would lose; put torch's own "
                "layer there and the rest into a layer behind it"
            )


def _replacement(path: str, layer: nn.Module, replace_batchnorm: bool) -> nn.Module | None:
    """What stands in for a layer; None where it stays."""
    for kind, check in _CHECKS.items():
        if isinstance(layer, kind):
            return check(path, layer, replace_batchnorm)
    return None


def _check_normalisation(path: str, layer: nn.Module, replace_batchnorm: bool) -> nn.Module | None:
    norm = cast(_NormBase, layer)
    if not norm.training and norm.running_mean is not None:
        _check_stock(path, norm)
        return FixedStatistics(norm)
    if isinstance(norm, _BatchNorm):
        if not replace_batchnorm:
            raise _mixes_examples(path, norm)
        _check_stock(path, norm)
        return _group_norm(norm)
    if norm.track_running_stats:
        raise CompileError(
            f"layer {path!r} ({type(norm).__name__}) keeps running statistics, which the step would never update; "
            "make it with track_running_stats=False, or call .eval() on it to fold its statistics"
        )
    return None


def _mixes_examples(path: str, norm: _BatchNorm) -> CouplingError:
    return CouplingError(
        f"layer {path!r} ({type(norm).__name__}) normalises with the statistics of the batch, so it mixes the examples "
        "of a batch and a per-example clip would protect nobody; convert it to GroupNorm (--replace-batchnorm), or "
        "freeze it: .eval() on it folds its running statistics"
    )


def _group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    replacement = nn.GroupNorm(group_count(norm.num_features), norm.num_features, norm.eps, norm.affine)
    if norm.affine:
        replacement.weight, replacement.bias = norm.weight, norm.bias
    return replacement


def _check_dropout(path: str, layer: nn.Module, _replace_batchnorm: bool) -> nn.Module | None:
    dropout = cast(_DropoutNd, layer)
    if dropout.training and dropout.p > 0:
        raise _is_random(path, dropout, "p=0")
    _check_stock(path, dropout)
    return nn.Identity()


def _check_attention(path: str, layer: nn.Module, _replace_batchnorm: bool) -> None:
    attention = cast(nn.MultiheadAttention, layer)
    if attention.training and attention.dropout > 0:
        raise _is_random(path, attention, "dropout=0")
    attention.dropout = 0.0


def _is_random(path: str, layer: nn.Module, setting: str) -> CompileError:
    return CompileError(
        f"layer {path!r} ({type(layer).__name__}) drops values at random, which a graph cannot repeat on every "
        f"runtime; set {setting} or call .eval() on it: clipping and noise regularise already"
    )


def _refuse_recurrent(path: str, layer: nn.Module, _replace_batchnorm: bool) -> None:
    raise CompileError(
        f"layer {path!r} ({type(layer).__name__}) is recurrent, and its gradient has no rule; replace it by a "
        "convolution or attention over the sequence"
    )


def _refuse_lazy(path: str, layer: nn.Module, _replace_batchnorm: bool) -> None:
    if cast("LazyModuleMixin", layer).has_uninitialized_params():  # type: ignore[misc]
        raise CompileError(f"layer {path!r} ({type(layer).__name__}) has no parameters yet; run the module once first")


def _check_embedding(path: str, layer: nn.Module, _replace_batchnorm: bool) -> None:
    if cast(nn.Embedding, layer).max_norm is not None:
        raise CompileError(f"layer {path!r} (Embedding) changes its weights while it looks them up; set max_norm=None")


_CHECKS: dict[type, Callable[[str, nn.Module, bool], nn.Module | None]] = {
    LazyModuleMixin: _refuse_lazy,
    _NormBase: _check_normalisation,
    _DropoutNd: _check_dropout,
    nn.MultiheadAttention: _check_attention,
    nn.Embedding: _check_embedding,
    nn.RNNBase: _refuse_recurrent,
    nn.RNNCellBase: _refuse_recurrent,
}
