"""Compile measurement packs: the graphs of whole networks, with every node named after its kernel."""

from pipeline.packs.compile import compile_pack
from pipeline.packs.coverage import (
    default_architectures,
    default_shipped,
    default_spaces,
    drawn_architectures,
    kernel_keys,
    random_architectures,
)

__all__ = [
    "compile_pack",
    "default_architectures",
    "default_shipped",
    "default_spaces",
    "drawn_architectures",
    "kernel_keys",
    "random_architectures",
]
