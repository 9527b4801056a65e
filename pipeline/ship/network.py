"""The trained model of a run as a torch module: what every exporter reads and every written file is compared with."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from device_runtime.arrays import Inputs, Vector
from device_runtime.specs import LayoutEntry
from pipeline.divergence import divergence_in_words
from pipeline.network import build_module
from pipeline.run_result import PARAMETERS, FinishedRun, model_folder
from profiles.records import to_plain
from search.layers import layers_of

INPUT, OUTPUTS = "x", ("logits", "probabilities")


class ShipError(ValueError):
    """A run cannot be shipped as it is; the message says what to do."""


@dataclass(frozen=True)
class Outputs:
    """What a model says about n examples: both f32 or f64 [n, classes]."""

    logits: Vector = field(repr=False)
    probabilities: Vector = field(repr=False)

    def by_name(self) -> dict[str, Vector]:
        """Under the names that the files give their outputs."""
        return dict(zip(OUTPUTS, (self.logits, self.probabilities), strict=True))


class TrainedNetwork(nn.Module):
    """The network with its trained parameters, and probabilities beside the logits."""

    def __init__(self, network: nn.Module, x_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.x_shape = x_shape  # of one example

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, each [batch, classes], of examples [batch, *x_shape]."""
        logits = self.network(x)
        return logits, torch.softmax(logits, 1)

    def one_example(self) -> Tensor:
        """A batch of one to trace with."""
        return torch.zeros(1, *self.x_shape)


def trained_network(run: FinishedRun) -> TrainedNetwork:
    """One of a run's models with its trained parameters.

    Raises:
        ShipError: The run's files do not belong together, or its training diverged.
    """
    _check_belongs_together(run)
    if why := divergence_in_words(run.trial.index, run.parameters):
        raise ShipError(why)
    network = build_module(layers_of(run.trial.candidate.architecture))
    _load_parameters(network, run.artifact.manifest.layout, run.parameters)
    return TrainedNetwork(network, run.result.spec.shape).eval()


def exact_outputs(network: TrainedNetwork, x: Inputs) -> Outputs:
    """The trained model's outputs f64 in double precision, so that differences are the written file's alone."""
    exact = deepcopy(network).double()
    with torch.no_grad():
        logits, probabilities = exact(torch.from_numpy(x.astype(np.float64)))
    return Outputs(logits.numpy(), probabilities.numpy())


def _load_parameters(network: nn.Module, layout: tuple[LayoutEntry, ...], parameters: Vector) -> None:
    own = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    if own != {entry.name: entry.shape for entry in layout}:
        raise ShipError(
            "the artifact's layout is not that of the architecture in this version of handheld; ship with the version "
            "that ran the search"
        )
    offsets = {entry.name: entry.offset for entry in layout}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = parameters[offsets[name] : offsets[name] + parameter.numel()]
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))


def _check_belongs_together(run: FinishedRun) -> None:
    result, manifest, cure = run.result, run.artifact.manifest, "run the search again or restore the folder"
    data = (model_folder(run.folder, run.model.trial) / PARAMETERS).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != run.model.parameters_sha256:
        raise ShipError(
            f"{PARAMETERS} is not what the run trained: sha256 {run.model.parameters_sha256} expected, {found} found; "
            f"{cure}"
        )
    if run.model.trial not in {trial.index for trial in result.trials}:
        raise ShipError(f"result.json names trial {run.model.trial} a winner and does not list it; {cure}")
    if manifest.architecture != to_plain(run.trial.candidate.architecture) or manifest.spec != result.spec:
        raise ShipError(f"the artifact in {run.folder} is of another architecture or data than the winner; {cure}")
