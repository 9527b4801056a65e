"""Compile measurement packs: the graphs of whole networks, with every node named after its kernel."""

from pipeline.packs.compile import compile_pack
from pipeline.packs.coverage import (
    default_architectures,
    default_random,
    default_spaces,
    random_architectures,
    telling_architectures,
)

__all__ = [
    "compile_pack",
    "default_architectures",
    "default_random",
    "default_spaces",
    "random_architectures",
    "telling_architectures",
]
