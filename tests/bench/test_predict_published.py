import gzip
import hashlib

import numpy as np
import pytest

from bench import predict_published
from bench.predict_published import (
    DATA,
    LAYERS,
    MODELS,
    SCORES,
    Latency,
    Layers,
    bars_of,
    is_test,
    layer_rows,
    model_rows,
    new_phone_rows,
    read_latencies,
    read_layers,
)

HEADER = "device,layer,in_size,out_size,batch_size,seq_len,train_time_s"
needs_data = pytest.mark.skipif(not (DATA / MODELS).exists(), reason="the data are beside the project, not in it")


def layers(seed, num_rows=90, speed=1.0):
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 20, (num_rows, 4)).astype(float)
    times = speed * (1 + rows.prod(1) / 100) * np.exp(0.03 * rng.standard_normal(num_rows))
    return Layers(np.arange(num_rows), rows, times, np.arange(num_rows) % 3 == 0)


def latencies(held_back_ms=1.0):
    """Ratios that depend on the SoC a little; one row of each SoC held back, and its value as wished."""
    found = []
    for i, model in enumerate(("a", "b", "c", "d")):
        for j, soc in enumerate(("s", "t", "u", "v", "w")):
            is_held_back = i == 1 + j % 3
            ms = (1 + i) * (1 + j) * (1 + 0.02 * ((3 * i + j) % 4))
            found.append(Latency(len(found), "fp32", model, soc, held_back_ms if is_held_back else ms, is_held_back))
    return found


def without_measured(row):
    return [[value for i, value in enumerate(one) if i != 1] for one in row["tested"]]


def test_a_line_is_held_back_by_its_text_alone():
    lines = [f"line {i}" for i in range(1000)]
    expected = [int.from_bytes(hashlib.sha256(line.encode()).digest()) % 5 == 0 for line in lines]
    assert [is_test(line) for line in lines] == expected
    assert 160 < sum(expected) < 240


def test_layers_are_read_with_their_lines_in_milliseconds_whatever_ends_a_line(tmp_path):
    lines = [HEADER, "p,lstm,50,100,5,2,0.5", "q,lstm,50,100,5,4,0.25", "p,lstm,50,100,5,6,0.75"]
    for end in ("\n", "\r\n"):
        (tmp_path / "layers.csv.gz").write_bytes(gzip.compress((end.join(lines) + end).encode()))
        found = read_layers(tmp_path / "layers.csv.gz")
        assert list(found) == [("p", "lstm"), ("q", "lstm")]
        rows = found["p", "lstm"]
        assert (rows.lines.tolist(), rows.times_ms.tolist()) == ([1, 3], [500, 750])
        assert rows.features.tolist() == [[50, 100, 5, 2], [50, 100, 5, 6]]
        assert rows.is_test.tolist() == [is_test(lines[1]), is_test(lines[3])]


def test_latencies_are_read_with_their_section(tmp_path):
    lines = ["section,config,model,soc,avg_ms", "CPU,dense,MobileNetV1,S 1,28.38", "GPU,,MobileNetV1,S 1,6.39"]
    (tmp_path / "models.csv").write_text("\n".join(lines) + "\n")
    first, second = read_latencies(tmp_path / "models.csv")
    assert first == Latency(1, "CPU dense", "MobileNetV1", "S 1", 28.38, is_test(lines[1]))
    assert (second.config, second.line, second.ms) == ("GPU", 2, 6.39)


def test_a_draw_trains_with_no_row_that_is_held_back_and_tests_no_other():
    rows = layers(0)
    train, test = rows.drawn(np.random.default_rng(0), 50)
    assert (len(train.lines), len(test.lines)) == (50, 30)
    assert not train.is_test.any()
    assert test.is_test.all()
    other, _ = rows.drawn(np.random.default_rng(1), 50)
    assert set(other.lines) != set(train.lines)


@pytest.mark.slow
def test_scores_of_layers_are_those_of_the_printed_rows(monkeypatch):
    monkeypatch.setattr(predict_published, "MANY", 60)
    (row,) = layer_rows(("p", "lstm"), layers(0), 1)
    _, measured, predicted, low, high, low95, high95, forest = np.array(row["tested"]).T
    assert row["within_10"] == np.mean(np.abs(predicted / measured - 1) <= 0.1) > row["simple_within_10"]
    assert row["simple_within_10"] == np.mean(np.abs(forest / measured - 1) <= 0.1)
    assert row["covered_80"] == np.mean((low <= measured) & (measured <= high))
    assert row["covered_95"] == np.mean((low95 <= measured) & (measured <= high95))


@pytest.mark.slow
def test_what_is_held_back_changes_no_prediction_for_a_new_phone(monkeypatch):
    monkeypatch.setattr(predict_published, "FEW", 40)
    phones = {"p": layers(0), "q": layers(1, speed=3.0)}
    changed = {
        name: Layers(one.lines, one.features, np.where(one.is_test, 9.0, one.times_ms), one.is_test)
        for name, one in phones.items()
    }
    found, again = ([*new_phone_rows(one, "lstm", 1)] for one in (phones, changed))
    assert [without_measured(row) for row in found] == [without_measured(row) for row in again]
    assert [row["device"] for row in found] == ["p", "q"]


def test_what_is_held_back_changes_no_prediction_of_a_model():
    found, again = ([*model_rows(latencies(ms))] for ms in (1.0, 70.0))
    assert [row["device"] for row in found] == ["s", "t", "u", "v", "w"]
    assert [without_measured(row) for row in found] == [without_measured(row) for row in again]


def test_a_plain_ratio_goes_through_the_same_anchor():
    table = {(one.model, one.soc): one.ms for one in latencies()}
    row = next(iter(model_rows(latencies())))
    ((line, *_, anchor, ratios),) = row["tested"]
    model = latencies()[line].model
    assert not any(one.is_test for one in latencies() if one.soc == "s" and one.model == anchor)
    held_back = {(one.model, one.soc) for one in latencies() if one.is_test}
    others = [soc for soc in "tuvw" if not {(model, soc), (anchor, soc)} & held_back]
    expected = [table[model, soc] * table[anchor, "s"] / table[anchor, soc] for soc in others]
    assert ratios == pytest.approx(expected, rel=1e-4)


def test_bars_are_of_the_printed_rows():
    row = {"task": "layers", "simple_within_10": 0.5, "seconds_of_10000": 0.1}
    rows = [row | {"within_10": 0.9, "covered_80": 0.9, "tested": [0] * 3}]
    rows += [row | {"within_10": 0.8, "covered_80": 0.6, "tested": [0], "seconds_of_10000": 3.0}]
    found = {bar.name: (round(bar.value, 4), bar.met) for bar in bars_of(rows)}
    assert found == {
        "layers: mean share within 10% (simple way 0.500)": (0.85, True),
        "layers: seconds of 10,000 predictions, the slowest": (3.0, False),
        "layers: 80% intervals cover at least": (0.825, True),
        "layers: 80% intervals cover at most": (0.825, True),
    }


def test_the_error_of_models_is_the_median_over_all_rows():
    tested = [[1, 100.0, 104.0, 0, 0, 0, 0, "a", [110.0]], [2, 100.0, 98.0, 0, 0, 0, 0, "a", [120.0, 130.0]]]
    row = {"task": "whole models", "num_unknown": 1}
    rows = [row | {"covered_80": 0.8, "tested": tested}, row | {"covered_80": None, "num_unknown": 3, "tested": []}]
    bar = next(iter(bars_of(rows)))
    assert (bar.value, bar.met) == (pytest.approx(0.03), True)
    assert bar.name.endswith("of 2 rows, 4 without anchor (plain ratio 0.2000)")


def test_a_device_of_which_nothing_is_predicted_is_told():
    (row,) = model_rows([one for one in latencies() if one.soc == "s"])
    assert (row["device"], row["num_unknown"], row["tested"]) == ("s", 1, [])
    assert {row[name] for name in SCORES} == {None}


@needs_data
def test_whole_models_of_the_published_table_are_predicted_better_than_by_plain_ratios():
    rows = [*model_rows(read_latencies(DATA / MODELS))]
    error, low, high = bars_of(rows)
    assert error.met
    assert error.value < 0.8 * float(error.name.split()[-1].rstrip(")"))
    assert low.met
    assert high.met


@needs_data
@pytest.mark.slow
def test_a_fifth_of_the_published_layers_is_held_back():
    published = read_layers(DATA / LAYERS)
    assert len(published) == 9
    shares = [rows.is_test.mean() for rows in published.values()]
    assert all(len(rows.lines) == 20_000 for rows in published.values())
    assert max(abs(share - 0.2) for share in shares) < 0.01
