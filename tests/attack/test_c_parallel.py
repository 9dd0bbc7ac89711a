"""C9. Parallel workers: a backend of its own answers what the leader would, or not at all."""

import pytest

from harness import HARDENED, raises
from world import column


@pytest.fixture
def big(amp):
    """A table large enough for a parallel plan, and a session that always uses one, without the leader's help."""
    with amp.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE big (id int, tenant_id text COLLATE "C" NOT NULL, body text);
            SELECT amp.protect('big');
            GRANT SELECT, UPDATE ON big TO amp_svc, amp_client""")
    with amp.connect() as admin:
        admin.execute("INSERT INTO big SELECT n, 't' || 1 + n % 4 / 3, repeat('x', 100) FROM generate_series(1, 20000) n; ANALYZE big")
    return amp


def parallel(database, role="amp_svc", **kw):
    session = database.connect(role, **kw)
    forced = "debug_parallel_query" if session.info.server_version >= 160000 else "force_parallel_mode"
    session.execute(f"""
        SET parallel_leader_participation = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
        SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 3;
        SET enable_indexscan = off; SET enable_bitmapscan = off; SET {forced} = on""")
    return session


COUNT = "SELECT count(*) FROM big WHERE body IS NOT NULL"


def test_C9_workers_see_the_leaders_tenant(big, new_role):
    """Alternating tenants, in new and in cached plans, with workers only (a plan is shown to who may see statistics)."""
    with parallel(big, new_role("LOGIN IN ROLE amp_svc, pg_read_all_stats")) as svc:
        svc.execute(f"PREPARE q AS {COUNT}; SET plan_cache_mode = force_generic_plan")
        for tenant, expected in [("t1", 15000), ("t2", 5000)] * 4:
            svc.execute(f"SET amp.tenant_id = '{tenant}'")
            if (tenant, expected) == ("t1", 15000):
                assert "Gather" in str(svc.execute("EXPLAIN " + COUNT).fetchall())
            assert column(svc, COUNT) == column(svc, "EXECUTE q") == [expected]
            assert column(svc, "SELECT DISTINCT tenant_id FROM big") == [tenant]


def test_C9_workers_in_one_transaction(big):
    """The same transaction: a second tenant is refused, a rolled-back one too."""
    with parallel(big, autocommit=False) as svc:
        svc.execute("SET LOCAL amp.tenant_id = 't1'")
        assert column(svc, COUNT) == [15000]
        svc.execute("SAVEPOINT a; SET LOCAL amp.tenant_id = 't2'")
        with raises("TN006"):
            svc.execute(COUNT)
        svc.execute("ROLLBACK TO a")
        assert column(svc, COUNT) == [15000]


def test_C9_workers_have_no_context_where_the_leader_has_none(big):
    """Unset, expired, suspended, a client: an error, in a worker too."""
    with big.connect() as admin:
        admin.execute("ALTER ROLE amp_client SET amp.context_scope = 'transaction'")
    try:
        with parallel(big) as svc, big.connect("amp_ops") as ops:
            for query in COUNT, "SELECT amp.tenant_id()", "SELECT amp.role()", "SELECT amp.has_permission('content.view')":
                with raises("TN001"):
                    svc.execute(query)
            svc.execute("SET amp.tenant_id = 't1'")
            assert column(svc, COUNT) == [15000]
            svc.execute("RESET amp.tenant_id")
            with raises("TN001"):
                svc.execute(COUNT)
            svc.execute("SET amp.tenant_id = 't1'")
            ops.execute("SELECT amp.suspend_tenant('t1')")
            with raises("TN002"):
                svc.execute(COUNT)
        with parallel(big, "amp_client") as client, raises("TN001"):
            client.execute(COUNT)
    finally:
        with big.connect() as admin:
            admin.execute("ALTER ROLE amp_client RESET amp.context_scope")


def test_C9_context_expired(big):
    """Transaction scope: what an earlier transaction set is no context for workers either."""
    with big.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {big.name} SET amp.context_scope = 'transaction'")
    with parallel(big) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN001"):
            svc.execute(COUNT)
        svc.execute("BEGIN; SET LOCAL amp.tenant_id = 't2'")
        assert column(svc, COUNT) == [5000]
        svc.execute("COMMIT")
        with raises("TN001"):
            svc.execute(COUNT)


def test_C9_permissions_in_workers(big):
    """A viewer reads in workers; a role without the reading permission sees nothing."""
    with big.connect("amp_ops") as ops:
        admin = ops.execute("SELECT amp.invite_user('a@example.com', 'admin', 't1') ->> 'id'").fetchone()[0]
    with parallel(big) as svc:
        svc.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{admin}'")
        svc.execute("SELECT amp.define_role('blind', '{users.manage}')")
        blind = svc.execute("SELECT amp.invite_user('b@example.com', 'blind') ->> 'id'").fetchone()[0]
        assert column(svc, COUNT) == [15000]
        svc.execute(f"SET amp.user_id = '{blind}'")
        assert column(svc, COUNT) == [0]
        assert column(svc, "SELECT amp.role() || amp.has_permission('users.manage') || amp.user_id()") == [f"blindtrue{blind}"]


NESTED = """
    CREATE FUNCTION pg_temp.nested() RETURNS bigint STABLE PARALLEL {} LANGUAGE plpgsql AS
    $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM big; RETURN n; END $$"""


@pytest.mark.parametrize("safety", ["SAFE", "RESTRICTED", "UNSAFE"])
def test_C9_nested_queries(big, safety):
    """A function with a query of its own, inside a worker, or in the leader of a parallel query."""
    with parallel(big) as svc:
        svc.execute(NESTED.format(safety))
        with raises("TN001"):
            svc.execute("SELECT pg_temp.nested()")
        for tenant, expected in ("t1", 15000), ("t2", 5000):
            svc.execute(f"SET amp.tenant_id = '{tenant}'")
            assert column(svc, "SELECT pg_temp.nested()") == [expected]
            assert column(svc, "SELECT DISTINCT pg_temp.nested() FROM big WHERE id < 20") == [expected]


def test_C9_context_cannot_change_inside_a_worker(big):
    """A function that lies about being PARALLEL SAFE sets the tenant, or what the leader published, in a worker."""
    with parallel(big) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for name, value in ("amp.tenant_id", "t2"), ("amp.user_id", ""), ("amp.parallel_context", "t2\n\n\ncontent.view"):
            svc.execute("""
                CREATE OR REPLACE FUNCTION pg_temp.lie(name text, value text) RETURNS bigint PARALLEL SAFE LANGUAGE plpgsql AS
                $$ DECLARE n bigint; BEGIN PERFORM set_config(name, value, true); SELECT count(*) INTO n FROM big; RETURN n; END $$""")
            with raises("25000"):
                svc.execute("SELECT pg_temp.lie(%s, %s) FROM big LIMIT 1", [name, value])


FORGED = "t2\n\n\nanalytics.view\ncontent.view\nusers.manage"


@pytest.mark.parametrize("role", ["amp_svc", "amp_client", "amp_ops", "postgres"])
def test_C9_forging_what_workers_are_told(big, role):
    """amp.parallel_context by SET, set_config, a function's SET clause, ALTER ROLE, and with the privilege to set it."""
    sqlstate = "TN006" if role == "postgres" else "42501"
    with big.connect(role) as session:
        for local in True, False:
            with raises(sqlstate):
                session.execute("SELECT set_config('amp.parallel_context', %s, %s)", [FORGED, local])
        for attack in ("SET amp.parallel_context = 't2'", "SET LOCAL amp.parallel_context = 't2'",
                       "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET amp.parallel_context = 't2' AS 'SELECT 1'",
                       f"ALTER ROLE {role} SET amp.parallel_context = 't2'"):
            with raises("TN004" if "ROLE" in attack and (role == "amp_svc" or HARDENED and role == "amp_client") else sqlstate):
                session.execute(attack)


def test_C9_forging_with_the_privilege_to_set(big):
    """A superuser grants SET ON PARAMETER amp.parallel_context: still nobody's to write."""
    with big.connect() as admin:
        admin.execute("GRANT SET ON PARAMETER amp.parallel_context TO amp_client")
        try:
            with parallel(big, "amp_client") as client:
                with raises("TN006"):
                    client.execute("SELECT set_config('amp.parallel_context', %s, false)", [FORGED])
                client.execute("SET amp.parallel_context = ''")
                with raises("TN001"):
                    client.execute(COUNT)
        finally:
            admin.execute("REVOKE SET ON PARAMETER amp.parallel_context FROM amp_client")


def test_C9_context_document_in_a_worker(big):
    """amp.context() says the same in a worker."""
    with parallel(big) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert svc.execute("SELECT amp.context() ->> 'tenant_id'").fetchone() == ("t1",)
