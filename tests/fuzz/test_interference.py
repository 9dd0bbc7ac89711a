"""P1: nothing that tenant A can send shows a difference in tenant B's rows. First the fuzzer itself: it finds the known leaks of plain
row security, each within so many statements of its grammar, and makes a long list short."""

import random
import time
from itertools import count, islice

import pytest

from grammar import Grammar
from interference import confirmed, fuzz, play, stream_of
from lockstep import NOISE, Sheet, difference
from shrink import minimal
from worlds import AMP, COUNTS, OPEN, PLAIN, VALUES, World

# Kind of statement, what differs in B's rows, what the fuzzer says, and within how many statements.
LEAKS = [
    ("unique", VALUES, "error 23505", 40),
    ("foreign key", VALUES, "error 23503", 40),
    ("exclusion", VALUES, "error 23P01", 40),
    ("derived", VALUES, "error 22012", 400),
    ("switched", VALUES, "SELECT", 40),
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
    return (seed for seed in count(1) if kind != "cascade" or World(None, system, seed, variant).on_delete == "CASCADE")


def rounds(servers, system, kind, variant, limit, worlds):
    """The fuzzer's rounds with statements of one kind in so many worlds."""
    for seed in islice(seeds(system, kind, variant), worlds):
        world = World(servers, system, seed, variant, analyzed=kind == "estimates")
        yield play(world, stream_of(world, {kind}), limit)


@pytest.mark.parametrize("kind, variant, words, limit", LEAKS, ids=NAMES)
def test_it_finds_what_plain_row_security_leaks(servers, kind, variant, words, limit):
    found = []
    for result in rounds(servers, PLAIN, kind, variant, limit, worlds=4):
        found += [result.finding.what] if result.finding else []
        if found and words in found[-1]:
            return
    pytest.fail(f"{words!r} is not among {found}")


@pytest.mark.parametrize("kind, variant, words, limit", LEAKS, ids=NAMES)
def test_amp_hardened_leaks_none_of_it(servers, kind, variant, words, limit):
    for result in rounds(servers, AMP, kind, variant, limit, worlds=1):
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
        print(f"\nfuzzing with seeds 100 to 108, and from {new}")
    for seed, worlds in ((100, 9), (new, 4)):
        lines = []
        until = time.monotonic() + 900
        finding, sent, succeeded, noise = fuzz(servers, AMP, range(seed, seed + worlds), 250, until, lines.append)
        assert not finding, "\n".join([*lines, str(finding)])
        assert sent > 100 * worlds and succeeded > sent / 4 and noise < sent / 50, "\n".join(lines)
