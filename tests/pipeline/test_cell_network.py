"""Our supernet of cells against one written as in DARTS's own `model_search.py` (arXiv:1806.09055)."""

import pytest
import torch
from torch import nn

from pipeline.network import build_module
from search.architecture import Architecture, Cell, Edge, Operation, Stage, Stem
from search.layers import layers_of

NODES, WIDTH = 2, 8
OPERATIONS: tuple[Operation, ...] = (
    "none",
    "skip",
    "average_pool",
    "max_pool",
    "conv_1",
    "conv_3",
    "separable_3",
    "separable_5",
    "dilated_3",
)
CELL = Cell(tuple(tuple(Edge(source, OPERATIONS) for source in range(2 + node)) for node in range(NODES)))
STAGES = (Stage("cell", WIDTH, 1, cell=CELL), Stage("cell", WIDTH, 2, stride=2, cell=CELL))
SUPERNET = Architecture((3, 9, 9), 5, Stem(WIDTH), STAGES, "global_average", "group")


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def normalized(*convolutions: nn.Module, width: int = WIDTH) -> list[nn.Module]:
    return [*convolutions, nn.GroupNorm(4, width)]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, **more: int) -> nn.Conv2d:
    more.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, bias=False, **more)


def make_operation(name: Operation, c: int, stride: int) -> nn.Module:
    def separable(kernel: int) -> nn.Module:
        return nn.Sequential(*normalized(conv(c, c, kernel, stride, groups=c), conv(c, c, 1)), nn.ReLU())

    return {
        "none": lambda: Zero(stride),
        "skip": lambda: nn.Identity() if stride == 1 else nn.Sequential(*normalized(conv(c, c, 1, stride))),
        "average_pool": lambda: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
        "max_pool": lambda: nn.MaxPool2d(3, stride, 1),
        "conv_1": lambda: nn.Sequential(*normalized(conv(c, c, 1, stride)), nn.ReLU()),
        "conv_3": lambda: nn.Sequential(*normalized(conv(c, c, 3, stride)), nn.ReLU()),
        "separable_3": lambda: separable(3),
        "separable_5": lambda: separable(5),
        "dilated_3": lambda: nn.Sequential(*normalized(conv(c, c, 3, stride, padding=2, dilation=2)), nn.ReLU()),
    }[name]()


class TextbookCell(nn.Module):
    def __init__(self, before: tuple[int, int], stride: int, older_stride: int) -> None:
        super().__init__()
        self.preprocess0 = nn.Sequential(*normalized(conv(before[0], WIDTH, 1, older_stride)), nn.ReLU())
        self.preprocess1 = nn.Sequential(*normalized(conv(before[1], WIDTH, 1)), nn.ReLU())
        self.operations = nn.ModuleList(
            nn.ModuleList(make_operation(name, WIDTH, stride if source < 2 else 1) for name in OPERATIONS)
            for node in range(NODES)
            for source in range(2 + node)
        )

    def forward(self, s0, s1, alphas):
        states, offset = [self.preprocess0(s0), self.preprocess1(s1)], 0
        for _ in range(NODES):
            state = 0
            for j, h in enumerate(states):
                weights = torch.softmax(alphas[offset + j], -1)
                state = state + sum(w * op(h) for w, op in zip(weights, self.operations[offset + j], strict=True))
            offset += len(states)
            states.append(state)
        return torch.cat(states[-NODES:], 1)


class TextbookStage(nn.Module):
    def __init__(self, *cells: TextbookCell) -> None:
        super().__init__()
        num_edges = sum(2 + node for node in range(NODES))
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(len(OPERATIONS))) for _ in range(num_edges))
        self.cells = nn.ModuleList(cells)


class TextbookNetwork(nn.Module):
    """As `SUPERNET`; its parameters are in the order of ours."""

    def __init__(self) -> None:
        super().__init__()
        c, out = WIDTH, NODES * WIDTH
        self.stem = nn.Sequential(*normalized(conv(3, c, 3)), nn.ReLU())
        self.stages = nn.ModuleList(
            [
                TextbookStage(TextbookCell((c, c), 1, 1)),
                TextbookStage(TextbookCell((c, out), 2, 1), TextbookCell((out, out), 1, 2)),
            ]
        )
        self.classifier = nn.Linear(out, 5)

    def forward(self, x):
        s0 = s1 = self.stem(x)
        for stage in self.stages:
            for cell in stage.cells:
                s0, s1 = s1, cell(s0, s1, stage.alphas)
        return self.classifier(s1.mean((2, 3)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On a busy machine torch's threads wait for each other."""
    torch.set_num_threads(1)


def test_logits_and_every_gradient_of_a_supernet_are_the_textbooks():
    torch.manual_seed(0)
    ours, textbook = build_module(layers_of(SUPERNET)), TextbookNetwork()
    with torch.no_grad():
        for own, other in zip(ours.parameters(), textbook.parameters(), strict=True):
            assert own.shape == other.shape
            own.copy_(torch.randn_like(own) * 0.3)
            other.copy_(own)
    x, y = torch.randn(3, 3, 9, 9), torch.arange(3)
    logits = [module(x) for module in (ours, textbook)]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    assert logits[0].std() > 0.1  # numbers that differ
    for found in logits:
        nn.functional.cross_entropy(found, y).backward()
    for (name, own), other in zip(ours.named_parameters(), textbook.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)
        assert own.grad.abs().max() > 0, name
