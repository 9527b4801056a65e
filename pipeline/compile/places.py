"""Where in the user's own code something happens, for the messages about it."""

import os
import sys
import sysconfig
import traceback
from pathlib import Path

import torch

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))


def current_place() -> str:
    """File and line of the innermost code that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, _TORCH)):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def told_of(error: Exception) -> str:
    """What an error of the user's code says, and the last line of that code on its way, where it met any."""
    lines = str(error).strip().splitlines()
    told = ": ".join([type(error).__name__, *lines[:1]])
    own = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, *_INSTALLED, "<"))
    ]
    return f"{told} (at {own[-1]})" if own else told
