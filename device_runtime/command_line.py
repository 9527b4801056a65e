"""`handheld-device`: the command line of a phone's or desktop's client."""

from device_runtime.console import EXIT_CODES, Command, Program, run_program
from device_runtime.measure_command import measure
from device_runtime.run_command import run
from device_runtime.state_commands import forget, ledger

PROGRAM = Program(
    name="handheld-device",
    help="Train and measure on this device; its examples never leave it.",
    example="handheld-device --version",
    commands={
        "run": Command(
            run, "handheld-device run --server http://127.0.0.1:8470 --data npz:share.npz --state client --once"
        ),
        "measure": Command(measure, "handheld-device measure --quick -o profile.json"),
        "ledger": Command(ledger, "handheld-device ledger --state client"),
        "forget": Command(forget, "handheld-device forget --state client"),
    },
    groups={},
    packages=("numpy", "onnxruntime", "onnxruntime-training-cpu", "cryptography", "httpx", "safetensors"),
    exit_codes=EXIT_CODES,
)


def main() -> None:
    """Run the process's own command line."""
    run_program(PROGRAM)
