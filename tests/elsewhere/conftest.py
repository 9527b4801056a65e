"""Say after the tests which runtimes were used, how far they were off and how long a step took."""

from collections.abc import Callable

import pytest

ROWS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for row in config.stash[ROWS]:
        terminalreporter.write_line(row)


@pytest.fixture(scope="session")
def say(pytestconfig) -> Callable[[str], None]:
    """Add a line to what is printed at the end."""
    return pytestconfig.stash[ROWS].append
