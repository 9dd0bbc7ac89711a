"""Statements of sqlsmith, which makes them from the catalogs: its own dry run, as the client, prints them and runs none."""

import re
import subprocess

from lockstep import Statement

# Left out: LIMIT, which sqlsmith writes without ORDER BY, chooses by where rows lie; TABLESAMPLE without REPEATABLE by chance.
BY_CHANCE = re.compile(r"\blimit \d+|\btablesample \w+ \([\d.]+\)", re.IGNORECASE)


def stream(world, database, count=400):
    """A's entrance, then `count` statements of the world's seed over the tables that its client sees."""
    target = f"host={database.cluster.host} port={database.cluster.port} dbname={database.name} user={world.user}"
    command = ["sqlsmith", f"--target={target}", f"--seed={world.seed}", f"--max-queries={count}", "--dry-run"]
    if world.seed % 2:
        command.append("--exclude-catalog")
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    made = [Statement("sqlsmith", BY_CHANCE.sub("", text).strip()) for text in printed.split(";") if text.strip()]
    if world.scope == "session":
        return [*world.entrance(), *made]
    local = Statement("transaction", world.set_tenant(world.tenants[0], local=True))
    begin, rollback = Statement("transaction", "BEGIN"), Statement("transaction", "ROLLBACK")
    return world.entrance() + [each for statement in made for each in (begin, local, statement, rollback)]
