"""The catalogue in rows.toml is whole: tests/attacks runs it and judges it, which takes its time; this takes none."""

import re

from harness import ROOT
from rows import CVES, ROWS, rows_of

# Sections and the numbers of their rows.
SECTIONS = {"A": (1, 21), "B": (1, 10), "C": (1, 12), "D": (1, 17), "E": (1, 13), "F": (0, 8), "G": (1, 15), "H": (1, 4), "I": (1, 5), "J": (1, 9),
            "K": (1, 5), "L": (1, 5)}
TESTS = {f"{path.relative_to(ROOT)}::{name}"
         for path in (ROOT / "tests").glob("*/test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}


def test_every_row_is_there():
    assert list(ROWS) == [f"{letter}{number}" for letter, (first, last) in SECTIONS.items() for number in range(first, last + 1)]
    for name, row in ROWS.items():
        assert row["plain"] in ("leaks", "closed") and row["amp"] in ("closed", "hardened", "open", "untested"), name
        assert ("why" in row) == (row["amp"] in ("open", "untested")) and ("by" in row) == (row["amp"] in ("closed", "hardened")), name


def test_every_row_has_a_test():
    named = {row for test in TESTS for row in rows_of(test.partition("::")[2])}
    for name, row in ROWS.items():
        assert row["amp"] == "untested" or name in named or row.get("tests"), name
    assert named <= ROWS.keys() | CVES.keys()
    assert {test for row in (ROWS | CVES).values() for test in row.get("tests", [])} <= TESTS
