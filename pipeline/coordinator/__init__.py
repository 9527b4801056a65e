"""Coordinate rounds: pure transitions (`rounds`) over rows in a database (`store`) and blobs in a folder (`blobs`)."""

from pipeline.coordinator.blobs import BlobFolder
from pipeline.coordinator.plans import RoundPlan, Run
from pipeline.coordinator.rounds import RoundResult
from pipeline.coordinator.store import Store
from pipeline.coordinator.worker import run_rounds

__all__ = ["BlobFolder", "RoundPlan", "RoundResult", "Run", "Store", "run_rounds"]
