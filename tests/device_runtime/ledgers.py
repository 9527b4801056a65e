"""Ledgers to charge, and storage on which the power goes."""

from device_runtime.accounting import Budget, Release
from device_runtime.ledger import Ledger
from device_runtime.ledger_storage import LedgerMemory

SOURCE = "a" * 64
BUDGET = Budget(8.0, 1e-5, 5)
UPDATE = Release("update", "train", 0.25, 1.34)
METRICS = Release("metrics", "validation", 0.5, 6.0)


def spend(storage, budget=BUDGET, releases=(UPDATE, METRICS, UPDATE)):
    ledger = Ledger(storage, SOURCE, budget)
    for i, release in enumerate(releases):
        ledger.charge([release], f"run-0-{i}")
    return ledger


class PowerCutError(Exception):
    pass


class CutStorage(LedgerMemory):
    """Storage on which the power goes after a number of bytes were written, the head's included."""

    def __init__(self, bytes_left):
        super().__init__()
        self.bytes_left = bytes_left

    def append(self, data):
        super().append(data[: self.bytes_left])
        self._count(data)

    def write_head(self, data):
        if self.bytes_left >= len(data):  # a head is replaced at once or not at all
            super().write_head(data)
        self._count(data)

    def _count(self, data):
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            self.bytes_left = 0
            raise PowerCutError
