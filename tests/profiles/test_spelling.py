import pytest

from profiles.spelling import cure_of


@pytest.mark.parametrize(
    ("name", "otherwise", "cure"),
    [
        ("widhts", "known: {known}", "did you mean 'widths'?"),
        ("x", "known: {known}", "known: widths, depths"),
        ("x", "it takes {known}", "it takes widths, depths"),
        ("x", "ask its owner", "ask its owner"),
    ],
)
def test_a_near_name_is_asked_for_and_otherwise_all_are_told(name: str, otherwise: str, cure: str) -> None:
    assert cure_of(name, ("widths", "depths"), otherwise) == cure
