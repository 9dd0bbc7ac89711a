"""A and D. Who the session is: roles that bypass row security, and roles that change while a session is open.

The other rows of D are in test_d_privileged.py.
"""

import pytest

from harness import raises
from world import MINE, THEIRS, column, notes, snapshot


@pytest.mark.parametrize("attributes", ["LOGIN SUPERUSER", "LOGIN BYPASSRLS IN ROLE amp_svc"])
def test_D5_a_session_that_bypasses_row_security(plain, amp, new_role, attributes):
    """The application logs in as a superuser or a BYPASSRLS role, and believes it is isolated."""
    role = new_role(attributes)
    with plain.connect(role) as session:
        session.execute("SET app.tenant = 't1'")
        assert notes(session) == MINE + THEIRS
    with amp.connect(role) as session:
        for attack in "SET amp.tenant_id = 't1'", "SET LOCAL amp.tenant_id = 't1'", "SELECT set_config('amp.tenant_id', 't1', false)":
            with raises("TN009"):
                session.execute(attack)
        with raises("TN009"):
            session.execute("SELECT amp.tenant_id()")
        with raises("TN009"):
            session.execute("INSERT INTO orders (id) VALUES (99)")


def test_D5_set_role_first(amp, new_role):
    """A service takes a role that bypasses row security, then names a tenant."""
    bypass = new_role("BYPASSRLS IN ROLE amp_svc")
    service = new_role(f"LOGIN IN ROLE amp_svc, {bypass}")
    with amp.connect(service) as session:
        session.execute(f"SET ROLE {bypass}")
        with raises("TN009"):
            session.execute("SET amp.tenant_id = 't1'")


def test_D5_set_role_afterwards(amp, new_role):
    """A service names a tenant, then takes a role that bypasses row security."""
    bypass = new_role("BYPASSRLS IN ROLE amp_svc")
    service = new_role(f"LOGIN IN ROLE amp_svc, {bypass}")
    with amp.connect(service) as session:
        session.execute("SET amp.tenant_id = 't1'")
        assert notes(session) == MINE
        session.execute(f"SET ROLE {bypass}")
        with raises("TN009"):
            notes(session)


@pytest.mark.parametrize("attribute", ["BYPASSRLS", "SUPERUSER"])
def test_D5_role_bypasses_in_the_middle_of_a_session(amp, new_role, attribute):
    """ALTER ROLE … BYPASSRLS while the session is open, with a prepared statement."""
    service = new_role("LOGIN IN ROLE amp_svc")
    with amp.connect(service) as session, amp.connect() as admin:
        session.execute("SET amp.tenant_id = 't1'; PREPARE q AS SELECT note FROM orders")
        assert column(session, "EXECUTE q") == MINE
        admin.execute(f"ALTER ROLE {service} {attribute}")
        for read in "EXECUTE q", "SELECT note FROM orders":
            with raises("TN009"):
                session.execute(read)
        admin.execute(f"ALTER ROLE {service} NO{attribute}")
        assert column(session, "EXECUTE q") == MINE


def test_K3_revoked_service_role(amp, new_role):
    """REVOKE amp_service while a transaction, a cursor and a cached plan are open: the next statement is refused."""
    service = new_role("LOGIN IN ROLE amp_client, amp_service")
    with amp.connect(service, autocommit=False) as session, amp.connect() as admin:
        session.execute("SET amp.tenant_id = 't1'; PREPARE q AS SELECT note FROM orders")
        session.execute("DECLARE c CURSOR FOR SELECT note FROM orders")
        assert column(session, "FETCH 1 FROM c") == ["mine"] and column(session, "EXECUTE q") == MINE
        admin.execute(f"REVOKE amp_service FROM {service}")
        for attack in "FETCH 1 FROM c", "EXECUTE q", "SELECT note FROM orders", "UPDATE orders SET note = 'x'":
            with raises("TN003"), session.transaction():
                session.execute(attack)
        session.rollback()
        admin.execute(f"GRANT amp_service TO {service}")
        session.execute("SET amp.tenant_id = 't1'")
        assert column(session, "EXECUTE q") == MINE


def test_K3_table_privilege_revoked(amp, new_role):
    """A role that gave the table's privileges is revoked under a cached plan."""
    service = new_role("LOGIN IN ROLE amp_svc, amp_service")
    with amp.connect(service, autocommit=False) as session, amp.connect() as admin:
        session.execute("SET amp.tenant_id = 't1'; PREPARE q AS SELECT note FROM orders")
        assert column(session, "EXECUTE q") == MINE
        admin.execute(f"REVOKE amp_svc FROM {service}")
        with raises("42501"):
            session.execute("EXECUTE q")


def test_D4_member_of_the_table_owner(plain, amp, new_role):
    """The service takes the table owner's role: row security is forced on him, too."""
    service = new_role("LOGIN IN ROLE amp_svc, amp_owner")
    with plain.connect("amp_owner") as owner:
        owner.execute("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY")
    with plain.connect(service) as session:
        session.execute("SET app.tenant = 't1'; SET ROLE amp_owner")
        assert notes(session) == MINE + THEIRS
    with amp.connect(service) as session:
        session.execute("SET ROLE amp_owner")
        with raises("TN001"):
            notes(session)
        session.execute("SET amp.tenant_id = 't1'")
        assert notes(session) == MINE
        assert session.execute("DELETE FROM orders WHERE id > 20").rowcount == 0
        with raises("42501"):
            session.execute("UPDATE orders SET tenant_id = 't2'")
    with amp.connect("amp_owner") as owner, raises("TN001"):
        notes(owner)


def test_D12_truncate(plain, amp, new_role):
    """TRUNCATE is not subject to row security: whoever was granted it destroys every tenant's rows."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute("GRANT TRUNCATE ON parents, orders TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; TRUNCATE orders")
    assert snapshot(plain)[1] == []
    before = snapshot(amp)
    service = new_role("LOGIN IN ROLE amp_svc, amp_owner")
    with amp.connect(service) as session:
        session.execute("SET amp.tenant_id = 't1'")
        for role in "amp_svc", "amp_owner":
            session.execute(f"SET ROLE {role}")
            for attack in "TRUNCATE orders", "TRUNCATE parents CASCADE", "TRUNCATE ONLY orders RESTART IDENTITY":
                with raises("TN004"):
                    session.execute(attack)
    with amp.connect("amp_svc") as svc, raises("TN004"):
        svc.execute("TRUNCATE orders")
    assert snapshot(amp) == before
    with amp.connect("amp_owner") as owner:
        owner.execute("TRUNCATE orders")


RUNS_AS_ITS_OWNER = """
    CREATE TABLE bait (x int);
    INSERT INTO bait SELECT generate_series(1, 100);
    CREATE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
    CREATE INDEX ON bait (bite(x));
    CREATE OR REPLACE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN
        BEGIN PERFORM amp.invite_user('evil@example.com', 'admin', 't2'); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM amp.mark_caller(), amp.forget_table('orders'); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM amp.mark_caller(), amp.register_protection('orders', 'note', NULL, NULL, NULL, NULL, false); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM amp.register_shared('parents'); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM amp.mark_caller(), amp.register_schema('public', 'note'); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM amp.mark_caller(), amp.register_meter('orders', 'evil'); EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN $1;
    END $$;
    CREATE FUNCTION borrow() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT public.bite(1)';
"""


def registry(admin):
    return [admin.execute(f"SELECT * FROM amp.{table} ORDER BY 1").fetchall()
            for table in ("protected_tables", "shared_tables", "protected_schemas", "meters")]


@pytest.mark.parametrize("role, victim", [
    ("postgres", "ANALYZE bait"), ("postgres", "REINDEX TABLE bait"), ("postgres", "SELECT borrow()"), ("amp_ops", "SELECT borrow()")])
def test_D_a_clients_code_in_an_operators_session(amp, role, victim):
    """A client's index function runs, as the client, inside a superuser's ANALYZE (or autovacuum): whose powers has it?"""
    with amp.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_client")
        before = registry(admin)
    with amp.connect("amp_client") as client:
        client.execute(RUNS_AS_ITS_OWNER)
    with amp.connect(role) as session:
        session.execute(victim)
    with amp.connect() as admin:
        assert column(admin, "SELECT email FROM amp.app_users") == []
        assert registry(admin) == before
