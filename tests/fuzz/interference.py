"""The non-interference fuzzer: does anything that tenant A can send show a difference in tenant B's rows?

    python3 tests/fuzz/interference.py [--seconds 60] [--seed N] [--statements 250] [--system amp|plain] [--kinds A,B]

Each round makes a world (worlds.py), sends it a stream of statements (grammar.py, or sqlsmith's) and compares all that comes back
(lockstep.py). A difference is tried again in two new worlds, then shrunk to the fewest statements that show it (shrink.py), and printed
with what is needed to see it once more. docs/fuzzing.md says how to read it.
"""

import argparse
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "attack")]

import sqlsmith
from grammar import Grammar
from lockstep import NOISE, Lockstep, difference
from psycopg import pq
from shrink import minimal
from worlds import AMP, OPTIONS, PLAIN, VARIANTS, Servers, World


class Finding(NamedTuple):
    world: World
    statements: list  # up to and with the one that differs
    what: str

    def __str__(self):
        lines = [f"-- {self.world}", f"-- {self.what}"]
        for statement in self.statements:
            lines.append(f"{statement.sql};" + (f"  -- and {statement.data!r}" if statement.data else ""))
        return "\n".join(lines)


class Round(NamedTuple):
    finding: Finding
    sent: int
    noise: Counter  # by kind: statements that the twins already answer differently
    succeeded: int


def play(world, make, limit):
    """Sends a new world `limit` of the statements of make(databases), or until one differs."""
    sent, noise, succeeded = [], Counter(), 0
    with world.databases() as databases:
        statements = make(databases)
        before = [world.contents(database) for database in databases]
        with Lockstep(databases, world.user, OPTIONS) as lockstep:
            for statement in statements:
                answers = lockstep.run(statement)
                sent.append(statement)
                succeeded += not any(sheet.title.startswith("error") for sheet in answers[0])
                what = difference(*answers, ordered=world.ordered)
                if any(session.status == pq.TransactionStatus.UNKNOWN for session in lockstep.sessions):
                    what = "the server closed a connection"
                if what == NOISE:
                    noise[statement.kind] += 1
                elif what:
                    return Round(Finding(world, sent, what), len(sent), noise, succeeded)
                if hasattr(statements, "hear"):
                    statements.hear(lockstep.status)
                if len(sent) >= limit:
                    break
        after = [world.contents(database) for database in databases]
    mine, theirs = world.tenants
    what = None
    if after[0][mine] == after[1][mine] != after[2][mine]:
        what = f"A's rows differ: {sorted(set(after[0][mine]) ^ set(after[2][mine]))[:4]}"
    for number in range(3):
        if before[number][theirs] != after[number][theirs]:
            what = f"B's rows were changed: {sorted(set(before[number][theirs]) ^ set(after[number][theirs]))[:4]}"
    return Round(Finding(world, sent, what) if what else None, len(sent), noise, succeeded)


def again(world, statements):
    """What a new world shows of the same statements."""
    return play(world, lambda _: statements, len(statements)).finding


def confirmed(finding):
    """The finding with as few statements as possible, if it comes back twice; else None."""
    if not all(again(finding.world, finding.statements) for _ in range(2)):
        return None
    fewest = minimal(finding.statements, lambda statements: again(finding.world, statements) is not None)
    return again(finding.world, fewest) or Finding(finding.world, fewest, finding.what)


def choose(servers, system, seed):
    """The world of a seed."""
    choice = random.Random(seed)
    return World(
        servers,
        system,
        seed,
        variant=choice.choice(VARIANTS),
        client=choice.random() < 0.5,
        scope=choice.choice(["session", "session", "transaction"]),
        analyzed=choice.random() < 0.3,
    )


def stream_of(world, kinds=None):
    """What the world of a seed is sent: sqlsmith's statements every third time, where plans and places are the same."""
    if world.ordered and world.seed % 3 == 0 and not kinds:
        return lambda databases: sqlsmith.stream(world, databases[0])
    return lambda _: Grammar(world.seed, world, kinds)


def fuzz(servers, system, seeds, statements, until, say, kinds=None):
    """Rounds with these seeds until the time is over, or something is found. Returns the finding, and of all statements
    how many were sent, succeeded, and were noise."""
    total, noise, good = 0, Counter(), 0
    for seed in seeds:
        if time.monotonic() > until:
            break
        world = choose(servers, system, seed)
        result = play(world, stream_of(world, kinds), statements)
        total, noise, good = total + result.sent, noise + result.noise, good + result.succeeded
        say(f"{world}: {result.sent} statements, {result.succeeded} succeeded, {sum(result.noise.values())} noise")
        if result.finding:
            say(f"differs, is tried again:\n{result.finding.statements[-1]}\n{result.finding.what}")
            if finding := confirmed(result.finding):
                return finding, total, good, noise.total()
            say("it did not come back")
    say(f"{total} statements, {good} succeeded; noise: {dict(noise)}")
    return None, total, good, noise.total()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**9))
    arguments.add_argument("--statements", type=int, default=250)
    arguments.add_argument("--system", choices=[AMP, PLAIN], default=AMP)
    arguments.add_argument("--kinds", type=lambda names: names.split(","), help="only these kinds of the grammar")
    chosen = arguments.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    servers = Servers()
    try:
        seeds = range(chosen.seed, chosen.seed + 10**6)
        until = time.monotonic() + chosen.seconds
        finding, *_ = fuzz(servers, chosen.system, seeds, chosen.statements, until, partial(print, flush=True), chosen.kinds)
    finally:
        servers.remove()
    if finding:
        print(f"\nFOUND; --seed {finding.world.seed} repeats it\n{finding}")
    sys.exit(finding is not None)


if __name__ == "__main__":
    main()
