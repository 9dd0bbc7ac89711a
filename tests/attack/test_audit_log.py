"""The audit log: whoever changes something is in it, nobody takes himself out, and nobody reads more of it than is his.

ann is admin of t1, olga operator, vic viewer; bob is admin of t2. From where somebody came is not looked at: through a Unix socket it
is NULL.
"""

import time

import psycopg
import pytest

from credentials import add_signing_key, claims, token
from harness import raises
from proofs import authenticate, refuse
from test_api_keys import create, eventually, issue, member, operators_key
from world import column, people, under_amp

ENTRY = """
    SELECT action, tenant_id, login_role, user_id, key_id, token_id, detail FROM amp.audit_log
    WHERE action <> 'context.refused' ORDER BY at"""
REFUSED = """
    SELECT detail ->> 'sqlstate', tenant_id, login_role, user_id, detail ->> 'reason' FROM amp.audit_log
    WHERE action = 'context.refused'"""


@pytest.fixture
def amp(amp):
    people(amp, ann=("t1", "admin"), olga=("t1", "operator"), vic=("t1", "viewer"), bob=("t2", "admin"))
    return amp


@pytest.fixture
def admin(amp):
    with amp.connect() as session:
        yield session


def entries(admin):
    return admin.execute(ENTRY).fetchall()


def refusals(admin):
    return set(admin.execute(REFUSED).fetchall())


# What is in it.

OPS, ANN, OWNER = "amp_ops", "ann", "amp_owner"
VERBS = [
    (OPS, "amp.create_tenant('Third', 'third', id => 't3')", "tenant.created", "t3", {"name": "Third", "slug": "third"}),
    (OPS, "amp.suspend_tenant('t3')", "tenant.suspended", "t3", {}),
    (OPS, "amp.activate_tenant('t3')", "tenant.activated", "t3", {}),
    (OPS, "amp.delete_tenant('t3')", "tenant.deleted", "t3", {}),
    (OPS, "amp.invite_user('bob@example.com', 'viewer', 't1')", "member.added", "t1", {"user_id": "bob", "role": "viewer"}),
    (OPS, "amp.set_user_role('bob', 'operator', 't1')", "member.changed", "t1", {"user_id": "bob", "role": "operator"}),
    (OPS, "amp.remove_user('bob', 't1')", "member.removed", "t1", {"user_id": "bob"}),
    (OPS, "amp.register_permission('invoices.view', 'See invoices', '{viewer}')", "permission.registered", None,
     {"name": "invoices.view", "roles": ["viewer"]}),
    (OPS, "amp.add_signing_key('mine', 'HS256', repeat('x', 32), 'i', 'a', true)", "signing_key.added", None,
     {"kid": "mine", "algorithm": "HS256", "issuer": "i", "audience": "a", "single_use": True}),
    (OPS, "amp.retire_signing_key('mine')", "signing_key.retired", None, {"kid": "mine"}),
    (OPS, "amp.bind_role('amp_client', 'vic')", "role.bound", None, {"role": "amp_client", "user_id": "vic"}),
    (OPS, "amp.unbind_role('amp_client')", "role.unbound", None, {"role": "amp_client"}),
    (ANN, "amp.invite_user('bob@example.com', 'viewer')", "member.added", "t1", {"user_id": "bob", "role": "viewer"}),
    (ANN, "amp.set_user_role('bob', 'operator')", "member.changed", "t1", {"user_id": "bob", "role": "operator"}),
    (ANN, "amp.remove_user('bob')", "member.removed", "t1", {"user_id": "bob"}),
    (ANN, "amp.define_role('writer', '{content.view}')", "role.defined", "t1", {"name": "writer", "permissions": ["content.view"]}),
    (ANN, "amp.define_role('writer', '{}')", "role.defined", "t1", {"name": "writer", "permissions": []}),
    (ANN, "amp.drop_role('writer')", "role.dropped", "t1", {"name": "writer"}),
    (OWNER, "amp.share_table('shared')", "table.shared", None, {"table": "public.shared"}),
    (OWNER, "amp.protect('alone')", "table.protected", None,
     {"table": "public.alone", "tenant_column": "tenant_id", "read": "content.view", "insert": "missions.create",
      "update": "missions.create", "delete": "missions.create"}),
    (OWNER, "amp.unprotect('alone')", "table.unprotected", None, {"table": "public.alone"}),
    (OWNER, "amp.protect_schema('empty')", "schema.protected", None, {"schema": "empty", "tenant_column": "tenant_id"}),
]  # fmt: skip


def test_each_verb_writes_one_entry(amp, admin):
    """Whoever does something without a trace: each verb leaves exactly one entry, of who did what to which tenant."""
    with amp.connect("amp_owner") as owner, amp.connect("amp_ops") as ops, member(amp, "ann") as ann:
        owner.execute("CREATE SCHEMA empty; CREATE TABLE alone (tenant_id text); CREATE TABLE shared (id int)")
        sessions = {OPS: ops, ANN: ann, OWNER: owner}
        for who, call, action, tenant, detail in VERBS:
            before = entries(admin)
            sessions[who].execute(f"SELECT {call}")
            user, login = ("ann", "amp_svc") if who == ANN else (None, who)
            assert entries(admin)[len(before) :] == [(action, tenant, login, user, None, None, detail)]


def test_keys_are_in_the_log(amp, admin):
    """Who makes keys and revokes them: with the id, for whom, how long and what at most; once, however often."""
    with member(amp, "ann") as ann, amp.connect("amp_ops") as ops:
        key, operators = create(ann, "vic", name=" nightly ", expires_at="2099-01-01Z"), operators_key(amp)
        for _ in range(3):
            ann.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
            ops.execute("SELECT amp.revoke_api_key(%s)", [operators["id"]])
    made, other, revoked, again = entries(admin)[-4:]
    assert made[:6] == ("api_key.created", "t1", "amp_svc", "ann", None, None)
    everything = made[6].pop("permissions")
    assert made[6] == {"id": key["id"], "user_id": "vic", "operator": False, "name": "nightly", "expires_at": "2099-01-01T00:00:00Z"}
    assert sorted(everything) == column(admin, "SELECT name FROM amp.permissions")
    assert other == ("api_key.created", None, "amp_ops", None, None, None, {"id": operators["id"], "operator": True, "name": "test"})
    assert revoked == ("api_key.revoked", "t1", "amp_svc", "ann", None, None, {"id": key["id"], "user_id": "vic"})
    assert again == ("api_key.revoked", None, "amp_ops", None, None, None, {"id": operators["id"]})


def test_who_is_who_was_proved(amp, admin, new_role):
    """The same change by a service's word, an API key, a token, a bound role, an operator's key: the entry says who and by what."""
    bound = new_role("LOGIN IN ROLE amp_client")
    key, operators = issue(amp, "ann"), operators_key(amp)
    with amp.connect("amp_ops") as ops:
        add_signing_key(ops, "2026-11")
        ops.execute("SELECT amp.bind_role(%s, 'ann')", [bound])
    tokens = [token(claims("ann", jti="jti-7"), kid="2026-11"), token(claims("ann"), kid="2026-11")]
    for role, credential, change, expected in (
        ("amp_client", key["key"], "amp.define_role('r', '{}')", ("amp_client", "ann", key["id"], None)),
        ("amp_client", tokens[0], "amp.define_role('r', '{}')", ("amp_client", "ann", "2026-11", "jti-7")),
        ("amp_svc", tokens[1], "amp.define_role('r', '{}')", ("amp_svc", "ann", "2026-11", None)),
        ("amp_client", operators["key"], "amp.suspend_tenant('t2')", ("amp_client", None, operators["id"], None)),
        (bound, key["key"], "amp.define_role('r', '{}')", (bound, "ann", key["id"], None)),
        (bound, None, "amp.define_role('r', '{}')", (bound, "ann", None, None)),
    ):
        with amp.connect(role) as session:
            if credential:
                authenticate(session, credential)
            session.execute(f"SELECT {change}")
        assert entries(admin)[-1][2:6] == expected


def test_nobody_signs_for_another(amp, admin):
    """SET ROLE, SET application_name, a function of somebody else's, a user that is named without being let in: the login role stays."""
    with amp.connect() as superuser:
        superuser.execute("SET SESSION AUTHORIZATION amp_ops; SET ROLE amp_operator")
        superuser.execute("SELECT amp.suspend_tenant('t2'), amp.activate_tenant('t2')")
    assert [entry[2] for entry in entries(admin)[-2:]] == ["amp_ops", "amp_ops"]
    with amp.connect("amp_ops") as ops:
        with raises("TN003"):
            ops.execute("SET amp.user_id = 'bob'")
        ops.execute("SELECT amp.suspend_tenant('t2')")
    assert entries(admin)[-1][2:4] == ("amp_ops", None)


@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO s; COMMIT", "COMMIT"])
def test_an_entry_stands_or_falls_with_its_change(amp, admin, end):
    """What is rolled back did not happen, and is not in the log; what is committed is."""
    before = entries(admin)
    with amp.connect("amp_ops") as ops:
        ops.execute("BEGIN; SAVEPOINT s; SELECT amp.create_tenant('Third', 'third', id => 't3'), amp.invite_user('bob@example.com', 'admin', 't3')")
        assert entries(admin) == before
        ops.execute(end)
    written = [entry[0] for entry in entries(admin)[len(before) :]]
    assert written == (["tenant.created", "member.added"] if end == "COMMIT" else [])
    assert column(admin, "SELECT count(*) FROM amp.tenants WHERE id = 't3'") == [1 if written else 0]


def test_what_fails_is_no_change(amp, admin):
    """A change that is refused leaves no entry of having happened."""
    before = entries(admin)
    with amp.connect("amp_ops") as ops, member(amp, "olga") as olga, amp.connect("amp_client") as client:
        for session, attack in ((ops, "amp.create_tenant('T', 't1', id => 't1')"), (ops, "amp.suspend_tenant('nowhere')"),
                                (ops, "amp.remove_user('ann', 't1')"),
                                (olga, "amp.invite_user('x@example.com', 'viewer')"), (olga, "amp.define_role('r', '{}')"),
                                (client, "amp.delete_tenant('t1')")):
            with pytest.raises(psycopg.Error):
                session.execute(f"SELECT {attack}")
    assert entries(admin) == before


# Append-only.

CHANGES = ["UPDATE amp.audit_log SET login_role = 'somebody'", "UPDATE amp.audit_log SET detail = '{}' WHERE false",
           "DELETE FROM amp.audit_log", "TRUNCATE amp.audit_log",
           "DELETE FROM amp.audit_log WHERE at < '-infinity'", "TRUNCATE amp.audit_log, amp.tenants CASCADE",
           "DELETE FROM ONLY amp.audit_log",
           "WITH gone AS (DELETE FROM amp.audit_log RETURNING 1) SELECT * FROM gone",
           "INSERT INTO amp.audit_log SELECT * FROM amp.audit_log ON CONFLICT ON CONSTRAINT audit_log_pkey DO UPDATE SET login_role = 'somebody'"]  # fmt: skip


@pytest.mark.parametrize("role", ["postgres", "amp_ops", "amp_svc", "amp_client"])
@pytest.mark.parametrize("change", CHANGES)
def test_append_only(amp, admin, role, change):
    """UPDATE, DELETE and TRUNCATE, by everybody who reads it: a superuser, also where ordinary triggers do not fire; operators; an admin."""
    key = issue(amp, "ann")
    before = admin.execute("SELECT * FROM amp.audit_log ORDER BY id").fetchall()
    with member(amp, "ann") if role == "amp_svc" else amp.connect(role) as session:
        if role == "amp_client":
            authenticate(session, key["key"])
        for replica in ("off", "on") if role == "postgres" else ("off",):
            if replica == "on":
                session.execute("SET session_replication_role = replica")
            with raises("42501"):
                session.execute(change)
    assert [row for row in admin.execute("SELECT * FROM amp.audit_log ORDER BY id").fetchall() if row in before] == before


@pytest.mark.parametrize("role", ["amp_ops", "amp_owner", "amp_svc", "amp_client"])
def test_nobody_writes_it_himself(amp, admin, role):
    """A forged entry, by INSERT, COPY, or the function that the others call."""
    before = entries(admin)
    with amp.connect(role) as session:
        for attack in ("INSERT INTO amp.audit_log (action) VALUES ('tenant.deleted')", "INSERT INTO amp.audit_log DEFAULT VALUES",
                       "COPY amp.audit_log FROM STDIN",
                       "SELECT amp.log_change('tenant.deleted', 't2')", "SELECT amp.refuse_change()",
                       "ALTER TABLE amp.audit_log DISABLE TRIGGER ALL",
                       "DROP TRIGGER amp_append_only ON amp.audit_log", "CREATE RULE r AS ON INSERT TO amp.audit_log DO INSTEAD NOTHING",
                       "DROP TABLE amp.audit_log",
                       "CREATE TRIGGER t BEFORE INSERT ON amp.audit_log FOR EACH ROW EXECUTE FUNCTION amp.refuse_change()",
                       "DO $$ BEGIN LOCK TABLE amp.audit_log IN SHARE MODE; END $$", "DO $$ BEGIN LOCK TABLE amp.audit_log; END $$"):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(attack)
            assert caught.value.sqlstate in ("42501", "0A000", "TN004")
    assert entries(admin) == before


def test_part_of_the_extension(admin):
    """A superuser drops it by mistake: it goes with the extension only."""
    with raises("2BP01"):
        admin.execute("DROP TABLE amp.audit_log")


# Who reads it.


def test_who_reads_what(amp):
    """Operators read all; who manages a tenant's users, that tenant's, without refusals; everybody else nothing."""
    with member(amp, "ann") as ann, amp.connect("amp_ops") as ops:
        ann.execute("SELECT amp.define_role('people-desk', '{users.manage}'), amp.define_role('reader', '{content.view,analytics.view}')")
        people(amp, kim=("t1", "people-desk"), rob=("t1", "reader"))
        ops.execute("SELECT amp.register_permission('invoices.view', 'See invoices')")
        keys = {user: issue(amp, user, tenant)["key"] for user, tenant in (("ann", "t1"), ("kim", "t1"), ("bob", "t2"))}
        nobodys = [None, operators_key(amp)["key"]]
        for tenant in "t1", "t2":
            with amp.connect("amp_client") as client, raises("TN003"):
                client.execute(f"SET amp.tenant_id = '{tenant}'")
        with amp.connect("amp_svc") as svc, raises("TN003"):
            svc.execute("SET amp.tenant_id = 't1'; SET amp.user_id = 'bob'")
        assert eventually(lambda: len(refusals(ops)) >= 3)
        everything = ops.execute("SELECT tenant_id, action, id FROM amp.audit_log").fetchall()
        kinds = {(tenant, action) for tenant, action, _ in everything}
        assert {("t1", "context.refused"), ("t2", "context.refused"), ("t2", "api_key.created"), (None, "permission.registered")} <= kinds

    def of(tenant):
        return sorted(id_ for of_, action, id_ in everything if of_ == tenant and action != "context.refused")

    for user, tenant in ("ann", "t1"), ("kim", "t1"), ("bob", "t2"):
        assert of(tenant)
        with member(amp, user, tenant) as session:
            assert column(session, "SELECT id FROM amp.audit_log") == of(tenant)
            assert column(session, "SELECT count(*) FROM amp.audit_log WHERE tenant_id IS DISTINCT FROM %s OR action = 'context.refused'",
                          tenant) == [0]
        with amp.connect("amp_client") as session:
            authenticate(session, keys[user])
            assert column(session, "SELECT id FROM amp.audit_log") == of(tenant)
    for user in "olga", "vic", "rob":
        with member(amp, user) as session:
            assert column(session, "SELECT id FROM amp.audit_log") == []
            session.execute("RESET amp.user_id")  # a service that acts for the tenant itself manages nobody
            assert column(session, "SELECT id FROM amp.audit_log") == []
    for key in nobodys:
        with amp.connect("amp_client") as session:
            if key:
                authenticate(session, key)
            with raises("TN001"):
                session.execute("SELECT * FROM amp.audit_log")


def test_a_key_without_users_manage_reads_nothing(amp):
    """A key that is capped below users.manage reads as its cap, though its user is an admin by now."""
    with member(amp, "ann") as ann:
        ann.execute("SELECT amp.define_role('desk', '{users.manage,content.view}')")
        people(amp, kim=("t1", "desk"))
        ann.execute("SELECT amp.define_role('reader', '{content.view}'), amp.set_user_role('vic', 'reader')")
        with member(amp, "kim") as kim:
            key = create(kim, "vic")
        ann.execute("SELECT amp.define_role('desk', '{content.view}'), amp.set_user_role('vic', 'admin')")
    with amp.connect("amp_client") as vic:
        authenticate(vic, key["key"])
        assert column(vic, "SELECT count(*) > 0 FROM amp.audit_log") == [True]  # the cap is what kim held when she made it
    with member(amp, "kim") as kim:
        assert column(kim, "SELECT count(*) FROM amp.audit_log") == [0]


# Refusals.


def test_refusals_appear_after_their_rollback(amp, admin):
    """Who is refused rolls back: a worker writes it all the same, with the code, who asked, for which tenant, and the real reason."""
    other = token(claims("ann"), kid="nobodys")
    with amp.connect("amp_svc", autocommit=False) as svc:
        for attack in "SET LOCAL amp.tenant_id = 'nowhere'", "SET LOCAL amp.tenant_id = 't1'; SET LOCAL amp.user_id = 'bob'":
            with pytest.raises(psycopg.Error):
                svc.execute(attack)
            svc.rollback()
        svc.execute("SET LOCAL amp.tenant_id = 't1'; SELECT amp.tenant_id(); SET LOCAL amp.tenant_id = 't2'")
        with raises("TN006"):
            svc.execute("SELECT amp.tenant_id()")
        svc.rollback()
    with amp.connect("amp_client") as client:
        with raises("TN003"):
            client.execute("SET amp.tenant_id = 't1'")
        for attack in other, "nonsense":
            refuse(client, attack)
        authenticate(client, issue(amp, "olga", "t1")["key"])
        with raises("TN003"):
            client.execute("SET amp.tenant_id = 't2'")
    with amp.connect() as superuser, raises("TN009"):
        superuser.execute("SET amp.tenant_id = 't1'")
    expected = {
        ("TN002", "nowhere", "amp_svc", None, 'tenant "nowhere" is unknown or not active'),
        ("TN003", "t1", "amp_svc", None, 'user "bob" is not a member of tenant "t1"'),
        ("TN006", "t2", "amp_svc", None, 'this transaction acts for tenant "t1" and cannot change to "t2"'),
        ("TN003", "t1", "amp_client", None, 'login role "amp_client" may not choose a tenant or user'),
        ("TN003", None, "amp_client", None, "the token's signing key (kid) is unknown or retired"),
        ("TN003", None, "amp_client", None, "it is neither an API key nor a token in compact form"),
        ("TN003", "t2", "amp_client", "olga", 'this session\'s credential opens tenant "t1" only'),
        ("TN009", "t1", "postgres", None, 'role "postgres" bypasses row security: a tenant would isolate nothing'),
    }
    assert eventually(lambda: refusals(admin) >= expected), expected - refusals(admin)
    assert refusals(admin) == expected


def test_no_context_is_no_refusal(amp, admin):
    """Somebody who forgot to set a tenant attacks nobody: TN001 and TN004 are in the server's log alone."""
    with amp.connect("amp_svc") as svc, member(amp, "vic") as vic:
        for _ in range(5):
            with raises("TN001"):
                svc.execute("SELECT * FROM orders")
            with raises("TN004"):
                vic.execute("SELECT amp.require_permission('users.manage')")
        with raises("TN002"):
            svc.execute("SET amp.tenant_id = 'last'")
    assert eventually(lambda: refusals(admin))
    assert {row[:2] for row in refusals(admin)} == {("TN002", "last")}


def test_equal_refusals_are_counted_in_one_row(amp, admin):
    """The same thing tried five hundred times is a row or two, with how often; not one of them is forgotten."""
    with amp.connect("amp_svc") as svc:
        for _ in range(500):
            with raises("TN002"):
                svc.execute("SET amp.tenant_id = 'nowhere'")
    times = "SELECT coalesce(sum((detail ->> 'times')::int), 0)::int, count(*)::int FROM amp.audit_log WHERE action = 'context.refused'"
    began = time.monotonic()
    assert eventually(lambda: admin.execute(times).fetchone()[0] >= 500)
    total, rows = admin.execute(times).fetchone()
    assert total == 500 and rows <= 5 + (time.monotonic() - began)


WORKERS = "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'amp_tenancy audit' AND datname = current_database()"
WRITTEN = """
    SELECT count(*)::int, sum(coalesce((detail ->> 'times')::int, 0) + coalesce((detail ->> 'lost')::int, 0))::int FROM amp.audit_log
    WHERE action = 'context.refused'"""


def flood(svc, names):
    for name in names:
        with raises("TN002"):
            svc.execute(f"SET amp.tenant_id = '{name}'")


def allowed(began):
    """How many rows a database gets: sixty at once, and one a second."""
    return 60 + (time.monotonic() - began) + 2


def test_flooding_does_not_fill_the_disk(make_cluster):
    """Thousands of different refusals: a bounded number of rows, and what found no room is counted."""
    database = under_amp(make_cluster().database())
    with database.connect("amp_svc") as svc, database.connect() as admin:
        began = time.monotonic()
        flood(svc, (f"flood-{number}" for number in range(4000)))
        flood_ended = time.monotonic()
        eventually(lambda: time.monotonic() > flood_ended + 3)
        rows, seen = admin.execute(WRITTEN).fetchone()
        assert 10 < rows <= allowed(began)
        assert 4000 - 128 <= seen <= 4000


def test_flooding_in_bursts_does_not_fill_the_disk(make_cluster):
    """The same, with a pause in which the worker ends: the next one has used up its minute all the same."""
    database = under_amp(make_cluster().database())
    with database.connect("amp_svc") as svc, database.connect() as admin:
        began = time.monotonic()
        for burst in range(4):
            flood(svc, (f"burst-{burst}-{number}" for number in range(60)))
            eventually(lambda: column(admin, WORKERS) == [0], 5)
        assert column(admin, WRITTEN)[0] <= allowed(began)


def test_a_refused_credential_is_not_in_it(amp, admin):
    """What somebody passed for a credential, perhaps a right one with a wrong letter, is nowhere in the log."""
    key = issue(amp, "olga")["key"]
    with amp.connect("amp_client") as client:
        for attack in key[:-1] + ("a" if key[-1] != "a" else "b"), "my-password-hunter2", token(claims("olga"), kid="nobodys"):
            refuse(client, attack)
    assert eventually(lambda: len(refusals(admin)) == 3)
    written = str(admin.execute("SELECT a::text FROM amp.audit_log a").fetchall())
    assert "hunter2" not in written and key[7:40] not in written and "eyJ" not in written


def test_long_and_strange_names_do_no_harm(amp, admin):
    """A tenant's name of the longest kind, a user that is one, too: what is written is cut, and written."""
    with amp.connect("amp_svc") as svc:
        with raises("TN002"):
            svc.execute(f"SET amp.tenant_id = '{'x' * 64}'")
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN003"):
            svc.execute(f"SET amp.user_id = '{'y' * 64}'")
    assert eventually(lambda: len(refusals(admin)) == 2)
    asked = column(admin, "SELECT coalesce(detail ->> 'asked_user_id', tenant_id) FROM amp.audit_log WHERE action = 'context.refused'")
    assert asked == ["x" * 64, "y" * 64]
