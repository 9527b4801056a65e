"""Groups of clients with nearly equal data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.clients import Client, balance


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.data())
def test_every_client_is_in_one_group_and_none_is_heavier_than_a_client_more_than_the_lightest(counts, data):
    num_groups = data.draw(st.integers(1, len(counts)))
    clients = [Client(f"{i:02}", count) for i, count in enumerate(counts)]
    groups = balance(data.draw(st.permutations(clients)), num_groups)
    assert groups == balance(clients, num_groups)  # whoever enrolled first
    assert len(groups) == num_groups
    assert sorted(name for group in groups for name in group) == [client.name for client in clients]
    weights = [sum(counts[int(name)] for name in group) for group in groups]
    assert max(weights) - min(weights) <= max(counts)


def test_equal_clients_are_dealt_out_evenly_even_with_nothing_to_weigh():
    assert [len(group) for group in balance([Client(str(i), 0) for i in range(7)], 3)] == [3, 2, 2]


@pytest.mark.parametrize("num_groups", [0, 3])
def test_more_groups_than_clients_are_refused(num_groups):
    with pytest.raises(ValueError, match=rf"groups must be in \[1, 2 clients\], got {num_groups}"):
        balance([Client("a", 1), Client("b", 1)], num_groups)
