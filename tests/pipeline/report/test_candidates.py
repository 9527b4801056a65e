from dataclasses import replace

from pipeline.report.candidates import candidates_of, settings_of
from pipeline.report.fronts import fronts_of


def table_of(result) -> dict[str, tuple[str, ...]]:
    table = candidates_of(result, fronts_of(result))
    assert all(len(column.cells) == len(table.trials) for column in table.columns)
    return {"trial": table.trials, **{column.head: column.cells for column in table.columns}}


def test_the_best_score_comes_first(made):
    table = table_of(made.result())
    assert table["trial"] == (1, 2, 0)
    assert table["accuracy (validation)"] == ("75.0%", "60.0%", "50.0%")


def test_costs_are_of_the_slowest_phone(made):
    table = table_of(made.result())
    assert table["latency ms, entry"] == ("4.00", "8.00", "2.00")
    assert table["latency ms, mid"] == ("2.00", "4.00", "1.00")
    assert table["training step ms"] == ("12.0", "24.0", "6.00")
    assert table["on the front of"] == ("entry, mid", "", "entry, mid")


def test_only_hyper_parameters_that_were_searched_have_a_column(made):
    table = table_of(made.result())
    assert table["learning rate"] == ("0.2", "0.3", "0.1")
    assert "local steps" not in table


def test_exact_scores_stand_beside_noisy_ones_and_say_whose_they_are(made):
    assert table_of(made.private_result())["exact (emulator only)"] == ("72.0%", "63.0%", "41.0%")
    assert not [head for head in table_of(made.result()) if "exact" in head]
    assert not [head for head in table_of(made.private_result(emulator_only=None)) if "exact" in head]


def test_without_profiles_there_are_no_costs(made):
    trials = tuple(made.trial(i, 0.5, 1.0, costs=()) for i in range(2))
    heads = list(table_of(made.result(trials=trials)))
    assert heads == ["trial", "accuracy (validation)", "parameters", "network", "learning rate"]


def test_the_winners_settings_tell_what_was_searched_and_leave_out_what_is_not_set(made):
    settings = {setting.name: (setting.value, setting.was_searched) for setting in settings_of(made.result())}
    assert settings["learning rate"] == ("0.2", True)
    assert settings["local steps"] == ("2", False)
    assert "max grad norm" not in settings
    assert all(setting.meaning for setting in settings_of(made.result()))


def test_candidates_without_a_score_come_last_and_say_why(made):
    table = table_of(made.two_models())
    assert table["trial"] == (1, 2, 0)
    assert table["accuracy (validation)"] == ("75.0%", "60.0%", "none")
    assert table["why it has no score"] == ("", "", "1 of at least 3 reports came")
    assert "why it has no score" not in table_of(made.result())


def test_all_winners_are_marked_with_their_platforms(made):
    result = made.two_models()
    assert candidates_of(result, fronts_of(result)).winners == (1, 2)
    assert table_of(result)["its platforms"] == ("middling, dear", "cheap", "")
    assert "its platforms" not in table_of(made.result())


def test_how_trials_were_trained_has_columns_where_it_varies(made):
    first, *others = made.result().trials
    trials = (first, *(replace(one, rounds=2, start_from=0, num_clients=3) for one in others))
    table = table_of(made.result(trials=trials))
    assert table["rounds"] == ("2", "2", "0")
    assert table["starts from trial"] == ("0", "0", "-")
    assert table["clients"] == ("3", "3", "all")
    assert not {"rounds", "starts from trial", "clients", "shared weights"} & set(table_of(made.result()))
