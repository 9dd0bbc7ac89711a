"""A14, J4. The library is not preloaded: what was set before it came is trusted only if it holds now."""

import psycopg
import pytest

from harness import raises
from world import MINE, TABLES, THEIRS, notes


@pytest.fixture(scope="module")
def late():
    """A server without shared_preload_libraries, and a protected database in it."""
    from harness import Cluster

    cluster = Cluster(shared_preload_libraries="")
    database = cluster.database()
    with database.connect("amp_ops") as ops:
        for tenant in "t1", "t2":
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    with database.connect("amp_owner") as owner:
        owner.execute(TABLES)
        owner.execute("SELECT amp.protect('parents', fix => true); SELECT amp.protect('orders', fix => true)")
        owner.execute("CREATE TABLE empty (tenant_id text); SELECT amp.protect('empty'); GRANT SELECT ON empty TO PUBLIC")
    yield database
    cluster.remove()


def test_A14_service_is_asked_again(late):
    """A placeholder that a service set: valid, it holds; unknown or malformed, it is dropped."""
    with late.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE
    for forged in "nobody", "t1; DROP", "x" * 65, "т1":
        with late.connect("amp_svc") as svc:
            svc.execute("SELECT set_config('amp.tenant_id', %s, false)", [forged])
            with raises("TN001"):
                notes(svc)


@pytest.mark.parametrize("role, sqlstate", [("amp_client", "TN001"), ("amp_ops", "TN001")])
def test_A14_client_is_dropped(late, role, sqlstate):
    """A placeholder that a client or an operator set, also SET LOCAL and under a savepoint."""
    for ways in ["SET amp.tenant_id = 't2'"], ["BEGIN", "SET LOCAL amp.tenant_id = 't2'"], \
            ["BEGIN", "SET amp.tenant_id = 't1'", "SAVEPOINT a", "SET LOCAL amp.tenant_id = 't2'"]:
        with late.connect(role) as session:
            for statement in ways:
                session.execute(statement)
            with raises(sqlstate):
                notes(session)


def test_A14_from_elsewhere_than_sql(late):
    """Placeholders from PGOPTIONS, ALTER ROLE and ALTER DATABASE never become a tenant."""
    with late.connect("amp_svc", options="-c amp.tenant_id=t2") as svc, raises("TN001"):
        notes(svc)
    with late.connect() as admin:
        for target in "ROLE amp_svc", f"DATABASE {late.name}":
            admin.execute(f"ALTER {target} SET amp.tenant_id = 't2'")
            try:
                with late.connect("amp_svc") as svc, raises("TN001"):
                    notes(svc)
                with late.connect("amp_svc") as svc:
                    svc.execute("SET amp.tenant_id = 't1'; RESET amp.tenant_id")
                    with raises("TN001"):
                        notes(svc)
                    with raises("TN001"):
                        svc.execute("DISCARD ALL")
                        notes(svc)
            finally:
                admin.execute(f"ALTER {target} RESET amp.tenant_id")


def test_A14_other_settings(late):
    """A plain role forges amp.context_scope, amp.require_user and amp.parallel_context before the library comes."""
    with late.connect() as admin:
        admin.execute("ALTER ROLE amp_svc SET amp.context_scope = 'transaction'")
    try:
        with late.connect("amp_svc") as svc:
            svc.execute("SET amp.context_scope = 'session'; SET amp.tenant_id = 't2'")
            with raises("TN001"):
                notes(svc)
            with raises("42501"):
                svc.execute("SET amp.context_scope = 'session'")
        with late.connect("amp_svc", options="-c amp.context_scope=session -c amp.tenant_id=t2") as svc, raises("TN001"):
            notes(svc)
    finally:
        with late.connect() as admin:
            admin.execute("ALTER ROLE amp_svc RESET amp.context_scope")
    for role in "amp_svc", "amp_client":
        for options in None, "-c amp.parallel_context=t2\\ \\ content.view":
            with late.connect(role, options=options or "") as session:
                session.execute("SELECT set_config('amp.parallel_context', E't2\\n\\n\\ncontent.view', false)")
                session.execute("SET debug_parallel_query = on" if session.info.server_version >= 160000 else "SET force_parallel_mode = on")
                with raises("TN001"):
                    notes(session)


def test_A14_first_statement_flips(late):
    """The very first statement of the session, the one that loads the library, changes the tenant in its middle."""
    flip = "SELECT DISTINCT tenant_id FROM (SELECT tenant_id, set_config('amp.tenant_id', 't2', false) FROM orders OFFSET 0) x"
    with late.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN006"):
            svc.execute(flip)


def test_A14_no_context(late):
    """No tenant and no library yet: an error, not silence."""
    with late.connect("amp_svc") as svc, raises("TN001"):
        notes(svc)
    with late.connect("amp_svc") as svc:
        for write in "INSERT INTO orders VALUES (99, 't1', 'x')", "UPDATE orders SET note = 'x'", "DELETE FROM orders":
            with raises("TN001"):
                svc.execute(write)


def test_J4_library_removed(make_cluster):
    """The library file is gone: every query of a protected table fails, none leaks."""
    cluster = make_cluster(shared_preload_libraries="")
    database = cluster.database()
    with database.connect("amp_owner") as owner:
        owner.execute(TABLES)
        owner.execute("SELECT amp.protect('orders')")
    with database.connect() as admin:  # as if the file were missing: the functions point where there is none
        admin.execute("UPDATE pg_proc SET probin = '$libdir/amp_gone' WHERE pronamespace = 'amp'::regnamespace AND probin IS NOT NULL")
    for role in "amp_svc", "amp_client", "amp_owner":
        with database.connect(role) as session:
            session.execute("SET amp.tenant_id = 't1'")
            for attack in "SELECT * FROM orders", "INSERT INTO orders VALUES (99, 't1')", "UPDATE orders SET note = 'x'", "DELETE FROM orders":
                with raises("58P01"):
                    session.execute(attack)


def test_J4_extension_dropped(amp):
    """DROP EXTENSION … CASCADE: row security stays on without a policy that allows anything."""
    with amp.connect() as admin:
        admin.execute("DROP EXTENSION amp_tenancy CASCADE")
        assert len(admin.execute("SELECT * FROM orders").fetchall()) == 5
    for role in "amp_svc", "amp_client", "amp_owner":
        with amp.connect(role) as session:
            assert notes(session) == []
            assert session.execute("DELETE FROM orders").rowcount == 0
            with raises("42501"):
                session.execute("INSERT INTO orders VALUES (99, 't1', 'x')")
