"""A real client on a real socket measures this machine with a tiny pack."""

from dataclasses import replace

import onnxruntime
import pytest

from device_runtime.accounting import Budget
from device_runtime.client_records import Measure
from device_runtime.driver import ONCE, ClientTerms, run_client
from device_runtime.state_folder import StateFolder, read_ledgers
from device_runtime.stopping import StopFlag
from profiles.records import decode_record
from profiles.schema import DeviceProfile


@pytest.fixture
def pack(tiny_pack, tmp_path):
    return tiny_pack(tmp_path / "pack")


@pytest.fixture
def folder(tmp_path):
    with StateFolder(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def terms(server, source):
    return ClientTerms(server.url, source, "npz:share", None, emulated_seed=1, device_class="mid")


@pytest.mark.parametrize("budget", [None, Budget(20.0, 1e-5, 5)])
def test_a_client_measures_the_pack_and_the_server_keeps_its_profile(folder, server, terms, pack, budget):
    round_id = server.open_measuring(pack)
    outcome = run_client(folder, replace(terms, budget=budget), ONCE, StopFlag())
    assert (outcome.reason, outcome.num_reported) == ("reported", 1)
    (sha256,) = server.close(round_id).profiles
    profile = decode_record(DeviceProfile, server.blobs.get(sha256))
    assert (profile.name, profile.device_class) == (f"device-{folder.load_state().device_id[:12]}", "mid")
    assert (len(profile.kernels), profile.runtime.version) == (6, onnxruntime.__version__)
    assert all(content.charges == () for content in read_ledgers(folder.path))


def test_a_pack_that_was_damaged_on_the_device_is_fetched_again(folder, server, terms, pack):
    round_id = server.open_measuring(pack)
    seen = []

    def damage(_state, action):
        if isinstance(action, Measure) and "Measure" not in seen:
            for path in (folder.path / "blobs").iterdir():
                path.write_bytes(b"damaged")
        seen.append(type(action).__name__)

    run_client(folder, terms, ONCE, StopFlag(), watch=damage)
    assert seen.count("Measure") == 2  # what was damaged on the disk was fetched again
    assert server.close(round_id).num_reports == 1
