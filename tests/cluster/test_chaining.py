"""Beside pg_stat_statements and auto_explain, loaded before or after them: everybody's hooks are called, and errors pass through them."""

import re

import psycopg
import pytest

from harness import ROOT, Cluster, raises

OTHERS = "pg_stat_statements,auto_explain"
ORDERS = [f"{OTHERS},amp_tenancy", f"amp_tenancy,{OTHERS}"]
SETTINGS = {"max_prepared_transactions": 2, "pg_stat_statements.save": "off", "pg_stat_statements.track": "all",
            "auto_explain.log_min_duration": 0, "auto_explain.log_analyze": "on", "auto_explain.log_timing": "off",
            "auto_explain.log_nested_statements": "on"}  # fmt: skip

# The same for the server without amp_tenancy, where everybody is ant.
WITHOUT = """
    CREATE SCHEMA app AUTHORIZATION amp_owner; GRANT USAGE ON SCHEMA app TO amp_svc;
    CREATE TABLE app.missions (tenant_id text COLLATE "C" DEFAULT 'ant', id int, name text, PRIMARY KEY (tenant_id, id));
    ALTER TABLE app.missions ENABLE ROW LEVEL SECURITY; CREATE POLICY tenant ON app.missions USING (tenant_id = 'ant');
    GRANT SELECT, INSERT, UPDATE, DELETE ON app.missions TO amp_svc;
"""
FRESH = """
    TRUNCATE app.missions;
    INSERT INTO app.missions
    SELECT t, n, t || ' ' || n FROM (VALUES ('ant', 3), ('bee', 5)) AS v(t, most), generate_series(1, most) n;
    SELECT pg_stat_statements_reset();
"""
APPLICATION = """
    CREATE EXTENSION pg_stat_statements;
    CREATE TABLE app.keys (id int CONSTRAINT keys_are_small CHECK (id < 1000), CONSTRAINT one_of_each UNIQUE (id));
    INSERT INTO app.keys VALUES (1); GRANT ALL ON app.keys TO amp_svc;
    CREATE FUNCTION app.count_up() RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE n bigint := 0; r record;
        BEGIN
            FOR r IN SELECT id FROM app.missions ORDER BY id LOOP
                n := n + (SELECT count(*) FROM app.missions m WHERE m.id <= r.id);
            END LOOP;
            RETURN n;
        END$$;
    CREATE FUNCTION app.run(statement text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE statement; RETURN 1; END$$;
    CREATE FUNCTION app.survive(statement text, next text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            EXECUTE statement; RETURN 'none';
        EXCEPTION WHEN others THEN
            EXECUTE next; RETURN sqlstate;
        END$$;
    CREATE FUNCTION app.sum_up() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT sum(id) FROM app.missions';
    CREATE PROCEDURE app.add(first int, last int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR n IN first..last LOOP INSERT INTO app.missions (id) VALUES (n); COMMIT; END LOOP;
        END$$;
    GRANT TEMPORARY ON DATABASE %s TO amp_svc;
"""

# What a service does in a day. Each is sent by itself; what fails is in here too.
WORKLOAD = [
    "SELECT count(*) FROM app.missions",
    "SELECT count(*) FROM app.missions",
    "INSERT INTO app.missions (id) SELECT n FROM generate_series(11, 15) n RETURNING id",
    "UPDATE app.missions SET name = 'new' WHERE id > 10",
    "WITH gone AS (DELETE FROM app.missions WHERE id > 12 RETURNING id) SELECT id FROM gone",
    "SELECT 1 / (id - id) FROM app.missions",
    "SELECT app.count_up()",
    "SELECT app.sum_up()",
    "SELECT app.survive('SELECT 1 / (id - id) FROM app.missions', 'SELECT count(*) FROM app.missions')",
    "SELECT app.survive('DROP TABLE app.nowhere', 'UPDATE app.missions SET name = name')",
    "DO $$ BEGIN PERFORM app.count_up(); UPDATE app.missions SET name = 'newer' WHERE id > 10; END $$",
    "PREPARE one (int) AS SELECT id, name FROM app.missions WHERE id = $1",
    "EXECUTE one (1)",
    "EXECUTE one (2)",
    "EXECUTE one (4000)",
    "DEALLOCATE one",
    "CREATE TEMP TABLE kept AS SELECT id FROM app.missions",
    "SELECT id FROM kept",
    "DROP TABLE kept",
    "CALL app.add(21, 23)",
    "CALL app.add(21, 23)",
    "BEGIN",
    "DECLARE c CURSOR FOR SELECT id FROM app.missions ORDER BY id",
    "FETCH 2 FROM c",
    "SAVEPOINT s",
    "DROP TABLE app.nowhere",
    "ROLLBACK TO s",
    "FETCH 2 FROM c",
    "SELECT name FROM app.missions WHERE id = 1",
    "COMMIT",
    "DELETE FROM app.missions WHERE id > 10",
]
ROWS_OF_WORKLOAD = """
    SELECT query, toplevel, calls, rows FROM pg_stat_statements
    WHERE userid = 'amp_svc'::regrole AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND query NOT LIKE '%amp.%' AND query NOT LIKE '%pg_event_trigger%'
    ORDER BY query, toplevel
"""


@pytest.fixture(scope="module", params=ORDERS, ids=["loaded last", "loaded first"])
def server(request):
    server = Cluster(shared_preload_libraries=request.param, **SETTINGS)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def without():
    """A server with the others alone, and its database."""
    server = Cluster(shared_preload_libraries=OTHERS, **SETTINGS)
    db = server.database(extension=False)
    with db.connect() as admin:
        admin.execute(WITHOUT)
        admin.execute(APPLICATION % db.name)
    yield db
    server.remove()


@pytest.fixture
def db(server):
    db = server.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute(APPLICATION % db.name)
    yield db
    db.drop()


def service(db, tenant="ant", **kw):
    session = db.connect("amp_svc", **kw)
    session.execute(f"SET amp.tenant_id = '{tenant}'")
    session.commit()
    return session


def run(session):
    """Runs the workload; its results: rows, or the SQLSTATE of what fails."""
    results = []
    for statement in WORKLOAD:
        try:
            cursor = session.execute(statement)
            results.append(cursor.fetchall() if cursor.description else cursor.rowcount)
        except psycopg.Error as error:
            results.append(error.sqlstate)
    return results


def counted(db):
    with db.connect() as admin:
        return sorted(admin.execute(ROWS_OF_WORKLOAD).fetchall())  # from 18 on, a cursor's query and its DECLARE have the same text


def tenants_calls(db):
    """{tenant: (calls, rows)} of amp.stat_tenants"""
    with db.connect() as admin:
        return {row[0]: row[1:] for row in admin.execute("SELECT tenant_id, calls, rows FROM amp.stat_tenants").fetchall()}


def outermost_only(db):
    """Sessions that begin now are measured by all three where they are at nesting level 0, and nowhere else."""
    with db.connect() as admin:
        admin.execute(f"ALTER DATABASE {db.name} SET pg_stat_statements.track = 'top'")
        admin.execute(f"ALTER DATABASE {db.name} SET auto_explain.log_nested_statements = off")


class Log:
    """What the server has logged since this began."""

    def __init__(self, server):
        self.path = server.log
        with open(self.path, "rb") as log:
            self.begin = log.seek(0, 2)

    def read(self):
        with open(self.path, "rb") as log:
            log.seek(self.begin)
            return log.read().decode()

    def plans(self):
        """The texts of the queries of which auto_explain has logged a plan, but those of amp's own functions and event triggers."""
        logged = re.findall(r"plan:\n\tQuery Text: (.*?)\n\t[A-Z][^\n]*  \(cost=", self.read(), re.DOTALL)
        return [text for text in logged if "amp." not in text and "pg_event_trigger" not in text]


def test_results_and_counts_are_those_of_a_server_without_amp(db, without):
    with without.connect() as admin:
        admin.execute(FRESH)
    with without.connect("amp_svc") as session, service(db) as ant:
        there, here = Log(without.cluster), Log(db.cluster)
        assert run(ant) == run(session)
        assert here.plans() == there.plans()
        assert here.plans().count("SELECT id FROM app.missions ORDER BY id") == 2  # by count_up(), in SELECT and in DO
    assert counted(db) == counted(without)
    by_query = {(query, toplevel): (calls, rows) for query, toplevel, calls, rows in counted(db)}
    assert by_query["SELECT count(*) FROM app.missions", True] == (2, 2)
    assert by_query["SELECT id FROM app.missions ORDER BY id", False][0] == 2
    assert by_query["SELECT app.survive($1, $2)", True] == (2, 2)


def test_tenants_are_apart_and_counted(db):
    with service(db) as ant, service(db, "bee") as bee:
        for _ in range(7):  # a generic plan from the sixth on
            for session, rows in (ant, 3), (bee, 5):
                query = "SELECT tenant_id FROM app.missions WHERE id > %s"
                assert len(session.execute(query, [0], prepare=True).fetchall()) == rows
                assert len(session.execute("SELECT tenant_id FROM app.missions WHERE id > 0").fetchall()) == rows
        for session, rows, total in (ant, 3, 6), (bee, 5, 15):
            with session.transaction(), session.cursor("c") as cursor:
                cursor.itersize = 1
                assert len(cursor.execute("SELECT id FROM app.missions").fetchall()) == rows
            assert session.execute("SELECT app.sum_up()").fetchone() == (total,)
            session.execute("DO $$ BEGIN PERFORM app.count_up(); END $$")
        assert tenants_calls(db) == {"ant": (17, 14 * 3 + 3 + 1), "bee": (17, 14 * 5 + 5 + 1)}


def test_an_error_keeps_its_fields(db):
    with service(db) as ant:
        for statement in "INSERT INTO app.keys VALUES (1)", "DO $$ BEGIN INSERT INTO app.keys VALUES (1); END $$":
            with raises("23505") as caught:
                ant.execute(statement)
            diag = caught.value.diag
            assert (diag.schema_name, diag.table_name, diag.constraint_name) == ("app", "keys", "one_of_each")
            assert diag.message_detail == "Key (id)=(1) already exists."
        with raises("23514") as caught:
            ant.execute("INSERT INTO app.keys VALUES (1000)")
        assert (caught.value.diag.table_name, caught.value.diag.constraint_name) == ("keys", "keys_are_small")
        with raises("23514") as caught, ant.cursor() as cursor, cursor.copy("COPY app.keys FROM STDIN") as copy:
            copy.write_row([1000])
        assert (caught.value.diag.constraint_name, caught.value.diag.context[:21]) == ("keys_are_small", "COPY keys, line 1: \"1")
        with raises("42P01") as caught:
            ant.execute("SELECT 1 FROM app.nowhere")
        assert caught.value.diag.statement_position == "15"
        with raises("42P01") as caught:
            ant.execute("DO $$ BEGIN PERFORM 1 FROM app.nowhere; END $$")
        assert caught.value.diag.internal_query == "SELECT 1 FROM app.nowhere"
    with db.connect("amp_svc") as nobody:
        with raises("TN001") as caught:
            nobody.execute("SELECT FROM app.missions")
        assert caught.value.diag.message_hint


# How a statement may end early, in a session of ant. Each of the three has begun with it, or not yet.
ENDINGS = {
    "SELECT 1 FROM app.nowhere": "42P01",
    "SELECT 1 / (id - id) FROM app.missions": "22012",
    "SELECT app.run('SELECT 1 / (id - id) FROM app.missions')": "22012",
    "SELECT app.run('DROP TABLE app.nowhere')": "42P01",
    "DO $$ BEGIN PERFORM 1 / (id - id) FROM app.missions; END $$": "22012",
    "DROP TABLE app.nowhere": "42P01",
    "CREATE TEMP TABLE t AS SELECT 1 / (id - id) FROM app.missions": "22012",
    "INSERT INTO app.missions VALUES ('bee', 1000)": "42501",
    "SET amp.tenant_id = 'nowhere'": "TN002",
    "SELECT set_config('amp.tenant_id', 'nowhere', false) FROM app.missions": "TN002",
    "EXPLAIN SELECT * FROM app.missions": "TN004",
    "EXPLAIN (ANALYZE) SELECT * FROM app.missions": "TN004",
    "SELECT app.run('EXPLAIN ANALYZE SELECT * FROM app.missions')": "TN004",
    "LOCK TABLE app.missions": "TN004",
    "SELECT app.run('LOCK TABLE app.missions')": "TN004",
}
# The same in a session without a tenant, where a query on a protected table does not even start.
ENDINGS_WITHOUT_TENANT = {
    "SELECT * FROM app.missions": "TN001",
    "SELECT app.run('SELECT * FROM app.missions')": "TN001",
    "SELECT app.sum_up()": "TN001",
    "DO $$ BEGIN PERFORM app.count_up(); END $$": "TN001",
    "CREATE TEMP TABLE t AS SELECT * FROM app.missions": "TN001",
    "DELETE FROM app.missions": "TN001",
}


@pytest.mark.parametrize("endings, tenant, table", [(ENDINGS, "ant", "app.missions"), (ENDINGS_WITHOUT_TENANT, None, "app.keys")],
                         ids=["in a tenant", "without one"])  # fmt: skip
def test_an_error_leaves_nobodys_nesting_too_high(db, endings, tenant, table):
    """They measure statements of level 0 only: what comes after an error would be missed if the level had stayed up."""
    outermost_only(db)
    probe = f"SELECT count(*) FROM {table}"
    with service(db, tenant) if tenant else db.connect("amp_svc") as session:
        log = Log(db.cluster)
        for number, (statement, sqlstate) in enumerate(endings.items(), 1):
            with raises(sqlstate):
                session.execute(statement)
            session.execute(probe)
            with session.transaction():
                with raises(sqlstate), session.transaction():  # a savepoint
                    session.execute(statement)
                session.execute(probe)
            assert session.execute("SELECT app.survive(%s, %s)", [statement, probe]).fetchone() == (sqlstate,)
            session.execute(probe)
            assert log.plans().count(probe) == 3 * number, statement
            assert (probe, True, 3 * number, 3 * number) in counted(db), statement
            assert tenants_calls(db).get(tenant, (0,))[0] == (4 * number if tenant else 0), statement  # and survive()


def test_a_parallel_query_is_one(db):
    with db.connect() as admin:
        admin.execute("""
            CREATE TABLE app.many (tenant_id text COLLATE "C", n int, filler text);
            INSERT INTO app.many SELECT CASE n % 10 WHEN 0 THEN 'ant' ELSE 'bee' END, n, repeat('x', 100) FROM generate_series(1, 20000) n;
            GRANT SELECT ON app.many TO amp_svc; SELECT amp.protect('app.many');
            ALTER TABLE app.many SET (parallel_workers = 2); ANALYZE app.many;
        """)
    query = "SELECT count(*), min(tenant_id), max(tenant_id) FROM app.many"
    with service(db) as ant:
        ant.execute("""
            SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
            SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET parallel_leader_participation = off;
        """)
        log = Log(db.cluster)
        assert ant.execute(query).fetchone() == (2000, "ant", "ant")
        with raises("22012"):
            ant.execute("SELECT sum(1 / (n - n)) FROM app.many")
        assert ant.execute(query).fetchone() == (2000, "ant", "ant")
    assert log.plans().count(query) == 2
    assert "Workers Launched: 2" in log.read()
    assert (query, True, 2, 2) in counted(db)
    assert tenants_calls(db) == {"ant": (2, 2)}


def test_plans_of_protected_tables_go_to_the_log_and_to_no_client(db, without):
    """auto_explain sends them to whoever lowers client_min_messages, with the number of rows that a policy has hidden."""
    with without.connect() as admin:
        admin.execute(FRESH)
    statements = ["SELECT FROM app.missions WHERE name = 'bee 1'", "SELECT app.sum_up()", "DO $$ BEGIN PERFORM app.count_up(); END $$",
                  "UPDATE app.missions SET name = name", "DECLARE c CURSOR FOR SELECT id FROM app.missions; FETCH ALL FROM c"]  # fmt: skip
    for session, shows in (without.connect("amp_svc"), True), (service(db), False):
        log, said = Log((without if shows else db).cluster), []
        with session:
            session.execute("SET client_min_messages = log; SET enable_indexscan = off; SET enable_bitmapscan = off")
            session.add_notice_handler(lambda message, said=said: said.append(message.message_primary + str(message.message_detail)))
            for statement in statements:
                before = len(log.plans())
                with session.transaction():
                    session.execute(statement)
                assert len(log.plans()) > before, statement
                assert ("plan:" in " ".join(said)) == shows, statement
                if statement == statements[0]:
                    assert "Rows Removed by Filter: 8" in log.read()
                    assert ("Rows Removed by Filter: 8" in " ".join(said)) == shows
                said.clear()
