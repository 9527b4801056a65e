"""`handheld-device`: the command line of a phone's or desktop's client."""

from device_runtime.console import EXIT_CODES, Program, run_program

PROGRAM = Program(
    name="handheld-device",
    help="Train and measure on this device; its examples never leave it.",
    example="handheld-device --version",
    commands={},
    groups={},
    packages=("numpy", "onnxruntime", "onnxruntime-training-cpu", "cryptography", "httpx", "safetensors"),
    exit_codes=EXIT_CODES,
)


def main() -> None:
    """Run the process's own command line."""
    run_program(PROGRAM)
