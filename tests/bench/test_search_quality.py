import json

from bench import search_quality
from bench.search_quality import main
from tests.bench.conftest import BOTH, row


def test_the_parts_that_are_asked_for_are_told_with_their_names(stub_runs, tmp_path, monkeypatch, capsys):
    stub_runs(lambda task: row({BOTH: 0.5}, task.seed))
    for name in ("measured", "unreliable", "fidelity"):
        monkeypatch.setattr(search_quality, name, lambda sitting, name=name: ([{"method": f"of {name}"}], []))
    parts = ["unreliable", "platforms", "fidelity", "measured"]
    monkeypatch.setattr("sys.argv", ["search_quality", "--work", str(tmp_path), "--seeds", "2", "--part", *parts])
    main()
    told = json.loads(capsys.readouterr().out)
    assert [(one["part"], one["method"]) for one in told["rows"]] == [
        ("unreliable", "of unreliable"),
        *(("platforms", f"{name}, {count} platforms") for name in ("fednas", "nested_race") for count in (2, 4)),
        ("fidelity", "of fidelity"),
        ("measured", "of measured"),
    ]
    assert len(told["bars"]) == 13
