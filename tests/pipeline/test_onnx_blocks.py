"""Of graphs that are none of ours: labels beside what ONNX Runtime makes of them."""

import io
import platform
import warnings
from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.onnx_kernels import kernels_of_onnx

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other layouts")


def conv(channels=16, made=16, kernel=3, **options):
    return nn.Conv2d(channels, made, kernel, padding=kernel // 2, **options)


class Joined(nn.Module):
    """A stem, and two branches of it or of the input that are joined."""

    def __init__(self, join, *, with_input=False, after=None):
        super().__init__()
        self.stem, self.one, self.other, self.last = conv(3), conv(), conv(kernel=1), conv()
        self.join, self.with_input, self.after = join, with_input, after or nn.Identity()

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        branch = torch.cat([x, x, x, x, x, x[:, :1]], 1) if self.with_input else torch.relu(self.other(stem))
        return self.last(self.after(self.join(self.one(stem), branch))).mean((2, 3))


class OfTheInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = conv()

    def forward(self, x):
        x = x.reshape(-1, 16, 4, 3)
        return (self.one(x) + x).mean((2, 3))


def chain(*activations):
    """Depthwise and pointwise convolutions with what comes behind each."""
    layers = [layer for one in activations for layer in (conv(groups=16), *one(), conv(kernel=1), *one())]
    return nn.Sequential(conv(3), *layers, nn.Flatten())


MODULES = {
    "ReLU": chain(lambda: [nn.ReLU()]),
    "ReLU6": chain(lambda: [nn.ReLU6()]),
    "Sigmoid": chain(lambda: [nn.Sigmoid()]),
    "LeakyReLU": chain(lambda: [nn.LeakyReLU()]),
    "Tanh": chain(lambda: [nn.Tanh()]),
    "normalised": chain(lambda: [nn.BatchNorm2d(16), nn.ReLU6()]),
    "Softplus": chain(lambda: [nn.Softplus()]),
    "pools": nn.Sequential(conv(3), nn.Softplus(), nn.MaxPool2d(2), conv(), nn.AvgPool2d(2), conv(), nn.Flatten()),
    "sum": Joined(torch.add),
    "sum, then a curve": Joined(torch.add, after=nn.Softplus()),
    "difference": Joined(torch.sub),
    "largest": Joined(torch.maximum),
    "sum with what is none of a convolution": Joined(torch.add, with_input=True),
    "sum with the input": OfTheInput(),
    "groups": nn.Sequential(conv(3, 32), conv(32, 32, groups=2), conv(32, 32, groups=8), conv(32, 32), nn.Flatten()),
}


def optimised(module, tmp_path):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and says so
        example = torch.zeros(1, 3, 8, 8)
        training = torch.onnx.TrainingMode.PRESERVE  # else it folds what the runtime is to fold
        torch.onnx.export(module.eval(), example, buffer, dynamo=False, opset_version=17, training=training)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return onnx.load_from_string(buffer.getvalue()), onnx.load(tmp_path / "optimised.onnx").graph.node


@pytest.mark.parametrize("name", MODULES)
def test_labels_say_where_values_are_reordered(name, tmp_path):
    model, nodes = optimised(MODULES[name], tmp_path)
    operators = Counter(node.op_type for node in nodes)
    in_blocks = {"conv", "max_pool", "average_pool"}
    blocked = {node.name for node in nodes if node.domain == "com.microsoft.nchwc"}
    plain = sum(node.op_type in {"Conv", "FusedConv"} and node.name not in blocked for node in nodes)
    kernels = kernels_of_onnx(model).kernels
    given = [kernel for kernel in kernels if kernel.kind in in_blocks and kernel.beside in {"", "before"}]
    sums = [kernel for kernel in kernels if kernel.kind == "add" and kernel.beside == "sum"]
    assert operators["ReorderOutput"] == len(given) + len(sums) - plain
    adding = [kernel for kernel in kernels if kernel.kind == "conv" and "sum" in kernel.beside]
    assert sum(node.op_type == "Conv" and len(node.input) > 3 and bool(node.input[3]) for node in nodes) == len(adding)
