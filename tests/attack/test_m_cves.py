"""M. Holes that PostgreSQL had, as far as SQL can try them; the others are the doctor's `old-minor`. rows.toml lists all.

Plain PostgreSQL holds because of its version, where a test does not say otherwise; a hole that is younger than the server shows.
"""

import re

import psycopg
import pytest

from attackers import PLAIN
from harness import raises
from test_d_privileged import reported
from test_g_recovery import ENTRIES, HIDDEN
from test_j_operations import PATCHED
from world import MINE, THEIRS, column, isolate_plainly, notes, snapshot, under_amp

# The releases of August 2026.
AUGUST = {15: 150019, 16: 160015, 17: 170011, 18: 180006}


def has(session, releases):
    return session.info.server_version >= releases[session.info.server_version // 10000]


def isolated(attacker, sql, *tables):
    with attacker.database.connect("amp_owner") as owner:
        owner.execute(sql)
        for table in tables:
            isolate_plainly(owner, table) if attacker.kind == PLAIN else owner.execute(f"SELECT amp.protect('{table}', fix => true)")


@pytest.fixture
def wide(new_role, everywhere):
    """A role that the attacker's may take: `orders` is open to it (on plain PostgreSQL every tenant's rows), and narrowed for the attacker's own."""
    role = new_role("NOLOGIN")
    mine = "note <> 'mine, too'" + (" AND tenant_id = current_setting('app.tenant', true)" if everywhere.kind == PLAIN else "")
    with everywhere.database.connect() as admin:
        admin.execute(f"GRANT {role} TO {everywhere.role}; GRANT SELECT, UPDATE ON orders TO {role}")
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(f"CREATE POLICY narrow ON orders AS RESTRICTIVE TO {everywhere.role} USING ({mine}); "
                      f"CREATE POLICY every ON orders TO {role} USING (true)")
    return role


@pytest.mark.parametrize("mode", ["force_generic_plan", "auto"])
def test_M_2016_2193_plan_of_another_role(wide, everywhere, mode):
    """A cached plan was made with one role's policies, and used after SET ROLE with another's (fixed in 9.5.2)."""
    statements = ["SELECT note FROM orders", "UPDATE orders SET amount = amount RETURNING note", "SELECT pg_temp.look()"]
    with everywhere.open() as session:
        session.execute("CREATE FUNCTION pg_temp.look() RETURNS SETOF text LANGUAGE plpgsql AS "
                        "$$ BEGIN RETURN QUERY SELECT note FROM public.orders; END $$")
        session.execute(f"SET plan_cache_mode = {mode}")
        compare_roles(everywhere, session, wide, statements)


def compare_roles(everywhere, session, wide, statements):
    """Each statement is planned by either role, then executed by both in turn: each sees what its own policies say."""
    for number, statement in enumerate(statements):
        for first in wide, "NONE":
            session.execute(f"SET ROLE {first}; PREPARE {first}{number} AS {statement}")
            for role in [first, "NONE", wide] * 3:
                session.execute(f"SET ROLE {role}")
                got = column(session, f"EXECUTE {first}{number}")
                assert got == (["mine"] if role == "NONE" else MINE + THEIRS if everywhere.kind == PLAIN else MINE)
    session.execute("RESET ROLE")


def test_M_2023_2455_inlined_function_of_another_role(wide, everywhere):
    """The same where a set-returning SQL function was inlined: the plan did not say that it depends on its role (fixed in 15.3)."""
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute("CREATE FUNCTION all_orders() RETURNS SETOF orders STABLE LANGUAGE sql AS 'SELECT * FROM public.orders'")
    statements = ["SELECT note FROM all_orders()", "SELECT o.note FROM parents p CROSS JOIN LATERAL all_orders() o WHERE p.id < 2",
                  "UPDATE orders o SET amount = o.amount FROM all_orders() a WHERE a.id = o.id RETURNING a.note"]
    with everywhere.database.connect() as admin:
        admin.execute(f"GRANT SELECT ON parents TO {wide}")
        assert "Function Scan" not in str(admin.execute(f"EXPLAIN {statements[0]}").fetchall())
    with everywhere.open() as session:
        session.execute("SET plan_cache_mode = force_generic_plan")
        compare_roles(everywhere, session, wide, statements)


@pytest.mark.parametrize("by", ["membership", "ownership"])
def test_M_2026_14666_policy_of_a_role_that_was_left(new_role, everywhere, by):
    """A policy for a role's members stayed in cached plans when the membership, or the database's owner, had changed (fixed in 15.19 and 18.6).

    On an older server plain row security shows every tenant's rows. amp's own policy is for everybody: no such plan is without it.
    """
    database = everywhere.database
    group = new_role("NOLOGIN") if by == "membership" else "pg_database_owner"
    with database.connect("amp_owner") as owner:
        owner.execute(f"CREATE POLICY every ON orders TO {group} USING (true)")
    give, take = {"membership": (f"GRANT {group} TO {everywhere.role}", f"REVOKE {group} FROM {everywhere.role}"),
                  "ownership": (f"ALTER DATABASE {database.name} OWNER TO {everywhere.role}", f"ALTER DATABASE {database.name} OWNER TO postgres")}[by]
    with everywhere.open() as session, database.connect() as admin:
        session.execute("SET plan_cache_mode = force_generic_plan; PREPARE early AS SELECT note FROM orders")
        assert column(session, "EXECUTE early") == MINE
        admin.execute(give)
        session.execute("PREPARE late AS SELECT note FROM orders")
        assert column(session, "EXECUTE late") == (MINE + THEIRS if everywhere.kind == PLAIN else MINE)
        admin.execute(take)
        stale = everywhere.kind == PLAIN and not has(session, AUGUST)
        assert notes(session) == column(session, "EXECUTE early") == MINE
        assert column(session, "EXECUTE late") == (MINE + THEIRS if stale else MINE)


ATTRIBUTES = ["BYPASSRLS", "SUPERUSER"]

READERS = """
    CREATE FUNCTION reading() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT note FROM public.orders; END $$;
    CREATE FUNCTION inlining() RETURNS SETOF text STABLE LANGUAGE sql AS 'SELECT note FROM public.orders';
    CREATE VIEW all_orders WITH (security_invoker) AS SELECT * FROM orders;
    GRANT SELECT ON all_orders TO PUBLIC;
"""

PREPARED = {
    "PREPARE": ("PREPARE q AS SELECT note FROM orders", "EXECUTE q"),
    "PL/pgSQL": ("SELECT reading()", "SELECT reading()"),
    "inlined": ("PREPARE q AS SELECT * FROM inlining()", "EXECUTE q"),
    "view": ("PREPARE q AS SELECT note FROM all_orders", "EXECUTE q"),
}


@pytest.fixture(params=ATTRIBUTES)
def fallen(new_role, request):
    """fallen(database): the session of a role that bypasses row security, and what takes that from it."""
    connections = []

    def make(database):
        role = new_role(f"LOGIN {request.param} IN ROLE amp_svc")
        with database.connect("amp_owner") as owner:
            owner.execute(READERS)
        connections.append(database.connect())
        if database.extension:
            connections[0].execute(f"GRANT amp_service TO {role}")
        connections.append(database.connect(role))
        connections[1].execute("SET plan_cache_mode = force_generic_plan")
        return connections[1], lambda: connections[0].execute(f"ALTER ROLE {role} NO{request.param}")

    yield make
    for connection in connections:
        connection.close()


def test_M_2026_14666_plan_of_a_role_that_bypassed_plain(plain, fallen):
    """The same with a role's attribute: what was planned without any policy stayed so when BYPASSRLS was taken away."""
    session, fall = fallen(plain)
    for prepare, execute in PREPARED["PREPARE"], PREPARED["PL/pgSQL"]:
        session.execute(prepare)
        assert column(session, execute) == MINE + THEIRS
    fall()
    session.execute("SET app.tenant = 't1'")
    assert notes(session) == MINE
    for _, execute in PREPARED["PREPARE"], PREPARED["PL/pgSQL"]:
        assert column(session, execute) == (MINE if has(session, AUGUST) else MINE + THEIRS)


@pytest.mark.parametrize("way", PREPARED)
def test_M_2026_14666_plan_of_a_role_that_bypassed(amp, fallen, way):
    """Under amp it is made anew, on every server: the role names a tenant, and sees that one's rows."""
    prepare, execute = PREPARED[way]
    session, fall = fallen(amp)
    session.execute(prepare)
    assert column(session, execute) == MINE + THEIRS
    fall()
    with raises("TN001"):
        column(session, execute)
    session.execute("SET amp.tenant_id = 't1'")
    for _ in range(2):
        assert column(session, execute) == notes(session) == MINE


def test_M_2026_14666_plan_that_asks_for_the_tenant_itself(amp, fallen):
    """It looks as if it were under the policies."""
    session, fall = fallen(amp)
    session.execute("PREPARE q AS SELECT note FROM orders WHERE note <> '' OR amp.tenant_id() = ''")
    with raises("TN009"):
        session.execute("EXECUTE q")
    fall()
    session.execute("SET amp.tenant_id = 't1'")
    assert column(session, "EXECUTE q") == MINE


def test_M_2026_14666_written_by_such_a_plan(amp, fallen):
    """UPDATE and DELETE reach the own rows alone."""
    before = snapshot(amp)
    session, fall = fallen(amp)
    session.execute("PREPARE u AS UPDATE orders SET amount = 0; PREPARE d AS DELETE FROM orders; PREPARE r AS DELETE FROM orders RETURNING note")
    for name in "udr":
        session.execute(f"BEGIN; EXECUTE {name}; ROLLBACK")
    fall()
    session.execute("SET amp.tenant_id = 't1'")
    for name in "udr":
        session.execute(f"EXECUTE {name}")
    assert snapshot(amp)[1] == [row for row in before[1] if row[1] == "t2"]


def test_M_2026_14666_by_the_protocol(amp, fallen):
    """A driver's prepared statement, by the protocol."""
    session, fall = fallen(amp)
    read = "SELECT note FROM orders ORDER BY note"
    assert len(session.execute(read, prepare=True).fetchall()) == 5
    fall()
    session.execute("SET amp.tenant_id = 't1'")
    assert [row[0] for row in session.execute(read, prepare=True)] == MINE


@pytest.mark.parametrize("way", PREPARED)
def test_M_2026_14666_in_an_open_transaction(amp, fallen, way):
    """Its locks are held, so that nothing is heard before the plan is chosen: it is refused instead, and made anew in the next transaction."""
    prepare, execute = PREPARED[way]
    session, fall = fallen(amp)
    session.execute(prepare)
    session.execute("BEGIN")
    assert column(session, execute) == notes(session) == MINE + THEIRS
    fall()
    with raises("40001", "planned for a role that bypassed row security"):
        column(session, execute)
    session.execute("ROLLBACK; SET amp.tenant_id = 't1'")
    assert column(session, execute) == MINE


@pytest.mark.parametrize("way", PREPARED)
def test_M_2026_14666_in_an_open_transaction_that_takes_a_tenant(amp, fallen, way):
    """SET is a statement that hears: what follows is planned anew."""
    prepare, execute = PREPARED[way]
    session, fall = fallen(amp)
    session.execute(prepare)
    session.execute("BEGIN")
    assert column(session, execute) == notes(session) == MINE + THEIRS
    fall()
    session.execute("SET LOCAL amp.tenant_id = 't1'")
    assert column(session, execute) == MINE
    session.execute("COMMIT")


@pytest.mark.parametrize("first", ["SET LOCAL amp.tenant_id = 't1'", "SAVEPOINT a", ""])
def test_M_2026_14666_cursor_that_was_open(amp, fallen, first):
    """A cursor is no cached plan; it ends, too."""
    session, fall = fallen(amp)
    session.execute("BEGIN; DECLARE c CURSOR FOR SELECT note FROM orders")
    assert len(session.execute("FETCH 2 FROM c").fetchall()) == 2
    fall()
    session.execute(first)
    with raises("40001"):
        session.execute("FETCH ALL FROM c")


def test_M_2026_14666_function_of_a_role_that_bypassed(amp, new_role):
    """An ordinary session holds a transaction open and calls a function that is refused, until its owner is made an ordinary role: its plan is the old
    owner's, who bypassed."""
    owner = new_role("BYPASSRLS")
    try:
        with amp.connect() as admin, amp.connect("amp_svc") as session:
            admin.execute(f"GRANT SELECT ON orders TO {owner}; CREATE FUNCTION every() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS "
                          f"$$ BEGIN RETURN QUERY SELECT note FROM public.orders; END $$; ALTER FUNCTION every() OWNER TO {owner}")
            session.execute("SET plan_cache_mode = force_generic_plan; BEGIN; SET LOCAL amp.tenant_id = 't1'; SELECT FROM orders; SAVEPOINT a")
            with raises("TN009"):
                session.execute("SELECT every()")
            session.execute("ROLLBACK TO a")
            admin.execute(f"ALTER ROLE {owner} NOBYPASSRLS")
            assert column(session, "SELECT every()") == MINE
            session.execute("COMMIT")
    finally:
        with amp.connect() as admin:
            admin.execute(f"DROP OWNED BY {owner}")


def test_M_2026_14666_before_the_library_is_there(make_cluster):
    """Not preloaded: it comes with the first query that needs it, and what was prepared before is planned again then."""
    database = under_amp(make_cluster(shared_preload_libraries="").database())
    with database.cluster.connect() as admin:
        admin.execute("CREATE ROLE attack_role_0 LOGIN BYPASSRLS IN ROLE amp_svc; GRANT amp_service TO attack_role_0")
    with database.connect() as admin, database.connect("attack_role_0") as session:
        session.execute("SET plan_cache_mode = force_generic_plan; PREPARE q AS SELECT note FROM orders")
        assert column(session, "EXECUTE q") == MINE + THEIRS
        admin.execute("ALTER ROLE attack_role_0 NOBYPASSRLS")
        session.execute("SET amp.tenant_id = 't1'")
        assert notes(session) == column(session, "EXECUTE q") == MINE


LEAK = """
    CREATE FUNCTION own.leak(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;
    CREATE OPERATOR own.<<< (FUNCTION = own.leak, LEFTARG = text, RIGHTARG = text, RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
"""


@pytest.fixture
def listen(everywhere):
    """listen(session, query): what the planner showed to a leaky operator, as a set; the query may fail for want of privileges."""
    with everywhere.database.connect() as admin:
        admin.execute("CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO PUBLIC")
        admin.execute(LEAK)

    def hear(session, query, sqlstate=None):
        heard = []
        session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        if sqlstate:
            with raises(sqlstate):
                session.execute(query)
        else:
            session.execute(query)
        return set(heard)

    return hear


@pytest.mark.parametrize("granted", ["id, tenant_id", None])
def test_M_2017_7484_statistics_without_a_privilege(everywhere, listen, granted):
    """A leaky operator was given values of a column that the user may not read, before his privileges were asked (fixed in 9.6.3)."""
    isolated(everywhere, ENTRIES, "entries")
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(f"ANALYZE entries; REVOKE ALL ON entries FROM {everywhere.role}")
        if granted:
            owner.execute(f"GRANT SELECT ({granted}) ON entries TO {everywhere.role}")
    with everywhere.database.connect() as admin:
        assert HIDDEN in listen(admin, "EXPLAIN SELECT FROM entries WHERE iban OPERATOR(own.<<<) 'x'")
    with everywhere.open() as session:
        for query in ("SELECT FROM entries WHERE iban OPERATOR(own.<<<) 'x'", "SELECT FROM (SELECT * FROM entries) s WHERE iban OPERATOR(own.<<<) 'x'",
                      "SELECT FROM entries e JOIN entries f ON e.iban OPERATOR(own.<<<) f.iban"):
            assert listen(session, query, "42501") == set()


HIERARCHIES = {
    "partitions": """
        CREATE TABLE family (id int, tenant_id text COLLATE "C" NOT NULL, iban text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id, id))
            PARTITION BY RANGE (id);
        CREATE TABLE child PARTITION OF family FOR VALUES FROM (0) TO (1000);""",
    "children": """
        CREATE TABLE family (id int, tenant_id text COLLATE "C" NOT NULL, iban text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id, id));
        CREATE TABLE child (PRIMARY KEY (tenant_id, id)) INHERITS (family);""",
}


@pytest.mark.parametrize("hierarchy", HIERARCHIES)
def test_M_2025_8713_statistics_of_children(everywhere, listen, hierarchy):
    """The statistics of partitions and children were shown to who may read the parent, despite its policies (fixed in 15.14)."""
    isolated(everywhere, HIERARCHIES[hierarchy], "family", "child")
    with everywhere.database.connect() as admin:
        admin.execute(f"""
            INSERT INTO child SELECT n, 't1', '----------------' FROM generate_series(1, 200) n;
            INSERT INTO child SELECT n, 't2', '{HIDDEN}' FROM generate_series(201, 400) n;
            ANALYZE family, child; GRANT SELECT ON family TO {everywhere.role}""")
        assert HIDDEN in listen(admin, "EXPLAIN SELECT FROM family WHERE iban OPERATOR(own.<<<) 'x'")
    with everywhere.open() as session:
        for table in "family", "(SELECT * FROM family) s":
            assert listen(session, f"SELECT FROM {table} WHERE iban OPERATOR(own.<<<) 'x'") == {"----------------"}
        assert listen(session, "SELECT FROM child WHERE iban OPERATOR(own.<<<) 'x'", "42501") == set()


def test_M_2025_8713_statistics_below_a_view(everywhere, listen):
    """A view's owner may read the table and so its statistics, who reads the view may not: his privileges were asked too late (fixed in 15.14)."""
    isolated(everywhere, ENTRIES, "entries")
    with everywhere.database.connect() as admin:
        admin.execute("ANALYZE entries")
        everywhere.database.open_hole("CREATE VIEW all_entries AS SELECT * FROM entries")
        assert HIDDEN in listen(admin, "EXPLAIN SELECT FROM all_entries WHERE iban OPERATOR(own.<<<) 'x'")
    with everywhere.open() as session:
        assert listen(session, "SELECT FROM all_entries WHERE iban OPERATOR(own.<<<) 'x'", "42501") == set()


VIEWS = ["SELECT amount, parent_id, note, tenant_id, id FROM orders", "SELECT note, id, tenant_id FROM orders",
         "SELECT amount + 1 AS more, note, amount, id, tenant_id, upper(note) AS loud FROM orders"]


@pytest.mark.parametrize("view", VIEWS)
def test_M_2018_10925_on_conflict_through_a_view(everywhere, view):
    """ON CONFLICT DO UPDATE through a view with other columns than the table wrote columns that were not granted, and memory (fixed in 10.5)."""
    with everywhere.database.connect() as admin:
        admin.execute(f"REVOKE UPDATE ON orders FROM {everywhere.role}; GRANT UPDATE (note) ON orders TO {everywhere.role}")
    before = snapshot(everywhere.database)[1]
    with everywhere.open() as session:
        session.execute(f"CREATE TEMP VIEW seen AS {view}")
        key, tenants = ("id", ["t1", "t2"]) if everywhere.kind == PLAIN else ("tenant_id, id", ["t2"])
        insert = f"INSERT INTO seen AS s (id, tenant_id, note) VALUES ({{}}, '{{}}', 'new') ON CONFLICT ({key}) DO UPDATE SET {{}}"
        assert column(session, insert.format(11, "t1", "note = concat_ws(', ', s.note, excluded) RETURNING note"))[0].startswith("mine, (")
        assert column(session, insert.format(11, "t1", "note = concat_ws(', ', excluded.id, excluded.note) RETURNING note")) == ["11, new"]
        for column_of in {"id", "tenant_id", "amount", "parent_id"} & set(re.findall(r"\w+", view)):
            with raises("42501"):
                session.execute(insert.format(11, "t1", f"{column_of} = excluded.{column_of}"))
        for tenant in tenants:
            with pytest.raises(psycopg.Error) as caught:
                session.execute(insert.format(21, tenant, "note = s.note || 'x' RETURNING note"))
            assert caught.value.sqlstate in ("42501", "23505") and "secret" not in str(caught.value)
    assert snapshot(everywhere.database)[1] == [(*row[:2], "11, new", *row[3:]) if row[0] == 11 else row for row in before]


MOVED = """
    CREATE TABLE moved (id int, tenant_id text COLLATE "C" NOT NULL, hidden text, at int, note text, PRIMARY KEY (tenant_id, id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE moved_1 PARTITION OF moved FOR VALUES FROM (0) TO (100);
    CREATE TABLE moved_2 (note text NOT NULL CHECK (note <> 'bad'), at int NOT NULL, dropped int, hidden text, id int NOT NULL, tenant_id text COLLATE "C" NOT NULL);
    ALTER TABLE moved_2 DROP COLUMN dropped;
    ALTER TABLE moved ATTACH PARTITION moved_2 FOR VALUES FROM (100) TO (200);
    INSERT INTO moved VALUES (1, 't1', 'hidden value', 1, 'mine'), (1, 't2', 'secret', 1, 'theirs');
"""


@pytest.mark.parametrize("secured", [True, False])
def test_M_2021_3393_row_that_moves_to_another_partition(everywhere, secured):
    """The error of a row that moves to a partition with other column positions showed columns that may not be read (fixed in 13.2).

    With row security there is no DETAIL at all, so that the hole itself was in tables without it.
    """
    isolated(everywhere, MOVED, *["moved"] if secured else [])
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(f"GRANT SELECT (id, tenant_id, at), UPDATE (at, note) ON moved TO {everywhere.role}")
    told = []
    with everywhere.open() as session:
        for attack in "UPDATE moved SET at = 150, note = 'bad' WHERE id = 1", "UPDATE moved SET note = NULL, at = 150 WHERE id = 1":
            with raises("23514" if "bad" in attack else "23502") as caught:
                session.execute(attack)
            told.append(caught.value.diag.message_detail)
            assert "hidden value" not in str(caught.value) and "secret" not in str(caught.value)
    assert told == [None, None] if secured else all("Failing row contains (id, tenant_id, at" in text for text in told)


HELPED = """
    CREATE SCHEMA helpers;
    CREATE FUNCTION helpers.answer() RETURNS text LANGUAGE sql AS $$ SELECT 'right' $$;
    CREATE FUNCTION helped() RETURNS text SECURITY DEFINER SET search_path = pg_catalog, helpers LANGUAGE plpgsql AS $$ BEGIN RETURN answer(); END $$;
    REVOKE ALL ON SCHEMA helpers FROM PUBLIC;
"""


def test_M_2023_2454_create_schema_beside_a_search_path(everywhere):
    """Within CREATE SCHEMA, a SECURITY DEFINER function called what was in its caller's search_path, whatever path it sets (fixed in 15.3).

    A bound of a partition is an expression that CREATE SCHEMA computes.
    """
    with everywhere.database.connect() as admin:
        admin.execute(f"GRANT CREATE ON DATABASE {everywhere.database.name} TO {everywhere.role}")
        admin.execute(HELPED)
    with everywhere.open() as session:
        session.execute("""
            CREATE SCHEMA mine;
            CREATE FUNCTION mine.answer() RETURNS text LANGUAGE plpgsql AS
                $$ BEGIN RETURN current_user || ': ' || (SELECT string_agg(note, ', ') FROM public.orders); END $$;
            SET search_path = mine, public""")
        assert "right" not in column(session, "SELECT answer()")[0]
        session.execute("CREATE SCHEMA own CREATE TABLE parts (k text) PARTITION BY LIST (k) "
                        "CREATE TABLE part PARTITION OF own.parts FOR VALUES IN (public.helped())")
        assert column(session, "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'own.part'::regclass") == ["FOR VALUES IN ('right')"]


def test_M_2023_39417_quoting_in_the_install_script(plain_db):
    """@extschema@ within quotes in a script: a schema's name ended them. amp's script has its own schema, and takes no other."""
    with plain_db.connect() as admin:
        admin.execute("""CREATE SCHEMA "x$$; ALTER ROLE amp_client SUPERUSER; --" """)
        with pytest.raises(psycopg.Error) as caught:
            admin.execute("""CREATE EXTENSION amp_tenancy SCHEMA "x$$; ALTER ROLE amp_client SUPERUSER; --" """)
        assert caught.value.sqlstate in ("0A000", "42602")
        assert column(admin, "SELECT rolsuper FROM pg_roles WHERE rolname = 'amp_client'") == [False]


def test_M_2023_39418_merge_under_policies(everywhere):
    """MERGE skipped the checks of UPDATE policies."""
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute("CREATE POLICY low ON orders AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (amount < 100)")
    before = snapshot(everywhere.database)
    with everywhere.open() as session:
        for row in "amount = 500", "tenant_id = 't2'":
            with raises("42501"):
                session.execute(f"MERGE INTO orders o USING (VALUES (11)) v(id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET {row}")
    assert snapshot(everywhere.database) == before


def test_M_2024_10976_row_security_below_a_subquery(new_role, everywhere):
    """A plan that was made for one role was used for another, where the table is below a subquery, a CTE or a view."""
    shapes = ["SELECT note FROM (SELECT * FROM orders OFFSET 0) s", "WITH o AS MATERIALIZED (SELECT * FROM orders) SELECT note FROM o",
              "SELECT (SELECT max(note) FROM orders)", "SELECT note FROM invoked"]
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute("CREATE VIEW invoked WITH (security_invoker) AS SELECT * FROM orders; GRANT SELECT ON invoked TO PUBLIC; "
                      "CREATE POLICY narrow ON orders AS RESTRICTIVE TO amp_client, amp_svc USING (note <> 'mine, too')")
    wide = new_role("NOLOGIN")
    with everywhere.database.connect() as admin:
        admin.execute(f"GRANT {wide} TO {everywhere.role}; GRANT SELECT ON orders TO {wide}")
    with everywhere.open() as session:
        for number, shape in enumerate(shapes):
            session.execute(f"PREPARE q{number} AS {shape}; SET ROLE {wide}")
            session.execute(f"EXECUTE q{number}")
            session.execute("RESET ROLE")
            assert "mine, too" not in column(session, f"EXECUTE q{number}")
            assert not set(column(session, f"EXECUTE q{number}")) & set(THEIRS)


BACK = ["BEGIN; SET SESSION AUTHORIZATION {role}; ROLLBACK", "BEGIN; SET LOCAL SESSION AUTHORIZATION {role}; ROLLBACK",
        "BEGIN; SAVEPOINT a; SET SESSION AUTHORIZATION DEFAULT; ROLLBACK TO a; COMMIT", "SELECT pg_temp.transient()"]


@pytest.mark.parametrize("way", BACK)
def test_M_2024_10978_role_after_a_rollback(new_role, everywhere, way):
    """SET ROLE was undone when SET SESSION AUTHORIZATION was rolled back, or a function's SET clause ended (fixed in 15.9).

    Who is made a lesser role by what opens his session names himself, which is allowed to everybody, and was the greater one again.
    """
    lesser = new_role("NOLOGIN")
    with everywhere.database.connect() as admin:
        admin.execute(f"GRANT {lesser} TO {everywhere.role}; GRANT SELECT ON orders TO {lesser}")
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(f"CREATE POLICY narrow ON orders AS RESTRICTIVE USING (note <> 'mine, too' OR current_user <> '{lesser}')")
    with everywhere.open() as session:
        session.execute(f"CREATE FUNCTION pg_temp.transient() RETURNS text LANGUAGE sql SET session_authorization = {everywhere.role} AS "
                        "'SELECT current_user::text'")
        assert notes(session) == MINE
        session.execute(f"SET ROLE {lesser}")
        assert notes(session) == ["mine"]
        session.execute(way.format(role=everywhere.role))
        assert column(session, "SELECT current_user || ' ' || current_setting('role')") == [f"{lesser} {lesser}"]
        assert notes(session) == ["mine"]
        with raises("42501"):
            session.execute("UPDATE orders SET amount = amount")


MATCHES = """
    CREATE FUNCTION own.matches(text, text) RETURNS bool LANGUAGE sql AS 'SELECT $1 = $2';
    CREATE OPERATOR own.~~~ (FUNCTION = own.matches, LEFTARG = text, RIGHTARG = text, RESTRICT = {});
"""


@pytest.mark.parametrize("estimator", ["_int_matchsel", "_int_contains_sel", "_int_overlap_sel"])
def test_M_2026_2004_estimator_of_intarray(everywhere, estimator):
    """An estimator of intarray took an operator's text for its own type, and so ran what is in it (fixed in 15.16 and 18.2).

    Since then an extension's estimator is for a superuser to use, and looks at what it is given.
    """
    isolated(everywhere, ENTRIES, "entries")
    with everywhere.database.connect() as admin:
        admin.execute("CREATE EXTENSION intarray; ANALYZE entries; CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO PUBLIC")
    with everywhere.open() as session:
        with raises("42501"):
            session.execute(MATCHES.format(f"public.{estimator}"))
        with everywhere.database.connect() as admin:  # an operator that is older than the fix
            admin.execute(MATCHES.format(f"public.{estimator}"))
        for value in "'x'", "repeat('A', 3000)", "'-'", f"'{HIDDEN}'":
            assert column(session, f"SELECT iban FROM entries WHERE iban OPERATOR(own.~~~) {value}") == []


def test_M_2026_120146_reassigned_to_a_role_that_cannot_be_taken(new_role, plain, amp):
    """REASSIGN OWNED gave a view to a role whose privileges are inherited, though SET ROLE to it is refused (fixed in 16.16 and 18.7).

    On an older server the view shows every tenant's rows if that role bypasses row security; under amp it is refused.
    """
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        bypass, member = new_role("BYPASSRLS IN ROLE amp_svc"), new_role("LOGIN IN ROLE amp_svc")
        with database.connect() as admin:
            if admin.info.server_version < 160000:
                pytest.skip("every member may SET ROLE")
            admin.execute(f"GRANT {bypass} TO {member} WITH INHERIT TRUE, SET FALSE; CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO {member}, {bypass}")
            if database is amp:
                admin.execute(f"GRANT amp_service TO {member}")
        with database.connect(member) as session:
            session.execute(f"SET {setting} = 't1'; CREATE VIEW own.everything AS SELECT note FROM public.orders")
            for refused in f"SET ROLE {bypass}", f"ALTER VIEW own.everything OWNER TO {bypass}":
                with raises("42501"):
                    session.execute(refused)
            reassign = f"REASSIGN OWNED BY {member} TO {bypass}"
            if has(session, PATCHED):
                with raises("42501"):
                    session.execute(reassign)
                assert column(session, "SELECT note FROM own.everything") == MINE
            elif database is amp:
                with raises("TN008", "view-without-security-invoker"):
                    session.execute(reassign)
                assert column(session, "SELECT note FROM own.everything") == MINE
            else:
                session.execute(reassign)
                assert column(session, "SELECT note FROM own.everything") == MINE + THEIRS


def test_M_2026_120146_database_of_a_role_without_createdb(new_role, everywhere):
    """It also gives a database to a role that may not have one (fixed in 15.20 and 18.7): its owner sees no more, and sets no tenant for others."""
    database, group = everywhere.database, new_role("NOLOGIN")
    with database.connect() as admin:
        admin.execute(f"ALTER DATABASE {database.name} OWNER TO {group}; GRANT {group} TO {everywhere.role}")
    with everywhere.open() as session:
        with raises("42501"):
            session.execute(f"ALTER DATABASE {database.name} OWNER TO {everywhere.role}")
        if has(session, PATCHED):
            with raises("42501"):
                session.execute(f"REASSIGN OWNED BY {group} TO {everywhere.role}")
        else:
            session.execute(f"REASSIGN OWNED BY {group} TO {everywhere.role}")
        assert notes(session) == MINE
        if everywhere.kind != PLAIN:
            with raises("TN006"):
                session.execute(f"ALTER DATABASE {database.name} SET amp.tenant_id = 't2'")


def test_M_2026_120154_rows_by_on_conflict(everywhere):
    """ON CONFLICT DO UPDATE read or wrote rows despite policies (also CVE-2017-15099, CVE-2026-16237)."""
    before = snapshot(everywhere.database)
    got = []
    with everywhere.open() as session:
        for target in "(id)", "(tenant_id, id)", "ON CONSTRAINT orders_pkey":
            for number in 21, 22, 23:
                for tenant in "t1", "t2":
                    try:
                        got += session.execute(f"INSERT INTO orders AS o VALUES ({number}, '{tenant}', 'x') ON CONFLICT {target} "
                                               "DO UPDATE SET note = o.note RETURNING o.note").fetchall()
                    except psycopg.Error as error:
                        assert error.sqlstate in ("42501", "42P10", "23505")
    assert not {row[0] for row in got} & set(THEIRS)
    theirs = [row for row in snapshot(everywhere.database)[1] if row[1] == "t2"]
    assert theirs == [row for row in before[1] if row[1] == "t2"]
    assert everywhere.kind != PLAIN or notes(everywhere.open()) == MINE
