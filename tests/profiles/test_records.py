import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.records import (
    RecordError,
    canonical_json,
    decode_record,
    encode_record,
    from_plain,
    later,
    parse_json,
    record_id,
    to_plain,
)


@dataclass(frozen=True)
class Chip:
    name: str
    clock_mhz: float
    kind: Literal["cpu", "gpu"] = "cpu"

    def __post_init__(self) -> None:
        if self.clock_mhz <= 0:
            raise ValueError(f"clock_mhz must be > 0, got {self.clock_mhz}")


@dataclass(frozen=True)
class Phone:
    name: str
    chips: tuple[Chip, ...] = ()
    screen: tuple[int, int] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    is_sold: bool = True
    year: int | str = 2024
    schema: int = 1


PHONE = Phone("Gerät ☎", (Chip("A", 2400.5), Chip("B", 900, "gpu")), (1080, 2400), {"b": 1e-7, "a": 3.0}, {"x": [None]})


@dataclass(frozen=True)
class OlderChip:
    name: str


@dataclass(frozen=True)
class NewerChip:
    name: str
    cores: int | None = later(None)


def test_a_later_field_is_written_only_where_it_says_something_so_that_older_ids_and_readers_hold():
    assert record_id(NewerChip("A")) == record_id(OlderChip("A"))
    assert decode_record(OlderChip, encode_record(NewerChip("A"))) == OlderChip("A")
    assert decode_record(NewerChip, encode_record(NewerChip("A", 4))) == NewerChip("A", 4)
    assert encode_record(NewerChip("A", 4)) == b'{"cores":4,"name":"A"}'


@dataclass(frozen=True)
class Chips:
    either: Chip | Phone


def test_of_two_kinds_of_record_the_one_whose_keys_they_are_is_read_and_named_in_errors():
    for either in (PHONE, PHONE.chips[0]):
        assert decode_record(Chips, encode_record(Chips(either))) == Chips(either)
    with pytest.raises(RecordError, match=r"Chips\.either: clock_mhz must be > 0, got -1"):
        from_plain(Chips, {"either": {"name": "A", "clock_mhz": -1}})
    with pytest.raises(RecordError, match="unknown key 'kinds': did you mean 'kind'"):
        from_plain(Chips, {"either": {"name": "A", "clock_mhz": 1, "kinds": "gpu"}})


def test_a_record_survives_the_round_trip():
    assert decode_record(Phone, encode_record(PHONE)) == PHONE


def test_canonical_bytes_have_sorted_keys_no_spaces_and_plain_unicode():
    assert encode_record(Chip("é", 2.0)) == '{"clock_mhz":2,"kind":"cpu","name":"é"}'.encode()


def test_the_id_is_the_sha256_of_the_canonical_bytes():
    assert record_id(PHONE) == hashlib.sha256(encode_record(PHONE)).hexdigest()


@pytest.mark.parametrize(
    ("number", "written"),
    [
        # RFC 8785, appendix B
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-5e-324, "-5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (999999999999999700000.0, "999999999999999700000"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e21, "1e+21"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (333333333.3333332, "333333333.3333332"),
        (333333333.33333325, "333333333.33333325"),
        (333333333.3333334, "333333333.3333334"),
        (0.00001, "0.00001"),
        (1e-7, "1e-7"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
        (100.0, "100"),
        (1.25e-10, "1.25e-10"),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(number, written):
    assert canonical_json(number).decode() == written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_reads_back_as_the_same_number(number):
    assert float(json.loads(canonical_json(number))) == number


def test_keys_are_sorted_by_utf_16_code_units():
    # RFC 8785, section 3.2.3: by code points the last two would change places.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    written = canonical_json(dict.fromkeys(keys, 0)).decode()
    assert list(json.loads(written)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_escape_what_json_must_escape_and_nothing_else():
    # RFC 8785, section 3.2.2
    assert (
        canonical_json("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/").decode() == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner)
        ),
        max_leaves=10,
    )
)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "JSON has no nan"),
        ([math.inf], "JSON has no inf"),
        (2**53 + 1, "within 2\\*\\*53"),
        ({1: 2}, "JSON has no dict"),
        (b"x", "JSON has no bytes"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_what_json_does_not_have_is_refused(value, message):
    with pytest.raises(RecordError, match=message):
        canonical_json(value)


def decode_phone(**changes: Any) -> Phone:
    return decode_record(Phone, json.dumps({"name": "p", **changes}))


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(RecordError, match=r"Phone has an unknown key 'scren': did you mean 'screen'\?"):
        decode_phone(scren=[1, 2])


def test_an_unknown_key_far_from_all_lists_the_known_ones():
    with pytest.raises(
        RecordError, match=r"Phone.chips\[0\] has an unknown key 'q': known keys: name, clock_mhz, kind"
    ):
        decode_phone(chips=[{"q": 1}])


def test_a_missing_key_is_named_with_its_place():
    with pytest.raises(RecordError, match=r"Phone.chips\[1\] lacks name, clock_mhz"):
        decode_phone(chips=[{"name": "a", "clock_mhz": 1}, {}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "Phone.name must be a string, got 1"),
        ({"is_sold": 1}, "Phone.is_sold must be true or false, got 1"),
        ({"chips": "abc"}, "Phone.chips must be a list"),
        ({"screen": [1, 2, 3]}, "Phone.screen must be a list of 2"),
        ({"screen": [1, 2.5]}, r"Phone.screen\[1\] must be a whole number, got 2.5"),
        ({"screen": [1, True]}, r"Phone.screen\[1\] must be a whole number, got True"),
        ({"screen": [1, 2**60]}, r"Phone.screen\[1\] must be within 2\*\*53"),
        ({"figures": {"a": "1"}}, "Phone.figures.a must be a number, got '1'"),
        ({"figures": {"a": 10**400}}, r"Phone.figures.a must be within 2\*\*53"),
        ({"figures": [1]}, "Phone.figures must be an object"),
        ({"chips": [{"name": "a", "clock_mhz": 1, "kind": "npu"}]}, "kind must be one of 'cpu', 'gpu', got 'npu'"),
        ({"chips": [{"name": "a", "clock_mhz": 0}]}, r"Phone.chips\[0\]: clock_mhz must be > 0, got 0.0"),
        ({"year": [1]}, "Phone.year must be a string"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(changes, message):
    with pytest.raises(RecordError, match=message):
        decode_phone(**changes)


def test_a_number_may_be_written_either_way():
    assert decode_phone(screen=[1080.0, 2400]).screen == (1080, 2400)
    assert isinstance(decode_phone(figures={"a": 3}).figures["a"], float)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e15, 1e22))
def test_every_number_of_a_record_survives_the_round_trip(number):
    phone = Phone("p", figures={"a": number})
    assert decode_record(Phone, encode_record(phone)) == phone


def test_digits_that_are_no_float_are_refused():
    assert decode_phone(figures={"a": 10**20}).figures["a"] == 1e20
    with pytest.raises(RecordError, match=r"Phone.figures.a must be within 2\*\*53 or written as 1e30"):
        decode_phone(figures={"a": 10**20 + 1})


def test_each_option_of_a_union_is_tried():
    assert (decode_phone(year=2020).year, decode_phone(year="soon").year) == (2020, "soon")
    assert decode_phone(screen=None).screen is None


def test_a_newer_schema_is_refused_by_name_before_its_new_keys():
    with pytest.raises(RecordError, match=r"Phone\.schema is 2, this version reads up to 1: update handheld"):
        decode_phone(schema=2, foldable=True)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused_even_where_anything_goes(constant):
    with pytest.raises(RecordError, match=f"Phone must be finite, got {constant}"):
        decode_record(Phone, f'{{"name": "p", "notes": {{"x": {constant}}}}}')


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(RecordError, match=r"Phone\.figures\.a must be finite"):
        decode_record(Phone, '{"name": "p", "figures": {"a": 1e999}}')


def test_a_key_written_twice_is_refused():
    with pytest.raises(RecordError, match="Phone has the key 'name' twice"):
        decode_record(Phone, '{"name": "p", "name": "q"}')


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\x00", b"", b"[" * 100_000, b"1" * 5000])
def test_bytes_that_are_no_json_are_refused(data):
    with pytest.raises(RecordError, match="Phone must be"):
        decode_record(Phone, data)


def test_parsed_data_decodes_like_bytes():
    assert from_plain(Phone, to_plain(PHONE)) == PHONE == from_plain(Phone, parse_json(encode_record(PHONE), "phone"))


def test_a_record_with_a_field_json_cannot_hold_is_a_defect_of_the_record():
    @dataclass(frozen=True)
    class Odd:
        value: bytes

    with pytest.raises(TypeError, match="records cannot hold"):
        from_plain(Odd, {"value": "x"})
