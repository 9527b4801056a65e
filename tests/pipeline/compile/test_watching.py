import pytest
import torch
from torch import nn

from pipeline.compile.builder import CompileError
from pipeline.compile.watching import watch_forward


class Net(nn.Module):
    """A function of itself and x [B, 3]."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        return self.function(self, x)


def without_gradient(self, x):
    with torch.no_grad():
        return self.linear(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: self.linear(x) if x.max() > 6 else x, r"reads a number .* test_watching.py:\d+ \(__bool__\)"),
        (lambda self, x: x * float(self.linear.bias[0]), "reads a number"),
        (lambda self, x: self.linear(self.linear(x).detach()), "stops the gradient"),
        (lambda self, x: self.linear(x).data, "stops the gradient"),
        (without_gradient, "stops the gradient"),
        (lambda self, x: self.linear(x) * self.count.add_(1), "changes 'count'"),
        (lambda self, x: nn.functional.dropout(x), r"draws random numbers at test_watching.py:\d+ \(dropout\)"),
        (lambda self, x: x * torch.rand(2, 1), r"draws random numbers at .* \(rand\), .* call .eval\(\) on the layer"),
        (lambda self, x: x * torch.empty(2, 1).bernoulli_(0.9), r"draws random numbers at .* \(bernoulli_\)"),
    ],
)
def test_what_a_graph_cannot_repeat_is_refused(function, message):
    with pytest.raises(CompileError, match=message):
        watch_forward(Net(function), {"x": torch.ones(2, 3)})


def test_sizes_and_buffers_may_decide_and_inputs_may_be_detached():
    net = Net(lambda self, x: self.linear(x.detach()) if x.shape[1] > 2 and float(self.count) == 0 else x)
    assert watch_forward(net, {"x": torch.ones(2, 3)}).shape == (2, 3)
