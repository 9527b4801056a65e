"""What decides how a compiled graph looks besides the network, and the oldest runtime that runs it."""

import importlib.metadata

COMPILER_VERSION = "5"  # raised by every change that alters the graphs
# Opset 17 came with 1.12, but up to 1.13.1 the Add behind a Conv whose bias is no constant adds nothing: a residual
# block gives wrong numbers there.
MINIMUM_RUNTIME = "1.14.0"
# Examples a graph takes at a time: 16 is 1 to 4% faster (LeNet-5: 12%) and takes 1.5 to 2 times the memory
# (`bench/private_step.py`).
DEFAULT_BATCH_SIZE = 8


def compiler_versions() -> dict[str, str]:
    """By name: of the compiler itself, torch and ORT Training."""
    return {
        "handheld-compiler": COMPILER_VERSION,
        "torch": importlib.metadata.version("torch"),
        "onnxruntime-training": importlib.metadata.version("onnxruntime-training-cpu"),
    }
