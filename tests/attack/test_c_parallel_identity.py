"""C9. A function that says it is parallel safe, and is not, asks in a worker who the session has proved to be."""

import pytest

from credentials import add_signing_key, claims, token
from harness import raises
from world import column, people

PARALLEL = ("max_parallel_workers_per_gather = 2", "parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0",
            "parallel_leader_participation = off")  # fmt: skip


@pytest.mark.parametrize("asked", ["amp.my_tenants()::text", "(SELECT string_agg(name, ',') FROM amp.api_keys)", "amp.only_tenant()"])
def test_C9_a_token_of_one_tenant_in_a_worker(amp, asked):
    """In transaction scope: the worker is in another transaction, and would find no credential that narrows its user."""
    people(amp, both=("t1", "admin"))
    people(amp, both=("t2", "admin"))
    with amp.connect("amp_ops") as ops:
        add_signing_key(ops, algorithm="HS256")
        ops.execute("SELECT amp.create_api_key('both', name => 'of all tenants')")
    with amp.connect() as admin:
        admin.execute(f"""
            ALTER ROLE amp_client IN DATABASE {amp.name} SET amp.context_scope = 'transaction';
            CREATE TABLE big AS SELECT x FROM generate_series(1, 100000) x; ANALYZE big;
            GRANT SELECT ON big TO amp_client; GRANT CREATE ON SCHEMA public TO amp_client""")
    with amp.connect("amp_client", autocommit=False) as client:
        client.execute(f"CREATE FUNCTION ask() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$BEGIN RETURN {asked}; END$$")
        client.commit()
        for setting in PARALLEL:
            client.execute(f"SET LOCAL {setting}")
        client.execute("SELECT amp.authenticate(%s)", [token(claims("both", "t1"), algorithm="HS256")])
        [answer] = column(client, "SELECT ask()")
        assert "t2" not in (answer or "") and "of all tenants" not in (answer or "")
        in_a_worker = "SELECT ask() FROM big WHERE x < 3"
        plan = column(client, f"EXPLAIN {in_a_worker}")
        assert any("Parallel" in line for line in plan), plan
        with raises("TN006", "parallel worker"):
            client.execute(in_a_worker)
