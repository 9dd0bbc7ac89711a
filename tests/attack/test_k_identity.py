"""K. Time, for sessions that have proved who they are: whatever a proof rests on ends, and the next statement of every session knows.

That plain PostgreSQL goes on is in test_k_concurrency.py, as is what a trusted service meets. K5 has nothing to do with proofs.
"""

import time
from contextlib import ExitStack

import psycopg
import pytest

from credentials import add_signing_key, claims, token
from harness import raises
from proofs import BOUND, CHOOSES, KEY, KINDS, SERVICE, TOKEN, Proved, authenticate
from test_k_concurrency import BLOCKED, CURSORS, start, wait_until_blocked
from world import MINE, THEIRS, column, notes, people, snapshot

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

# How a proof ends: for which kinds, by which call, and what the session hears then.
ENDS = {
    "suspended tenant": (KINDS, "amp.suspend_tenant('t1')", "TN002"),
    "deleted tenant": (KINDS, "amp.delete_tenant('t1')", "TN002"),
    "removed member": (KINDS, "amp.remove_user('{user}', 't1')", "TN003"),
    "revoked key": ([KEY], "amp.revoke_api_key('{key}')", "TN007"),
    "retired signing key": ([SERVICE, TOKEN], "amp.retire_signing_key('{kid}')", "TN007"),
    "unbound role": ([BOUND], "amp.unbind_role('{role}')", "TN001"),
    "role bound to another": ([BOUND], "amp.bind_role('{role}', 'two')", "TN006"),
}
ENDING = [pytest.param(kind, end, id=f"{end}, {kind}") for end, (kinds, *_) in ENDS.items() for kind in kinds]


def call(proved, end):
    kid = "EdDSA" if proved.kind == SERVICE else "HS256"
    return "SELECT " + ENDS[end][1].format(user=proved.user, key=proved.key, kid=kid, role=proved.role)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind, end", ENDING)
def test_K2_the_proof_ends_in_every_isolation_level(amp, kind, end, level):
    """An open transaction with a snapshot, cursors, prepared statements: the next statement is refused, whichever it is."""
    proved = Proved(amp, kind)
    before = snapshot(amp)
    with proved.connect(autocommit=False) as session, amp.connect("amp_ops") as ops:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        proved.enter(session)
        session.execute("PREPARE q AS SELECT note FROM orders; PREPARE w AS UPDATE orders SET note = 'late'")
        for number, cursor in enumerate(CURSORS):
            session.execute(f"DECLARE c{number} CURSOR FOR {cursor.values[0]}")
            assert column(session, f"FETCH 1 FROM c{number}") == ["mine"]
        assert notes(session) == column(session, "EXECUTE q") == MINE
        ops.execute(call(proved, end))
        for attack in ("SELECT note FROM orders", "EXECUTE q", "EXECUTE w", "FETCH 1 FROM c0", "FETCH 1 FROM c1", "FETCH 1 FROM c2",
                       "DELETE FROM orders", "COPY orders TO STDOUT", "INSERT INTO orders VALUES (99, 't1', 'late')",
                       "SELECT note FROM orders FOR UPDATE", "SELECT amp.tenant_id()", "SELECT amp.has_permission('content.view')",
                       "SELECT amp.users()", "SELECT amp.record_usage('api_calls')", "SELECT amp.lock_context()",
                       "DO $$ BEGIN PERFORM FROM orders; END $$"):
            with raises(ENDS[end][2]), session.transaction():
                session.execute(attack)
    assert snapshot(amp) == before


@pytest.mark.parametrize("kind, end", ENDING)
def test_K2_the_proof_ends_between_transactions(amp, kind, end):
    """The same in autocommit, with a prepared statement, and for the credential that is passed again."""
    proved = Proved(amp, kind)
    with proved.open() as session, amp.connect("amp_ops") as ops:
        session.execute("PREPARE q AS SELECT note FROM orders")
        assert column(session, "EXECUTE q") == MINE
        ops.execute(call(proved, end))
        expected = "TN006" if end == "role bound to another" else ENDS[end][2]
        for attack in "EXECUTE q", "SELECT note FROM orders":
            if expected == "TN006":  # nothing is pinned between transactions: he is the other user now
                assert column(session, attack) == THEIRS
            else:
                with raises(expected):
                    session.execute(attack)
        if kind == KEY and end != "revoked key":  # opens all of its user's tenants: accepted, and then there is none to enter
            proved.enter(session)
            with pytest.raises(psycopg.Error, match="unknown or not active|not a member|no tenant is set"):
                notes(session)
        elif proved.credential:
            with raises("TN003" if end in ("revoked key", "retired signing key") else expected):  # why is for the log
                proved.enter(session)


@pytest.mark.parametrize("kind", KINDS)
def test_K2_what_ended_and_was_rolled_back_goes_on(amp, kind):
    """An end that is not committed is none, and one that is rolled back never was."""
    proved = Proved(amp, kind)
    with proved.open() as session, amp.connect("amp_ops", autocommit=False) as ops:
        for end, (kinds, *_) in ENDS.items():
            if kind in kinds:
                ops.execute(call(proved, end))
                assert notes(session) == MINE
                ops.rollback()
                assert notes(session) == MINE


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_K2_changed_role(amp, kind, level):
    """The user is made a viewer, then one who may nothing: in an open transaction he cannot write, then not even read on."""
    proved = Proved(amp, kind)
    with amp.connect() as admin:
        admin.execute("INSERT INTO amp.roles VALUES ('t1', 'blind', '{}')")
    before = snapshot(amp)
    with proved.connect(autocommit=False) as session, amp.connect("amp_ops") as ops:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        proved.enter(session)
        session.execute("PREPARE q AS SELECT note FROM orders; PREPARE w AS UPDATE orders SET note = 'late'")
        session.execute("DECLARE c CURSOR FOR SELECT note FROM orders ORDER BY note")
        assert column(session, "EXECUTE q") == MINE and column(session, "FETCH 1 FROM c") == ["mine"]
        ops.execute("SELECT amp.set_user_role(%s, 'viewer', 't1')", [proved.user])
        assert notes(session) == column(session, "EXECUTE q") == MINE
        for attack in "EXECUTE w", "DELETE FROM orders", "INSERT INTO orders VALUES (99, 't1', 'late')", "SELECT note FROM orders FOR UPDATE":
            with raises("TN004"), session.transaction():
                session.execute(attack)
        ops.execute("SELECT amp.set_user_role(%s, 'blind', 't1')", [proved.user])
        assert notes(session) == column(session, "EXECUTE q") == []
        with raises("TN004"), session.transaction():
            session.execute("FETCH 1 FROM c")
    assert snapshot(amp) == before


@pytest.mark.parametrize("kind", KINDS)
def test_K3_changed_permissions_of_a_role(amp, kind):
    """The role that the user has loses a permission under a cached plan."""
    proved = Proved(amp, kind)
    people(amp, boss=("t1", "admin"))
    with amp.connect("amp_client", autocommit=False) as boss:
        authenticate(boss, token(claims("boss", "t1"), algorithm="ES256"))
        boss.execute("SELECT amp.define_role('editor', '{content.view,missions.create}')")
        boss.execute("SELECT amp.set_user_role(%s, 'editor')", [proved.user])
        boss.commit()
        with proved.open(autocommit=False) as session:
            session.execute("PREPARE w AS UPDATE orders SET note = note RETURNING note")
            assert column(session, "EXECUTE w") == MINE
            session.commit()
            proved.enter(session)
            assert notes(session) == MINE
            authenticate(boss, token(claims("boss", "t1"), algorithm="ES256"))
            boss.execute("SELECT amp.define_role('editor', '{content.view}')")
            boss.commit()
            for attack in "EXECUTE w", "DELETE FROM orders":
                with raises("TN004"), session.transaction():
                    session.execute(attack)
            assert notes(session) == MINE


WAITING = ["for update", "for share", "update", "delete", "upsert", "merge", "cte"]


@pytest.mark.parametrize("asked", [True, False], ids=["with permissions", "without permissions"])
@pytest.mark.parametrize("kind, end", ENDING)
def test_K1_the_proof_ends_while_waiting_for_a_row(amp, kind, end, asked):
    """Blocked behind the very transaction that ends the proof and has changed the row: nothing of it is shown, nothing written."""
    if not asked:
        with amp.connect("amp_owner") as owner:
            owner.execute("SELECT amp.protect('orders', read => NULL, write => NULL); SELECT amp.protect('parents', read => NULL, write => NULL)")
    proved = Proved(amp, kind)
    with amp.connect(autocommit=False) as changer, ExitStack() as stack:
        sessions = [(how, stack.enter_context(proved.open())) for how in WAITING]
        changer.execute(call(proved, end))
        changer.execute("UPDATE orders SET note = 'afterwards' WHERE id = 11")
        # One at a time holds the lock that the others wait for, too; none of them gets to the row's new version.
        waiting = [start(lambda session=session, how=how: session.execute(BLOCKED[how])) for how, session in sessions]
        wait_until_blocked(amp, len(waiting))
        changer.commit()
        for finish in waiting:
            with raises(ENDS[end][2]):
                finish()
    assert (11, "t1", "afterwards", 10, 1) in snapshot(amp)[1]


def short_lived(proved, expires):
    """A credential of this kind that ends at that time."""
    if proved.kind == KEY:
        return proved.new_key("one", None, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(expires)) + f".{int(expires % 1 * 1e6):06}+00")[1]
    return token(claims("both", None if proved.kind == CHOOSES else "t1", exp=expires), algorithm="EdDSA")


def wait_until(moment):
    while time.time() <= moment:
        time.sleep(max(0.001, moment - time.time()))


@pytest.mark.parametrize("kind", [SERVICE, KEY, TOKEN, CHOOSES])
def test_K2_expiry_in_every_isolation_level(amp, kind):
    """A credential expires with open transactions, cursors and prepared statements; a rollback to a savepoint does not help."""
    proved = Proved(amp, kind)
    proved.set("amp.token_leeway = 0")
    with ExitStack() as stack:
        sessions = [stack.enter_context(proved.connect(autocommit=False)) for _ in LEVELS]
        lasting = stack.enter_context(proved.connect())
        expires = time.time() + 2
        credential = short_lived(proved, expires)
        for level, session in zip(LEVELS, sessions):
            session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            proved.enter(session, credential)
            session.execute("SAVEPOINT a; PREPARE q AS SELECT note FROM orders; DECLARE c CURSOR FOR SELECT note FROM orders ORDER BY note")
            assert column(session, "EXECUTE q") == MINE and column(session, "FETCH 1 FROM c") == ["mine"]
        proved.enter(lasting, credential)
        assert notes(lasting) == MINE
        wait_until(expires)
        for session in sessions:
            for attack in ("SELECT note FROM orders", "EXECUTE q", "FETCH 1 FROM c", "DELETE FROM orders", "COPY orders TO STDOUT",
                           "INSERT INTO orders VALUES (99, 't1', 'late')", "SELECT amp.tenant_id()", "SELECT amp.user_id()",
                           "SELECT amp.context()", "SELECT amp.users()", "SET LOCAL amp.tenant_id = 't1'", "SET LOCAL amp.user_id = 'both'"):
                with raises("TN007"), session.transaction():
                    session.execute(attack)
            session.execute("ROLLBACK TO a")
            with raises("TN007"):
                notes(session)
        with raises("TN007"):
            notes(lasting)
        with raises("TN007"):
            proved.enter(lasting, credential)


@pytest.mark.parametrize("kind", [SERVICE, KEY, TOKEN])
def test_K1_expiry_while_waiting_for_a_row(amp, kind):
    """A credential expires while its session waits for a row, without anybody changing anything of amp's."""
    proved = Proved(amp, kind)
    proved.set("amp.token_leeway = 0")
    with amp.connect(autocommit=False) as changer, ExitStack() as stack:
        sessions = [(how, stack.enter_context(proved.connect())) for how in WAITING]
        changer.execute("UPDATE orders SET note = 'afterwards' WHERE id = 11")
        expires = time.time() + 2
        credential = short_lived(proved, expires)
        waiting = []
        for how, session in sessions:
            proved.enter(session, credential)
            waiting.append(start(lambda session=session, how=how: session.execute(BLOCKED[how])))
        wait_until_blocked(amp, len(waiting))
        wait_until(expires)
        changer.commit()
        for finish in waiting:
            with raises("TN007"):
                finish()
    assert (11, "t1", "afterwards", 10, 1) in snapshot(amp)[1]


def test_K2_expiry_in_the_middle_of_a_statement(amp):
    """One long statement outlives its token: it does not go on reading."""
    proved = Proved(amp, TOKEN)
    proved.set("amp.token_leeway = 0")
    with proved.connect() as session:
        expires = time.time() + 1
        proved.enter(session, short_lived(proved, expires))
        with raises("TN007"):
            session.execute("SELECT o.note FROM generate_series(1, 400) g, LATERAL (SELECT note, pg_sleep(0.005) FROM orders WHERE g > 0 OFFSET 0) o")


def test_K_a_revoked_operators_key(amp):
    """An operator's key is revoked in the middle of his transaction."""
    with amp.connect("amp_ops") as ops:
        key = ops.execute("SELECT amp.create_operator_key('test')").fetchone()[0]
        with amp.connect("amp_client", autocommit=False) as session:
            authenticate(session, key["key"])
            session.execute("SELECT amp.suspend_tenant('t2'); SELECT amp.activate_tenant('t2')")
            ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
            with raises("TN004"), session.transaction():
                session.execute("SELECT amp.suspend_tenant('t2')")
            with raises("TN003"), session.transaction():
                authenticate(session, key["key"])
            assert column(session, "SELECT amp.is_operator()") == [False]


def test_K_a_locked_context_ends_with_its_proof(amp):
    """amp.lock_context() keeps others out; it keeps nobody in."""
    proved = Proved(amp, KEY)
    with proved.open(autocommit=False) as session, amp.connect("amp_ops") as ops:
        session.execute("SELECT amp.lock_context()")
        ops.execute("SELECT amp.revoke_api_key(%s)", [proved.key])
        with raises("TN007"):
            notes(session)


def test_K_a_proof_that_was_rolled_back(amp):
    """A key, a signing key, a membership and a binding are used in the transaction that makes them, which rolls back."""
    proved = Proved(amp, BOUND)
    with amp.connect() as admin:
        admin.execute("GRANT amp_operator TO amp_svc")
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {amp.name} SET amp.require_token = on")
    try:
        with amp.connect("amp_svc", autocommit=False) as session:
            add_signing_key(session, kid="never")
            key = session.execute("SELECT amp.create_api_key('both', NULL, 'never') ->> 'key'").fetchone()[0]
            session.execute("SELECT amp.invite_user('two@example.com', 'operator', 't1')")
            for credential in token(claims("both", "t1"), kid="never"), key, token(claims("two", "t1")):
                with session.transaction(force_rollback=True):
                    authenticate(session, credential)
                    assert notes(session) == MINE
            session.rollback()
            for credential in token(claims("both", "t1"), kid="never"), key, token(claims("two", "t1")):
                with raises("TN003"):
                    authenticate(session, credential)
                session.rollback()
    finally:
        with amp.connect() as admin:
            admin.execute("REVOKE amp_operator FROM amp_svc")
    with proved.connect() as session, amp.connect("amp_ops", autocommit=False) as ops:
        ops.execute("SELECT amp.bind_role('amp_client', 'two')")
        assert notes(session) == MINE
        ops.rollback()
        assert notes(session) == MINE


def test_K4_names_are_not_given_again(amp):
    """What a proof names is deleted and made anew: a tenant, a signing key. Old credentials would open the new one."""
    proved = Proved(amp, TOKEN)
    with proved.open() as session, amp.connect("amp_ops") as ops:
        assert notes(session) == MINE
        ops.execute("SELECT amp.delete_tenant('t1'); SELECT amp.retire_signing_key('EdDSA')")
        with raises("23505"):
            ops.execute("SELECT amp.create_tenant('Again', 'again', id => 't1')")
        with raises("23505"):
            add_signing_key(ops, algorithm="EdDSA")
        for forged in ("DELETE FROM amp.signing_keys", "UPDATE amp.signing_keys SET retired_at = NULL", "DELETE FROM amp.revoked_api_keys",
                       "UPDATE amp.stored_api_keys SET tenant_id = NULL", "DELETE FROM amp.stored_api_keys", "DELETE FROM amp.bound_roles",
                       "INSERT INTO amp.bound_roles VALUES ('amp_client', 'amp_client'::regrole, 'two')"):
            with raises("42501"):
                ops.execute(forged)
        with raises("TN002"):
            notes(session)
        with raises("TN002"):
            proved.enter(session)


@pytest.fixture
def bound_role(amp, new_role):
    """A login role of one test, bound to `one`."""
    Proved(amp, TOKEN)
    role = new_role("LOGIN IN ROLE amp_client")
    with amp.connect("amp_ops") as ops:
        ops.execute("SELECT amp.bind_role(%s, 'one')", [role])
    return role


def test_K4_a_bound_role_made_anew(amp, cluster, bound_role):
    """A bound role is dropped and made again, for somebody else."""
    with amp.connect(bound_role) as session:
        assert notes(session) == MINE
    with cluster.connect() as admin:
        admin.execute(f"DROP ROLE {bound_role}; CREATE ROLE {bound_role} LOGIN IN ROLE amp_client")
    with amp.connect(bound_role) as session, raises("TN001"):
        notes(session)


@pytest.mark.parametrize("used", [True, False], ids=["in use", "not used yet"])
def test_K4_a_bound_role_renamed(amp, cluster, bound_role, used):
    """A bound role is renamed: it is nobody from then on, in open sessions, too."""
    with amp.connect(bound_role) as session, cluster.connect() as admin:
        if used:
            assert notes(session) == MINE
        admin.execute(f"ALTER ROLE {bound_role} RENAME TO renamed")
        try:
            with raises("TN001"):
                notes(session)
        finally:
            admin.execute(f"ALTER ROLE renamed RENAME TO {bound_role}")


def test_K4_a_bound_role_dropped_under_its_session(amp, cluster, bound_role):
    """A bound role is dropped while somebody is logged in as it, with privileges that everybody has."""
    with amp.connect("amp_owner") as owner:
        owner.execute("GRANT SELECT ON orders TO PUBLIC")
    with amp.connect(bound_role) as session, cluster.connect() as admin:
        assert notes(session) == MINE
        admin.execute(f"DROP ROLE {bound_role}")
        try:
            with pytest.raises(psycopg.Error):
                notes(session)
        finally:
            admin.execute(f"CREATE ROLE {bound_role}")


@pytest.mark.parametrize("group", ["amp_service", "amp_operator"])
def test_K4_a_bound_role_gets_another_kind(amp, bound_role, group):
    """A bound role is made a service or an operator: its group says what it may do, the binding no more; and back."""
    with amp.connect(bound_role) as session, amp.connect() as admin:
        assert notes(session) == MINE
        admin.execute(f"GRANT {group} TO {bound_role}")
        with raises("TN001"):
            notes(session)
        admin.execute(f"REVOKE {group} FROM {bound_role}")
        assert notes(session) == MINE


def test_K4_a_service_that_has_to_prove_loses_its_group(amp):
    """REVOKE amp_service in the middle: a proof is enough for a client, too, and opens no more than before."""
    proved = Proved(amp, SERVICE)
    with amp.connect() as admin, proved.open() as session:
        assert notes(session) == MINE
        admin.execute("REVOKE amp_service FROM amp_svc")
        assert notes(session) == MINE
        with raises("TN003"):
            session.execute("SET amp.tenant_id = 't2'")
        session.execute("RESET ALL")
        with raises("TN001"):
            notes(session)
        admin.execute("GRANT amp_service TO amp_svc")
