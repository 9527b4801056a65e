import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.factory import freeze, load_weights, make_module

NUMBERS = count()
NETS = """
import torch
from torch import nn
WIDTH = 3
READY = nn.Linear(4, WIDTH)
class Net(nn.Linear):
    def __init__(self, inputs=4): super().__init__(inputs, 2)
def make_net(): return nn.Linear(4, 3)
def make_wide(width, depth=1): return nn.Linear(4, width)
def make_nothing(): return {}
"""


@pytest.fixture
def nets(tmp_path, monkeypatch) -> str:
    """Name of a file with factories in the current directory, not imported before."""
    name = f"nets_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize(("factory", "outputs"), [("make_net", 3), ("Net", 2), ("READY", 3)])
def test_a_factory_is_a_function_a_class_or_a_module(nets, factory, outputs):
    assert make_module(f"{nets}:{factory}", 0).out_features == outputs


@pytest.mark.parametrize("factory", ["make_net", "READY"])
def test_the_seed_decides_the_values_and_leaves_torchs_generator_alone(nets, factory, tmp_path):
    before = torch.get_rng_state()
    values = [make_module(f"{nets}:{factory}", seed).weight.detach().clone() for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2]) == (factory == "READY")  # a module that is there is what it is


def test_a_factory_in_a_package_is_found(nets, tmp_path):
    package = tmp_path / f"package_{nets}"
    package.mkdir()
    (package / "nets.py").write_text(NETS)
    assert isinstance(make_module(f"{package.name}.nets:Net", 0), nn.Linear)
    with pytest.raises(
        CompileError, match=rf"no module '{package.name}.net' to import: did you mean {package.name}.nets"
    ):
        make_module(f"{package.name}.net:Net", 0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{nets}:make_ned", "has no 'make_ned': did you mean 'make_net'"),
        ("{nets}:zzz", "has no 'zzz': it has torch, nn, WIDTH, READY and 4 more"),
        ("{nets}:make_wide", "make_wide needs width: give them defaults, or a function around it that gives them"),
        ("{nets}:make_nothing", "make_nothing makes a dict; return the torch.nn.Module"),
        ("{nets}:WIDTH", "WIDTH is a int; name a function, a class or a torch.nn.Module"),
        ("{nets}x:make_net", "there is no module '.*x' to import: did you mean nets_"),
        ("elsewhere.there:make", "no module 'elsewhere' to import: run handheld in the folder that holds it"),
        ("{nets}.inner:make", r"no module 'nets_\d+.inner' to import: run handheld in the folder"),
        ("{nets}", "must be named as package.file:factory, got 'nets_"),
        (":make_net", "must be named as package.file:factory"),
    ],
)
def test_what_makes_no_module_is_told_with_the_cure(nets, target, message):
    with pytest.raises(CompileError, match=message):
        make_module(target.format(nets=nets), 0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "\nimport no_such_package",
            r"cannot be imported: ModuleNotFoundError: No module named .*\(at {0}.py:2\); mend",
        ),
        ("from torch import zeroz", r"cannot be imported: ImportError: cannot import name .*\(at {0}.py:1\); mend"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(at {0}.py:1\); mend"),
        (
            "def make():\n  import no_such",
            r"{0}:make fails: ModuleNotFoundError: No module named .*\(at {0}.py:2\); mend",
        ),
        ("def make():\n  {{}}['width']", r"{0}:make fails: KeyError: 'width' \(at {0}.py:2\); mend"),
        ("import json\ndef make(): json.loads('')", r"{0}:make fails: JSONDecodeError: .*\(at {0}.py:2\); mend"),
        ("def make(): raise Exception", r"{0}:make fails: Exception \(at {0}.py:1\); mend"),
        ("from torch import nn\nmake = nn.Linear(2, 2).forward", r"make needs input: give them defaults"),
        (
            "from functools import partial\nfrom torch import nn\nmake = partial(nn.Linear, -1, 2)",
            "make fails: RuntimeErr",
        ),
    ],
)
def test_what_fails_in_the_users_code_is_told_with_its_line(nets, tmp_path, source, message):
    name = f"failing_{nets}"
    (tmp_path / f"{name}.py").write_text(source.format())
    with pytest.raises(CompileError, match=message.format(name)) as told:
        make_module(f"{name}:make", 0)
    assert "needs" in message or told.value.__cause__ is not None


def test_weights_are_loaded_whole(tmp_path):
    stored, module = nn.Linear(4, 3), nn.Linear(4, 3)
    save_file(stored.state_dict(), tmp_path / "weights.safetensors")
    load_weights(module, tmp_path / "weights.safetensors")
    assert torch.equal(module.weight, stored.weight)
    assert torch.equal(module.bias, stored.bias)


def test_a_tensor_that_a_module_uses_twice_is_stored_once(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    stored = {name: torch.ones(shape) for name, shape in [("0.weight", (4, 4)), ("0.bias", (4,)), ("1.bias", (4,))]}
    save_file(stored, tmp_path / "weights.safetensors")
    load_weights(module, tmp_path / "weights.safetensors")
    assert torch.equal(module[1].weight, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"weight": (3, 4)}, "holds another network: it lacks bias; load a part of a file in the factory"),
        ({"weight": (3, 4), "bias": (3,), "scale": (1,)}, "it has scale too; load a part"),
        ({"weight": (3, 5), "bias": (3,)}, r"size mismatch for weight: .*\[3, 5\].*\[3, 4\]"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_of_another_network_are_told(tmp_path, stored, message):
    save_file({name: torch.zeros(shape) for name, shape in stored.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(CompileError, match=message):
        load_weights(nn.Linear(4, 3), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("write", [lambda path: None, lambda path: torch.save({}, path)], ids=["missing", "pickle"])
def test_a_file_that_is_no_safetensors_is_told(tmp_path, write):
    write(tmp_path / "weights.pt")
    with pytest.raises(CompileError, match=r"weights.pt cannot be read: .*write it with safetensors.torch.save_model"):
        load_weights(nn.Linear(4, 3), Path(tmp_path / "weights.pt"))


def test_freezing_stops_training_and_keeps_statistics():
    module = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()), nn.Linear(2, 2))
    freeze(module, ["0.*"])
    assert [name for name, value in module.named_parameters() if value.requires_grad] == ["1.weight", "1.bias"]
    assert not any(layer.training for layer in module[0].children())
    assert module[1].training


def test_a_layer_that_still_trains_something_stays_in_training_mode():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    freeze(module, ["*.weight", "0.*"])
    assert not module[0].training
    assert module[1][1].training


def test_freezing_by_a_pattern_without_match_names_the_nearest():
    with pytest.raises(CompileError, match=r"'wight' matches no parameter; near it are weight"):
        freeze(nn.Linear(2, 2), ["wight"])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("import sys; sys.exit(0)", "{0}:make", "left the program when it was imported; guard its main part"),
        ("def make(): raise SystemExit(0)", "{0}:make", r"left the program \(code 0\); return the module"),
        ("def make(:", "{0}:make", "cannot be imported: .*; mend it"),
        ("", "./{0}.py:make", "named as package.file:factory, with dots and without .py"),
        ("", ".{0}:make", "named as package.file:factory, with dots and without .py"),
    ],
)
def test_a_file_that_cannot_be_imported_is_the_users_error(tmp_path, monkeypatch, source, target, message):
    name = f"nets_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(CompileError, match=message):
        make_module(target.format(name), 0)
