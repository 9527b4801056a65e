"""Make a user's module from `package.file:factory`, fill it with stored weights, freeze parts of it."""

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.places import told_of
from pipeline.compile.segments import match_names
from profiles.spelling import cure_of


def make_module(target: str, seed: int) -> nn.Module:
    """Import a factory (a function or class to call without arguments, or a module that is there) and make its module.

    The current directory is importable, as with `python -m`.

    Args:
        target: `package.file:factory`.
        seed: Of torch's generator while the module is made; the generator is as before afterwards.

    Raises:
        CompileError: There is no such file or factory (names the nearest), it fails (tells where), wants arguments, or
            makes no module.
    """
    path, colon, name = target.partition(":")
    if not (path and colon and name):
        raise CompileError(f"a module must be named as package.file:factory, got {target!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory = _find(_import(path), name)
        torch.manual_seed(seed)  # the import may have drawn
        module = factory if isinstance(factory, nn.Module) else _call(factory, target)
    if not isinstance(module, nn.Module):
        raise CompileError(f"{target} makes a {type(module).__name__}; return the torch.nn.Module")
    return module


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file of its `state_dict()`; every tensor must be there and nothing else.

    Raises:
        CompileError: The file cannot be read or holds the tensors of another network; names what differs.
    """
    cure = "load a part of a file in the factory, with load_state_dict(..., strict=False)"
    try:
        missing, unexpected = load_model(module, path, strict=False)
    except (OSError, SafetensorError) as error:
        raise CompileError(f"{path} cannot be read: {error}; write it with safetensors.torch.save_model") from error
    except RuntimeError as error:  # torch names every tensor of another shape, a line each
        told = [line.strip() for line in str(error).splitlines()[1:]]
        raise CompileError(f"{path} holds another network: {_few(told)}; {cure}") from error
    if missing or unexpected:
        told = [f"lacks {name}" for name in sorted(missing)] + [f"has {name} too" for name in sorted(unexpected)]
        raise CompileError(f"{path} holds another network: it {_few(told)}; {cure}")


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters that match out of training, and put layers that train nothing any more into evaluation mode.

    So a frozen BatchNorm keeps its running statistics, and Dropout between frozen layers passes everything.

    Raises:
        CompileError: For a pattern that matches no parameter; names the nearest.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        for name in match_names(pattern, parameters):
            parameters[name].requires_grad_(False)
    for layer in module.modules() if patterns else ():
        own = list(layer.parameters())
        if own and not any(value.requires_grad for value in own):
            layer.eval()


def _import(path: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    if "/" in path or path.startswith(".") or path.endswith(".py"):
        raise CompileError(f"a module must be named as package.file:factory, with dots and without .py; got {path!r}")
    try:
        return importlib.import_module(path)
    except SystemExit as error:
        raise CompileError(f"{path} left the program when it was imported; guard its main part") from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}."):
            near = _near_modules(str(error.name), here)
            raise CompileError(f"there is no module {error.name!r} to import: {near}") from error
        raise CompileError(f"{path} cannot be imported: {told_of(error)}; mend it") from error


def _near_modules(path: str, here: str) -> str:
    parent, _, last = path.rpartition(".")
    places = getattr(importlib.import_module(parent), "__path__", []) if parent else [here]
    near = difflib.get_close_matches(last, [found.name for found in pkgutil.iter_modules(places)], 3)
    if not near:
        return "run handheld in the folder that holds it"
    return "did you mean " + " or ".join(f"{parent}.{name}".lstrip(".") for name in near) + "?"


def _find(module: ModuleType, name: str) -> object:
    if not hasattr(module, name):
        names = [other for other in vars(module) if not other.startswith("_")]
        raise CompileError(f"{module.__name__} has no {name!r}: {cure_of(name, names, f'it has {_few(names)}')}")
    found: object = getattr(module, name)
    return found


def _call(factory: object, target: str) -> object:
    if not callable(factory):
        raise CompileError(f"{target} is a {type(factory).__name__}; name a function, a class or a torch.nn.Module")
    if needed := _needed(factory):
        raise CompileError(
            f"{target} needs {', '.join(needed)}: give them defaults, or a function around it that gives them"
        )
    try:
        return factory()
    except SystemExit as error:
        raise CompileError(f"{target} left the program (code {error.code}); return the module") from error
    except Exception as error:
        raise CompileError(f"{target} fails: {told_of(error)}; mend it") from error


def _needed(factory: Callable[..., object]) -> list[str]:
    """Arguments without a default."""
    try:
        wanted = inspect.signature(factory).parameters.values()
    except ValueError:  # a built-in without a signature
        return []
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [one.name for one in wanted if one.default is one.empty and one.kind not in variadic]


def _few(told: Sequence[str]) -> str:
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return ", ".join(told[:4]) + more
