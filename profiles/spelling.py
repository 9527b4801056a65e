"""What to say of a name that is not known."""

import difflib
from collections.abc import Collection


def cure_of(name: str, known: Collection[str], otherwise: str = "known: {known}") -> str:
    """What to write instead of an unknown name: the nearest known one, or else all of them.

    Args:
        otherwise: What to say where none is near; `{known}` stands for all of them.
    """
    if near := difflib.get_close_matches(name, known, 1):
        return f"did you mean {near[0]!r}?"
    return otherwise.format(known=", ".join(known))
