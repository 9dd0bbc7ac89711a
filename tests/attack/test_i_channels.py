"""I, and of B what a session leaves behind as temporary objects: ways past every table, from one tenant's session to another's of the same
database role. Each is shown on plain PostgreSQL, stays open under amp_tenancy, and is closed by amp.harden().
"""

import pytest

from harness import raises
from world import MINE, column


def contended(neighbours):
    """t2 holds an advisory lock: t1 sees its key, and meets it."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        victim.execute("SELECT pg_advisory_lock(4711)")
        seen = column(thief, "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory'")
        return seen, thief.execute("SELECT pg_try_advisory_xact_lock(4711)").fetchone()[0]


def test_I2_advisory_locks_plain(plain_neighbours):
    assert contended(plain_neighbours) == ([4711], False)


@pytest.mark.still_open("unhardened")
def test_I2_advisory_locks_unhardened(open_neighbours):
    assert contended(open_neighbours) == ([4711], False)


def test_I2_advisory_locks(neighbours):
    """All of them are refused, but for giving back: connection pools do that before they pass a session on."""
    with neighbours.open("t1") as thief:
        functions = column(thief, """
            SELECT format('%s(%s)', proname, repeat('1, ', pronargs - 1) || '1') FROM pg_proc
            WHERE proname ~ '^pg_(try_)?advisory_(xact_)?lock' AND pronamespace = 'pg_catalog'::regnamespace""")
        assert len(functions) == 16
        for function in functions:
            with raises("42501", "permission denied for function"):
                thief.execute(f"SELECT {function}")
        thief.execute("SELECT pg_advisory_unlock_all()")


def test_I2_a_tenants_own_advisory_locks(neighbours):
    """The same number is another lock for another tenant; within a tenant it is one, until the transaction ends."""
    take, attempt = "SELECT amp.advisory_xact_lock(4711)", "SELECT amp.try_advisory_xact_lock(4711)"
    with neighbours.open("t1") as one, neighbours.open("t1") as other, neighbours.open("t2") as stranger:
        with one.transaction():
            one.execute(take)
            assert one.execute(attempt).fetchone() == (True,)  # it has it already
            assert other.execute(attempt).fetchone() == (False,)
            assert other.execute("SELECT amp.try_advisory_xact_lock(4712)").fetchone() == (True,)
            with raises("55P03"), other.transaction():
                other.execute("SET LOCAL lock_timeout = 50")
                other.execute(take)
            with stranger.transaction():
                stranger.execute(take)
                assert one.execute(attempt).fetchone() == (True,)
            own = one.execute("SELECT mode, granted FROM amp.locks WHERE locktype = 'userlock'").fetchall()
            assert own == [("ExclusiveLock", True)]
        assert other.execute(attempt).fetchone() == (True,)


def test_I2_a_tenants_own_advisory_locks_need_a_tenant(neighbours):
    with neighbours.database.connect("amp_svc") as session:
        for function in "advisory_xact_lock", "try_advisory_xact_lock":
            with raises("TN001"):
                session.execute(f"SELECT amp.{function}(1)")


def passed_on(neighbours):
    """t2 makes a large object, t1 reads it."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        [(large,)] = victim.execute("SELECT lo_from_bytea(0, 'secret')").fetchall()
        assert (large,) in thief.execute("SELECT oid FROM pg_largeobject_metadata").fetchall()
        return thief.execute("SELECT lo_get(%s)", [large]).fetchone()[0]


def test_I3_large_objects_plain(plain_neighbours):
    assert passed_on(plain_neighbours) == b"secret"


@pytest.mark.still_open("unhardened")
def test_I3_large_objects_unhardened(open_neighbours):
    assert passed_on(open_neighbours) == b"secret"


def test_I3_large_objects(neighbours):
    with raises("42501", "permission denied for function lo_from_bytea"):
        passed_on(neighbours)
    with neighbours.database.connect() as admin:  # one from before
        [(large,)] = admin.execute("SELECT lo_from_bytea(0, 'secret')").fetchall()
        admin.execute(f"ALTER LARGE OBJECT {large} OWNER TO {neighbours.role}")
    with neighbours.open("t1") as thief:
        for call in (f"lo_get({large})", f"lo_get({large}, 0, 9)", f"lo_open({large}, 131072)", f"lo_put({large}, 0, 'x')", f"lo_unlink({large})"):
            with raises("42501", "permission denied for function"):
                thief.execute(f"SELECT {call}")
        left = column(thief, "SELECT proname::text FROM pg_proc WHERE proname ~ '^lo_|^loread$|^lowrite$' AND has_function_privilege(oid, 'EXECUTE')")
        assert left == []


# Each leaves what t1 has read, or what t2 will take for his own.
TEMPORARY = [
    "CREATE TEMP TABLE kept AS SELECT note FROM orders",
    "SELECT note INTO TEMP kept FROM orders",
    "CREATE TEMP TABLE kept (note text)",
    "CREATE TEMP VIEW kept AS SELECT 'mine'::text AS note",
    "CREATE TEMP SEQUENCE kept",
    "CREATE FUNCTION pg_temp.kept() RETURNS text LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pg_temp.kept AS (note text)",
]  # fmt: skip


def kept(neighbours):
    """t1's rows in a temporary table, read by t2 on the same connection."""
    with neighbours.open("t1") as session:
        session.execute(TEMPORARY[0])
        neighbours.enter(session, "t2")
        return column(session, "SELECT note FROM kept")


def test_B4_temporary_table_in_one_session_plain(plain_neighbours):
    assert kept(plain_neighbours) == MINE


@pytest.mark.still_open("unhardened")
def test_B4_temporary_table_in_one_session_unhardened(open_neighbours):
    """In session scope; in transaction scope the statement guard refuses it (test_b_residue.py)."""
    assert kept(open_neighbours) == MINE


@pytest.mark.parametrize("statement", TEMPORARY)
def test_B4_temporary_objects(neighbours, statement):
    with neighbours.open("t1") as session, raises("42501", "temporary"):
        session.execute(statement)


def poisoned(neighbours):
    """t1 puts a table of his before t2's, who writes to it."""
    with neighbours.open("t1") as session:
        session.execute("CREATE TEMP TABLE orders (id int, tenant_id text, note text)")
        neighbours.enter(session, "t2")
        session.execute("INSERT INTO orders (id, tenant_id, note) VALUES (99, 't2', 'of t2')")
        neighbours.enter(session, "t1")
        return column(session, "SELECT note FROM orders")


def test_B6_temporary_table_before_a_real_one_plain(plain_neighbours):
    assert poisoned(plain_neighbours) == ["of t2"]


@pytest.mark.still_open("unhardened")
def test_B6_temporary_table_before_a_real_one_unhardened(open_neighbours):
    assert poisoned(open_neighbours) == ["of t2"]


def test_B6_temporary_table_before_a_real_one(neighbours):
    with raises("42501", "permission denied to create temporary tables"):
        poisoned(neighbours)
