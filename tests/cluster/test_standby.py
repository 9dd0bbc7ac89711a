"""A streaming standby isolates as its primary does, hears of changes there, and no read path writes."""

import time

import pytest

from harness import ROOT, Cluster, raises


@pytest.fixture(scope="module")
def primary():
    server = Cluster()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def standby(primary):
    server = Cluster(primary)
    yield server
    server.remove()


@pytest.fixture
def db(primary, standby):
    """A database with two tenants on both."""
    db = primary.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        replay(admin, standby)
    return db


def replay(on_primary, standby):
    """Waits until the standby has replayed everything."""
    (written,) = on_primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    with standby.connect() as there:
        for _ in range(500):
            if there.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [written]).fetchone()[0]:
                return
            time.sleep(0.02)
    raise TimeoutError("the standby does not follow")


def test_reads_on_a_standby_are_isolated(db, standby):
    with standby.connect(db.name, "amp_svc") as service:
        with raises("TN001"):
            service.execute("SELECT * FROM app.missions")
        for tenant, rows in (("ant", 3), ("bee", 5)):
            service.execute(f"SET amp.tenant_id = '{tenant}'")
            assert service.execute("SELECT tenant_id, count(*) FROM app.missions GROUP BY 1").fetchall() == [(tenant, rows)]
        with raises("TN002"):
            service.execute("SET amp.tenant_id = 'cat'")
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("SET amp.user_id = 'vic'")
        assert service.execute("SELECT amp.role(), amp.has_permission('missions.create')").fetchone() == ("viewer", False)
        assert service.execute("SELECT amp.context()").fetchone()[0]["tenant_id"] == "ant"
        assert len(service.execute("SELECT amp.users()").fetchone()[0]["data"]) == 2
    with standby.connect(db.name, "amp_client") as client, raises("TN003"):
        client.execute("SET amp.tenant_id = 'ant'")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("change", ["SELECT amp.suspend_tenant('ant')", "SELECT amp.remove_user('vic', 'ant')"])
def test_a_change_on_the_primary_bites_in_an_open_transaction(db, standby, level, change):
    with standby.connect(db.name, "amp_svc") as service, db.connect("amp_ops") as operator:
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("SET amp.user_id = 'vic'")
        service.execute(f"BEGIN ISOLATION LEVEL {level}")
        assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
        service.execute("DECLARE missions CURSOR FOR SELECT * FROM app.missions")
        assert len(service.execute("FETCH 1 FROM missions").fetchall()) == 1
        service.execute("SAVEPOINT before")
        operator.execute(change)
        replay(operator, standby)
        with raises("TN002" if "suspend" in change else "TN003"):
            service.execute("FETCH 1 FROM missions")
        service.execute("ROLLBACK TO before")
        with raises("TN002" if "suspend" in change else "TN003"):
            service.execute("SELECT count(*) FROM app.missions")


def test_a_change_on_the_primary_bites_in_a_prepared_statement(db, standby):
    with standby.connect(db.name, "amp_svc") as service, db.connect("amp_ops") as operator:
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("PREPARE missions AS SELECT count(*) FROM app.missions")
        assert service.execute("EXECUTE missions").fetchone() == (3,)
        operator.execute("SELECT amp.suspend_tenant('ant')")
        replay(operator, standby)
        with raises("TN002"):
            service.execute("EXECUTE missions")
        operator.execute("SELECT amp.activate_tenant('ant')")
        replay(operator, standby)
        assert service.execute("EXECUTE missions").fetchone() == (3,)


def test_recording_usage_on_a_standby_says_why_it_cannot(db, standby):
    with standby.connect(db.name, "amp_svc") as service:
        service.execute("SET amp.tenant_id = 'ant'")
        with raises("25006", "read-only transaction"):
            service.execute("SELECT amp.record_usage('api_calls')")
        with raises("25006", "read-only transaction"):
            service.execute("INSERT INTO app.missions VALUES ('ant', 9, 'new')")
        assert service.execute("SELECT amp.usage()").fetchone()[0]["usage"]["api_calls"] == 0


def test_no_read_path_takes_a_transaction_id(db):
    with db.connect("amp_svc") as service:
        service.execute("BEGIN")
        for statement in (
            "SET amp.tenant_id = 'ant'",
            "SET LOCAL amp.user_id = 'vic'",
            "SELECT * FROM app.missions",
            "DECLARE missions CURSOR FOR SELECT * FROM app.missions",
            "FETCH 2 FROM missions",
            "SELECT amp.tenant_id(), amp.user_id(), amp.role(), amp.context()",
            "SELECT amp.has_permission('missions.create'), amp.require_permission('content.view')",
            "SELECT amp.users(), amp.usage(), amp.my_tenants()",
            "SELECT count(*) FROM amp.members",
        ):
            service.execute(statement)
            assert service.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,), statement
        service.execute("SAVEPOINT s")
        with raises("TN004"):
            service.execute("UPDATE app.missions SET name = 'mine'")
        service.execute("ROLLBACK TO s")


def test_approvals_change_with_time_on_a_standby(db, standby):
    """What nobody has written down yet: auto-approval that came due after the last write."""
    with db.connect() as admin, db.connect("amp_svc") as service:
        admin.execute("INSERT INTO amp.tenant_configs VALUES ('ant', %s) ON CONFLICT (tenant_id) DO UPDATE SET config = excluded.config",
                      ['{"approval": {"require_approval": true, "auto_approve_after_hours": 1}}'])
        service.execute("SET amp.tenant_id = 'ant'")
        request = service.execute("SELECT amp.request_approval('missions', '1', '{}') ->> 'id'").fetchone()[0]
        admin.execute("UPDATE amp.approval_requests SET requested_at = requested_at - interval '1 hour' + interval '3 s'")
        replay(admin, standby)
        with standby.connect(db.name, "amp_svc") as there:
            there.execute("SET amp.tenant_id = 'ant'")
            state = "SELECT amp.approval(%s) ->> 'status', jsonb_array_length(amp.approvals('approved') -> 'data')"
            assert there.execute(state, [request]).fetchone() == ("pending", 0)
            time.sleep(3)
            assert there.execute(state, [request]).fetchone() == ("approved", 1)
        assert admin.execute("SELECT status FROM amp.approval_requests").fetchone() == ("pending",)


def test_a_promoted_standby_goes_on(db, standby):  # the last one: there is no standby any more
    with db.connect("amp_ops") as operator:
        operator.execute("SELECT amp.suspend_tenant('bee')")
        replay(operator, standby)
    with standby.connect(db.name, "amp_svc") as service, standby.connect(db.name, "amp_ops") as operator:
        service.execute("SET amp.tenant_id = 'ant'")
        assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
        standby.promote()
        service.execute("INSERT INTO app.missions VALUES ('ant', 9, 'new')")
        assert service.execute("SELECT amp.record_usage('api_calls')").fetchone() == (True,)
        with raises("42501"):
            service.execute("INSERT INTO app.missions VALUES ('bee', 9, 'new')")
        with raises("TN002"):
            service.execute("SET amp.tenant_id = 'bee'")
        operator.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"):
            service.execute("SELECT count(*) FROM app.missions")
