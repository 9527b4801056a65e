import tomllib
from math import inf

import pytest
from matplotlib.figure import Figure

from bench import joint_privacy, joint_search
from bench.joint_privacy import (
    CLIENTS,
    COMPARED,
    CONTROL,
    EPSILONS,
    OUR_LISTS,
    OURS,
    PUBLISHED,
    TWO_PHASES,
    bars_of,
    beside_ours,
    draw,
    fit_noise,
    least_factor,
    methods,
    name_of,
    plan_of,
    private,
    table_row,
    tasks_for,
    with_noise,
)
from bench.pictures import save_picture
from bench.search_rows import NEEDS
from bench.search_runs import replace_lines, tasks_of
from pipeline.run_file import RunFileError, parse_run_file
from pipeline.searching.schedule import check_schedule

TEXT = joint_privacy.RUN_FILE.read_text(encoding="utf-8")
METHODS = {method.name: method for method, _ in methods()}
FEATHERS = name_of(joint_privacy.FEATHERS, "device")
RATIOS = PUBLISHED[joint_privacy.TEST].replace("noise_multiplier = 1.0, loss", "noise_multiplier = 3.0, loss")


def run_of(*settings):
    """The run file with other values in the place of those that stand there once."""
    return parse_run_file(replace_lines(TEXT, dict(settings)))


def fitted(text):
    """Its run file with fitted noise, parsed."""
    return parse_run_file(with_noise(text, fit_noise(parse_run_file(text))))


def row(seed, accuracy, seconds=50.0, text=TEXT):
    costs = {"client_rounds": 10, "client_seconds": seconds, "bytes": 1000, "evaluations": 1}
    model = {"trial": 3, "test_accuracy": accuracy, **{need: {"phone": 0.3} for need in NEEDS}}
    ran = {"search": costs, "final": costs, "models": [model], "num_trials": 4, "steps": [], "commit": "abc"}
    return {"seed": seed, "run_file": text, **ran}


def rows(accuracy, seconds=50.0, text=TEXT, seeds=range(5)):
    return [row(seed, accuracy + seed / 100, seconds, text) for seed in seeds]


def test_what_privacy_has_no_part_in_is_as_in_the_bench_without_it():
    own, free = tomllib.loads(TEXT), tomllib.loads(joint_search.RUN_FILE.read_text(encoding="utf-8"))
    assert own.keys() - free.keys() == {"privacy"}
    for table in free.keys() - {"run", "training", "final"}:
        assert own[table] == free[table]


def test_without_noise_stands_the_very_run_of_the_bench_without_it():
    method = next(method for method, _ in joint_search.methods() if method.name == OURS)
    text = joint_search.RUN_FILE.read_text(encoding="utf-8")
    assert tasks_for(METHODS[OURS], [0, 1]) == tasks_of(text, [method], [0, 1])


def test_each_method_has_its_place_of_noise_and_its_epsilon():
    found = {}
    for name, method in METHODS.items():
        (task,) = tasks_of(TEXT, [method], [3]) if name != OURS else tasks_for(method, [3])
        run = parse_run_file(task.run_file)
        found[name] = run.privacy and (run.search.algorithm, run.privacy.noise_at, run.privacy.target_epsilon)
    assert found.pop(OURS) is None
    assert [found.pop(name_of(OURS, "sum", epsilon)) for epsilon in EPSILONS] == [(OURS, "sum", e) for e in EPSILONS]
    assert found.pop(name_of(OURS, "device", 1)) == (OURS, "device", 1)
    assert found[name_of(CONTROL, "sum")] == ("random_search", "sum", 8)
    forms = (name_of(name, "device") for name in (joint_privacy.FEATHERS, TWO_PHASES, OUR_LISTS))
    assert {found[name] for name in forms} == {("feathers", "device", 8)}
    assert found[name_of(CLIENTS, "sum")] == (OURS, "sum", 8)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if "feathers" in name else ()) for name in METHODS if name != OURS],
)
def test_the_fitted_noise_of_every_method_spends_its_epsilon_and_no_more(name):
    first, second = tasks_for(METHODS[name], [0, 1])
    assert first.run_file.replace("seed = 0", "seed = 1") == second.run_file
    schedule = check_schedule(parse_run_file(first.run_file))  # raises where the run would refuse its noise
    target = parse_run_file(first.run_file).privacy.target_epsilon
    assert {"train", "validation", "test"} == schedule.epsilon_by_split.keys()
    for spent in schedule.epsilon_by_split.values():
        assert 0.99 * target < spent <= target


@pytest.mark.parametrize("table", ["update", "metrics", "test"])
def test_less_noise_of_any_table_does_not_fit(table):
    run = run_of(("target_epsilon = 8", "target_epsilon = 2"))
    noise = fit_noise(run)
    noise[table] -= 0.002  # one thousandth of it may be rounding
    text = TEXT.replace("target_epsilon = 8", "target_epsilon = 2")
    assert plan_of(parse_run_file(with_noise(text, noise)))[1].epsilon > 2


def test_more_releases_need_more_noise_and_no_other_split_pays_for_them():
    few, many = fit_noise(run_of()), fit_noise(run_of(("rounds = 80", "rounds = 320")))
    assert many["update"] == pytest.approx(2 * few["update"], rel=0.2)
    assert (many["metrics"], many["test"]) == (few["metrics"], few["test"])


def test_less_epsilon_needs_more_noise():
    found = [fit_noise(run_of(("target_epsilon = 8", f"target_epsilon = {e}"))) for e in EPSILONS]
    for table in ("update", "metrics", "test"):
        assert [noise[table] for noise in found] == sorted((noise[table] for noise in found), reverse=True)


def test_tables_of_one_split_keep_their_ratio():
    settings = {**PUBLISHED, joint_privacy.UPDATE: joint_privacy.UPDATE, joint_privacy.TEST: RATIOS}
    (task,) = tasks_of(TEXT, [private("any", METHODS[FEATHERS].search, "device", settings=settings)], [0])
    noise = fit_noise(parse_run_file(task.run_file))
    assert noise["reward"] / noise["metrics"] == pytest.approx(3, rel=1e-2)
    assert check_schedule(fitted(task.run_file)).epsilon > 7.92


def test_clients_pay_for_all_splits_on_one_account():
    (task,) = tasks_for(METHODS[name_of(CLIENTS, "sum")], [0])
    run = parse_run_file(task.run_file)
    tables = run.privacy.tables()
    assert (run.data.clients, run.round.cohort_size, run.privacy.unit) == (1000, 1000, "client")
    assert tables["metrics"].noise_multiplier == pytest.approx(2 * tables["update"].noise_multiplier, abs=2e-3)
    assert len(set(check_schedule(run).epsilon_by_split.values())) == 1
    alone = fit_noise(parse_run_file(replace_lines(task.run_file, {"rounds = 16": "rounds = 8"})))
    assert alone["test"] < tables["test"].noise_multiplier  # fewer updates leave more for everything else


@pytest.mark.slow
def test_where_splits_have_different_best_orders_all_noise_grows_until_one_order_fits():
    """Many sampled steps on one split, one release at rate 1 on another: each alone would need less noise."""
    text = TEXT.replace("update = { sample_rate = 1.0", "update = { sample_rate = 0.02")
    noise, gaussian = fit_noise(parse_run_file(text)), fit_noise(run_of())
    assert noise["test"] > gaussian["test"] + 0.01
    spent = check_schedule(parse_run_file(with_noise(text, noise))).epsilon_by_split
    assert 7.92 < max(spent.values()) <= 8
    assert spent["test"] < 7.92 or spent["train"] < 7.92


def test_noise_is_fitted_to_private_runs_that_noise_can_help():
    with pytest.raises(ValueError, match=r"joint-search has no noise to fit: add the table \[privacy\]"):
        fit_noise(parse_run_file(joint_search.RUN_FILE.read_text(encoding="utf-8")))
    with pytest.raises(ValueError, match="up to 10000 times as large fits: raise target_epsilon"):
        fit_noise(run_of(("target_epsilon = 8", "target_epsilon = 1e-4")))


@pytest.mark.parametrize("least", [0.5, 1.0, 7.25, 99.0])
def test_the_least_factor_fits_and_what_is_a_little_less_does_not(least):
    found = least_factor(lambda factor: factor >= least, 0.5, 100.0)
    assert least <= found < least * (1 + 2e-5)


def test_nothing_fits_where_the_largest_does_not():
    with pytest.raises(ValueError, match="no noise up to 100 times"):
        least_factor(lambda factor: factor >= inf, 0.5, 100.0)


def test_noise_goes_to_the_table_of_its_name():
    before, after = TEXT, with_noise(TEXT, {"metrics": 2.5})
    assert [line for line in after.splitlines() if line not in before.splitlines()] == [
        "metrics = { sample_rate = 1.0, noise_multiplier = 2.500 }"
    ]
    with pytest.raises(ValueError, match="line of the table reward once, it has it 0 times"):
        with_noise(TEXT, {"reward": 1.0})


def test_feathers_with_noise_on_the_sum_is_refused():
    with pytest.raises(RunFileError, match=r"\[privacy.reward\] noise_at = 'sum' takes no step on the phone"):
        tasks_of(TEXT, [private("any", METHODS[FEATHERS].search, "sum", settings=PUBLISHED)], [0])


def test_a_row_says_what_was_spent_and_what_that_cost():
    free, name = rows(0.90, text=joint_search.RUN_FILE.read_text(encoding="utf-8")), name_of(OURS, "sum")
    (task,) = tasks_for(METHODS[name], [0])
    found = table_row(name, rows(0.88, text=task.run_file), free)
    assert (found["noise_at"], found["unit"], found["epsilon"], found["seeds"]) == ("sum", "example", 8, 5)
    assert found["epsilon_by_split"] == plan_of(parse_run_file(task.run_file))[1].epsilon_by_split
    assert found["noise_multipliers"]["update"] == pytest.approx(5.99, abs=0.01)
    assert found["test_accuracy"] == pytest.approx(0.90)
    assert found["interval"][1] - 0.90 == pytest.approx(2.776445 * 0.0158114 / 5**0.5)
    assert found["difference"]["low"] == pytest.approx(found["difference"]["mean"]) == pytest.approx(-0.02)
    assert len(found["runs"]) == 5
    without = table_row(OURS, free, free)
    assert (without["noise_at"], without["epsilon"]) == (None, None)
    assert table_row(name, rows(0.88, text=task.run_file), free[:1])["difference"] is None


def test_clients_are_compared_with_nothing():
    (task,) = tasks_of(TEXT, [METHODS[name_of(CLIENTS, "sum")]], [0])
    found = table_row(name_of(CLIENTS, "sum"), rows(0.5, text=task.run_file), rows(0.9))
    assert (found["unit"], found["difference"]) == ("client", None)


def met(*, free=0.94, on_sum=0.90, on_device=0.80, published=0.77, seconds=60.0, seeds=range(5)):
    named = {name_of(OURS, "sum"): on_sum, name_of(OURS, "device"): on_device, OURS: free}
    found = {name: rows(accuracy, seeds=seeds) for name, accuracy in named.items()}
    found[FEATHERS] = rows(published, seconds, seeds=seeds)
    return [bar.met for bar in bars_of(found)]


def test_the_bars_are_five_points_on_the_sum_and_two_over_feathers_at_no_more_cost():
    assert met() == [True, True, True, True]
    assert met(on_sum=0.88) == [False, True, True, True]
    assert met(published=0.79) == [True, True, False, True]
    assert met(seconds=40.0) == [True, True, True, False]
    assert met(seeds=range(4)) == [True, False, True, True]
    assert met(seeds=range(1)) == []


def test_every_form_of_feathers_has_its_bars():
    names = (name_of(name, "device") for name in (OURS, joint_privacy.FEATHERS, TWO_PHASES, OUR_LISTS))
    bars = bars_of({name: rows(0.9 - 0.1 * i) for i, name in enumerate(names)})
    assert [round(bar.value, 6) for bar in bars] == [0.1, 1.0, 0.2, 1.0, 0.3, 1.0]


def table():
    text = joint_search.RUN_FILE.read_text(encoding="utf-8")
    found = [table_row(OURS, rows(0.94, text=text), [])]
    for place, best in (("sum", 0.9), ("device", 0.8)):
        for epsilon in EPSILONS:
            own = replace_lines(TEXT, private("any", {}, place, epsilon).settings)
            found.append(table_row(name_of(OURS, place, epsilon), rows(best - 0.1 / epsilon, text=own), []))
    found.append(table_row(FEATHERS, rows(0.2, seeds=[0]), []))
    found.append(table_row(name_of(CLIENTS, "sum"), rows(0.5), []))
    return found


def test_the_plot_has_a_line_a_place_of_noise_and_points_of_what_stands_beside_it():
    axes = Figure().add_subplot()
    draw(axes, {row["method"]: row for row in table()})
    handles, labels = axes.get_legend_handles_labels()
    assert sorted(labels) == ["feathers, device", "no noise", "ours, device", "ours, sum"]
    lines = dict(zip(labels, handles, strict=True))
    assert lines["no noise"].get_ydata() == pytest.approx([0.96, 0.96])
    assert lines["no noise"].get_linestyle() == "--"
    drawn, _, (intervals,) = lines["ours, device"]
    assert list(drawn.get_xdata()) == list(EPSILONS)
    assert list(drawn.get_ydata()) == pytest.approx([0.82 - 0.1 / epsilon for epsilon in EPSILONS])
    assert (intervals.get_segments()[0][1] - intervals.get_segments()[0][0])[1] == pytest.approx(2 * 0.019632, rel=1e-4)
    assert (list(lines["feathers, device"].get_xdata()), axes.get_xscale()) == ([COMPARED], "log")


@pytest.mark.parametrize("suffix", [".svg", pytest.param(".png", marks=pytest.mark.slow)])
def test_the_same_rows_give_the_same_picture(tmp_path, suffix):
    first, again = tmp_path / f"first{suffix}", tmp_path / f"again{suffix}"
    for file in (first, again):
        save_picture(lambda axes: draw(axes, {row["method"]: row for row in table()}), file)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes()[:4] in {b"<?xm", b"\x89PNG"}


def test_the_command_runs_the_methods_asked_for_and_draws_them(tmp_path, monkeypatch, capsys, stub_runs):
    asked = stub_runs(lambda task: row(task.seed, 0.9 - 0.03 * (task.method != OURS), text=task.run_file))
    names, drawn = [OURS, name_of(OURS, "sum")], tmp_path / "curve.svg"
    options = ["--work", str(tmp_path), "--seeds", "2", "--plot", str(drawn), "--methods", *names]
    monkeypatch.setattr("sys.argv", ["joint_privacy", *options])
    joint_privacy.main()
    assert [(task.method, task.seed) for task in asked] == [(name, seed) for name in names for seed in (0, 1)]
    assert '"mean": -0.03' in capsys.readouterr().out
    assert drawn.exists()
    monkeypatch.setattr("sys.argv", ["joint_privacy", "--work", str(tmp_path), "--plot", "curve.gif"])
    with pytest.raises(SystemExit):
        joint_privacy.main()
    assert "--plot must end in .svg or .png, got curve.gif" in capsys.readouterr().err


def test_ours_is_told_beside_others_with_intervals():
    found = beside_ours({
        name_of(OURS, "sum"): rows(0.9),
        name_of(CONTROL, "sum"): rows(0.88),
        name_of(OURS, "device"): rows(0.8),
        FEATHERS: rows(0.6),
    })  # fmt: skip
    assert [row["method"].split(" against ")[1] for row in found] == [
        name_of(CONTROL, "sum"), FEATHERS
    ]  # fmt: skip
    assert [round(row["accuracy"]["mean"], 6) for row in found] == [0.02, 0.2]
    assert all(row["accuracy"]["low"] <= row["accuracy"]["mean"] <= row["accuracy"]["high"] for row in found)
