"""Statements of sqlsmith, which makes them from the catalogs: its own dry run, as the client, prints them and runs none."""

import re
import subprocess

from lockstep import Statement

# LIMIT without ORDER BY chooses rows by where they lie; sqlsmith never writes ORDER BY for a LIMIT.
LIMIT = re.compile(r"\blimit \d+", re.IGNORECASE)


def statements(world, database, seed, count=1000):
    """`count` statements of this seed, over the tables that the world's client sees."""
    target = f"host={database.cluster.host} port={database.cluster.port} dbname={database.name} user={world.user}"
    command = ["sqlsmith", f"--target={target}", f"--seed={seed}", f"--max-queries={count}", "--dry-run"]
    if seed % 2:
        command.append("--exclude-catalog")
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [Statement("sqlsmith", LIMIT.sub("", made).strip()) for made in printed.split(";") if made.strip()]
