"""Two sessions at once, where one of them has to wait, and what it may do when it goes on.

tests/isolation has the interleavings that hold; what is here is marked until it does.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import ROOT, raises


@pytest.fixture
def db(fresh_db):
    with fresh_db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("INSERT INTO amp.app_users (id, email) VALUES ('ben', 'ben@example.com')")
        admin.execute("INSERT INTO amp.members VALUES ('ant', 'ben', 'admin')")
    return fresh_db


@pytest.fixture
def start():
    """start(connection, statement): runs it in a thread and returns when it waits for a lock, or is done."""
    with ThreadPoolExecutor() as threads:

        def start(observer, connection, statement):
            running = threads.submit(lambda: connection.execute(statement).fetchall())
            for _ in range(200):
                time.sleep(0.02)
                waiting = observer.execute(
                    "SELECT cardinality(pg_blocking_pids(%s)) > 0", [connection.info.backend_pid]
                ).fetchone()
                if waiting == (True,) or running.done():
                    break
            return running

        yield start


def test_who_lost_the_right_while_waiting_does_not_manage(db, start):
    with db.connect() as observer, db.connect("amp_ops", autocommit=False) as operator, db.connect("amp_svc") as ben:
        ben.execute("SET amp.tenant_id = 'ant'")
        ben.execute("SET amp.user_id = 'ben'")
        operator.execute("SELECT amp.set_user_role('ben', 'viewer', 'ant')")
        defining = start(observer, ben, "SELECT amp.define_role('empty', '{}')")
        operator.commit()
        with raises("TN004"):
            defining.result()


@pytest.mark.parametrize("first, second", [("app.parents", "app.children"), ("app.children", "app.parents")])
def test_two_tables_protected_at_once_have_a_composite_foreign_key(db, start, first, second):
    with db.connect("amp_owner", autocommit=False) as one, db.connect("amp_owner") as other, db.connect() as observer:
        other.execute("""
            CREATE TABLE app.parents (tenant_id text NOT NULL, id int PRIMARY KEY);
            CREATE TABLE app.children (tenant_id text NOT NULL, id int PRIMARY KEY, parent_id int REFERENCES app.parents);
            INSERT INTO app.parents VALUES ('ant', 1);
            GRANT ALL ON app.parents, app.children TO amp_svc;
        """)
        one.execute(f"SELECT * FROM amp.protect('{first}')")
        protecting = start(observer, other, f"SELECT * FROM amp.protect('{second}')")
        one.commit()
        protecting.result()
    with db.connect("amp_svc") as bee:
        bee.execute("SET amp.tenant_id = 'bee'")
        with raises("23503"):  # the parent is ant's
            bee.execute("INSERT INTO app.children VALUES ('bee', 1, 1)")


def test_a_row_that_was_waited_for_is_not_shown_where_no_permission_is_asked_for(db, start):
    """Attack K1, without the permission check that notices elsewhere."""
    with db.connect() as observer, db.connect() as dba, db.connect("amp_svc") as service:
        dba.execute("SELECT * FROM amp.protect('app.missions', read => NULL, write => NULL)")
        dba.autocommit = False
        service.execute("SET amp.tenant_id = 'ant'")
        for statement in (
            "SELECT name FROM app.missions WHERE id = 1 FOR UPDATE",
            "SELECT name FROM app.missions WHERE id = 1 FOR SHARE",
            "UPDATE app.missions SET name = name || '!' WHERE id = 1 RETURNING name",
            "DELETE FROM app.missions WHERE id = 1 RETURNING name",
        ):
            assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
            dba.execute("UPDATE app.missions SET name = 'secret after suspension'")
            dba.execute("SELECT amp.suspend_tenant('ant')")
            waiting = start(observer, service, statement)
            dba.commit()
            with raises("TN002"):
                waiting.result()
            dba.execute("SELECT amp.activate_tenant('ant')")
            dba.commit()


def test_a_suspended_tenant_is_refused_at_the_set_in_an_open_transaction(db):
    with db.connect("amp_svc") as service, db.connect("amp_ops") as operator:
        service.execute("SET amp.tenant_id = 'ant'")
        assert service.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
        service.execute("BEGIN")
        operator.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"):
            service.execute("SET LOCAL amp.tenant_id = 'ant'")


def test_a_held_cursor_hears_of_a_suspension(db):
    """Its rows were stored at COMMIT, and FETCH runs no query."""
    with db.connect("amp_svc") as service, db.connect("amp_ops") as operator:
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("DECLARE missions CURSOR WITH HOLD FOR SELECT * FROM app.missions")
        assert len(service.execute("FETCH 1 FROM missions").fetchall()) == 1
        operator.execute("SELECT amp.suspend_tenant('ant')")
        for fetch in "FETCH ALL FROM missions", "MOVE 1 FROM missions", "DO $$ DECLARE r record; BEGIN FETCH missions INTO r; END $$":
            with pytest.raises(psycopg.Error):
                service.execute(fetch)
        operator.execute("SELECT amp.activate_tenant('ant')")
        assert len(service.execute("FETCH ALL FROM missions").fetchall()) == 2


def test_protect_schema_keeps_what_is_protected_by_another_column(db):
    with db.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE app.invoices (customer text); SELECT * FROM amp.protect('app.invoices', 'customer')")
        report = owner.execute("SELECT object, what FROM amp.protect_schema('app') WHERE status = 'left'").fetchall()
        assert [line for line in report if "has no column" in line[1]] == []
