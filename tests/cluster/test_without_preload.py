"""amp_tenancy in no preload setting: it loads with the first function that needs it, and everything holds from there."""

import pytest

from harness import ROOT, Cluster, raises


@pytest.fixture(scope="module")
def db():
    server = Cluster(shared_preload_libraries="")
    db = server.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("CREATE ROLE analyst LOGIN IN ROLE amp_svc, pg_read_all_stats")
    yield db
    server.remove()


VERBS = [
    "SELECT * FROM app.missions",
    "SELECT count(*) FROM app.missions",
    "SELECT FROM app.missions LIMIT 0",
    "COPY app.missions TO STDOUT",
    "INSERT INTO app.missions (id) VALUES (9)",
    "INSERT INTO app.missions VALUES ('bee', 9)",
    "UPDATE app.missions SET name = 'mine'",
    "DELETE FROM app.missions",
    "SELECT * FROM app.missions FOR UPDATE",
    "SELECT 1 WHERE EXISTS (SELECT FROM app.missions)",
]


@pytest.mark.parametrize("statement", VERBS)
def test_the_first_statement_of_a_connection_fails_without_a_tenant(db, statement):
    with db.connect("amp_svc") as service, raises("TN001"):
        service.execute(statement)


@pytest.mark.parametrize("statement", VERBS)
def test_the_first_statement_of_a_client_fails_whatever_it_set_before(db, statement):
    with db.connect() as admin:
        admin.execute("GRANT USAGE ON SCHEMA app TO amp_client; GRANT SELECT, INSERT, UPDATE, DELETE ON app.missions TO amp_client")
    for tenant in (None, "ant"):
        with db.connect("amp_client") as client:
            if tenant:
                client.execute("SET amp.tenant_id = 'ant'")  # only a placeholder yet, which the library drops as it loads
            with raises("TN001"):
                client.execute(statement)


@pytest.mark.parametrize("tenant, rows", [("ant", 3), ("bee", 5)])
@pytest.mark.parametrize("set_tenant", ["SET amp.tenant_id = '{}'", "SELECT set_config('amp.tenant_id', '{}', false)"])
def test_a_tenant_that_was_set_before_the_library_loaded_is_checked_and_isolated(db, set_tenant, tenant, rows):
    with db.connect("amp_svc") as service:
        service.execute(set_tenant.format(tenant))
        assert service.execute("SELECT tenant_id, count(*) FROM app.missions GROUP BY 1").fetchall() == [(tenant, rows)]
        with raises("42501"):
            service.execute(f"INSERT INTO app.missions VALUES ('{'ant' if tenant == 'bee' else 'bee'}', 9)")


@pytest.mark.parametrize("tenant", ["cat", "no such id!", "x" * 65, "ant' OR true --"])
def test_a_wrong_tenant_that_was_set_before_the_library_loaded_shows_nothing(db, tenant):
    with db.connect("amp_svc") as service:
        service.execute("SELECT set_config('amp.tenant_id', %s, false)", [tenant])
        with pytest.raises(Exception) as refused:
            service.execute("SELECT * FROM app.missions")
        assert refused.value.sqlstate in ("TN001", "TN002")


def test_a_start_up_option_from_before_the_library_loaded_is_dropped(db):
    with db.connect("amp_svc", options="-c amp.tenant_id=ant") as service, raises("TN001"):
        service.execute("SELECT * FROM app.missions")


def test_the_transaction_scope_holds_before_the_library_is_loaded(db):
    with db.connect() as admin:
        admin.execute("CREATE ROLE pooled LOGIN IN ROLE amp_service, amp_svc; ALTER ROLE pooled SET amp.context_scope = 'transaction'")
    with db.connect("pooled") as service:
        service.execute("SET amp.tenant_id = 'ant'")  # a pooler's first client
        with raises("TN001"):
            service.execute("SELECT * FROM app.missions")  # its second
        with service.transaction():
            service.execute("SET LOCAL amp.tenant_id = 'ant'")
            assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
    with db.connect("amp_svc") as service:
        service.execute("SET amp.context_scope = 'session'")  # is a superuser's, placeholder or not
        with raises("TN001"):
            service.execute("SELECT * FROM app.missions")


def test_it_is_complete_once_it_is_loaded(db):
    with db.connect("amp_svc") as service, db.connect("amp_ops") as operator:
        assert service.execute("SELECT amp.is_operator()").fetchone() == (False,)
        with raises("TN002"):
            service.execute("SET amp.tenant_id = 'cat'")
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("SET amp.user_id = 'vic'")
        with raises("TN004"):
            service.execute("DELETE FROM app.missions")
        service.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
        operator.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"):
            service.execute("SELECT count(*) FROM app.missions")
        operator.execute("SELECT amp.activate_tenant('ant')")


def test_a_table_is_protected_by_an_owner_whose_session_did_not_load_it(db):
    with db.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE app.parts (tenant_id text, id int); GRANT SELECT, INSERT, UPDATE, DELETE ON app.parts TO amp_svc")
        owner.execute("INSERT INTO app.parts VALUES ('ant', 1), ('bee', 2)")
        assert owner.execute("SELECT count(*) FROM amp.protect('app.parts') WHERE status = 'done'").fetchone()[0] > 5
    with db.connect("amp_svc") as service:
        service.execute("SET amp.tenant_id = 'bee'")
        assert service.execute("SELECT * FROM app.parts").fetchall() == [("bee", 2)]


@pytest.mark.parametrize("leader", ["on", "off"])
def test_parallel_workers_answer_as_their_leader(db, leader):
    with db.connect() as admin:
        admin.execute("""
            CREATE TABLE IF NOT EXISTS app.many (tenant_id text, n int);
            TRUNCATE app.many;
            INSERT INTO app.many SELECT CASE n % 10 WHEN 0 THEN 'ant' ELSE 'bee' END, n FROM generate_series(1, 20000) n;
            GRANT SELECT ON app.many TO amp_svc;
            SELECT * FROM amp.protect('app.many');
            ANALYZE app.many;
        """)
    with db.connect("analyst") as service:
        service.execute(f"""
            SET amp.tenant_id = 'ant';
            SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
            SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
            SET parallel_leader_participation = {leader};
        """)
        for tenant, rows in (("ant", 2000), ("bee", 18000)):
            service.execute(f"SET amp.tenant_id = '{tenant}'")
            assert service.execute("SELECT tenant_id, count(*) FROM app.many GROUP BY 1").fetchall() == [(tenant, rows)]
        plan = service.execute("EXPLAIN (ANALYZE, COSTS off) SELECT count(*) FROM app.many").fetchall()
        assert any("Workers Launched: 2" in line for (line,) in plan), plan
