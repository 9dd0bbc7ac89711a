"""K and J6. Time: suspension and changed rights against open transactions, locks and cursors; protect() against writers; standbys.

K3 is in test_a_roles.py.
"""

import threading
import time

import psycopg
import pytest

from harness import raises
from world import MINE, THEIRS, column, notes, snapshot


def start(call):
    """Runs call() in a thread until it waits for a lock; returns what to call for its outcome."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def finish():
        thread.join(20)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    return finish


def wait_until_blocked(database, sessions=1):
    with database.connect() as admin:
        for _ in range(200):
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            if admin.execute(waiting).fetchone()[0] >= sessions:
                return
            time.sleep(0.02)
    raise AssertionError("nobody waits")


BLOCKED = {
    "for update": "SELECT note FROM orders WHERE id = 11 FOR UPDATE",
    "for share": "SELECT note FROM orders WHERE id = 11 FOR SHARE",
    "for key share": "SELECT note FROM orders WHERE id = 11 FOR KEY SHARE",
    "update": "UPDATE orders SET amount = amount WHERE id = 11 RETURNING note",
    "delete": "DELETE FROM orders WHERE id = 11 RETURNING note",
    "upsert": "INSERT INTO orders VALUES (11, 't1', 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET amount = 5 RETURNING note",
    "merge": "MERGE INTO orders o USING (VALUES (11)) v(id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET amount = 5",
    "join": "SELECT o.note FROM orders o JOIN parents p ON p.id = o.parent_id WHERE o.id = 11 FOR UPDATE OF o",
    "cte": "WITH o AS (SELECT * FROM orders WHERE id = 11 FOR UPDATE) SELECT note FROM o",
}


def test_K1_suspension_while_waiting_for_a_row_plain(plain):
    """Plain: the policy asks a table of permissions; who waits for a row sees it after he has lost them."""
    with plain.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE active (tenant text); INSERT INTO active VALUES ('t1'), ('t2'); GRANT SELECT ON active TO amp_svc;
            CREATE POLICY active ON orders AS RESTRICTIVE USING (tenant_id IN (SELECT tenant FROM active))""")
    with plain.connect(autocommit=False) as suspender, plain.connect("amp_svc") as svc:
        suspender.execute("DELETE FROM active WHERE tenant = 't1'; UPDATE orders SET note = 'after suspension' WHERE id = 11")
        svc.execute("SET app.tenant = 't1'")
        finish = start(lambda: column(svc, "SELECT note FROM orders WHERE id = 11 FOR UPDATE"))
        wait_until_blocked(plain)
        suspender.commit()
        assert finish() == ["after suspension"]


@pytest.mark.parametrize("asked", [True, False], ids=["with permissions", "without permissions"])
@pytest.mark.parametrize("kind", BLOCKED)
def test_K1_suspension_while_waiting_for_a_row(amp, kind, asked):
    """Blocked behind the suspender's own transaction, which has changed the row: nothing of it is shown, nothing written."""
    change = "UPDATE orders SET note = 'after suspension' WHERE id = 11"
    if kind == "for key share":  # does not wait for a change of other columns than the key
        change = "UPDATE orders SET id = 0, note = 'after suspension' WHERE id = 11; UPDATE orders SET id = 11 WHERE id = 0"
    if not asked:
        with amp.connect("amp_owner") as owner:
            owner.execute("SELECT amp.protect('orders', read => NULL, write => NULL); SELECT amp.protect('parents', read => NULL, write => NULL)")
    with amp.connect(autocommit=False) as suspender, amp.connect("amp_svc") as svc:
        suspender.execute("SELECT amp.suspend_tenant('t1')")
        suspender.execute(change)
        svc.execute("SET amp.tenant_id = 't1'")
        finish = start(lambda: svc.execute(BLOCKED[kind]))
        wait_until_blocked(amp)
        suspender.commit()
        with raises("TN002"):
            finish()
    assert (11, "t1", "after suspension", 10, 1) in snapshot(amp)[1]


@pytest.mark.parametrize("kind", ["for update", "update", "delete", "upsert", "merge"])
def test_K1_role_taken_while_waiting_for_a_row(amp, kind):
    """The same with a member who is made a viewer, and one who is removed."""
    with amp.connect("amp_ops") as ops:
        member = ops.execute("SELECT amp.invite_user('m@example.com', 'operator', 't1') ->> 'id'").fetchone()[0]
    for verb, sqlstate in ("set_user_role({}, 'viewer', 't1')", "TN004"), ("remove_user({}, 't1')", "TN003"):
        with amp.connect("amp_ops") as ops:
            ops.execute("SELECT amp.set_user_role(%s, 'operator', 't1')", [member])
        with amp.connect(autocommit=False) as changer, amp.connect("amp_svc") as svc:
            changer.execute("SELECT amp." + verb.format(f"'{member}'"))
            changer.execute("UPDATE orders SET note = 'after' WHERE id = 11")
            svc.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{member}'")
            finish = start(lambda: svc.execute(BLOCKED[kind]))
            wait_until_blocked(amp)
            changer.commit()
            with raises(sqlstate):
                finish()
    assert (11, "t1", "after", 10, 1) in snapshot(amp)[1]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_K2_suspension_in_every_isolation_level(amp, level):
    """An open transaction, its cursors, its prepared statement: the next statement is refused, and again after a savepoint."""
    with amp.connect("amp_svc", autocommit=False) as svc, amp.connect("amp_ops") as ops:
        svc.execute(f"SET TRANSACTION ISOLATION LEVEL {level}; SET LOCAL amp.tenant_id = 't1'")
        svc.execute("PREPARE q AS SELECT note FROM orders; DECLARE c CURSOR FOR SELECT note FROM orders")
        assert notes(svc) == column(svc, "EXECUTE q") == MINE and column(svc, "FETCH 1 FROM c") == ["mine"]
        ops.execute("SELECT amp.suspend_tenant('t1')")
        for attack in ("SELECT note FROM orders", "EXECUTE q", "FETCH 1 FROM c", "DELETE FROM orders",
                       "COPY orders TO STDOUT", "INSERT INTO orders VALUES (99, 't1', 'x')", "SELECT amp.tenant_id()", "SELECT amp.users()",
                       "SELECT amp.record_usage('api_calls')"):
            with raises("TN002"), svc.transaction():
                svc.execute(attack)
        ops.execute("SELECT amp.activate_tenant('t1')")
        assert notes(svc) == MINE
    assert len(snapshot(amp)[1]) == 5


def test_K2_plain_keeps_reading(plain):
    """Plain: REPEATABLE READ goes on reading what a policy on a table of tenants allowed when it began."""
    with plain.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE active (tenant text); INSERT INTO active VALUES ('t1'); GRANT SELECT ON active TO amp_svc;
            CREATE POLICY active ON orders AS RESTRICTIVE USING (tenant_id IN (SELECT tenant FROM active))""")
    with plain.connect("amp_svc", autocommit=False) as svc, plain.connect() as admin:
        svc.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL app.tenant = 't1'")
        assert notes(svc) == MINE
        admin.execute("DELETE FROM active")
        assert notes(svc) == MINE


CURSORS = [pytest.param("SELECT note FROM orders", id="scan"),
           pytest.param("SELECT note FROM orders ORDER BY note", id="sort"),
           pytest.param("WITH o AS MATERIALIZED (SELECT note FROM orders) SELECT note FROM o, pg_sleep(0)", id="cte")]


@pytest.mark.parametrize("query", CURSORS)
def test_K2_cursor_after_suspension(amp, query):
    """A cursor whose rows are all read and sorted already goes on after the suspension."""
    with amp.connect("amp_svc", autocommit=False) as svc, amp.connect("amp_ops") as ops:
        svc.execute(f"SET LOCAL amp.tenant_id = 't1'; DECLARE c CURSOR FOR {query}")
        assert column(svc, "FETCH 1 FROM c") == ["mine"]
        ops.execute("SELECT amp.suspend_tenant('t1')")
        with raises("TN002"):
            svc.execute("FETCH 1 FROM c")


def test_B5_cursor_turns_to_another_tenant_plain(plain):
    """Plain: a cursor opened under one tenant gives the rows of the next."""
    with plain.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET app.tenant = 't1'; DECLARE c CURSOR FOR SELECT note FROM orders")
        assert column(svc, "FETCH 1 FROM c") == ["mine"]
        svc.execute("SET app.tenant = 't2'")
        assert column(svc, "FETCH ALL FROM c") == THEIRS


@pytest.mark.parametrize("query", CURSORS)
@pytest.mark.parametrize("change, sqlstate", [("SET amp.tenant_id = 't2'", "TN006"), ("RESET amp.tenant_id", "TN001")])
def test_B5_cursor_under_another_tenant(amp, query, change, sqlstate):
    """A cursor is opened under one tenant and fetched under another, or none."""
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute(f"SET amp.tenant_id = 't1'; DECLARE c CURSOR FOR {query}")
        assert column(svc, "FETCH 1 FROM c") == ["mine"]
        svc.execute(change)
        with raises(sqlstate):
            svc.execute("FETCH 1 FROM c")


def test_K4_deleted_id_is_not_given_again(amp):
    """A tenant is deleted and another made with its id: old sessions would be in the new one."""
    with amp.connect("amp_svc") as svc, amp.connect("amp_ops") as ops:
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE
        ops.execute("SELECT amp.delete_tenant('t1')")
        with raises("TN002"):
            notes(svc)
        with raises("23505"):
            ops.execute("SELECT amp.create_tenant('Again', 'again', id => 't1')")
        for revival in "amp.activate_tenant('t1')", "amp.suspend_tenant('t1')":
            with raises("TN002"):
                ops.execute(f"SELECT {revival}")
        with raises("TN004"):  # nobody said who calls
            ops.execute("SELECT amp.set_tenant_status('t1', 'active')")
        for forged in ("UPDATE amp.tenants SET status = 'active'",
                       "DELETE FROM amp.tenants", "INSERT INTO amp.tenants (id, name, slug) VALUES ('t3', 'T', 'ttt')"):
            with raises("42501"):
                ops.execute(forged)
        ops.execute("SELECT amp.create_tenant('Same slug', 'tenant-t1')")
        with raises("TN002"):
            notes(svc)


def test_K_membership_that_was_rolled_back(amp):
    """A session uses a membership inside the transaction that made it, and goes on using it after the ROLLBACK."""
    with amp.connect("amp_ops") as ops:
        admin = ops.execute("SELECT amp.invite_user('a@example.com', 'admin', 't1') ->> 'id'").fetchone()[0]
        stranger = ops.execute("SELECT amp.invite_user('s@example.com', 'admin', 't2') ->> 'id'").fetchone()[0]
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute(f"SET LOCAL amp.tenant_id = 't1'; SET LOCAL amp.user_id = '{admin}'")
        svc.execute("SELECT amp.invite_user('s@example.com', 'admin')")
        svc.execute(f"SET LOCAL amp.user_id = '{stranger}'")
        assert notes(svc) == MINE
        svc.rollback()
        svc.execute("SET LOCAL amp.tenant_id = 't1'")
        with raises("TN003"):
            svc.execute(f"SET LOCAL amp.user_id = '{stranger}'")


def test_K_tenant_that_was_rolled_back(amp, new_role):
    """The same with a tenant: it never was."""
    both = new_role("LOGIN IN ROLE amp_svc, amp_ops")
    with amp.connect(both, autocommit=False) as session:
        session.execute("SELECT amp.create_tenant('T', 'never', id => 'never')")
        session.execute("SET LOCAL amp.tenant_id = 'never'")
        session.rollback()
        with raises("TN002"):
            session.execute("SET LOCAL amp.tenant_id = 'never'")


def test_K_suspension_that_was_rolled_back(amp):
    """A suspension that is rolled back, also to a savepoint, never was: and nobody is let in meanwhile by mistake."""
    with amp.connect("amp_ops", autocommit=False) as ops, amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        ops.execute("SAVEPOINT a; SELECT amp.suspend_tenant('t1')")
        assert notes(svc) == MINE
        ops.execute("ROLLBACK TO a")
        ops.commit()
        assert notes(svc) == MINE


def test_K5_protect_against_writers(amp):
    """Writers before, beside and behind protect(): there is no moment in which the table has half of its protection."""
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE late (tenant_id text COLLATE \"C\", id int); GRANT SELECT, INSERT, UPDATE, DELETE ON late TO amp_svc, amp_client")
    with amp.connect("amp_svc", autocommit=False) as before, amp.connect("amp_owner", autocommit=False) as owner, \
            amp.connect("amp_client") as beside:
        before.execute("INSERT INTO late VALUES ('t2', 1)")
        protecting = start(lambda: owner.execute("SELECT amp.protect('late')"))
        wait_until_blocked(amp)
        before.commit()
        protecting()
        writing = start(lambda: beside.execute("INSERT INTO late VALUES ('t2', 2)"))
        wait_until_blocked(amp)
        owner.commit()
        with raises("TN001"):
            writing()
        with raises("TN001"):
            before.execute("SELECT * FROM late")
    with amp.connect() as admin:
        assert column(admin, "SELECT id FROM late") == [1]


def test_K5_protect_finds_the_row_of_a_writer_it_waited_for(amp):
    """A row without a tenant comes in while protect() waits: it is found, and the table is as it was."""
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE late (tenant_id text COLLATE \"C\", id int); GRANT SELECT, INSERT, UPDATE, DELETE ON late TO amp_svc")
    with amp.connect("amp_svc", autocommit=False) as writer, amp.connect("amp_owner") as owner:
        writer.execute("INSERT INTO late VALUES (NULL, 1)")
        protecting = start(lambda: owner.execute("SELECT amp.protect('late')"))
        wait_until_blocked(amp)
        writer.commit()
        with raises("23502"):
            protecting()
    with amp.connect() as admin:
        assert admin.execute("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'late'").fetchone() == (False, False)


def test_K5_open_snapshot_and_cached_plan(amp):
    """A REPEATABLE READ transaction and a prepared statement from before protect() are under it afterwards."""
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE late (tenant_id text COLLATE \"C\"); INSERT INTO late VALUES ('t2'); GRANT SELECT, INSERT, UPDATE, DELETE ON late TO amp_svc")
    with amp.connect("amp_svc", autocommit=False) as svc, amp.connect("amp_owner") as owner:
        svc.execute("SET plan_cache_mode = force_generic_plan; PREPARE q AS SELECT * FROM late")
        assert column(svc, "EXECUTE q") == ["t2"]
        svc.commit()
        svc.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        svc.execute("SELECT FROM pg_class LIMIT 1")
        owner.execute("SELECT amp.protect('late')")
        for read in "EXECUTE q", "SELECT * FROM late":
            with raises("TN001"), svc.transaction():
                svc.execute(read)


def test_J6_read_only_transactions(amp):
    """default_transaction_read_only: reading works, isolated; nothing in the policies writes."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET default_transaction_read_only = on")
        with raises("TN001"):
            notes(svc)
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE
        assert svc.execute("SELECT amp.context() ->> 'tenant_id', pg_current_xact_id_if_assigned()").fetchone() == ("t1", None)
        with raises("25006"):
            svc.execute("UPDATE orders SET note = 'x'")


@pytest.mark.parametrize("hold, change", [
    ("SELECT amp.define_role('x', '{}')", "SELECT amp.suspend_tenant('t1')"),
    ("SELECT amp.set_default_tenant('t1')", "SELECT amp.remove_user({0}, 't1')"),
])
def test_K_a_member_cannot_put_off_what_is_coming(amp, hold, change):
    """He leaves a transaction open that has locked what the operator has to change."""
    with amp.connect("amp_ops") as ops, amp.connect("amp_svc", autocommit=False) as member:
        ops.execute("SELECT amp.invite_user('other@x', 'admin', 't1')")
        user = ops.execute("SELECT amp.invite_user('his@x', 'admin', 't1') ->> 'id'").fetchone()[0]
        member.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{user}'")
        member.execute(hold)
        ops.execute("SET lock_timeout = '5s'")
        ops.execute(change.format(f"'{user}'"))
        with pytest.raises(psycopg.Error) as caught:
            member.execute("SELECT FROM orders")
        assert caught.value.sqlstate in ("TN002", "TN003")
