import re
from pathlib import Path

import pytest

from pipeline.run_file import RunFileError, parse_run_file, read_run_file
from pipeline.search_sections import ALGORITHMS

KNOWN = ", ".join(map(repr, ALGORITHMS))
ORDINARY = """
[run]
name = "digits"
seed = 7
kind = "emulated"

[data]
source = "digits"
partition = "dirichlet"
clients = 30
alpha = 0.5

[fleet]
profiles = ["low", "high"]

[space]
kinds = ["depthwise", "inverted"]
widths = [8, 16]
depths = [1, 2]
kernels = [3, 5]
strides = [1, 2]
expansions = [1, 4]
heads = ["flatten", "global_average"]
max_stages = 2

[budgets.default]
latency_ms = 20
size_kib = 64.5

[search]
algorithm = "regularized_evolution"
trials = 12
parallel = 4
rounds = 3
population_size = 6
tournament_size = 3

[training]
learning_rate = [0.03, 0.1]
momentum = 0.9
local_epochs = 1
batch_size = 8

[final]
rounds = 20

[round]
cohort_size = 10
over_selection = 1.3
min_reports = 8
deadline_s = 600
"""


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def errors_of(text: str) -> tuple[str, ...]:
    with pytest.raises(RunFileError) as refused:
        parse_run_file(text)
    return refused.value.lines


def test_an_ordinary_run_file_is_read():
    run = parse_run_file(ORDINARY)
    assert run.run.seed == 7
    assert run.space.widths == (8, 16)
    assert run.budgets["default"].latency_ms == 20
    assert run.budgets["default"].memory_mib is None
    assert run.privacy is None
    assert run.fleet.profiles == ("low", "high")


SPACE = ORDINARY[ORDINARY.index("[space]") : ORDINARY.index("[budgets.default]")]
CELLS = """[cells]
operations = ["none", "skip", "max_pool", "conv_3"]
nodes = 2
width = 8
strides = [1, 2]
depth = 2

"""


def test_a_run_file_with_cells_is_read():
    run = parse_run_file(edited(ORDINARY, SPACE, CELLS))
    assert run.space is None
    assert (run.cells.operations, run.cells.strides) == (("none", "skip", "max_pool", "conv_3"), (1, 2))
    assert (run.cells.final_depth, run.cells.edges_kept, run.cells.head) == (None, 2, "flatten")
    assert run.heads == ("flatten",)
    assert parse_run_file(ORDINARY).heads == ("flatten", "global_average")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("nodes = 2", "nods = 2", "run.toml: [cells] has an unknown key 'nods'; did you mean 'nodes'?"),
        ("width = 8\n", "", "run.toml: [cells] lacks width"),
        ("nodes = 2", "nodes = 0", "run.toml: [cells] nodes must be greater than or equal to 1, got 0"),
        ("depth = 2", "edges_kept = 3", "run.toml: [cells] edges_kept must be less than or equal to 2, got 3"),
        ("[1, 2]", "[]", "run.toml: [cells] strides must list at least one option, got []"),
        ('"skip", ', '"skipp", ', "run.toml: [cells] operations[1] must be 'none', 'skip', 'average_pool',"),
        ("[cells]", "[cell]", "run.toml: unknown table [cell]; did you mean 'cells'?"),
        (
            "learning_rate = [0.03, 0.1]",
            "learning_rate = { low = 0.2, high = 0.1 }",
            "run.toml: [training] learning_rate must have low < high, got low = 0.2 and high = 0.1; or give one value",
        ),
        (
            "local_epochs = 1",
            "local_epochs = { low = 1, high = 3 }",
            "run.toml: [training] local_epochs must be a value or a list: an interval stands for real numbers, and not",
        ),
    ],
)
def test_a_wrong_key_or_value_of_cells_is_one_line_with_table_and_cure(old, new, line):
    assert any(told.startswith(line) for told in errors_of(edited(edited(ORDINARY, SPACE, CELLS), old, new)))


@pytest.mark.parametrize(
    ("key", "cure"),
    [("learning_rat", "did you mean 'learning_rate'?"), ("zzz", "known: learning_rate, momentum, weight_decay, arch")],
)
def test_an_unknown_key_of_the_default_configuration_is_told_with_those_that_it_has(key, cure):
    section = ORDINARY[ORDINARY.index("[search]") : ORDINARY.index("[training]")]
    search = f'[search]\nalgorithm = "fedex"\nrounds = 3\ndefault = {{ {key} = 0.1 }}\n\n'
    told = errors_of(edited(ORDINARY, section, search))
    assert any(line.startswith(f"run.toml: [search.default] has an unknown key {key!r}; {cure}") for line in told)


def test_blocks_are_no_cells():
    (line,) = errors_of(edited(ORDINARY, '["depthwise", "inverted"]', '["cell"]'))
    assert line == "run.toml: [space] kinds[0] must be 'depthwise' or 'inverted', got 'cell'"


def test_a_single_value_is_a_list_of_one_option():
    training = parse_run_file(ORDINARY).training
    assert training.momentum == (0.9,)
    assert training.learning_rate == (0.03, 0.1)
    assert training.batch_size == (8,)


def test_what_has_a_default_is_plain_federated_averaging_without_clipping():
    training = parse_run_file(ORDINARY).training
    assert (training.server_learning_rate, training.server_momentum, training.max_grad_norm) == ((1.0,), (0.0,), None)


def test_a_run_file_cannot_be_changed_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        parse_run_file(ORDINARY).run.seed = 8


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("trials = 12", "trails = 12", "run.toml: [search] has an unknown key 'trails'; did you mean 'trials'?"),
        ("population_size = 6\n", "", "run.toml: [search] lacks population_size"),
        ("tournament_size = 3\n", "", "run.toml: [search] lacks tournament_size"),
        (
            "regularized_evolution",
            "random_search",
            "run.toml: [search] has an unknown key 'population_size'; known: algorithm, trials, rounds, parallel",
        ),
        (
            "regularized_evolution",
            "fednass",
            f"run.toml: [search] algorithm must be one of {KNOWN}, got 'fednass'",
        ),
        (
            'algorithm = "regularized_evolution"\n',
            "",
            f"run.toml: [search] algorithm must be one of {KNOWN}",
        ),
        ('[search]\nalgorithm = "regularized_evolution"', "[other]", "run.toml: lacks the table [search]"),
        ("[final]", "[finale]", "run.toml: unknown table [finale]; did you mean 'final'?"),
        (
            "size_kib",
            "size_kb",
            "run.toml: [budgets.default] has an unknown key 'size_kb'; did you mean 'size_kib'?",
        ),
        (
            "rounds = 20",
            "rounds = 20\nzzz = 1",
            "run.toml: [final] has an unknown key 'zzz'; known: rounds, start",
        ),
        ("seed = 7", "", "run.toml: [run] lacks seed"),
        ("[final]\nrounds = 20", "", "run.toml: lacks the table [final]"),
        ("seed = 7", 'seed = "7"', "run.toml: [run] seed must be a valid integer, got '7'"),
        ("seed = 7", "seed = true", "run.toml: [run] seed must be a valid integer, got True"),
        ("trials = 12", "trials = 0", "run.toml: [search] trials must be greater than or equal to 1, got 0"),
        ("0.03, 0.1]", "0.03, inf]", "run.toml: [training] learning_rate[1] must be a finite number, got inf"),
        ("[8, 16]", "[8, -1]", "run.toml: [space] widths[1] must be greater than or equal to 1, got -1"),
        ("alpha = 0.5", "alpha = 0", "run.toml: [data] alpha must be greater than 0, got 0"),
        ("1.3", "0.5", "run.toml: [round] over_selection must be greater than or equal to 1, got 0.5"),
        ('"emulated"', '"simulated"', "run.toml: [run] kind must be 'emulated' or 'real', got 'simulated'"),
        (
            "latency_ms = 20",
            "latency_ms = -2.5",
            "run.toml: [budgets.default] latency_ms must be greater than 0, got -2.5",
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_file_table_and_cure(old, new, line):
    assert line in errors_of(edited(ORDINARY, old, new))


@pytest.mark.parametrize("source", ["digit", "images:", "npz", "csv:a.csv", ""])
def test_a_source_that_no_reader_reads_is_refused(source):
    (line,) = errors_of(edited(ORDINARY, 'source = "digits"', f'source = "{source}"'))
    assert line.startswith("run.toml: [data] source must match pattern")
    assert "digits|images:" in line


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "two words"])
def test_a_name_that_is_no_plain_folder_name_is_refused(name):
    assert "[run] name must match" in errors_of(edited(ORDINARY, '"digits"\nseed', f'"{name}"\nseed'))[0]


@pytest.mark.parametrize("key", ["widths", "kernels", "strides", "depths", "kinds", "heads"])
def test_an_empty_list_of_options_is_refused(key):
    text = re.sub(rf"^{key} = .*$", f"{key} = []", ORDINARY, flags=re.MULTILINE)
    assert errors_of(text) == (f"run.toml: [space] {key} must list at least one option, got []",)


@pytest.mark.parametrize(("value", "told"), [("1e-60", "1e-60"), ("[0.1, 1e39]", "1e+39"), ("1e300", "1e+300")])
@pytest.mark.parametrize("key", ["server_learning_rate", "learning_rate"])
def test_a_rate_that_float32_does_not_hold_is_refused_in_one_line(key, value, told):
    text = re.sub(r"^learning_rate = .*$", "learning_rate = 0.1", ORDINARY, flags=re.MULTILINE)
    found = "learning_rate = 0.1"
    text = edited(text, found, f"{key} = {value}" + ("" if key == "learning_rate" else f"\n{found}"))
    (line,) = errors_of(text)
    assert line.startswith(f"run.toml: [training] {key}[{int(told == '1e+39')}] must be from 1.2e-38 to 3.4e38")
    assert line.endswith(f"got {told}")


def test_every_error_is_told_at_once():
    text = edited(edited(ORDINARY, "seed = 7", "sed = 7"), "trials = 12", "trials = 0")
    assert len(errors_of(text)) == 3  # an unknown key, a missing key, a wrong value


def test_a_file_that_is_not_toml_is_told_with_the_line():
    with pytest.raises(RunFileError, match=r"^run\.toml is not TOML: .*line 2"):
        parse_run_file("[run]\nname digits\n")


def test_errors_name_the_file_that_was_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(edited(ORDINARY, "seed = 7", ""))
    with pytest.raises(RunFileError, match=r"mine\.toml: \[run\] lacks seed"):
        read_run_file(path)
    path.write_text(ORDINARY)
    assert read_run_file(path) == parse_run_file(ORDINARY)


def test_a_file_that_is_absent_or_not_text_is_told(tmp_path):
    with pytest.raises(RunFileError, match="cannot be read: No such file"):
        read_run_file(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RunFileError, match="cannot be read: it is not UTF-8"):
        read_run_file(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].joinpath("docs", "examples").glob("*.toml")), ids=lambda path: path.name
)
def test_every_example_is_a_run_file(path):
    assert read_run_file(path).run.kind == "emulated"
