"""psycopg 3 as applications use it: prepared statements, pipelines, a pool with threads, COPY, and errors with all their parts."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from harness import ROOT, raises


@pytest.fixture(scope="module")
def db(cluster):
    db = cluster.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("""
            SELECT amp.create_tenant('Tenant ' || n, 'tenant-' || n, id => 't' || n) FROM generate_series(1, 20) n;
            INSERT INTO app.missions SELECT 't' || n, i, 'of t' || n FROM generate_series(1, 20) n, generate_series(1, n) i;
        """)
    return db


@pytest.fixture
def service(db):
    with db.connect("amp_svc") as service:
        yield service


def set_tenant(connection, tenant):
    connection.execute("SELECT set_config('amp.tenant_id', %s, false)", [tenant])


@pytest.mark.parametrize("plan", ["auto", "force_generic_plan", "force_custom_plan"])
def test_server_side_prepared_statements_follow_the_tenant(db, plan):
    with db.connect("amp_svc", prepare_threshold=0) as service:
        service.execute(f"SET plan_cache_mode = {plan}")
        for turn in range(12):  # from the sixth on PostgreSQL may take the generic plan
            tenant, rows = (("ant", 3), ("bee", 5))[turn % 2]
            set_tenant(service, tenant)
            query = "SELECT tenant_id, count(*) FROM app.missions WHERE id < %s GROUP BY 1"
            assert service.execute(query, [100]).fetchall() == [(tenant, rows)]
            written = service.execute("UPDATE app.missions SET name = %s RETURNING tenant_id", ["x"]).fetchall()
            assert written == [(tenant,)] * rows
        assert service.execute("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql").fetchone()[0] >= 3


def test_a_prepared_statement_hears_of_a_suspension(db):
    with db.connect("amp_svc", prepare_threshold=0) as service, db.connect("amp_ops") as operator:
        set_tenant(service, "t20")
        query = "SELECT count(*) FROM app.missions WHERE id > %s"
        assert service.execute(query, [0]).fetchone() == (20,)
        operator.execute("SELECT amp.suspend_tenant('t20')")
        with raises("TN002"):
            service.execute(query, [0])
        operator.execute("SELECT amp.activate_tenant('t20')")
        assert service.execute(query, [0]).fetchone() == (20,)


def test_a_pipeline_sends_context_and_queries_together(service):
    with service.pipeline():
        answers = []
        for tenant in ("ant", "bee", "ant"):
            with service.transaction():
                service.execute("SELECT set_config('amp.tenant_id', %s, true)", [tenant])
                answers.append(service.execute("SELECT tenant_id, count(*) FROM app.missions GROUP BY 1"))
        assert [answer.fetchall() for answer in answers] == [[("ant", 3)], [("bee", 5)], [("ant", 3)]]
    with raises("TN001"):
        service.execute("SELECT * FROM app.missions")


def test_a_pipeline_that_fails_leaves_no_context(service):
    with pytest.raises(psycopg.Error), service.pipeline(), service.transaction():
        service.execute("SELECT set_config('amp.tenant_id', 'ant', true)")
        service.execute("SELECT 1 / 0")
        service.execute("INSERT INTO app.missions VALUES ('ant', 99, 'never')")
    with raises("TN001"):
        service.execute("SELECT * FROM app.missions")


def test_a_pipeline_without_a_transaction_is_one_transaction(service):
    """Until the next synchronisation PostgreSQL runs a pipeline as one: the second tenant comes too late."""
    with raises("TN006"), service.pipeline():
        service.execute("SELECT set_config('amp.tenant_id', 'ant', false)")
        service.execute("SELECT * FROM app.missions")
        service.execute("SELECT set_config('amp.tenant_id', 'bee', false)")
        service.execute("SELECT * FROM app.missions")


def test_a_server_side_cursor_keeps_to_its_tenant(service):
    with service.transaction():
        set_tenant(service, "bee")
        with service.cursor("missions") as missions:
            missions.itersize = 2
            assert missions.execute("SELECT tenant_id FROM app.missions").fetchmany(2) == [("bee",)] * 2
            with raises("TN006"):
                set_tenant(service, "ant")
                missions.fetchmany(2)


def test_copy_reads_and_writes_the_tenant_s_rows(service):
    set_tenant(service, "ant")
    with service.cursor().copy("COPY (SELECT tenant_id, id FROM app.missions ORDER BY id) TO STDOUT") as copy:
        assert list(copy.rows()) == [("ant", "1"), ("ant", "2"), ("ant", "3")]
    with service.cursor().copy("COPY app.missions TO STDOUT") as copy:
        assert {row[0] for row in copy.rows()} == {"ant"}
    with raises("0A000"), service.cursor().copy("COPY app.missions FROM STDIN") as copy:  # PostgreSQL has no such thing
        copy.write_row(("bee", 99, "never"))


def test_executemany_and_returning_stay_in_the_tenant(service):
    set_tenant(service, "ant")
    with service.transaction(force_rollback=True), service.cursor() as cursor:
        rows = [(id, f"new {id}") for id in range(100, 150)]
        cursor.executemany("INSERT INTO app.missions (id, name) VALUES (%s, %s) RETURNING tenant_id", rows, returning=True)
        tenants = {cursor.fetchone()[0] for _ in iter(lambda: cursor.nextset(), None)}
        assert tenants == {"ant"}


def test_a_pool_with_threads_and_tenants_never_mixes_them_up(cluster, db):
    requests, tenants = 4000, [("ant", 3), ("bee", 5)] + [(f"t{n}", n) for n in range(1, 20)]
    conninfo = psycopg.conninfo.make_conninfo(host=cluster.host, dbname=db.name, user="amp_svc")
    with ConnectionPool(conninfo, min_size=4, max_size=4, kwargs={"prepare_threshold": 2}) as pool:

        def serve(number):
            tenant, rows = tenants[number % len(tenants)]
            with pool.connection() as connection:  # one transaction
                if random.random() < 0.05:  # a request that forgot to say for whom
                    with raises("TN001"), connection.transaction():
                        connection.execute("SELECT * FROM app.missions")
                connection.execute("SELECT set_config('amp.tenant_id', %s, true)", [tenant])
                seen = connection.execute("SELECT tenant_id, count(*) FROM app.missions GROUP BY 1").fetchall()
                if number % 7 == 0:
                    connection.execute("SELECT amp.record_usage('api_calls')")
                if number % 11 == 0:
                    connection.execute("UPDATE app.missions SET name = name WHERE id = 1")
                if number % 13 == 0:
                    connection.rollback()
                return seen == [(tenant, rows)]

        with ThreadPoolExecutor(16) as threads:
            assert Counter(threads.map(serve, range(requests))) == {True: requests}
    counted = sum(number % 7 == 0 and number % 13 != 0 for number in range(requests))
    with db.connect("amp_ops") as operator:
        recorded = operator.execute("SELECT sum(amount) FROM amp.usage_counters WHERE metric = 'api_calls'").fetchone()
        assert recorded == (counted,)


@pytest.mark.parametrize("statement, sqlstate, message, detail, hint", [
    ("SELECT * FROM app.missions", "TN001", "no tenant is set", None, "SET amp.tenant_id"),
    ("SET amp.tenant_id = 'cat'", "TN002", '"cat" is unknown or not active', None, "operator"),
    ("SET amp.tenant_id = 'no such id!'", "22023", "invalid value", "1 to 64 characters", "amp.create_tenant()"),
    ("BEGIN; SET LOCAL amp.tenant_id = 'bee'; SET LOCAL amp.user_id = 'vic'", "TN003", '"vic" is not a member', None, "invite"),
    ("BEGIN; SET LOCAL amp.tenant_id = 'ant'; SET LOCAL amp.user_id = 'vic'; DELETE FROM app.missions", "TN004",
     '"viewer" lacks permission "missions.create"', "read from the database", "amp.set_user_role()"),
    ("BEGIN; SET LOCAL amp.tenant_id = 'ant'; SELECT * FROM app.missions; SET LOCAL amp.tenant_id = 'bee';"
     "SELECT * FROM app.missions", "TN006", 'acts for tenant "ant"', "pins it", "COMMIT or ROLLBACK"),
])  # fmt: skip
def test_an_error_has_all_its_parts(service, statement, sqlstate, message, detail, hint):
    with pytest.raises(psycopg.Error) as caught:
        service.execute(statement)
    diag = caught.value.diag
    assert (caught.value.sqlstate, diag.severity) == (sqlstate, "ERROR")
    for part, expected in (
        (diag.message_primary, message),
        (diag.message_detail, detail),
        (diag.message_hint, hint),
    ):
        assert expected in part if expected else part is None, part


def test_a_superuser_is_told_that_a_tenant_would_isolate_nothing(db):
    with db.connect() as admin, raises("TN009", "bypasses row security"):
        set_tenant(admin, "ant")
