"""What an app embeds: five calls over one client, driven by the app's own scheduler.

`configure` once when the app starts; `train_if_ready` whenever the platform's scheduler grants time; `cancel` when it
takes the time back (from another thread); `infer` on the shipped model; `forget` when the user leaves. A process has
one app; who needs several clients makes several `App`s.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from device_runtime.accounting import Budget
from device_runtime.arrays import Inputs, Vector
from device_runtime.driver import ONCE, ClientTerms, Outcome, run_client
from device_runtime.examples.source import ExampleSource
from device_runtime.state_folder import StateFolder
from device_runtime.stopping import StopFlag
from device_runtime.wire import Conditions

DEFAULT_STATE = Path("~/.handheld/device")


class NotConfiguredError(RuntimeError):
    """A call came before what it needs was configured; the message names the cure."""


@dataclass(frozen=True)
class AppPaths:
    """Where the app's files lie.

    Attributes:
        state: The client's folder; made if absent.
        bundle: The shipped model, as `handheld ship` wrote it; None for an app that does not infer.
    """

    state: Path = DEFAULT_STATE
    bundle: Path | None = None


@dataclass
class App:
    """One embedded client; it holds its state folder only while it trains."""

    terms: ClientTerms
    paths: AppPaths = field(default_factory=AppPaths)
    _stop: StopFlag = field(default_factory=StopFlag, init=False, repr=False)
    _model: Any = field(default=None, init=False, repr=False)

    def train_if_ready(self, conditions: Conditions) -> Outcome:
        """Take part in one assignment if the phone is charging, unmetered and idle (what it does not tell is no
        hindrance) and the server has work; returns at once otherwise.
        """
        if False in {conditions.is_charging, conditions.is_unmetered, conditions.is_idle}:
            return Outcome("not-ready", 0, "training waits until the phone is charging, unmetered and idle")
        self._stop = StopFlag()
        with StateFolder(self.paths.state.expanduser()) as folder:
            return run_client(folder, replace(self.terms, conditions=conditions), ONCE, self._stop)

    def cancel(self) -> None:
        """End a running `train_if_ready` after the step it is in; what it has finished is not lost."""
        self._stop.set()

    def infer(self, x: Inputs) -> Vector:
        """The shipped model's output f32[n, classes] for x [n, *shape], prepared as the bundle's input spec says.

        Raises:
            NotConfiguredError: No bundle was configured, or it holds no model.onnx.
        """
        if self._model is None:
            self._model = _open_model(self.paths.bundle)
        (output,) = self._model.run(None, {self._model.get_inputs()[0].name: x})[:1]
        return np.asarray(output, np.float32)

    def forget(self) -> None:
        """Delete key, enrolment, cached files and unsent updates; never the record of spent budget.

        The examples are the app's own to delete.
        """
        with StateFolder(self.paths.state.expanduser()) as folder:
            folder.forget()


_configured: dict[str, App] = {}


def configure(
    server: str,
    source: ExampleSource,
    budget: Budget | None,
    paths: AppPaths = AppPaths(),
    source_name: str = "app",
) -> App:
    """Set up this process's client; nothing is sent yet.

    Args:
        server: URL, without /v1.
        source: The examples.
        budget: Of this data, for its lifetime, in the unit of the server's runs (`Budget.unit`); None takes no private
            work, and a client with a budget takes no other.
        source_name: Of the data; ledger and split go by it, so it must stay the same.
    """
    _configured["app"] = App(ClientTerms(server, source, source_name, budget), paths)
    return _configured["app"]


def train_if_ready(conditions: Conditions) -> Outcome:
    """See `App.train_if_ready`."""
    return _app().train_if_ready(conditions)


def cancel() -> None:
    """See `App.cancel`."""
    _app().cancel()


def infer(x: Inputs) -> Vector:
    """See `App.infer`."""
    return _app().infer(x)


def forget() -> None:
    """See `App.forget`."""
    _app().forget()


def _app() -> App:
    if "app" not in _configured:
        raise NotConfiguredError(
            "no client is configured in this process; call configure(server, source, budget) first"
        )
    return _configured["app"]


def _open_model(bundle: Path | None) -> onnxruntime.InferenceSession:
    if bundle is None:
        raise NotConfiguredError("no bundle is configured; ship one (`handheld ship`) and pass AppPaths(bundle=FOLDER)")
    path = bundle / "model.onnx"
    if not path.exists():
        raise NotConfiguredError(f"{bundle} holds no model.onnx; ship the bundle again (`handheld ship`)")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
