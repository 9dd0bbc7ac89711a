"""What statements tell, hold up or leave behind although row security holds: G1, G3, G4 (plans), D10, D11, D13 (triggers, keys, locks), B3, B9, I1.

How much plans give away is measured in test_g_recovery.py; here is every way of asking for one.
"""

import re
from contextlib import closing, contextmanager

import psycopg
import pytest

from harness import Cluster, raises
from proofs import BOUND, KEY, KINDS, SERVICE, TOKEN, Proved
from world import MINE, THEIRS, column, notes, under_amp

# Every way to have a statement on a protected table explained.
ASKED = [
    "EXPLAIN SELECT * FROM orders",
    "EXPLAIN (ANALYZE) SELECT * FROM orders WHERE amount = 1",
    "EXPLAIN (COSTS off) SELECT * FROM orders",
    "EXPLAIN (ANALYZE, COSTS off, TIMING off, FORMAT json) SELECT * FROM orders",
    "EXPLAIN INSERT INTO orders (id) VALUES (99)",
    "EXPLAIN ANALYZE UPDATE orders SET note = 'x' WHERE amount = 1",
    "EXPLAIN DELETE FROM orders",
    "EXPLAIN MERGE INTO orders USING (VALUES (21)) v(id) ON orders.id = v.id WHEN MATCHED THEN DELETE",
    "EXPLAIN WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
    "EXPLAIN SELECT (SELECT count(*) FROM orders WHERE amount = 1)",
    "EXPLAIN SELECT * FROM over_orders",
    "EXPLAIN SELECT * FROM inlined()",
    "EXPLAIN ANALYZE SELECT counted()",
    "EXPLAIN (ANALYZE, BUFFERS) SELECT counted() FROM generate_series(1, 3)",
    "EXPLAIN SELECT folded()",
    "EXPLAIN DECLARE c CURSOR FOR SELECT * FROM orders",
    "EXPLAIN CREATE TABLE copied AS SELECT * FROM orders",
    "EXPLAIN ANALYZE CREATE TABLE copied AS SELECT * FROM orders",
    "PREPARE q AS SELECT * FROM orders; EXPLAIN EXECUTE q",
    "PREPARE q AS SELECT * FROM orders; EXPLAIN ANALYZE EXECUTE q",
    "DO $$ BEGIN EXECUTE 'EXPLAIN SELECT * FROM orders'; END $$",
    "SELECT explained('SELECT * FROM orders')",
    "EXPLAIN ANALYZE SELECT swallowed()",
]

FUNCTIONS = """
    CREATE VIEW over_orders WITH (security_invoker) AS SELECT * FROM orders WHERE amount > 0;
    CREATE FUNCTION inlined() RETURNS SETOF orders LANGUAGE sql STABLE AS 'SELECT * FROM public.orders';
    CREATE FUNCTION counted() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM public.orders WHERE amount = 1); END $$;
    CREATE FUNCTION folded() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT count(*) FROM public.orders); END $$;
    CREATE FUNCTION explained(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || query; END $$;
    CREATE FUNCTION swallowed() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
        BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
        RETURN (SELECT count(*) FROM public.orders); END $$;
    GRANT SELECT ON over_orders TO amp_svc, amp_client, amp_ops;
"""


@pytest.fixture(params=["service", *KINDS])
def sessions(amp, request):
    """Makes sessions in tenant t1, of every kind."""
    with amp.connect("amp_owner") as owner, amp.connect() as admin:
        owner.execute(FUNCTIONS)
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_svc, amp_client")
    if request.param == "service":

        def make(**kw):
            session = amp.connect("amp_svc", **kw)
            session.execute("SET amp.tenant_id = 't1'")
            return session

        make.role, make.database = "amp_svc", amp
        return make
    proved = Proved(amp, request.param)

    def make(**kw):
        return proved.open(**kw)

    make.role, make.database = proved.role, amp
    return make


def test_G1_explain_tells_plain(plain):
    """Plain: the rows that the policy removed are counted, and estimates come from every tenant's rows."""
    with plain.connect("amp_svc") as session:
        session.execute("SET app.tenant = 't1'; SET enable_indexscan = off; SET enable_bitmapscan = off")
        told = "\n".join(column(session, "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT FROM orders WHERE amount = 1"))
        assert re.search(r"Rows Removed by Filter: 5", told)


@pytest.mark.parametrize("asked", ASKED)
def test_G1_explain(sessions, asked):
    """Whichever way it is asked for: refused, and the session goes on."""
    with closing(sessions()) as session:
        with raises("TN004", "EXPLAIN is not for table") as caught:
            session.execute(asked)
        assert "pg_read_all_stats" in caught.value.diag.message_hint
        assert notes(session) == MINE
        assert column(session, "EXPLAIN (COSTS off) SELECT 1 AS one") == ["Result"]


def test_G1_explain_of_a_cursor_that_is_open(sessions):
    """A cursor from before the EXPLAIN is fetched inside of it: its blocks would be counted."""
    with sessions.database.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION fetched(c refcursor) RETURNS int LANGUAGE plpgsql AS
                $$ DECLARE n int; BEGIN FETCH c INTO n; RETURN n; END $$""")
    with closing(sessions()) as session:
        opened = "BEGIN; DECLARE c CURSOR FOR SELECT amount FROM orders ORDER BY id"
        session.execute(opened)
        assert column(session, "SELECT fetched('c')") == [10]
        session.execute("ROLLBACK")
        session.execute(opened)
        with raises("TN004", "EXPLAIN is not for table"):
            session.execute("EXPLAIN (ANALYZE, BUFFERS) SELECT fetched('c')")


def test_G1_explain_of_what_is_nobodys(sessions):
    """Tables without row security, functions and settings are explained as ever, and a caught refusal leaves nothing behind."""
    with sessions.database.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE countries (id int); GRANT SELECT ON countries TO PUBLIC; SELECT amp.share_table('countries')")
    with closing(sessions()) as session:
        session.execute("""
            DO $$ BEGIN
                EXECUTE 'EXPLAIN SELECT * FROM orders';
            EXCEPTION WHEN SQLSTATE 'TN004' THEN
                PERFORM * FROM orders;
            END $$""")
        session.execute("BEGIN; SAVEPOINT a")
        with raises("TN004"):
            session.execute("EXPLAIN ANALYZE SELECT counted()")
        session.execute("ROLLBACK TO a")
        assert notes(session) == MINE
        session.execute("COMMIT")
        assert "Seq Scan on countries" in column(session, "EXPLAIN ANALYZE SELECT * FROM countries")[-1]
        assert column(session, "SELECT count(*) FROM explained('SELECT * FROM countries')") == [1]
        assert notes(session) == MINE


def test_G1_explain_after_reset_all(amp):
    """RESET ALL, in a function under EXPLAIN ANALYZE, does not make the statement forget that it is explained."""
    with amp.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION counted() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
                RESET ALL; PERFORM set_config('amp.tenant_id', 't1', false); RETURN (SELECT count(*) FROM public.orders); END $$""")
    with amp.connect("amp_svc") as session:
        session.execute("SET amp.tenant_id = 't1'")
        assert column(session, "SELECT counted()") == [2]
        for asked in "EXPLAIN ANALYZE SELECT counted()", "EXPLAIN (ANALYZE, BUFFERS) SELECT counted(), counted()":
            with raises("TN004", "EXPLAIN is not for table"):
                session.execute(asked)
        for attempt in "SET amp.explaining = ''", "RESET amp.explaining", "SELECT set_config('amp.explaining', '', true)":
            with pytest.raises(psycopg.Error):
                session.execute(attempt)


@pytest.mark.parametrize("role", ["amp_svc", "amp_ops", "amp_owner"])
def test_G1_explain_is_for_who_sees_statistics(amp, new_role, role):
    """Operators and owners, too, need pg_read_all_stats, and a context as for the query itself; with both a service is told."""
    with amp.connect(role) as session:
        if role == "amp_svc":
            session.execute("SET amp.tenant_id = 't1'")
        with raises("TN004" if role == "amp_svc" else "TN001"):
            session.execute("EXPLAIN SELECT * FROM orders")
        with raises("TN004"):
            session.execute("EXPLAIN INSERT INTO orders (id, tenant_id) VALUES (99, 't1')")
    analyst = new_role("LOGIN IN ROLE amp_svc, pg_read_all_stats")
    with amp.connect(analyst) as session:
        session.execute("SET amp.tenant_id = 't1'")
        assert session.execute("EXPLAIN ANALYZE SELECT * FROM orders").fetchall()


OWN = ["SELECT * FROM amp.tenants", "SELECT * FROM amp.protected_tables", "SELECT * FROM amp.expected_policies",
       "SELECT amp.create_tenant('Next', 'next')", "SELECT amp.users('t1')"]


@pytest.mark.parametrize("asked", OWN)
def test_G1_explain_of_amps_own_tables(amp, asked):
    """amp's own tables hold every tenant's slug, key and member."""
    proved = Proved(amp, KEY)
    for session in proved.open(), amp.connect("amp_ops"):
        with closing(session), pytest.raises(psycopg.Error) as caught:
            session.execute("EXPLAIN ANALYZE " + asked)
        assert caught.value.sqlstate in ("TN004", "42501")


def test_G1_explain_in_parallel(amp):
    """What a parallel worker runs for an EXPLAIN ANALYZE is counted, too."""
    with amp.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS n; GRANT SELECT ON numbers TO PUBLIC;
            ALTER TABLE numbers SET (parallel_workers = 2); SELECT amp.share_table('numbers');
            CREATE FUNCTION counted() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE STABLE AS
                $$ BEGIN RETURN (SELECT count(*) FROM public.orders WHERE amount = 1); END $$""")
    with amp.connect("amp_svc") as session:
        session.execute("""
            SET amp.tenant_id = 't1'; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
            SET parallel_leader_participation = off""")
        query = "SELECT n FROM numbers WHERE counted() < 0 OR n = 7"
        plan = column(session, "EXPLAIN (COSTS off) " + query)
        assert any("Gather" in line for line in plan)
        assert column(session, query) == [7]
        with raises("TN004", "EXPLAIN is not for table"):
            session.execute("EXPLAIN (ANALYZE, BUFFERS) " + query)
        assert column(session, query) == [7]


def printed(session, query):
    """What the server prints to the client while a query runs."""
    told = []
    session.add_notice_handler(lambda notice: told.append((notice.message_primary or "") + (notice.message_detail or "")))
    session.execute("SET client_min_messages = log; SET debug_print_plan = on")
    session.execute(query)
    return "\n".join(told)


def test_G4_printed_plan_plain(plain):
    """Plain: the plan, with its estimates, is printed to the client."""
    with plain.connect("amp_svc") as session:
        assert "plan_rows" in printed(session, "SELECT FROM orders WHERE amount = 1")


SWITCHED = ["SELECT * FROM orders", "SELECT counted()", "SELECT * FROM inlined()", "UPDATE orders SET note = note",
            "PREPARE q AS SELECT * FROM orders; EXECUTE q", "DO $$ BEGIN PERFORM FROM public.orders; END $$"]


@pytest.mark.parametrize("query", SWITCHED)
def test_G4_printed_plan(sessions, query):
    """Refused for what reads protected tables; anything else is printed."""
    with closing(sessions()) as session:
        assert "plan_rows" in printed(session, "SELECT 1")
        with raises("TN004", "debug_print_plan"):
            printed(session, query)
        session.execute("RESET debug_print_plan")
        assert notes(session) == MINE


def test_G4_switched_on_while_planning(sessions):
    """A function that the planner evaluates switches it on."""
    with closing(sessions()) as session:
        session.execute("""
            SET client_min_messages = log;
            CREATE FUNCTION switch() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                $$ BEGIN PERFORM set_config('debug_print_plan', 'on', false); RETURN 1; END $$""")
        with raises("TN004", "debug_print_plan"):
            session.execute("SELECT * FROM orders WHERE amount = switch()")


def test_G4_of_a_function_with_other_rights(amp):
    """A superuser's SECURITY DEFINER function has its plan printed to the same client."""
    with amp.connect() as admin:
        admin.execute("""
            CREATE FUNCTION totals() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
                $$ BEGIN RETURN (SELECT count(*) FROM public.orders WHERE amount = 1); END $$""")
    for asked in "EXPLAIN ANALYZE SELECT totals()", "SET debug_print_plan = on; SELECT totals()":
        with amp.connect("amp_svc") as session:
            session.execute("SET amp.tenant_id = 't1'")
            with raises("TN004"):
                session.execute(asked)


STRONG = ["", "IN SHARE UPDATE EXCLUSIVE MODE", "IN SHARE MODE", "IN SHARE ROW EXCLUSIVE MODE", "IN EXCLUSIVE MODE",
          "IN ACCESS EXCLUSIVE MODE NOWAIT"]


def test_D13_lock_plain(plain):
    """Plain: t1 locks the table, and t2 waits."""
    with plain.connect("amp_svc") as one, plain.connect("amp_svc") as two:
        one.execute("BEGIN; LOCK TABLE orders")
        two.execute("SET app.tenant = 't2'; SET lock_timeout = '100ms'")
        with raises("55P03"):
            notes(two)
        one.execute("ROLLBACK")


@pytest.mark.parametrize("mode", STRONG)
def test_D13_lock(sessions, mode):
    """Modes that make other tenants wait are refused, through a view, a parent and a function as well."""
    with sessions.database.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE parted (tenant_id text COLLATE "C" NOT NULL, id int) PARTITION BY LIST (tenant_id);
            CREATE TABLE parted_one PARTITION OF parted FOR VALUES IN ('t1');
            SELECT amp.protect('parted'); GRANT SELECT, INSERT, UPDATE, DELETE ON parted, parted_one, over_orders TO amp_svc, amp_client""")
    for target in "orders", "ONLY orders", "parents, orders", "parted", "parted_one", "over_orders":
        for statement in "LOCK TABLE {} {}", "DO $$ BEGIN LOCK TABLE {} {}; END $$":
            with closing(sessions()) as session, raises("TN004", "cannot be locked"):
                session.execute("BEGIN; " + statement.format(target, mode))


VIEWS = {
    "SELECT * FROM orders": False,
    "SELECT * FROM over_orders": False,
    "SELECT x.id FROM (SELECT o.id FROM notices n JOIN orders o ON o.id = n.id) x": False,
    "WITH w AS (SELECT id FROM orders) SELECT * FROM notices JOIN w USING (id)": False,
    "SELECT id FROM notices WHERE id IN (SELECT id FROM orders)": False,
    "SELECT id FROM notices UNION SELECT id FROM orders": False,
    "SELECT * FROM notices": True,
    "SELECT * FROM over_notices": True,
    "WITH w AS (SELECT id FROM over_notices) SELECT w.id FROM w, (SELECT id FROM notices) n": True,
}


def test_D13_lock_of_a_view(sessions):
    """PostgreSQL locks what a view reads; one that reads no protected table may be locked."""
    with sessions.database.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE notices (id int); CREATE VIEW over_notices AS SELECT * FROM notices; GRANT ALL ON notices, over_notices TO PUBLIC")
        for number, query in enumerate(VIEWS):
            owner.execute(f"CREATE VIEW asked_{number} WITH (security_invoker) AS {query}; GRANT ALL ON asked_{number} TO PUBLIC")
    with closing(sessions()) as session:
        for number, (query, allowed) in enumerate(VIEWS.items()):
            with session.transaction():
                if allowed:
                    session.execute(f"LOCK TABLE asked_{number}")
                else:
                    with raises("TN004", "cannot be locked"), session.transaction():
                        session.execute(f"LOCK TABLE asked_{number}")


def test_D13_lock_that_writing_takes(sessions):
    """What INSERT takes anyway may be asked for."""
    with closing(sessions()) as session:
        for mode in "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE":
            session.execute(f"BEGIN; LOCK TABLE orders, parents IN {mode} MODE; COMMIT")


def test_D13_lock_by_the_owner(amp):
    """The owner may, for migrations; not while he acts for a tenant."""
    with amp.connect("amp_owner") as owner:
        owner.execute("BEGIN; LOCK TABLE orders; COMMIT")
    with amp.connect() as admin:
        admin.execute("GRANT amp_service TO amp_owner")
    try:
        with amp.connect("amp_owner") as owner:
            owner.execute("BEGIN; SET LOCAL amp.tenant_id = 't1'")
            with raises("TN004"):
                owner.execute("LOCK TABLE orders")
    finally:
        with amp.connect() as admin:
            admin.execute("REVOKE amp_service FROM amp_owner")


LOOT = """
    CREATE TABLE loot (note text); GRANT INSERT ON loot TO PUBLIC;
    CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (NEW.note); RETURN NEW; END $$;
"""
TRIGGERS = ["CREATE TRIGGER take BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION take()",
            "CREATE CONSTRAINT TRIGGER take AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION take()",
            "DO $$ BEGIN CREATE TRIGGER take BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION take(); END $$"]


def test_D10_trigger_plain(plain):
    """Plain: with the TRIGGER privilege somebody's trigger takes what another tenant writes."""
    with plain.connect() as admin:
        admin.execute("GRANT TRIGGER ON orders TO amp_client; GRANT CREATE ON SCHEMA public TO amp_client")
    with plain.connect("amp_client") as client, plain.connect("amp_svc") as session:
        client.execute(LOOT + TRIGGERS[0])
        session.execute("SET app.tenant = 't2'; INSERT INTO orders VALUES (99, 't2', 'private')")
        assert column(client, "SELECT note FROM loot") == ["private"]


@pytest.mark.parametrize("make", TRIGGERS)
def test_D10_trigger(sessions, make):
    """Under amp the privilege does not suffice."""
    sessions.database.open_hole(f"GRANT TRIGGER ON orders TO {sessions.role}")
    with closing(sessions()) as session:
        session.execute(LOOT)
        with raises("TN008", "is for its owner"):
            session.execute(make)


KEYS = ["CREATE TABLE probe (tenant_id text, id int, FOREIGN KEY (tenant_id, id) REFERENCES orders (tenant_id, id))",
        "CREATE TABLE probe (tenant_id text, id int); ALTER TABLE probe ADD FOREIGN KEY (tenant_id, id) REFERENCES orders (tenant_id, id) NOT VALID"]


def test_D11_references_plain(plain):
    """Plain: with the REFERENCES privilege a table of one's own tells which keys exist."""
    with plain.connect() as admin:
        admin.execute("GRANT REFERENCES ON orders TO amp_client; GRANT CREATE ON SCHEMA public TO amp_client")
    with plain.connect("amp_client") as client:
        client.execute("SET app.tenant = 't1'; CREATE TABLE probe (id int REFERENCES orders)")
        client.execute("INSERT INTO probe VALUES (21)")  # t2's
        with raises("23503"):
            client.execute("INSERT INTO probe VALUES (77)")


@pytest.mark.parametrize("make", KEYS)
def test_D11_references(sessions, make):
    """Under amp the privilege does not suffice."""
    sessions.database.open_hole(f"GRANT REFERENCES ON orders TO {sessions.role}")
    with closing(sessions()) as session, raises("TN008", "is for its owner"):
        session.execute(make)


def test_B3_held_cursor_in_session_scope(amp):
    """Its rows are for the context that it was filled in: closed as soon as the session claims another one, or none (and so for the protocol, which
    fetches from a portal by its name, without any statement)."""
    changes = ["SET amp.tenant_id = 't2'", "SELECT set_config('amp.tenant_id', 't2', false)", "RESET amp.tenant_id", "RESET ALL",
               "SET amp.user_id = 'both'", "BEGIN; SET LOCAL amp.tenant_id = 't2'"]
    proved = Proved(amp, KEY)
    for change in changes:
        with amp.connect("amp_svc") as session:
            session.execute("SET amp.tenant_id = 't1'; DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders ORDER BY id")
            assert column(session, "FETCH 1 FROM c") == ["mine"]
            session.execute(change)
            with raises("34000"):
                session.execute("FETCH 1 FROM c")
    with amp.connect("amp_svc") as session:  # filled in a transaction whose context has ended
        session.execute("BEGIN; SET LOCAL amp.tenant_id = 't1'; DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders; COMMIT")
        with raises("34000"):
            session.execute("FETCH 1 FROM c")
    with proved.open() as session:
        session.execute("DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders")
        session.execute("SELECT amp.authenticate(%s)", [proved.new_key("two")[1]])
        with raises("34000"):
            session.execute("FETCH 1 FROM c")


def test_B3_held_cursor_goes_on_in_its_context(sessions):
    """In the same context it works as ever, across transactions, errors and what others set."""
    with closing(sessions()) as session:
        session.execute("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT note FROM orders ORDER BY id")
        assert column(session, "FETCH 1 FROM c") == ["mine"]
        with pytest.raises(psycopg.Error):
            session.execute("SELECT 1 / 0")
        session.execute("SET work_mem = '8MB'")
        assert column(session, "FETCH 1 FROM c") == ["mine, too"]
        assert column(session, "FETCH BACKWARD 1 FROM c") == ["mine"]
        session.execute("CLOSE c")


def test_I1_listen_plain(plain):
    """Plain: whoever listens hears."""
    with plain.connect("amp_svc") as one, plain.connect("amp_svc") as two:
        one.execute("LISTEN orders_t2")
        two.execute("NOTIFY orders_t2, 'private'")
        assert next(one.notifies()).payload == "private"


def test_A7_own_role_plain(plain, cluster):
    """Plain: whoever injects SQL gives the role that all tenants share another password and settings."""
    with plain.connect("amp_svc") as session:
        session.execute("ALTER ROLE amp_svc PASSWORD 'mine'; ALTER ROLE amp_svc SET search_path = 'elsewhere'")
    with plain.connect("amp_svc") as next_one:
        assert column(next_one, "SHOW search_path") == ["elsewhere"]
    with cluster.connect() as admin:
        admin.execute("ALTER ROLE amp_svc PASSWORD NULL; ALTER ROLE amp_svc RESET ALL")


CHANGES = ["ALTER ROLE {} PASSWORD 'mine'", "ALTER USER CURRENT_USER VALID UNTIL '2020-01-01'", "ALTER ROLE {} SET search_path = 'elsewhere'",
           "ALTER ROLE {} SET statement_timeout = '1ms'", "ALTER ROLE SESSION_USER RESET ALL", "DROP OWNED BY {}", "DROP OWNED BY CURRENT_USER",
           "DO $$ BEGIN ALTER ROLE {} SET search_path = 'elsewhere'; END $$"]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_A7_own_role(amp, change):
    """Under amp a service's session changes no role, and gives up none of its privileges."""
    with amp.connect("amp_svc") as session:
        for entered in "", "SET amp.tenant_id = 't1'":
            session.execute(entered)
            with raises("TN004", "roles cannot be changed"):
                session.execute(change.format("amp_svc"))
        session.execute("SET amp.tenant_id = 't1'")
        assert notes(session) == MINE


@pytest.fixture
def clients(cluster):
    """clients(hardened): a database for clients; what they do to their role is undone."""
    databases = []

    def make(hardened):
        databases.append(cluster.database(hardened=hardened, world=under_amp))
        return databases[-1]

    yield make
    for database in databases:
        database.drop()
    with cluster.connect() as admin:
        admin.execute("ALTER ROLE amp_client PASSWORD NULL VALID UNTIL 'infinity'; ALTER ROLE amp_client RESET ALL")


@pytest.mark.still_open("unhardened")
@pytest.mark.parametrize("change", ["ALTER ROLE {} PASSWORD 'mine'", "ALTER ROLE {} SET statement_timeout = '1h'"])
def test_A7_own_role_of_clients_unhardened(clients, change):
    """A client's session does to the role that it shares what PostgreSQL lets it do."""
    with Proved(clients(False), KEY).open() as session:
        session.execute(change.format("amp_client"))


@pytest.mark.parametrize("kind", [KEY, TOKEN])
@pytest.mark.parametrize("change", CHANGES)
def test_A7_own_role_of_clients(clients, kind, change):
    """In a hardened database it changes no role, before it has proved anything, and afterwards."""
    proved = Proved(clients(True), kind)
    with closing(proved.connect()) as session:
        for entered in False, True:
            with raises("TN004", "roles cannot be changed"):
                session.execute(change.format("amp_client"))
            if not entered:
                proved.enter(session)
        assert notes(session) == MINE


def test_A7_own_role_of_who_has_it_alone(clients, new_role):
    """A bound role is one user's own, who may change its password; not what it takes by SET ROLE. Who makes roles, owns the platform or
    bypasses row security goes on."""
    database = clients(True)
    shared, maker, free = new_role("NOLOGIN"), new_role("LOGIN CREATEROLE"), new_role("LOGIN BYPASSRLS")
    with database.connect() as admin:
        admin.execute(f"GRANT {shared} TO amp_client")
    with Proved(database, BOUND).open() as session:
        session.execute("ALTER ROLE amp_client PASSWORD 'mine'; ALTER ROLE amp_client SET work_mem = '1MB'")
        session.execute(f"SET ROLE {shared}")
        for change in f"ALTER ROLE {shared} SET work_mem = '1MB'", "DROP OWNED BY CURRENT_USER":
            with raises("TN004"):
                session.execute(change)
    for role in maker, free, "amp_ops":
        with database.connect(role) as session:
            session.execute(f"ALTER ROLE {role} SET work_mem = '1MB'; ALTER ROLE {role} RESET ALL")
