"""All releases of an assignment are charged together; what older versions charged counts."""

from dataclasses import replace
from math import sqrt
from typing import get_args

import pytest

from device_runtime.accounting import BudgetExceededError, Release, ReleaseKind
from device_runtime.ledger import Ledger, LedgerError, read_ledger
from device_runtime.ledger_storage import LedgerMemory
from device_runtime.state_commands import summarise
from device_runtime.terms import Unit
from device_runtime.wire import SPLITS
from tests.device_runtime.ledgers import BUDGET, METRICS, SOURCE, UPDATE, CutStorage, PowerCutError, spend

OF_CLIENTS = replace(BUDGET, unit="client")
CLIENTS_UPDATE = Release("update", "train", 1.0, 5.0, unit="client")
# As version 0.1 wrote it.
OLD_UPDATE = (
    b'"release":{"kind":"update","noise_multiplier":1.34,"num_steps":1,"sample_rate":0.25,"split":"train"},'
    b'"type":"release"}}'
)
OLD_METRICS = (
    b'"release":{"kind":"metrics","noise_multiplier":6,"num_steps":1,"sample_rate":0.5,"split":"validation"},'
    b'"type":"release"}}'
)
OLD_CHAINS = (
    b"96ade12d4247fe57caa4d7841f956ecfc47e43f1ee61fc38b69f0b7a06fae921",
    b"617c5f5c9714eac294714688c6df5dedca4459a8bcde34a5fa89562adaee4ea1",
    b"584bf36ee4f44523418f3ca5ade7e572a2c6305969294120e32f2f4b50824c59",
    b"024144b0339e1255b2e78742ed4961c7c0a9eb23c3d0353ca1af119d9947a66f",
)
OLD_ENTRIES = (
    b'{"budget":{"delta":0.00001,"epsilon":8,"order":5},"created_by":"handheld 0.1","schema":1,'
    b'"source":"' + SOURCE.encode() + b'","type":"header"}}',
    b'{"assignment_id":"run-0-0",' + OLD_UPDATE,
    b'{"assignment_id":"run-0-1",' + OLD_METRICS,
    b'{"assignment_id":"run-0-2",' + OLD_UPDATE,
)
OLD_LEDGER = b"".join(b'{"chain":"%b","entry":%b\n' % pair for pair in zip(OLD_CHAINS, OLD_ENTRIES, strict=True))
OLD_HEAD = b'{"chain":"%b","num_lines":4}' % OLD_CHAINS[-1]


class TestTogether:
    """The releases of one assignment."""

    def test_they_are_noted_one_a_line_in_one_write(self, storage, monkeypatch):
        ledger, appended = Ledger(storage, SOURCE, BUDGET), []
        real = storage.append
        monkeypatch.setattr(storage, "append", lambda data: (appended.append(data), real(data)))
        ledger.charge([UPDATE, METRICS], "run-0-0")
        assert [data.count(b"\n") for data in appended] == [2]
        kept = read_ledger(storage).charges
        assert [(charge.assignment_id, charge.release) for charge in kept] == [
            ("run-0-0", UPDATE),
            ("run-0-0", METRICS),
        ]
        assert Ledger(storage, SOURCE, BUDGET).headroom() == ledger.headroom()

    def test_what_does_not_fit_together_is_not_noted_at_all(self, storage):
        ledger = Ledger(storage, SOURCE, BUDGET)
        half = replace(METRICS, sample_rate=1.0, noise_multiplier=(0.75 * 5 / BUDGET.rdp()) ** 0.5)
        ledger.charge([half], "run-0-0")
        before = storage.read(), ledger.headroom()
        for refused in ([UPDATE, half], [half, UPDATE]):
            with pytest.raises(BudgetExceededError, match="one more metrics on the validation split"):
                ledger.charge(refused, "run-0-1")
        assert (storage.read(), ledger.headroom()) == before
        ledger.charge([UPDATE], "run-0-1")

    def test_a_clients_release_is_charged_to_every_split(self, storage):
        ledger = spend(storage, OF_CLIENTS, [CLIENTS_UPDATE])
        for opened in (ledger, Ledger(storage, SOURCE, OF_CLIENTS)):
            assert opened.headroom().rdp == dict.fromkeys(SPLITS, pytest.approx(BUDGET.rdp() - 0.1))
        assert opened.releases() == (CLIENTS_UPDATE,)
        summary = summarise(read_ledger(storage))
        assert summary.unit == "client"
        assert summary.num_releases == dict.fromkeys(SPLITS, 1)
        assert summary.epsilon_spent == dict.fromkeys(SPLITS, BUDGET.epsilon_spent(0.1))

    @pytest.mark.parametrize(
        ("budget", "other"), [(BUDGET, CLIENTS_UPDATE), (OF_CLIENTS, UPDATE)], ids=["example", "client"]
    )
    def test_one_ledger_never_adds_two_units(self, storage, budget, other):
        """However much is left of either: 4 steps of a client tell more of one example than the ledger would say."""
        ledger = Ledger(storage, SOURCE, budget)
        with pytest.raises(BudgetExceededError, match=f"of the {other.unit} unit .* budget .* {budget.unit} unit"):
            ledger.charge([other], "run-0-0")
        assert ledger.releases() == ()
        with pytest.raises(
            LedgerError, match=rf"line 1: .* one {budget.unit} for its lifetime.*; set unit '{budget.unit}'"
        ):
            Ledger(storage, SOURCE, replace(budget, unit=other.unit))

    def test_a_power_cut_in_between_never_charges_too_little(self):
        """Whatever is left of three lines counts: of those whose charge returned, all."""
        together = (UPDATE, METRICS, replace(METRICS, kind="reward"))
        whole = LedgerMemory()
        for i in range(2):
            Ledger(whole, SOURCE, BUDGET).charge(together, f"run-0-{i}")
        total, seen = len(whole.read()) + 4 * len(whole.read_head()), set()
        for bytes_left in range(0, total, 3):
            storage, returned = CutStorage(bytes_left), []
            with pytest.raises(PowerCutError):
                self.charge_until_the_cut(storage, together, returned)
            storage.bytes_left = 10**6
            kept = Ledger(storage, SOURCE, BUDGET).releases()
            assert list(kept[: len(returned)]) == returned
            beyond = kept[len(returned) :]
            assert beyond == together[: len(beyond)]
            seen.add(len(beyond))
        assert seen == {0, 1, 2, 3}

    @staticmethod
    def charge_until_the_cut(storage, together, returned):
        ledger = Ledger(storage, SOURCE, BUDGET)
        for i in range(9):
            ledger.charge(together, f"run-0-{i}")
            returned.extend(together)


@pytest.mark.parametrize("unit", get_args(Unit))
@pytest.mark.parametrize("kind", get_args(ReleaseKind))
class TestEveryKind:
    """What a release costs is the same whatever it is called."""

    @pytest.fixture
    def budget(self, unit):
        return replace(BUDGET, unit=unit)

    @pytest.fixture
    def release(self, kind, unit):
        """Of three fifths of the budget, without a draw: order / (2 s^2)."""
        split = "train" if kind == "update" else "validation"
        return Release(kind, split, 1.0, sqrt(BUDGET.order / (2 * 0.6 * BUDGET.rdp())), unit=unit)

    def test_it_is_spent_in_full_on_its_splits_now_and_after_opening_again(self, storage, budget, release):
        charged = spend(storage, budget, [release])
        for ledger in (charged, Ledger(storage, SOURCE, budget)):
            spent = {split: ledger.spent_rdp(split) for split in SPLITS}
            assert spent == dict.fromkeys(SPLITS, 0.0) | dict.fromkeys(
                release.charged_splits, release.rdp(budget.order)
            )

    def test_what_exceeds_the_budget_because_of_it_is_refused_now_and_after_opening_again(
        self, storage, budget, release
    ):
        charged = spend(storage, budget, [release])
        for ledger in (charged, Ledger(storage, SOURCE, budget)):
            with pytest.raises(BudgetExceededError, match=f"one more {release.kind} on the"):
                ledger.charge([release], "run-0-1")
            assert ledger.releases() == (release,)


def test_an_old_ledger_is_read_and_goes_on():
    """The bytes that a version wrote which knew one release an assignment, one unit and no reward."""
    storage = LedgerMemory(bytearray(OLD_LEDGER), OLD_HEAD)
    ledger = Ledger(storage, SOURCE, BUDGET)
    assert ledger.releases() == (UPDATE, METRICS, UPDATE)
    assert ledger.spent_rdp("train") == 2 * UPDATE.rdp(5)
    ledger.charge([UPDATE, replace(METRICS, kind="reward")], "run-0-3")
    assert storage.read().startswith(OLD_LEDGER)
    assert len(Ledger(storage, SOURCE, BUDGET).releases()) == 5
