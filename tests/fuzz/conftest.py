import sys

import pytest

from harness import ROOT

sys.path.append(str(ROOT / "tests/attack"))  # credentials.py, world.py

from worlds import Servers


@pytest.fixture(scope="session")
def servers():
    """Three servers with the same history, for the whole run."""
    three = Servers()
    yield three
    three.remove()
