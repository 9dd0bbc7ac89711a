"""M. Holes that PostgreSQL had, as far as SQL can try them; the others are the doctor's `old-minor`. rows.toml lists all."""

import psycopg
import pytest

from attackers import PLAIN
from harness import raises
from world import MINE, THEIRS, column, notes, snapshot


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


def test_M_2026_120154_rows_by_on_conflict(everywhere):
    """ON CONFLICT DO UPDATE read or wrote rows despite policies (also CVE-2017-15099, CVE-2026-16237), columns by a view (CVE-2018-10925)."""
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
