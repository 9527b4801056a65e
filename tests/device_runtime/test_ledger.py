import json
from dataclasses import replace
from itertools import pairwise

import pytest

from device_runtime.accounting import BudgetExceededError, rdp_by_split
from device_runtime.ledger import Ledger, LedgerError, read_ledger
from device_runtime.ledger_storage import LedgerFile, LedgerMemory
from tests.device_runtime.ledgers import BUDGET, METRICS, SOURCE, UPDATE, CutStorage, PowerCutError, spend


class TestCharging:
    def test_what_was_charged_is_there_after_opening_again(self, storage):
        spend(storage)
        ledger = Ledger(storage, SOURCE, BUDGET)
        assert ledger.releases() == (UPDATE, METRICS, UPDATE)
        spent = rdp_by_split(ledger.releases(), 5)
        assert {split: ledger.spent_rdp(split) for split in spent} == spent
        assert ledger.spent_rdp("test") == 0

    def test_headroom_is_the_budget_less_what_was_spent(self, storage):
        headroom = spend(storage).headroom()
        assert headroom.order == 5
        assert headroom.rdp == {
            "train": pytest.approx(BUDGET.rdp() - 2 * UPDATE.rdp(5)),
            "validation": pytest.approx(BUDGET.rdp() - METRICS.rdp(5)),
            "test": BUDGET.rdp(),
        }

    def test_it_lets_through_exactly_what_the_filter_allows_and_notes_nothing_more(self, storage):
        ledger, count = Ledger(storage, SOURCE, BUDGET), int(BUDGET.rdp() / UPDATE.rdp(5))
        for i in range(count):
            ledger.charge([UPDATE], f"run-0-{i}")
        before = storage.read()
        with pytest.raises(BudgetExceededError, match=r"of 8 \(delta 1e-05, order 5; 7\.\d+ spent so far\)"):
            ledger.charge([UPDATE], "run-0-last")
        assert storage.read() == before
        assert len(ledger.releases()) == count > 20
        ledger.charge([METRICS], "run-0-other-split")

    def test_a_release_without_noise_never_fits(self, storage):
        with pytest.raises(BudgetExceededError):
            Ledger(storage, SOURCE, BUDGET).charge([replace(UPDATE, noise_multiplier=0.0)], "run-0-0")

    def test_a_line_is_plain_json_with_the_assignment_and_the_release(self, storage):
        spend(storage, releases=[UPDATE])
        header, charge = map(json.loads, storage.read().splitlines())
        assert header["entry"]["source"] == SOURCE
        assert header["entry"]["budget"] == {"epsilon": 8.0, "delta": 1e-5, "order": 5}
        assert header["entry"]["created_by"].startswith("handheld")
        assert charge["entry"]["assignment_id"] == "run-0-0"
        assert charge["entry"]["release"]["noise_multiplier"] == 1.34

    def test_lines_are_only_ever_added(self, storage):
        seen = []
        ledger = Ledger(storage, SOURCE, BUDGET)
        for i in range(4):
            seen.append(storage.read())
            ledger.charge([UPDATE], f"run-0-{i}")
        assert all(later.startswith(earlier) for earlier, later in pairwise(seen))

    def test_a_file_is_on_the_disk_before_charge_returns(self, tmp_path, monkeypatch):
        synced = []
        monkeypatch.setattr("os.fsync", synced.append)
        ledger = Ledger(LedgerFile(tmp_path / "ledger.jsonl"), SOURCE, BUDGET)
        at_creation = len(synced)
        ledger.charge([UPDATE], "run-0-0")
        # Line, head and the head's folder; at creation the folder once more, for the ledger's own name.
        assert (at_creation, len(synced) - at_creation) == (4, 3)

    def test_after_a_failed_write_it_charges_nothing_until_it_is_opened_again(self):
        storage = LedgerMemory()
        ledger = spend(storage)

        def full_disk(data):
            storage.content += data[:10]
            raise OSError(28, "No space left on device")

        storage.append = full_disk
        with pytest.raises(OSError, match="No space"):
            ledger.charge([UPDATE], "run-0-3")
        with pytest.raises(LedgerError, match="writing failed before; free disk space and start again"):
            ledger.charge([UPDATE], "run-0-4")
        del storage.append
        assert Ledger(storage, SOURCE, BUDGET).releases() == (UPDATE, METRICS, UPDATE)


class TestBudgetChange:
    def test_the_app_may_raise_the_budget_and_spending_stays(self, storage):
        spent = spend(storage).spent_rdp("train")
        ledger = Ledger(storage, SOURCE, replace(BUDGET, epsilon=20.0))
        assert ledger.headroom().rdp["train"] == pytest.approx(replace(BUDGET, epsilon=20.0).rdp() - spent)
        assert read_ledger(storage).budget.epsilon == 20.0

    def test_lowered_below_what_is_spent_nothing_is_left(self, storage):
        spend(storage, releases=[UPDATE] * 25)
        ledger = Ledger(storage, SOURCE, replace(BUDGET, epsilon=3.0))
        assert ledger.headroom().rdp["train"] == 0
        with pytest.raises(BudgetExceededError):
            ledger.charge([UPDATE], "run-0-9")

    def test_the_same_budget_again_adds_no_line(self, storage):
        spend(storage)
        before = storage.read()
        Ledger(storage, SOURCE, BUDGET)
        assert storage.read() == before

    def test_the_order_stays_for_the_ledgers_lifetime(self, storage):
        spend(storage)
        before = storage.read()
        with pytest.raises(LedgerError, match=r"line 1: .* at order 5 for its lifetime, .* has order 6; set order 5"):
            Ledger(storage, SOURCE, replace(BUDGET, order=6))
        assert storage.read() == before


class TestPowerCut:
    def test_after_a_cut_at_any_byte_every_charge_that_returned_counts_and_charging_goes_on(self):
        whole = LedgerMemory()
        spend(whole)
        total = len(whole.read()) + 4 * len(whole.read_head()) + 1
        for bytes_left in range(0, total, 3):
            storage, returned = CutStorage(bytes_left), []
            with pytest.raises(PowerCutError):
                self.charge_until_the_cut(storage, returned)
            storage.bytes_left = 10**6
            ledger = Ledger(storage, SOURCE, BUDGET)
            kept = ledger.releases()
            # One line may have been written in full though its charge never returned: it is counted.
            assert list(kept[: len(returned)]) == returned
            assert len(kept) - len(returned) in {0, 1}
            ledger.charge([METRICS], "run-1-0")
            assert Ledger(storage, SOURCE, BUDGET).releases() == (*kept, METRICS)

    @staticmethod
    def charge_until_the_cut(storage, returned):
        ledger = Ledger(storage, SOURCE, BUDGET)
        for i in range(99):
            ledger.charge([UPDATE], f"run-0-{i}")
            returned.append(UPDATE)

    def test_reading_leaves_an_unfinished_line_where_it_is(self, storage):
        spend(storage)
        storage.append(b'{"chain":"00')
        before = storage.read()
        assert len(read_ledger(storage).charges) == 3
        assert storage.read() == before


class TestDamage:
    @pytest.fixture
    def spent(self):
        storage = LedgerMemory()
        spend(storage)
        return storage

    def refuse(self, storage, match=None):
        before = storage.read(), storage.read_head()
        with pytest.raises(LedgerError, match=match):
            Ledger(storage, SOURCE, BUDGET)
        assert (storage.read(), storage.read_head()) == before

    @pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
    def test_a_changed_byte_anywhere_is_refused_and_the_file_stays(self, spent, flip):
        content = spent.read()
        for position in range(0, len(content), 5):
            damaged = bytearray(content)
            damaged[position] ^= flip
            self.refuse(LedgerMemory(damaged, spent.head), "it is left as it is: put back a copy|not of")

    @pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
    def test_a_changed_byte_of_the_head_is_refused(self, spent, flip):
        for position in range(len(spent.head)):
            head = bytearray(spent.head)
            head[position] ^= flip
            self.refuse(LedgerMemory(bytearray(spent.content), bytes(head)))

    def test_a_file_cut_off_anywhere_is_refused(self, spent):
        content = spent.read()
        for size in range(0, len(content), 3):
            self.refuse(LedgerMemory(bytearray(content[:size]), spent.head), "missing")

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_line_taken_out_is_named(self, spent, number):
        lines = spent.read().splitlines(keepends=True)
        del lines[number - 1]
        self.refuse(LedgerMemory(bytearray(b"".join(lines)), spent.head), f"line {number}: damaged")

    def test_two_lines_that_changed_places_are_named(self, spent):
        lines = spent.read().splitlines(keepends=True)
        lines[1], lines[2] = lines[2], lines[1]
        self.refuse(LedgerMemory(bytearray(b"".join(lines)), spent.head), "line 2: damaged, it does not continue")

    def test_a_last_line_taken_out_is_named(self, spent):
        lines = spent.read().splitlines(keepends=True)
        self.refuse(LedgerMemory(bytearray(b"".join(lines[:-1])), spent.head), "line 4: missing .* counts 4 lines")

    def test_a_ledger_without_its_head_is_refused(self, spent):
        self.refuse(LedgerMemory(bytearray(spent.content)), r"its \.head: missing")

    def test_the_ledger_of_another_source_is_refused(self, spent):
        before = spent.read()
        with pytest.raises(LedgerError, match=f"line 1: this is the ledger of data source {SOURCE}, not of other"):
            Ledger(spent, "other", BUDGET)
        assert spent.read() == before

    def test_lines_of_two_ledgers_do_not_mix(self, spent):
        other = LedgerMemory()
        spend(other, replace(BUDGET, epsilon=9.0))
        lines = spent.read().splitlines(keepends=True)
        lines[2] = other.read().splitlines(keepends=True)[2]
        self.refuse(LedgerMemory(bytearray(b"".join(lines)), spent.head), "line 3: damaged")

    def test_a_ledger_of_a_newer_version_is_named(self, spent, monkeypatch):
        newer = LedgerMemory()
        monkeypatch.setattr("profiles.records.SCHEMA", 2)
        header = replace(read_ledger(spent).header, schema=2)
        monkeypatch.setattr("device_runtime.ledger.Header", lambda *_: header)
        Ledger(newer, SOURCE, BUDGET)
        monkeypatch.undo()
        self.refuse(newer, "schema is 2, this version reads up to 1: update handheld")
