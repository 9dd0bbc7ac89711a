"""The demo is a test: it checks every step itself, on a server that anybody could have started."""

import os
import subprocess

from harness import ROOT


def test_demo_holds(cluster):
    environment = {**os.environ, "PGHOST": cluster.host, "PGUSER": "postgres", "PGDATABASE": "postgres"}
    demo = subprocess.run([ROOT / "examples/amp/demo"], env=environment, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr
    for line in ("ERROR TN001", "ERROR TN002", "ERROR TN003", "ERROR TN004", "ERROR TN005", "ERROR TN007", "ERROR 23503", "make psql"):
        assert line in demo.stdout
    assert demo.stdout.count("--- ") == 23
