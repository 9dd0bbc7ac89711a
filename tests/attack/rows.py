"""The catalogue of attacks: rows.toml, and which tests belong to which row."""

import re
import tomllib
from pathlib import Path

CATALOGUE = tomllib.loads(Path(__file__).with_name("rows.toml").read_text())
ROWS = {row["id"]: row for row in CATALOGUE["row"]}
CVES = {row["id"]: row for row in CATALOGUE["cve"]}


def rows_of(name):
    """The rows that a test's name begins with."""
    found = re.match(r"test_((?:[A-L]\d+_)+|M_\d{4}_\d+_)", name)
    if not found:
        return []
    return ["CVE-" + found[1][2:-1].replace("_", "-")] if found[1].startswith("M_") else found[1].strip("_").split("_")


def listed(node):
    """The rows that list a test, by tests/FILE::NAME."""
    name = node.partition("[")[0]
    return [row for row, of in (ROWS | CVES).items() if name in of.get("tests", [])]
