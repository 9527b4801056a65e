"""What runs on a phone or desktop client: wire types, private local training, example sources, ledger, HTTP client.

An app embeds five calls: `configure`, `train_if_ready`, `cancel`, `infer`, `forget`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from device_runtime.runtime_check import check_device_runtime

if TYPE_CHECKING:
    from device_runtime.accounting import Budget
    from device_runtime.app import App, AppPaths, cancel, configure, forget, infer, train_if_ready
    from device_runtime.wire import Conditions

__all__ = [
    "App",
    "AppPaths",
    "Budget",
    "Conditions",
    "cancel",
    "configure",
    "forget",
    "infer",
    "train_if_ready",
]
_ELSEWHERE = {"Budget": "device_runtime.accounting", "Conditions": "device_runtime.wire"}

check_device_runtime()


def __getattr__(name: str) -> Any:
    # Late, so that a message type or a record does not bring in the runtime and the HTTP client.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "device_runtime.app")), name)
