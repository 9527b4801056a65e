"""Write `model.pte` for ExecuTorch, with XNNPACK where it has kernels and ExecuTorch's portable ones elsewhere."""

from pathlib import Path

import torch

from pipeline.ship.network import TrainedNetwork
from pipeline.ship.quiet import quiet_exporters

PTE = "model.pte"


def write_pte(network: TrainedNetwork, folder: Path) -> None:
    """Write `model.pte` for one example at a time.

    ExecuTorch plans memory beforehand, for the largest batch that a file admits: a free batch would cost every phone
    the memory of its upper bound.
    """
    with quiet_exporters():
        # Seconds to import, and it warns meanwhile.
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: PLC0415
        from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

        exported = torch.export.export(network, (network.one_example(),))
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        (folder / PTE).write_bytes(lowered.to_executorch().buffer)
