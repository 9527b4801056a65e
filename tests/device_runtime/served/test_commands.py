import json
from pathlib import Path

import pytest

from device_runtime.accounting import Budget, gaussian_order
from device_runtime.command_line import PROGRAM
from device_runtime.console import run_program
from device_runtime.run_process import RunOptions, budget_of, read_spec, source_name
from device_runtime.state_folder import StateFolder, read_ledgers
from profiles.records import RecordError


@pytest.fixture
def arguments(server, data, spec_file, tmp_path):
    return [
        *("run", "--server", server.url, "--data", f"npz:{data}", "--spec", str(spec_file)),
        *("--state", str(tmp_path / "state"), "--emulated-seed", "1"),
    ]


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            run_program(PROGRAM, [str(argument) for argument in arguments])
        written = capsys.readouterr()
        return left.value.code, written.out, " ".join(written.err.split())

    return run


def options(**changes):
    values = {"server": "", "data": "", "state": None, "spec": None, "epsilon": None, "delta": None, "order": None}
    return RunOptions(**(values | {"rounds": None, "once": False, "emulated_seed": None} | changes))


class TestRun:
    def test_once_serves_one_assignment_and_says_so(self, command, server, arguments):
        round_id = server.open("ordinary")
        code, out, _ = command(*arguments, "--once")
        assert (code, out) == (0, "1 reports taken, left because: reported\n")
        assert server.close(round_id).num_reports == 1

    def test_rounds_counts_reports_and_json_lines_tell_each_step(self, command, server, arguments):
        server.open("ordinary")
        server.open("accuracy")
        code, out, err = command(*arguments, "--rounds", "2", "--json")
        steps = [json.loads(line) for line in out.splitlines()]
        assert (code, err) == (0, "")
        actions = [step["action"] for step in steps]
        assert (actions.count("train"), actions.count("evaluate")) == (1, 1)
        assert steps[0]["target"] == "/v1/server"
        assert steps[-1] == {"action": "leave", "reason": "reported", "num_reported": 2}

    def test_without_work_once_tells_when_there_may_be_some(self, command, arguments):
        code, out, _ = command(*arguments, "--once")
        assert code == 0
        assert "left because: resting; the server has work in 30 s at the earliest" in " ".join(out.split())

    def test_a_private_round_needs_epsilon_and_delta_and_shows_in_the_ledger(
        self, command, server, arguments, tmp_path
    ):
        server.open("private")
        assert "0 reports" in command(*arguments, "--once")[1]
        command("forget", "--state", tmp_path / "state")
        assert "1 reports" in command(*arguments, "--once", "--epsilon", "20", "--delta", "1e-5")[1]
        (summary,) = json.loads(command("ledger", "--state", tmp_path / "state", "--json")[1])
        assert summary["num_releases"] == {"train": 1, "validation": 0, "test": 0}
        assert 0 < summary["epsilon_spent"]["train"] < summary["epsilon"] == 20
        assert summary["epsilon_spent"]["test"] == 0
        out = command("ledger", "--state", tmp_path / "state")[1]
        assert f"{summary['epsilon_spent']['train']:.4g}" in out
        assert "unit: one example" in out

    def test_the_ledgers_order_is_taken_when_none_is_given_again(self, command, arguments, tmp_path):
        command(*arguments, "--once", "--epsilon", "20", "--delta", "1e-5", "--order", "9")
        command(*arguments, "--once", "--epsilon", "25", "--delta", "1e-5")
        (content,) = read_ledgers(tmp_path / "state")
        assert (content.budget.order, content.budget.epsilon) == (9, 25)

    def test_the_unit_is_that_of_the_budget_for_good(self, command, arguments, tmp_path):
        private = ["--once", "--epsilon", "20", "--delta", "1e-5"]
        command(*arguments, *private, "--unit", "client")
        (summary,) = json.loads(command("ledger", "--state", tmp_path / "state", "--json")[1])
        assert summary["unit"] == "client"
        assert "│ client" in command("ledger", "--state", tmp_path / "state")[1]
        code, _, err = command(*arguments, *private)
        assert code == 1
        assert "set unit 'client'" in err


class TestFailure:
    def test_a_server_that_is_gone(self, command, arguments):
        arguments[arguments.index("--server") + 1] = "http://127.0.0.1:9"
        code, _, err = command(*arguments, "--once")
        assert code == 1
        assert "http://127.0.0.1:9 does not answer" in err
        assert "is it up, and is the URL right?" in err

    def test_a_second_process_on_the_folder(self, command, arguments, tmp_path):
        with StateFolder(tmp_path / "state"):
            code, _, err = command(*arguments, "--once")
        assert code == 1
        assert "a second process on this state folder" in err

    def test_data_of_another_specification(self, command, server, arguments):
        server.open("ordinary")
        at = arguments.index("--spec")
        code, _, err = command(*arguments[:at], *arguments[at + 2 :], "--once", "--json")
        assert code == 0  # three classes are in the data: the guess is the specification
        arguments[at + 1] = write_spec(arguments[at + 1], b'"2"', b'"two"')
        code, _, err = command(*arguments, "--once")
        assert code == 1
        assert "give both the same data specification" in err

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--epsilon", "8"], "--delta must be given too: privacy parameters have no defaults"),
            (["--delta", "1e-5"], "--epsilon must be given too"),
            (["--order", "8"], "--order and --unit go with --epsilon and --delta"),
            (["--unit", "client"], "--order and --unit go with --epsilon and --delta"),
            (["--epsilon", "0", "--delta", "1e-5", "--order", "5"], "epsilon must be > 0"),
            (["--data", "npz:nowhere.npz"], "nowhere.npz cannot be read"),
            (["--data", "nzp:share.npz"], "did you mean npz:FILE?"),
            (["--server", "example.org"], "must start with http:// or https://"),
            (["--spec", "nowhere.json"], "nowhere.json"),
        ],
    )
    def test_wrong_usage_names_the_cure(self, command, arguments, extra, message):
        code, _, err = command(*arguments, *extra, "--once")
        assert code == 2
        assert message in err

    @pytest.mark.parametrize("name", ["ledger", "forget"])
    def test_a_folder_that_is_none(self, command, name, tmp_path):
        code, _, err = command(name, "--state", tmp_path / "nowhere")
        assert code == 2
        assert "is no state folder; name the one that" in err
        assert not (tmp_path / "nowhere").exists()


def write_spec(path, old, new):
    changed = Path(path).with_name("changed.json")
    changed.write_bytes(Path(path).read_bytes().replace(old, new))
    return str(changed)


class TestForget:
    def test_it_makes_another_device_and_keeps_what_was_spent(self, command, server, arguments, tmp_path):
        private = ["--once", "--epsilon", "20", "--delta", "1e-5"]
        server.open("private")
        command(*arguments, *private)
        code, out, _ = command("forget", "--state", tmp_path / "state", "--json")
        assert (code, json.loads(out)) == (0, {"state": str(tmp_path / "state"), "num_ledgers_kept": 1})
        server.open("private accuracy")
        command(*arguments, *private)
        assert len(read_ledgers(tmp_path / "state")[0].charges) == 2

    def test_a_client_that_runs_is_not_forgotten(self, command, tmp_path):
        with StateFolder(tmp_path / "state"):
            assert command("forget", "--state", tmp_path / "state")[0] == 1


class TestOptions:
    def test_without_epsilon_and_delta_there_is_no_budget(self):
        assert budget_of(options(), 5) is None

    def test_the_order_is_the_given_one_then_the_ledgers_then_the_most_useful(self):
        asked = options(epsilon=8.0, delta=1e-5)
        assert budget_of(options(epsilon=8.0, delta=1e-5, order=7), None) == Budget(8.0, 1e-5, 7)
        assert budget_of(asked, 9).order == 9
        assert budget_of(asked, None).order == gaussian_order(8.0, 1e-5)

    def test_a_sources_name_does_not_depend_on_where_one_stands(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "share.npz")
        names = {source_name(text) for text in ("npz:share.npz", f"npz:{tmp_path}/share.npz", "npz:./x/../link")}
        assert names == {f"npz:{tmp_path.resolve()}/share.npz"}

    def test_a_spec_is_read_from_a_manifest_or_a_file_of_its_own(self, artifact_folder, artifact, spec_file, tmp_path):
        assert read_spec(artifact_folder / "manifest.json") == artifact.manifest.spec == read_spec(spec_file)
        bad = tmp_path / "bad.json"
        bad.write_text('{"shpe": [3]}')
        with pytest.raises(RecordError, match=r"bad.json: ExampleSpec has an unknown key 'shpe': did you mean 'shape'"):
            read_spec(bad)
