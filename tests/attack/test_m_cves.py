"""M. Holes that PostgreSQL had, as far as SQL can try them; the others are the doctor's `old-minor`. rows.toml lists all.

Plain PostgreSQL holds because of its version, where a test does not say otherwise; a hole that is younger than the server shows.
"""

import re

import psycopg
import pytest

from attackers import PLAIN
from harness import raises
from world import MINE, THEIRS, column, notes, snapshot

# The releases of August 2026.
AUGUST = {15: 150019, 16: 160015, 17: 170011, 18: 180006}


def has(session, releases):
    return session.info.server_version >= releases[session.info.server_version // 10000]


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


@pytest.mark.parametrize("attribute", ["BYPASSRLS", "SUPERUSER"])
def test_M_2026_14666_plan_of_a_role_that_bypassed(new_role, plain, amp, attribute):
    """The same with a role's attribute: what was planned without any policy stayed so when BYPASSRLS was taken away.

    On an older server this is so under amp, too: the role may name a tenant from then on, and the old plan shows every tenant's rows.
    """
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        role = new_role(f"LOGIN {attribute} IN ROLE amp_svc")
        with database.connect() as admin, database.connect(role) as session:
            if database is amp:
                admin.execute(f"GRANT amp_service TO {role}")
            session.execute("SET plan_cache_mode = force_generic_plan; PREPARE q AS SELECT note FROM orders")
            assert column(session, "EXECUTE q") == MINE + THEIRS
            admin.execute(f"ALTER ROLE {role} NO{attribute}")
            session.execute(f"SET {setting} = 't1'")
            assert notes(session) == MINE
            assert column(session, "EXECUTE q") == (MINE if has(session, AUGUST) else MINE + THEIRS)


def test_M_2023_2454_create_schema_beside_a_search_path(plain, amp):
    """Within CREATE SCHEMA, a SECURITY DEFINER function saw the new schema's objects, whatever search_path it sets."""
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute(f"GRANT CREATE ON DATABASE {database.name} TO amp_svc")
            admin.execute("CREATE FUNCTION fixed() RETURNS text SECURITY DEFINER SET search_path = pg_catalog LANGUAGE sql AS "
                          "$$ SELECT current_setting('search_path') $$")
        with database.connect("amp_svc") as svc:
            svc.execute("CREATE SCHEMA own CREATE VIEW v AS SELECT public.fixed() AS path")
            assert column(svc, "SELECT path FROM own.v") == ["pg_catalog"]


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
