import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import device_runtime
from device_runtime.app import AppPaths, NotConfiguredError
from device_runtime.state_folder import StateFolder
from device_runtime.wire import Conditions

GOOD = Conditions(is_charging=True, is_unmetered=True, is_idle=True)


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    monkeypatch.setattr("device_runtime.app._configured", {})


@pytest.fixture
def bundle(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["logits"])]
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2, "weight")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "model", [x], [logits], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path


@pytest.fixture
def app(server, source, tmp_path):
    return device_runtime.configure(server.url, source, None, AppPaths(tmp_path / "state"))


def test_the_package_exports_the_five_calls_and_what_they_take():
    for name in ("configure", "train_if_ready", "cancel", "infer", "forget", "Budget", "Conditions"):
        assert name in device_runtime.__all__
        assert getattr(device_runtime, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = device_runtime.trian


def test_importing_a_message_brings_in_neither_the_runtime_nor_http():
    script = "import sys, device_runtime.wire; print({'onnxruntime', 'httpx', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_real_client_trains_only_for_real_runs(app, server):
    server.open("ordinary")
    outcome = device_runtime.train_if_ready(GOOD)
    assert outcome.reason == "stopped"
    assert "enrolled as 'real'" in outcome.detail


@pytest.mark.parametrize("conditions", [GOOD, Conditions()])
def test_a_ready_phone_serves_one_assignment_and_says_what_it_is_doing(app, server, conditions):
    server.open("ordinary", is_real=True)
    assert device_runtime.train_if_ready(conditions).num_reported == 1
    with server.store.transaction():
        (device,) = server.store.list_devices()
    assert device.kind == "real"
    assert device_runtime.train_if_ready(conditions).reason == "resting"


@pytest.mark.parametrize("name", ["is_charging", "is_unmetered", "is_idle"])
def test_a_phone_that_is_in_use_does_not_touch_its_folder(app, name, tmp_path):
    outcome = device_runtime.train_if_ready(Conditions(**{name: False}))
    assert outcome.reason == "not-ready"
    assert not (tmp_path / "state").exists()


def test_cancelled_it_leaves_after_the_step_and_goes_on_later(app, server, monkeypatch):
    server.open("ordinary", is_real=True)
    describe = StateFolder.evict

    def cancel_then(folder, kept):
        device_runtime.cancel()
        describe(folder, kept)

    with monkeypatch.context() as patched:
        patched.setattr(StateFolder, "evict", cancel_then)
        assert device_runtime.train_if_ready(GOOD).reason == "interrupted"
    assert device_runtime.train_if_ready(GOOD).num_reported == 1


def test_forget_makes_it_another_device(app, server, tmp_path):
    ids = []
    for _ in range(2):
        device_runtime.train_if_ready(GOOD)
        with StateFolder(tmp_path / "state") as folder:
            ids.append(folder.load_key().key_id)
        device_runtime.forget()
    assert ids[0] != ids[1]


def test_infer_runs_the_shipped_model(server, source, bundle):
    device_runtime.configure(server.url, source, None, AppPaths(bundle / "state", bundle))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(device_runtime.infer(x), 2 * x)


def test_infer_without_a_bundle_says_how_to_get_one(app, source, tmp_path):
    with pytest.raises(NotConfiguredError, match="no bundle is configured; ship one"):
        device_runtime.infer(np.zeros((1, 3), np.float32))
    device_runtime.configure("http://127.0.0.1:9", source, None, AppPaths(tmp_path, tmp_path / "nothing"))
    with pytest.raises(NotConfiguredError, match=r"holds no model.onnx; ship the bundle again"):
        device_runtime.infer(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    "call", [lambda: device_runtime.train_if_ready(GOOD), device_runtime.cancel, device_runtime.forget]
)
def test_a_call_before_configure_is_told(call):
    with pytest.raises(NotConfiguredError, match=r"call configure\(server, source, budget\) first"):
        call()
