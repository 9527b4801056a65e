import pytest

from pipeline.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (5, "5.00"),
        (0.63, "0.630"),
        (99.96, "100"),
        (123.4, "123"),
        (1234567.8, "1,234,568"),
        (-0.5, "-0.500"),
        (0.00001234, "1.23e-05"),
    ],
)
def test_three_digits_are_written_or_all_before_the_point(value, text):
    assert formats.significant(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (7 * 2**20, "7.00 MiB"), (2**62, "4,194,304 TiB")],
)
def test_bytes_have_the_unit_that_fits(num_bytes, text):
    assert formats.size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.50 s"), (119, "119 s"), (1530.08, "25 min 30 s"), (3725, "1 h 2 min")]
)
def test_durations_are_told_as_people_do(seconds, text):
    assert formats.duration(seconds) == text


def test_a_share_outside_of_0_to_1_is_told_as_it_is():
    assert [formats.percent(share) for share in (0.8125, 1.04, -0.05)] == ["81.2%", "104.0%", "-5.0%"]


def test_a_span_of_values_that_read_alike_is_one_value():
    assert formats.span([0.2, 0.78, 0.5], "ms") == "0.20 to 0.78 ms"
    assert formats.span([0.2, 0.2001], "ms") == "0.20 ms"
