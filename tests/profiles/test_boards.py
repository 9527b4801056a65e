import pytest

from profiles.boards import find_soc, known_boards


@pytest.mark.parametrize(
    ("names", "num_cores", "soc"),
    [
        (["sdm845"], 8, "Snapdragon 845"),
        ([" MSM8953 "], 8, "Snapdragon 625"),
        (["nobody", "msm8960", "apq8064"], 4, "Snapdragon 600"),  # msm8960 has two cores
        (["redfin"], 8, "Snapdragon 765"),  # the source's counts contradict each other: any number goes
        (["", "nobody"], 8, None),
        ([], 8, None),
    ],
)
def test_a_name_of_the_right_number_of_cores_gives_the_soc(names, num_cores, soc):
    assert find_soc(names, num_cores) == soc


def test_the_table_has_boards_in_small_letters_and_plausible_cores():
    boards = known_boards()
    assert len(boards) > 150
    assert all(name == name.lower().strip() and board.soc for name, board in boards.items())
    assert all(board.num_cores is None or 1 <= board.num_cores <= 10 for board in boards.values())
