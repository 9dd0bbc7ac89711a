"""PostgreSQL's own programs as clients, through plain libpq: psql, pgbench."""

import re
import subprocess

import pytest

from harness import ROOT, program


@pytest.fixture
def run(fresh_db):
    """Runs a program as amp_svc on a database with two tenants."""
    with fresh_db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())

    def run(name, *arguments, input=None):
        connection = ["-h", fresh_db.cluster.host, "-U", "amp_svc"]
        command = [program(name), *connection, *arguments, fresh_db.name]
        return subprocess.run(command, input=input, capture_output=True, text=True)

    return run


def test_psql_keeps_a_context_for_its_session(run):
    done = run("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", input="""
SET amp.tenant_id = 'ant';
SELECT format('SELECT %L, count(*) FROM app.missions WHERE id = %s', id, id) FROM app.missions ORDER BY id \\gexec
SELECT count(*) AS mine FROM app.missions \\gset
\\echo :mine
PREPARE q AS SELECT count(*) FROM app.missions;
EXECUTE q;
\\copy app.missions to stdout csv
SELECT id FROM app.missions \\gdesc
SET amp.tenant_id = 'bee';
EXECUTE q;
RESET amp.tenant_id;
EXECUTE q;
""")  # fmt: skip
    assert done.stdout.splitlines() == ["1|1", "2|1", "3|1", "3", "3", "ant,1,ant 1", "ant,2,ant 2", "ant,3,ant 3", "id|integer", "5"]
    assert done.returncode == 3 and "no tenant is set for this session" in done.stderr and "HINT:" in done.stderr


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_runs_with_a_session_context(run, tmp_path, mode):
    script = tmp_path / "script.sql"
    script.write_text("""
\\set n random(1, 1000000)
\\set bee :n % 2
\\if :bee
SET amp.tenant_id = 'bee';
\\else
SET amp.tenant_id = 'ant';
\\endif
BEGIN;
SELECT count(*) + 2 * :bee AS seen, 1 / (CASE WHEN count(*) = 3 + 2 * :bee THEN 1 ELSE 0 END) FROM app.missions WHERE id < :n + 10;
INSERT INTO app.missions (id, name) VALUES (:n + 10, 'new') ON CONFLICT DO NOTHING;
SELECT amp.record_usage('api_calls');
ROLLBACK;
""")
    done = run("pgbench", "-n", "-M", mode, "-c", "4", "-t", "100", "-f", str(script))
    assert done.returncode == 0, done.stderr
    assert re.search(r"actually processed: 400/400", done.stdout) and "ERROR" not in done.stderr
