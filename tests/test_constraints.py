"""What is installed is the same everywhere, whichever extra is asked for."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
PINNED = re.findall(r"^([\w.-]+)==[\w.]+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def normal(name):
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_library_of_an_extra_has_an_exact_version(extra):
    wanted = {normal(re.match(r"[\w.-]+", one)[0]) for one in EXTRAS[extra]}
    assert wanted <= {normal(name) for name in PINNED}


@pytest.mark.parametrize("brought", ["jsonschema", "jsonschema-specifications", "msgpack", "referencing", "rpds-py"])
def test_so_has_what_ray_alone_brings(brought):
    assert brought in PINNED
