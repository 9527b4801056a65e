import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from device_runtime.specs import ExampleSpec, FrozenTensors, InputSpec
from pipeline.command_line.compile_result import Compiled, describe, table_of
from pipeline.compile.artifact import compile_artifact
from pipeline.compile.losses import Loss
from profiles.records import to_plain


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Compiled:
    folder = tmp_path_factory.mktemp("compiled") / "artifact"
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    compile_artifact(module, torch.zeros(6), 3, folder, batch_size=2, segments={"head": "2.*"})
    return describe(folder, is_spec_derived=True)


def shown(result: Compiled) -> dict[str, str]:
    """The table's cells by the row's name."""
    console = Console(file=io.StringIO(), width=1000)
    console.print(table_of(result))
    cells = [line.split("│")[1:3] for line in console.file.getvalue().splitlines() if "│" in line]
    return {name.strip(): told.strip() for name, told in cells if name.strip()}


def test_what_was_made_agrees_with_the_files(result):
    manifest = json.loads((Path(result.folder) / "manifest.json").read_bytes())
    certificate = json.loads((Path(result.folder) / "certificate.json").read_bytes())
    assert to_plain(result.certificate) == certificate
    assert result.certificate.artifact_id == result.artifact_id
    assert (result.architecture_id, result.num_parameters) == (manifest["architecture_id"], 6 * 5 + 5 + 5 * 3 + 3)
    assert result.segments == {"head": 18, "weights": 35}
    assert set(result.files) >= {"manifest.json", "gradient.onnx", "ort_training/checkpoint"}
    assert json.dumps(to_plain(result))


def test_a_reader_sees_no_row_about_what_is_not_there(result):
    rows = shown(result)
    assert rows["parameters"] == "53: 18 in head, 35 in weights"
    assert rows["examples"].startswith("6 float32, labels 0 to 2; derived from the network")
    assert rows["loss"] == "cross_entropy"
    assert "warning" not in rows["gradients"]
    assert not {"frozen", "ort_training"} & set(rows)


def test_a_reader_sees_what_is_special(result):
    forms = {"a": "ghost norm", "b": "ghost norm", "c": "materialised", **dict.fromkeys("defghij", "reaches no loss")}
    certificate = replace(result.certificate, forms=forms, ort_training="left out: no gradient")
    inputs = (InputSpec("ids", (64,), "int64"), InputSpec("image", (3, 8, 8)))
    special = replace(
        result,
        certificate=certificate,
        frozen=FrozenTensors("5" * 64, {"body.weight": (1000, 5), "neck.weight": (2, 5000)}),
        spec=ExampleSpec((), ("tag",), inputs=inputs, target="values"),
        is_spec_derived=False,
        loss="cross_entropy",
        label_smoothing=Loss(label_smoothing=0.125).label_smoothing,
        segments={"weights": 53},
    )
    rows = shown(special)
    assert rows["gradients"] == (
        "2 ghost norm, 1 materialised; warning: forward does not use d, e, f, g, h and 2 more: their gradient is zero"
    )
    assert rows["frozen"] == "15,000 values of 2 tensors in frozen.safetensors, 555555555555"
    assert rows["examples"] == "ids 64 int64, image 3x8x8 float32, labels tag"
    assert rows["loss"] == "cross_entropy, label smoothing 0.125"
    assert rows["ort_training"] == "left out: no gradient"
    assert rows["parameters"] == "53"
