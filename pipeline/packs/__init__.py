"""Compile measurement packs: small graphs, forward and gradient, for the kernels that networks are made of."""

from pipeline.packs.compile import compile_pack
from pipeline.packs.coverage import default_architectures, drawn_architectures, kernel_keys

__all__ = ["compile_pack", "default_architectures", "drawn_architectures", "kernel_keys"]
