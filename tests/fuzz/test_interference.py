"""P1: nothing that tenant A can send shows a difference in tenant B's rows. First the fuzzer itself: it finds the known leaks of plain
row security, each within so many statements of its grammar, and makes a long list short."""

import random
import time

import pytest

from grammar import Grammar
from interference import confirmed, fuzz, play
from lockstep import NOISE, Sheet, difference
from shrink import minimal
from worlds import AMP, COUNTS, OPEN, PLAIN, VALUES, World

# Kind of statement, what differs in B's rows, what the fuzzer says, and within how many statements.
LEAKS = [
    ("unique", VALUES, "error 23505", 40),
    ("foreign key", VALUES, "error 23503", 40),
    ("exclusion", VALUES, "error 23P01", 40),
    ("on conflict", VALUES, "INSERT 0", 60),
    ("merge", VALUES, "error 23505", 40),
    ("explain analyze", VALUES, "Rows Removed by Filter", 60),
    ("estimates", VALUES, "rows=", 60),
    ("statistics of the transaction", COUNTS, "SELECT", 60),
    ("statistics", COUNTS, "SELECT", 60),
    ("statistics", OPEN, "INSERT INTO", 100),  # the text of B's statement, in pg_stat_activity
    ("sequence", COUNTS, "", 40),
    ("cascade", VALUES, "B's rows were changed", 40),
    ("unique", OPEN, "error 55P03", 100),  # waits for B's transaction
]
NAMES = [f"{kind} {variant}" for kind, variant, _, _ in LEAKS]


def seeds(system, kind, variant):
    """Seeds of worlds where such a leak is possible: not every foreign key cascades."""
    return [seed for seed in range(1, 40) if kind != "cascade" or World(None, system, seed, variant).on_delete == "CASCADE"][:4]


def rounds(servers, system, kind, variant, limit):
    """What the fuzzer finds with statements of one kind in some worlds."""
    for seed in seeds(system, kind, variant):
        world = World(servers, system, seed, variant, analyzed=kind == "estimates")
        yield play(world, lambda _: Grammar(seed, world, {kind}), limit)  # noqa: B023


@pytest.mark.parametrize("kind, variant, words, limit", LEAKS, ids=NAMES)
def test_it_finds_what_plain_row_security_leaks(servers, kind, variant, words, limit):
    found = [result.finding.what for result in rounds(servers, PLAIN, kind, variant, limit) if result.finding]
    assert any(words in what for what in found), found


@pytest.mark.parametrize("kind, variant, words, limit", LEAKS, ids=NAMES)
def test_amp_hardened_leaks_none_of_it(servers, kind, variant, words, limit):
    for result in rounds(servers, AMP, kind, variant, limit):
        assert not result.finding, str(result.finding)
        assert result.sent == limit


def test_a_finding_comes_back_and_is_made_short(servers):
    world = World(servers, PLAIN, 5, VALUES)
    result = play(world, lambda _: Grammar(5, world, {"select", "write", "transaction", "savepoint", "unique"}), 250)
    assert result.sent > 5
    finding = confirmed(result.finding)
    assert len(finding.statements) <= 3 and finding.statements[0].sql.startswith("SET app.tenant")


def test_a_list_shrinks_to_what_is_needed():
    assert minimal(list(range(100)), lambda some: {3, 57, 58} <= set(some)) == [3, 57, 58]


def test_only_what_is_equal_for_the_twins_has_to_be_equal():
    def one(*cells):
        return [Sheet("SELECT 1", [cells])]

    assert difference(one("7", "a"), one("8", "a"), one("9", "a"), True) is None
    assert difference(one("7", "a"), one("8", "a"), one("9", "b"), True)
    assert difference(one("pid 7 rows 3"), one("pid 8 rows 3"), one("pid 9 rows 3"), True) is None
    assert difference(one("pid 7 rows 3"), one("pid 8 rows 3"), one("pid 9 rows 4"), True)
    assert difference(one("7"), [], one("7"), True) == NOISE
    rows, turned = [Sheet("SELECT 2", [("1",), ("2",)])], [Sheet("SELECT 2", [("2",), ("1",)])]
    assert difference(rows, rows, turned, False) is None and difference(rows, rows, turned, True)


def test_nothing_tells_tenants_about_each_other(servers, capsys):
    """The bounded run: fixed seeds, then a new one."""
    new = random.randrange(10**6, 10**9)
    with capsys.disabled():
        print(f"\nfuzzing seeds 100 to 111, then {new}")
    for start, count in ((100, 12), (new, 6)):
        lines = []
        finding, sent, succeeded = fuzz(servers, AMP, range(start, start + count), 250, time.monotonic() + 600, lines.append)
        assert not finding, "\n".join([*lines, str(finding)])
        assert sent > 100 * count and succeeded > sent / 3, "\n".join(lines)
