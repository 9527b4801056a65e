import re

import pytest

from pipeline.privacy_spent import epsilon_text
from pipeline.run_result import accuracy_of, read_result
from profiles.records import RecordError


@pytest.mark.parametrize(("value", "text"), [(7.251, "7.26"), (7.25, "7.25"), (8.0, "8.00"), (7.99875, "8.00")])
def test_an_epsilon_is_rounded_upwards(value, text):
    assert epsilon_text(value) == text


def test_an_interval_widens_with_noise_and_stays_between_zero_and_one():
    plain, noisy = accuracy_of(0.97, 50, 0.0, "plain"), accuracy_of(0.97, 50, 0.1, "noisy")
    assert noisy.low < plain.low < 0.97 < plain.high <= noisy.high <= 1
    assert accuracy_of(1.2, 50, 0.1, "noise moved it out of range").high == 1


def test_a_result_of_an_older_version_is_told_from_an_altered_one_and_names_the_cure(tmp_path):
    (tmp_path / "result.json").write_text('{"name": "digits", "winner": 3, "accuracy": {}, "schema": 1}')
    cure = f"search again in a new folder: handheld search {tmp_path}/run.toml -o NEW"
    with pytest.raises(RecordError, match=re.escape(cure)):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"name": "digits", "modles": [], "schema": 1}')
    with pytest.raises(RecordError, match="did you mean 'models'"):
        read_result(tmp_path)
