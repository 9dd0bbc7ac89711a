"""amp.stat_tenants: what each tenant's statements cost, by the verified context; each counted once, seen by its tenant and by operators."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from harness import ROOT, Cluster, raises

ROLES = """
    CREATE ROLE stats_reader LOGIN IN ROLE pg_read_all_stats;
    CREATE ROLE client_ada LOGIN; CREATE ROLE client_vic LOGIN;
    CREATE ROLE analyst LOGIN IN ROLE amp_svc, pg_read_all_stats;
"""
APPLICATION = """
    GRANT USAGE ON SCHEMA app TO client_ada, client_vic; GRANT SELECT ON app.missions TO client_ada, client_vic;
    CREATE TABLE app.shared (id int); INSERT INTO app.shared VALUES (1), (2); GRANT ALL ON app.shared TO amp_svc;
    CREATE FUNCTION app.sum_up() RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE n bigint := 0; r record;
        BEGIN
            FOR r IN SELECT * FROM app.missions LOOP
                n := n + (SELECT count(*) FROM app.missions);
            END LOOP;
            RETURN n;
        END$$;
    CREATE FUNCTION app.survive(failures int) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN
            FOR n IN 1..failures LOOP
                BEGIN
                    PERFORM 1 / (id - id) FROM app.missions;
                EXCEPTION WHEN division_by_zero THEN
                    PERFORM count(*) FROM app.missions;
                END;
            END LOOP;
            RETURN failures;
        END$$;
    CREATE FUNCTION app.fail() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM app.missions; RAISE 'no'; END$$;
    CREATE FUNCTION app.open_cursor(c refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$
        BEGIN OPEN c FOR SELECT * FROM app.missions; RETURN c; END$$;
    CREATE FUNCTION app.read_cursor(c refcursor) RETURNS int LANGUAGE plpgsql AS $$
        DECLARE r record; BEGIN FETCH c INTO r; RETURN 1; END$$;
    CREATE FUNCTION app.close_cursor(c refcursor) RETURNS int LANGUAGE plpgsql AS $$ BEGIN CLOSE c; RETURN 1; END$$;
    CREATE PROCEDURE app.visit(VARIADIC tenants text[]) LANGUAGE plpgsql AS $$
        DECLARE tenant text;
        BEGIN
            FOREACH tenant IN ARRAY tenants LOOP
                PERFORM set_config('amp.tenant_id', tenant, true);
                INSERT INTO app.missions SELECT tenant, n + (SELECT max(id) FROM app.missions), repeat('x', 100) FROM generate_series(1, 100) n;
                COMMIT;
            END LOOP;
        END$$;
    GRANT TEMPORARY ON DATABASE %s TO amp_svc;
"""


@pytest.fixture(scope="module")
def server():
    server = Cluster(max_prepared_transactions=2)
    yield server
    server.remove()


@pytest.fixture
def db(server):
    db = server.database()
    set_up(db)
    yield db
    db.drop()


def set_up(db):
    with db.connect() as admin:
        if not admin.execute("SELECT FROM pg_roles WHERE rolname = 'stats_reader'").rowcount:
            admin.execute(ROLES)
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute(APPLICATION % db.name)


def service(db, tenant="ant", role="amp_svc", **kw):
    session = db.connect(role, **kw)
    session.execute(f"SET amp.tenant_id = '{tenant}'")
    session.commit()
    return session


PARALLEL = """
    SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
    SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET parallel_leader_participation = off;
"""

COLUMNS = "calls, rows, shared_blks_hit + shared_blks_read AS blocks, wal_bytes, temp_blks_written, exec_time_ms"


def stats(db, user="postgres", **kw):
    """{tenant: its row as an object}"""
    with db.connect(user, **kw) as session, session.cursor(row_factory=psycopg.rows.namedtuple_row) as cursor:
        rows = cursor.execute(f"SELECT tenant_id, {COLUMNS} FROM amp.stat_tenants").fetchall()
        return {row.tenant_id: row for row in rows}


def calls(db):
    return {tenant: (row.calls, row.rows) for tenant, row in stats(db).items()}


def test_a_statement_is_its_tenants(db):
    with service(db) as ant, service(db, "bee") as bee:
        assert calls(db) == {}
        ant.execute("SELECT * FROM app.missions")
        ant.execute("UPDATE app.missions SET name = 'new'")
        bee.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (2, 6), "bee": (1, 5)}
    row = stats(db)
    assert row["ant"].blocks > row["bee"].blocks > 0 and row["ant"].wal_bytes > 100 > row["bee"].wal_bytes
    assert row["ant"].exec_time_ms > 0
    with db.connect() as admin:
        named = admin.execute("SELECT DISTINCT datid = oid, s.datname, since BETWEEN now() - interval '1 minute' AND now() "
                              "FROM amp.stat_tenants s, pg_database d WHERE d.datname = current_database()").fetchall()
        assert named == [(True, db.name, True)]


def test_one_session_of_two_tenants(db):
    with db.connect("amp_svc") as session:
        for tenant in ("ant", "bee", "ant"):
            with session.transaction():
                session.execute(f"SET LOCAL amp.tenant_id = '{tenant}'")
                session.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (2, 6), "bee": (1, 5)}


def test_what_runs_without_a_tenant_is_nobodys(db):
    """Also the statement that pins none, though the session claims one; but those after the pin are its transaction's tenant's."""
    with db.connect() as admin, db.connect("amp_ops") as ops, db.connect("amp_owner") as owner, service(db) as ant:
        admin.execute("SELECT * FROM app.missions")
        ops.execute("SELECT amp.list_tenants()")
        owner.execute("SELECT 1")
        ant.execute("SELECT * FROM app.shared")
        assert calls(db) == {}
        with ant.transaction():
            ant.execute("SELECT * FROM app.shared")
            ant.execute("SELECT * FROM app.missions")
            ant.execute("SELECT * FROM app.shared")
    assert calls(db) == {"ant": (2, 5)}


@pytest.mark.parametrize("claim", ["SET amp.tenant_id = 'bee'", "SELECT set_config('amp.tenant_id', 'bee', false)",
                                   "SET amp.parallel_context = E'bee\\n\\n\\n9\\n'"])  # fmt: skip
def test_P3_a_claim_that_is_not_verified_counts_for_nobody(db, claim):
    with db.connect("amp_client") as client, suppress(psycopg.Error):
        client.execute(claim)
    with db.connect("amp_client", autocommit=False) as client:
        with suppress(psycopg.Error):
            client.execute(claim)
            client.execute("SELECT * FROM app.missions")
        client.rollback()
        client.execute("SELECT * FROM pg_class")
    with service(db, "ant") as session, db.connect("amp_ops") as ops:  # true at the SET, and not any more
        ops.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"):
            session.execute("SELECT * FROM app.missions")
        session.execute("SELECT * FROM app.shared")
    assert calls(db) == {}


def test_nested_statements_count_in_the_outermost(db):
    with service(db) as ant:
        ant.execute("SELECT app.sum_up()")
        assert calls(db) == {"ant": (1, 1)}
        ant.execute("DO $$ BEGIN PERFORM app.sum_up(); INSERT INTO app.missions (id) VALUES (50); END $$")
        assert calls(db) == {"ant": (2, 1)}
        ant.execute("SELECT id FROM app.missions WHERE app.sum_up() > 0")
        assert calls(db) == {"ant": (3, 5)}
        assert stats(db)["ant"].wal_bytes > 50


def test_an_error_that_is_caught_leaves_the_statements_level_as_it_was(db):
    with service(db) as ant:
        for number in range(1, 4):
            ant.execute("SELECT app.survive(20)")
            assert calls(db) == {"ant": (number, number)}
            ant.execute("SELECT 1 WHERE false")  # no tenant is needed, and none counts
        with ant.transaction():
            ant.execute("SELECT * FROM app.missions")
            for _ in range(3):
                with suppress(psycopg.errors.RaiseException), ant.transaction():  # a savepoint
                    ant.execute("SELECT app.fail()")
                ant.execute("SELECT app.survive(2)")
        assert calls(db) == {"ant": (7, 3 + 3 + 3)}
        ant.execute("DO $$ BEGIN FOR n IN 1..5 LOOP BEGIN PERFORM app.fail(); EXCEPTION WHEN others THEN END; END LOOP; END $$")
        assert calls(db)["ant"] == (8, 9)  # what used the tenant was rolled back, and the pin is not


def test_a_statement_that_fails_counts_nothing(db):
    failing = ["SELECT app.fail()", "SELECT 1 / (id - id) FROM app.missions", "INSERT INTO app.missions VALUES ('bee', 9)",
               "DO $$ BEGIN PERFORM app.fail(); END $$", "PREPARE p AS SELECT 1 / (id - id) FROM app.missions; EXECUTE p",
               "CREATE TEMP TABLE t AS SELECT 1 / (id - id) FROM app.missions", "SELECT * FROM app.nowhere",
               "EXPLAIN ANALYZE SELECT 1 / (id - id) FROM app.missions", "CALL app.visit('ant', 'nowhere')"]  # fmt: skip
    with service(db) as ant:
        for statement in failing[:-1]:
            with pytest.raises(psycopg.Error):
                ant.execute(statement)
            assert calls(db) == {}, statement
            ant.execute("SELECT * FROM app.shared")  # nothing is measured on
        with raises("22012"), ant.cursor() as cursor, cursor.copy("COPY (SELECT 1 / (id - id) FROM app.missions) TO STDOUT") as copy:
            list(copy)
        assert calls(db) == {}
        for statement in failing[:-1]:
            with suppress(psycopg.Error), ant.transaction():
                ant.execute("SELECT FROM app.missions LIMIT 0")
                with suppress(psycopg.Error), ant.transaction():
                    ant.execute(statement)
                ant.execute(statement)
            ant.execute("SELECT * FROM app.shared")
        assert calls(db) == {"ant": (len(failing) - 1, 0)}
        with raises("TN002"):
            ant.execute(failing[-1])
        ant.execute("SELECT * FROM app.missions")
        assert calls(db)["ant"][0] == len(failing)


def test_an_error_of_a_hook_leaves_nothing_behind(db):
    """A FETCH is refused after its measurement began; what comes next counts by itself."""
    with service(db) as ant, service(db, "bee") as bee, db.connect("amp_ops") as ops:
        for session in (ant, bee):
            session.execute("BEGIN; SAVEPOINT s; DECLARE c CURSOR FOR SELECT * FROM app.missions; FETCH 1 FROM c")
        for tenant in ("ant", "bee"):
            ops.execute(f"SELECT amp.suspend_tenant('{tenant}')")
        for session in (ant, bee):
            with raises("TN002"):
                session.execute("FETCH 1 FROM c")
        for tenant in ("ant", "bee"):
            ops.execute(f"SELECT amp.activate_tenant('{tenant}')")
        ant.execute("ROLLBACK")
        bee.execute("ROLLBACK TO s")
        for session in (ant, bee):
            session.execute("SELECT * FROM app.missions")
            session.execute("SELECT app.sum_up()")
        bee.execute("COMMIT")
    assert calls(db) == {"ant": (2, 4), "bee": (2, 6)}


def test_a_timeout_leaves_nothing_behind(db):
    with service(db) as ant:
        ant.execute("SET statement_timeout = '20ms'")
        for _ in range(3):
            with raises("57014"):
                ant.execute("SELECT pg_sleep(1) FROM app.missions")
            ant.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (3, 9)}


def test_a_statement_that_is_rolled_back_afterwards_counts(db):
    with service(db, autocommit=False) as ant:
        ant.execute("INSERT INTO app.missions (id) VALUES (60)")
        ant.rollback()
        ant.execute("SAVEPOINT s")
        ant.execute("INSERT INTO app.missions (id) VALUES (60)")
        ant.execute("ROLLBACK TO s")
        ant.commit()
    assert calls(db) == {"ant": (2, 2)}


def test_a_cursor_is_one_call(db):
    with service(db) as ant:
        with ant.transaction():
            ant.execute("DECLARE c CURSOR FOR SELECT * FROM app.missions")
            ant.execute("FETCH 2 FROM c")
            ant.execute("FETCH 2 FROM c")
            assert calls(db) == {}
            ant.execute("CLOSE c")
            assert calls(db) == {"ant": (1, 3)}
        with ant.transaction():
            ant.execute("DECLARE c CURSOR FOR SELECT * FROM app.missions")
            ant.execute("DECLARE d CURSOR FOR SELECT * FROM app.missions")
            ant.execute("FETCH 1 FROM c")
            ant.execute("FETCH 1 FROM d")
            ant.execute("FETCH 1 FROM c")
        assert calls(db) == {"ant": (3, 6)}  # they end with the transaction
        with ant.transaction():
            ant.execute("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM app.missions")
            ant.execute("FETCH 1 FROM c")
        ant.execute("FETCH ALL FROM c")
        ant.execute("CLOSE c")
        assert calls(db)["ant"][0] == 4
        with ant.transaction(force_rollback=True):
            ant.execute("DECLARE c CURSOR FOR SELECT * FROM app.missions")
            ant.execute("FETCH 1 FROM c")
        assert calls(db)["ant"][0] == 4  # broken off
        with suppress(psycopg.Error), ant.transaction():
            ant.execute("DECLARE c CURSOR FOR SELECT * FROM app.missions")
            ant.execute("SELECT 1/0")
        ant.execute("SELECT * FROM app.missions")
        assert calls(db)["ant"][0] == 5


def test_a_cursor_between_a_function_and_the_session_counts_once(db):
    with service(db) as ant:
        with ant.transaction():
            ant.execute("SELECT app.open_cursor('c')")  # a call of its own
            ant.execute("FETCH 1 FROM c")
            ant.execute("FETCH 1 FROM c")
            ant.execute("CLOSE c")
        assert calls(db) == {"ant": (2, 1 + 2)}
        with ant.transaction():
            ant.execute("DECLARE c CURSOR FOR SELECT * FROM app.missions")
            ant.execute("FETCH 1 FROM c")
            ant.execute("SELECT app.read_cursor('c')")
            ant.execute("SELECT app.close_cursor('c')")
        assert calls(db) == {"ant": (5, 3 + 1 + 1 + 1)}


def test_a_server_side_cursor_of_the_driver_is_one_call(db):
    with service(db) as ant, ant.transaction(), ant.cursor("c") as cursor:
        cursor.itersize = 1
        cursor.execute("SELECT * FROM app.missions")
        assert len(cursor.fetchall()) == 3
    assert calls(db) == {"ant": (1, 3)}


def test_prepared_statements_count_whichever_way_they_are_run(db):
    with service(db) as ant:
        for _ in range(3):
            ant.execute("SELECT * FROM app.missions WHERE id = %s", [1], prepare=True)
        ant.execute("PREPARE p (int) AS SELECT * FROM app.missions WHERE id = $1")
        for _ in range(3):
            ant.execute("EXECUTE p (1)")
        ant.execute("CREATE TEMP TABLE t AS EXECUTE p (1)")
        ant.execute("DEALLOCATE p")
        assert calls(db) == {"ant": (7, 7)}
        with ant.pipeline():
            for _ in range(5):
                ant.execute("SELECT * FROM app.missions WHERE id = %s", [1])
        assert calls(db) == {"ant": (12, 12)}


def test_utility_statements_count(db):
    with service(db) as ant:
        with ant.cursor() as cursor, cursor.copy("COPY (SELECT * FROM app.missions) TO STDOUT") as copy:
            assert len(list(copy)) == 3
        assert calls(db) == {"ant": (1, 3)}
        with ant.transaction(), ant.cursor() as cursor:
            cursor.execute("SELECT amp.tenant_id()")
            with cursor.copy("COPY app.shared FROM STDIN") as copy:
                for number in range(19):
                    copy.write_row([number])
        assert calls(db) == {"ant": (3, 23)}
        ant.execute("CREATE TEMP TABLE t AS SELECT * FROM app.missions")
        assert calls(db) == {"ant": (4, 26)}
        with service(db, role="analyst") as analyst:
            analyst.execute("EXPLAIN ANALYZE SELECT * FROM app.missions")
        assert calls(db) == {"ant": (5, 26)}
        ant.execute("INSERT INTO app.missions (id) SELECT n FROM generate_series(200, 209) n RETURNING id")
        ant.execute("WITH gone AS (DELETE FROM app.missions WHERE id > 99 RETURNING id) SELECT count(*) FROM gone")
        assert calls(db) == {"ant": (7, 37)}
        with ant.transaction():
            ant.execute("SELECT * FROM app.missions")
            ant.execute("SET LOCAL work_mem = '1MB'")
            ant.execute("SHOW work_mem")
        assert calls(db) == {"ant": (8, 40)}


def test_a_procedure_is_one_call_and_each_of_its_transactions_its_tenants(db):
    with db.connect("amp_svc") as session:
        session.execute("CALL app.visit('ant', 'bee', 'bee', 'ant')")
        row = stats(db)
        assert row["ant"].calls + row["bee"].calls == 1
        assert min(row["ant"].wal_bytes, row["bee"].wal_bytes) > 20_000
        assert 0.6 < row["ant"].wal_bytes / row["bee"].wal_bytes < 1.6
        before = row
        session.execute("DO $$ BEGIN FOR n IN 1..3 LOOP PERFORM set_config('amp.tenant_id', 'bee', true);"
                        " DELETE FROM app.missions WHERE id = n + 10; ROLLBACK; END LOOP; END $$")  # fmt: skip
        row = stats(db)
        assert (row["ant"].calls + row["bee"].calls, row["ant"]) == (2, before["ant"])
        session.execute("SELECT * FROM app.shared")
        assert stats(db) == row


def test_what_a_commit_runs_costs_but_is_no_call(db):
    with db.connect() as admin:
        admin.execute("""
            CREATE FUNCTION app.later() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                BEGIN PERFORM 1 / 0 FROM app.missions; EXCEPTION WHEN division_by_zero THEN END;
                INSERT INTO app.shared SELECT n FROM generate_series(1, 1000) n; RETURN NULL;
            END$$;
            CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.missions DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION app.later();""")
    with service(db) as ant:
        ant.execute("BEGIN")
        ant.execute("INSERT INTO app.missions (id) VALUES (70), (71)")
        ant.execute("SELECT 1")  # ends the unnamed portal
        before = stats(db)["ant"]
        ant.execute("COMMIT")
        ant.execute("SELECT * FROM app.missions")
    row = stats(db)["ant"]
    assert row.wal_bytes - before.wal_bytes > 100_000
    assert row.calls == 3


def test_a_parallel_query_counts_once_with_its_workers_blocks(db):
    with db.connect() as admin:
        admin.execute("""
            CREATE TABLE app.many (tenant_id text, n int, filler text);
            INSERT INTO app.many SELECT CASE n % 10 WHEN 0 THEN 'ant' ELSE 'bee' END, n, repeat('x', 100) FROM generate_series(1, 50000) n;
            GRANT SELECT ON app.many TO amp_svc;
            SELECT * FROM amp.protect('app.many');
            ALTER TABLE app.many SET (parallel_workers = 2);
            ANALYZE app.many;
        """)
        blocks = admin.execute("SELECT pg_relation_size('app.many') / 8192").fetchone()[0]
    with service(db) as ant:
        ant.execute(PARALLEL)
        assert ant.execute("SELECT count(*) FROM app.many").fetchone() == (5000,)
        row = stats(db)["ant"]
        assert (row.calls, row.rows) == (1, 1)
        assert blocks <= row.blocks < 1.5 * blocks
        assert calls(db).keys() == {"ant"}
    with service(db, role="analyst") as analyst:
        analyst.execute(PARALLEL)
        plan = analyst.execute("EXPLAIN ANALYZE SELECT count(*) FROM app.many").fetchall()
        assert any("Workers Launched: 2" in line for (line,) in plan), plan


def test_temporary_blocks_are_counted(db):
    with service(db) as ant:
        ant.execute("SET work_mem = '64kB'")
        ant.execute("SELECT count(*) FROM (SELECT m.id + n FROM app.missions m, generate_series(1, 20000) n ORDER BY 1 OFFSET 0) s")
    assert stats(db)["ant"].temp_blks_written > 10


def test_it_gets_on_with_others_who_measure(make_cluster):
    """Behind them and before them in the chain of hooks; both see what they see alone."""
    for libraries in ("pg_stat_statements,auto_explain,amp_tenancy", "amp_tenancy,auto_explain,pg_stat_statements"):
        server = make_cluster(shared_preload_libraries=libraries, **{"auto_explain.log_min_duration": 0, "auto_explain.log_analyze": "on"})
        db = server.database()
        set_up(db)
        with db.connect() as admin:
            admin.execute("CREATE EXTENSION pg_stat_statements")
        with service(db) as ant:
            for _ in range(3):
                ant.execute("SELECT * FROM app.missions")
                ant.execute("SELECT app.survive(2)")
                with raises("P0001"):
                    ant.execute("SELECT app.fail()")
        assert calls(db) == {"ant": (6, 12)}
        with db.connect() as admin:
            seen = admin.execute("SELECT calls, rows FROM pg_stat_statements WHERE query IN ('SELECT * FROM app.missions', 'SELECT app.survive($1)')")
            assert sorted(seen) == [(3, 3), (3, 9)]


def test_switched_off_nothing_counts(db):
    with service(db) as ant:
        with raises("42501"):
            ant.execute("SET amp.stat_tenants = off")
        with db.connect() as admin:
            admin.execute(f"ALTER ROLE amp_svc IN DATABASE {db.name} SET amp.stat_tenants = off")
        with service(db) as off:
            off.execute("SELECT * FROM app.missions")
        assert calls(db) == {}
        ant.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (1, 3)}


def test_P1_who_sees_what(db):
    with service(db) as ant, service(db, "bee") as bee:
        ant.execute("SELECT * FROM app.missions")
        bee.execute("SELECT * FROM app.missions")
        for session, tenant in ((ant, "ant"), (bee, "bee")):
            for query in ("SELECT tenant_id FROM amp.stat_tenants", "SELECT tenant_id FROM amp.stat_tenants_data()",
                          f"SELECT tenant_id FROM amp.stat_tenants WHERE tenant_id = tenant_id OR tenant_id <> '{tenant}'",
                          "WITH s AS MATERIALIZED (SELECT * FROM amp.stat_tenants) SELECT tenant_id FROM s"):  # fmt: skip
                assert session.execute(query).fetchall() == [(tenant,)]
            with raises("TN004"):
                session.execute("SELECT amp.stat_tenants_evicted()")
    everybody = {"ant", "bee"}
    assert stats(db).keys() == stats(db, "amp_ops").keys() == stats(db, "stats_reader").keys() == everybody
    for user in ("amp_svc", "amp_client", "amp_owner"):
        assert stats(db, user) == {}
    with db.connect("amp_svc") as session, db.connect("amp_ops") as ops:  # a claim that does not hold is an error, not an empty answer
        session.execute("SET amp.tenant_id = 'ant'")
        ops.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"):
            session.execute("SELECT * FROM amp.stat_tenants")
        ops.execute("SELECT amp.activate_tenant('ant')")
        assert ops.execute("SELECT amp.stat_tenants_evicted()").fetchone()[0] >= 0


COSTS = ["exec_time_ms", "shared_blks_hit", "shared_blks_read", "shared_blks_dirtied", "shared_blks_written", "temp_blks_read", "temp_blks_written",
         "wal_bytes"]  # fmt: skip


@pytest.mark.parametrize("relation", ["amp.stat_tenants", "amp.stat_tenants_data()"])
def test_P1_what_it_costs_is_not_for_tenants(db, relation):
    """Rows that policies hide cost, too. A tenant has its calls and rows."""
    query = f"SELECT {', '.join(COSTS)} FROM {relation} WHERE tenant_id = 'ant'"
    with service(db) as ant:
        ant.execute("UPDATE app.missions SET name = 'new'")
        assert ant.execute(query).fetchone() == (None,) * len(COSTS)
        own = ant.execute(f"SELECT tenant_id, calls > 0, rows > 0, since <= now() FROM {relation}").fetchall()
        assert own == [("ant", True, True, True)]
    for user in "postgres", "amp_ops", "stats_reader":
        with db.connect(user) as session:
            assert all(cost is not None for cost in session.execute(query).fetchone())


def test_P1_a_client_sees_his_proved_tenants_row(db):
    with service(db) as ant, service(db, "bee") as bee, db.connect("amp_ops") as ops:
        ant.execute("SELECT * FROM app.missions")
        bee.execute("SELECT * FROM app.missions")
        key = ops.execute("SELECT amp.create_api_key('vic', 'ant', 'test')").fetchone()[0]["key"]
        ops.execute("SELECT amp.bind_role('client_ada', 'ada')")
    with db.connect("client_vic") as vic:
        assert vic.execute("SELECT * FROM amp.stat_tenants").fetchall() == []
        vic.execute("SELECT amp.authenticate(%s)", [key])
        assert vic.execute("SELECT tenant_id FROM amp.stat_tenants").fetchall() == [("ant",)]
        with raises("TN003"):
            vic.execute("SET amp.tenant_id = 'bee'")
    with db.connect("client_ada") as ada:
        ada.execute("SET amp.tenant_id = 'bee'")
        assert ada.execute("SELECT tenant_id FROM amp.stat_tenants").fetchall() == [("bee",)]


def test_P1_a_strangers_function_does_not_see_more(db):
    """An operator who calls it lends nothing: what counts is whose rights are in force."""
    with service(db) as ant:
        ant.execute("SELECT * FROM app.missions")
    with db.connect("amp_owner") as owner, db.connect("amp_ops") as ops:
        owner.execute("CREATE SCHEMA IF NOT EXISTS trap; GRANT USAGE ON SCHEMA trap TO amp_ops;"
                      "CREATE FUNCTION trap.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM amp.stat_tenants'")  # fmt: skip
        assert ops.execute("SELECT trap.peek(), count(*) FROM amp.stat_tenants").fetchone() == (0, 1)


def test_another_databases_tenants_are_not_shown(db, server):
    other = server.database()
    set_up(other)
    with service(db) as ant, service(other) as there:
        ant.execute("SELECT * FROM app.missions")
        for _ in range(2):
            there.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (1, 3)} and calls(other) == {"ant": (2, 6)}
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.reset_stat_tenants()")
    assert calls(db) == {} and calls(other) == {"ant": (2, 6)}
    other.drop()


def test_operators_reset_and_the_audit_log_says_so(db):
    with service(db) as ant, db.connect("amp_ops", autocommit=False) as ops:
        ant.execute("SELECT * FROM app.missions")
        ops.execute("SELECT amp.reset_stat_tenants()")
        assert calls(db) == {"ant": (1, 3)}  # it is a part of the transaction
        ops.rollback()
        assert calls(db) == {"ant": (1, 3)}
        with suppress(psycopg.errors.DivisionByZero), ops.transaction(), ops.transaction():
            ops.execute("SELECT amp.reset_stat_tenants()")
            ops.execute("SELECT 1/0")
        ops.execute("SAVEPOINT s")
        ops.execute("SELECT amp.reset_stat_tenants()")
        ops.execute("ROLLBACK TO s")
        ops.commit()
        assert calls(db) == {"ant": (1, 3)}
        ops.execute("SELECT amp.reset_stat_tenants()")
        ops.commit()
        assert calls(db) == {}
        ant.execute("SELECT * FROM app.missions")
        assert calls(db) == {"ant": (1, 3)}
        log = ops.execute("SELECT login_role, action, tenant_id FROM amp.audit_log WHERE action LIKE 'stat%'").fetchall()
        assert log == [("amp_ops", "stat_tenants.reset", None)]
    with db.connect() as admin:
        admin.execute("SELECT amp.reset_stat_tenants()")
    assert calls(db) == {}


def test_a_reset_is_not_prepared(db):
    with db.connect("amp_ops") as ops:
        ops.execute("BEGIN")
        ops.execute("SELECT amp.reset_stat_tenants()")
        with raises("55000"):
            ops.execute("PREPARE TRANSACTION 'reset'")
        assert ops.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        ops.execute("BEGIN; SELECT 1; PREPARE TRANSACTION 'none'")
        ops.execute("ROLLBACK PREPARED 'none'")


@pytest.mark.parametrize("call", ["amp.reset_stat_tenants()", "amp.clear_stat_tenants_for_caller()", "amp.clear_stat_tenants()"])
def test_nobody_else_resets(db, call):
    with service(db) as ant:
        ant.execute("SELECT * FROM app.missions")
        for user in ("amp_svc", "amp_client", "stats_reader", "amp_owner"):
            with db.connect(user) as session, pytest.raises(psycopg.Error) as refused:
                session.execute(f"SELECT {call}")
            assert refused.value.sqlstate in ("TN004", "42501")
        with pytest.raises(psycopg.Error):
            ant.execute(f"SELECT {call}")
    assert calls(db) == {"ant": (1, 3)}


def test_sessions_at_once_lose_no_count(db):
    def work(tenant):
        with service(db, tenant) as session:
            for _ in range(300):
                session.execute("SELECT * FROM app.missions")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, ["ant", "bee"] * 4))
    assert calls(db) == {"ant": (1200, 3600), "bee": (1200, 6000)}


def many(db, first, last):
    """As many tenants, each with one statement."""
    with db.connect("amp_ops") as ops, db.connect("amp_svc") as session:
        for number in range(first, last):
            ops.execute("SELECT amp.create_tenant('T', %s, id => %s)", [f"many-{number}-inc", f"t{number}"])
        for number in range(first, last):
            session.execute(f"SET amp.tenant_id = 't{number}'")
            session.execute("SELECT * FROM app.missions")


def test_the_least_used_goes_when_the_table_is_full(make_cluster):
    server = make_cluster(**{"amp.stat_tenants_max": 10})
    db = server.database()
    set_up(db)
    with service(db) as ant, db.connect("amp_ops") as ops:
        for _ in range(5):
            ant.execute("SELECT * FROM app.missions")
        many(db, 0, 9)
        evicted = "SELECT amp.stat_tenants_evicted()"
        assert len(calls(db)) == 10 and ops.execute(evicted).fetchone() == (0,)
        many(db, 9, 30)
        left = calls(db)
        assert len(left) == 10 and ops.execute(evicted).fetchone() == (21,)
        assert left["ant"] == (5, 15) and "t29" in left
        ant.execute("SELECT * FROM app.missions")  # whose entry may have moved
        assert calls(db)["ant"] == (6, 18)
        with db.connect() as admin, raises("55P02"):
            admin.execute("SET amp.stat_tenants_max = 20")


def test_a_restart_keeps_what_was_counted(make_cluster):
    server = make_cluster()
    db = server.database()
    set_up(db)
    with service(db) as ant, service(db, "bee") as bee:
        ant.execute("INSERT INTO app.missions (id) VALUES (80)")
        bee.execute("SELECT * FROM app.missions")

    def everything():
        with db.connect() as admin:
            return admin.execute("SELECT * FROM amp.stat_tenants ORDER BY tenant_id").fetchall()

    before = everything()
    assert len(before) == 2
    path = f"{server.dir}/data/pg_stat/amp_tenancy.stat"
    for _ in range(2):
        server.restart()
        assert everything() == before
        assert not os.path.exists(path)  # it is read once

    with service(db) as ant:
        ant.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (2, 5), "bee": (1, 5)}
    server.stop()
    assert os.stat(path).st_mode & 0o077 == 0
    saved = open(path, "rb").read()
    for broken in (b"", saved[:-1], saved + b"x", saved[:100] + b"y" + saved[101:], os.urandom(5000)):
        with open(path, "wb") as file:
            file.write(broken)
        server.start()
        assert calls(db) == {}
        assert "ignoring invalid file \"pg_stat/amp_tenancy.stat\"" in open(server.log).read()
        assert not os.path.exists(path)
        server.stop()
        os.truncate(server.log, 0)
    with open(path, "wb") as file:
        file.write(saved)
    server.start()
    assert calls(db) == {"ant": (2, 5), "bee": (1, 5)}
    assert "invalid file" not in open(server.log).read()


def test_a_crash_loses_what_was_counted(make_cluster):
    """One backend's, after which the server starts its memory anew; and the whole server's."""
    server = make_cluster()
    db = server.database()
    set_up(db)
    path = f"{server.dir}/data/pg_stat/amp_tenancy.stat"
    with service(db) as ant, db.connect() as other:
        ant.execute("SELECT * FROM app.missions")
        assert calls(db) == {"ant": (1, 3)}
        os.kill(ant.info.backend_pid, signal.SIGKILL)
        with suppress(psycopg.OperationalError):
            while True:  # until the server has noticed, and ends everybody
                other.execute("SELECT pg_sleep(0.01)")
    wait_for(db)
    assert calls(db) == {} and not os.path.exists(path)
    with service(db) as ant:
        ant.execute("SELECT * FROM app.missions")
    assert calls(db) == {"ant": (1, 3)}
    server.restart()  # what came after the crash is saved
    assert calls(db) == {"ant": (1, 3)}
    with server.connect() as admin:
        processes = [pid for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity")]
    processes.insert(0, int(open(f"{server.dir}/data/postmaster.pid").readline()))
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(os.path.exists(f"/proc/{pid}") for pid in processes):
        time.sleep(0.01)
    server.start()
    assert calls(db) == {}


def wait_for(db):
    for _ in range(500):
        with suppress(psycopg.OperationalError), db.connect() as admin:
            admin.execute("SELECT 1")
            return
        time.sleep(0.02)
    raise AssertionError("the server did not come back")


@pytest.fixture(scope="module")
def late():
    server = Cluster(shared_preload_libraries="")
    db = server.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
    yield db
    server.remove()


@pytest.mark.parametrize("user", ["amp_svc", "amp_ops", "amp_client"])
@pytest.mark.parametrize("query", ["SELECT * FROM amp.stat_tenants", "SELECT amp.stat_tenants_evicted()", "SELECT amp.reset_stat_tenants()"])
def test_without_preload_it_says_what_to_do(late, user, query):
    with late.connect(user) as session, pytest.raises(psycopg.Error) as refused:
        session.execute(query)
    may = user == "amp_ops" or "FROM" in query
    assert refused.value.sqlstate == ("55000" if may else "TN004")
    if may:
        assert "shared_preload_libraries" in refused.value.diag.message_hint
