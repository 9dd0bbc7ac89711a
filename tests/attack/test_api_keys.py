"""A19, A21. API keys, operators' keys and bound login roles: stolen, guessed, widened, outlived; and where a proof ends.

In t1: ann is admin, olga operator, vic viewer, and kim has a role of her own that manages users and reads content, and no more. bob
is admin of t2.
"""

import re
import string
import subprocess
import time

import psycopg
import pytest

from credentials import add_signing_key, claims, token
from harness import Cluster, program, raises
from proofs import authenticate, refuse, said
from test_c_parallel import COUNT, big, parallel  # noqa: F401
from world import MINE, THEIRS, column, notes, people


@pytest.fixture
def amp(amp):
    people(amp, ann=("t1", "admin"), olga=("t1", "operator"), vic=("t1", "viewer"), bob=("t2", "admin"))
    with member(amp, "ann") as ann:
        ann.execute("SELECT amp.define_role('people-desk', '{users.manage,content.view}')")
    people(amp, kim=("t1", "people-desk"))
    return amp


def member(database, user, tenant="t1"):
    """A session of a trusted service that acts for a member."""
    session = database.connect("amp_svc")
    session.execute("SELECT set_config('amp.tenant_id', %s, false), set_config('amp.user_id', %s, false)", [tenant, user])
    return session


def create(session, user, tenant=None, name="test", expires_at=None):
    """A new key, as who this session is: {id, key, …}."""
    return session.execute("SELECT amp.create_api_key(%s, %s, %s, %s)", [user, tenant, name, expires_at]).fetchone()[0]


def issue(database, user, tenant=None, **more):
    """A new key of an operator's making."""
    with database.connect("amp_ops") as ops:
        return create(ops, user, tenant, **more)


def operators_key(database, **more):
    with database.connect("amp_ops") as ops:
        return ops.execute("SELECT amp.create_operator_key('test', %(expires_at)s)", {"expires_at": None, **more}).fetchone()[0]


def enter(database, key, role="amp_client", **kw):
    """A session that has passed a key."""
    session = database.connect(role, **kw)
    authenticate(session, key["key"])
    return session


def soon(database, seconds):
    """The database's time, in a moment."""
    with database.connect() as admin:
        return admin.execute("SELECT clock_timestamp() + make_interval(secs => %s)", [seconds]).fetchone()[0]


def await_time(database, moment):
    """Waits until the database's clock has come there."""
    with database.connect() as admin:
        assert eventually(lambda: column(admin, "SELECT clock_timestamp() > %s", moment)[0])


def copied(database, cluster):
    """A dump of it, restored as a new database."""
    dump = [program("pg_dump"), "-h", database.cluster.host, "-U", "postgres", database.name]
    copy = cluster.database(extension=False)
    restore = [program("psql"), "-h", cluster.host, "-U", "postgres", "-qX", "-v", "ON_ERROR_STOP=1", copy.name]
    subprocess.run(restore, input=subprocess.run(dump, check=True, capture_output=True).stdout, check=True, capture_output=True)
    return copy


def eventually(check, seconds=20):
    """Asks again until it is so; what it was at last."""
    for _ in range(seconds * 20):
        if answer := check():
            return answer
        time.sleep(0.05)
    return check()


# What a key is, and what is kept of it.


def test_a_key_is_random_and_opens_what_it_says(amp):
    """The control: the form that secret scanners look for, 190 bits; alice's key is alice."""
    made = [issue(amp, "olga") for _ in range(20)]
    for key in made:
        assert re.fullmatch("amp_sk_[A-Za-z0-9]{48}", key["key"]) and key["id"] == "key_" + key["key"][7:23]
    assert len({key["key"][23:] for key in made}) == len({key["id"] for key in made}) == 20
    with amp.connect("amp_client") as client:
        assert authenticate(client, made[0]["key"]) == {"user_id": "olga", "tenant_id": "t1", "operator": False, "expires_at": None}
        assert notes(client) == MINE


def test_only_a_hash_is_stored(amp):
    """A superuser, a dump and the log find the key's text nowhere, nor its secret half."""
    keys = [issue(amp, "olga"), operators_key(amp)]
    with member(amp, "ann") as ann:
        keys.append(create(ann, "vic"))
    for key in keys:
        enter(amp, key).close()
    with amp.connect() as admin:
        tables = column(admin, "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'amp'::regnamespace")
        kept = "".join(str(admin.execute(f"SELECT t::text FROM {table} t").fetchall()) for table in tables)
    dump = subprocess.run([program("pg_dump"), "-h", amp.cluster.host, "-U", "postgres", amp.name], check=True, capture_output=True,
                          text=True).stdout
    with open(amp.cluster.log, encoding="utf-8", errors="replace") as log:
        written = log.read()
    for key in keys:
        assert key["id"] in kept and key["id"] in dump
        for text in kept, dump, written:
            assert key["key"][23:] not in text and key["key"] not in text


def test_the_hash_is_nobodys_to_read(amp):
    """Who sees keys sees no hash: not the member, not his admin, not an operator."""
    own, tenants = issue(amp, "vic"), issue(amp, "vic", "t1")
    for session, key in (enter(amp, own), own), (member(amp, "ann"), tenants), (amp.connect("amp_ops"), own):
        assert key["id"] in column(session, "SELECT id FROM amp.api_keys")
        for attack in "SELECT hash FROM amp.stored_api_keys", "SELECT * FROM amp.stored_api_keys", "SELECT k::text FROM amp.stored_api_keys k", \
                "COPY amp.stored_api_keys TO STDOUT", "DELETE FROM amp.stored_api_keys", "UPDATE amp.stored_api_keys SET expires_at = NULL", \
                "DELETE FROM amp.revoked_api_keys", "INSERT INTO amp.stored_api_keys (id) VALUES ('key_x')":
            with raises("42501"):
                session.execute(attack)
        session.close()


def wrong(key, other):
    """Everything near a right key."""
    yield from (key[:23] + other[23:], other[:23] + key[23:], key[:23] + "A" * 32, key[:-1], key[:-2], key + "A", key + key[-1], key[7:],
                "AMP_SK_" + key[7:])
    yield from ("Amp_sk_" + key[7:], "amp-sk-" + key[7:], "amp_sk" + key[7:], "amp_sk_" + key, key[:23], key.upper(), key.lower(),
                key.swapcase(), key[::-1])
    yield from (key + " ", " " + key, key + "\n", key.replace("amp_sk_", "amp_sk_ "), f'"{key}"', f"Bearer {key}",
                key + "\x01", key[:30] + "%" + key[31:])
    yield from (key[:40] + "_" * 15, key[:23] + "' OR '1'='1", key[:-1] + "é", "key_" + key[7:23], key[:7] + "key_" + key[7:],
                key[7:23] + key[23:])


def test_guessed(amp):
    """Another key's secret, a part, another spelling, a pattern: none is accepted."""
    key, other = issue(amp, "olga")["key"], issue(amp, "bob")["key"]
    with amp.connect("amp_client") as client:
        for attack in wrong(key, other):
            refuse(client, attack)
        with raises("TN001"):
            notes(client)


def test_one_character_changed(amp):
    """Each character of a right key: the next one, another case."""
    key, letters = issue(amp, "olga")["key"], string.ascii_letters + string.digits
    with enter(amp, issue(amp, "olga")) as client:
        for position, letter in enumerate(key):
            changed = {letters[(letters.find(letter) + 1) % len(letters)], letter.swapcase()} - {letter}
            for other in changed:
                refuse(client, key[:position] + other + key[position + 1 :])
        assert notes(client) == MINE


def test_stored_hash_as_a_key(amp):
    """Who has a dump has the hash: it is of no use as a key."""
    key = issue(amp, "olga")
    with amp.connect() as admin:
        hash_ = column(admin, "SELECT encode(hash, 'hex') FROM amp.stored_api_keys WHERE id = %s", key["id"])[0]
    with amp.connect("amp_client") as client:
        for attack in hash_, "amp_sk_" + hash_, "amp_sk_" + key["id"][4:] + hash_[:32], "amp_sk_" + key["id"][4:] + hash_[32:], "\\x" + hash_:
            refuse(client, attack)


# Where a key ends.


def test_expired(amp):
    """TN007 for the right key, at authenticate() and in a session that is in; TN003 for a wrong one, or one that was revoked, too."""
    expires = soon(amp, 3)
    key, other = (issue(amp, "olga", expires_at=expires) for _ in range(2))
    with enter(amp, key) as inside, amp.connect("amp_client") as late, amp.connect("amp_ops") as ops:
        inside.execute("PREPARE q AS SELECT note FROM orders")
        assert notes(inside) == column(inside, "EXECUTE q") == MINE
        ops.execute("SELECT amp.revoke_api_key(%s)", [other["id"]])
        await_time(amp, expires)
        for attack in "SELECT note FROM orders", "EXECUTE q", "SELECT amp.tenant_id()", "SELECT amp.user_id()", "SET amp.tenant_id = 't1'":
            with raises("TN007"):
                inside.execute(attack)
        with raises("TN007"):
            authenticate(late, key["key"])
        for attack in key["key"][:-1] + "x", key["key"][:-2], other["key"]:
            refuse(late, attack)
        authenticate(inside, issue(amp, "olga")["key"])
        assert notes(inside) == MINE


def test_expires_in_the_middle(amp):
    """In an open transaction, a cursor, and one long statement: at the clock, not at the statement's begin."""
    key = issue(amp, "olga", expires_at=soon(amp, 3))
    with enter(amp, key, autocommit=False) as fetching, enter(amp, key) as sleeping:
        fetching.execute("SAVEPOINT a; DECLARE c CURSOR FOR SELECT note FROM orders")
        assert len(fetching.execute("FETCH 1 FROM c").fetchall()) == 1
        with raises("TN007"):
            sleeping.execute("SELECT (SELECT count(*) FROM orders WHERE n > 0) FROM generate_series(1, 300) n WHERE pg_sleep(0.1) IS NOT NULL")
        with raises("TN007"):
            fetching.execute("FETCH 1 FROM c")


@pytest.mark.parametrize("expires", ["infinity", "-infinity", "2020-01-01"])
def test_made_to_outlive(amp, expires):
    """A key that is made to expire never, or before it was made."""
    for role, call in ("amp_ops", "amp.create_api_key('olga', 't1', 'x', '{}')"), ("amp_ops", "amp.create_operator_key('x', '{}')"):
        with amp.connect(role) as session, raises("22023"):
            session.execute("SELECT " + call.format(expires))


def test_revoked(amp):
    """TN003 at authenticate(); TN007 at the next statement of whoever is in: in an open transaction, a cursor, a prepared plan."""
    key = issue(amp, "olga")
    with enter(amp, key) as inside, enter(amp, key, autocommit=False) as open_, amp.connect("amp_client") as late, amp.connect("amp_ops") as ops:
        inside.execute("PREPARE q AS SELECT note FROM orders")
        open_.rollback()
        open_.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        authenticate(open_, key["key"])
        assert notes(inside) == column(inside, "EXECUTE q") == notes(open_) == MINE
        open_.execute("DECLARE c CURSOR FOR SELECT note FROM orders")
        assert len(open_.execute("FETCH 1 FROM c").fetchall()) == 1
        for _ in range(2):  # again is no error
            ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        for attack in "FETCH 1 FROM c", "SELECT note FROM orders", "UPDATE orders SET note = 'x'":
            with raises("TN007"), open_.transaction():
                open_.execute(attack)
        for attack in "EXECUTE q", "SELECT note FROM orders", "SELECT amp.user_id()", "SELECT amp.my_tenants()", "SELECT amp.record_usage('api_calls')":
            with raises("TN007"):
                inside.execute(attack)
        refuse(late, key["key"])
        assert said(refusal(inside, key["key"])) == said(refusal(late, "amp_sk_" + "x" * 48))


def refusal(session, credential):
    with raises("TN003") as caught:
        authenticate(session, credential)
    return caught.value


def test_revocation_rolled_back(amp):
    """A revocation that does not commit ends nothing, and is no cached answer either."""
    key = issue(amp, "olga")
    with enter(amp, key) as inside, amp.connect("amp_ops", autocommit=False) as ops:
        ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        assert notes(inside) == MINE
        ops.rollback()
        assert notes(inside) == MINE
    with enter(amp, key, autocommit=False) as own:
        own.execute("SAVEPOINT a; SELECT amp.revoke_api_key(%s)" % f"'{key['id']}'")
        with raises("TN007"):
            notes(own)
        own.execute("ROLLBACK TO a")
        assert notes(own) == MINE
    with amp.connect("amp_ops", autocommit=False) as ops:  # nor is a key that was never committed
        key = create(ops, "olga")
        with amp.connect("amp_client") as client:
            refuse(client, key["key"])
            ops.commit()
            authenticate(client, key["key"])


def test_user_removed(amp):
    """Whose membership ends: his key for that tenant is refused; one for all of his tenants opens the others only."""
    people(amp, both=("t1", "viewer"))
    people(amp, both=("t2", "viewer"))
    bound, free = issue(amp, "both", "t1"), issue(amp, "both")
    with enter(amp, bound) as one, enter(amp, free) as two, amp.connect("amp_ops") as ops, amp.connect("amp_client") as late:
        assert notes(one) == notes(two) == MINE
        ops.execute("SELECT amp.remove_user('both', 't1')")
        for session in one, two:
            with pytest.raises(psycopg.Error) as caught:
                notes(session)
            assert caught.value.sqlstate in ("TN003", "TN007")
        two.execute("SET amp.tenant_id = 't2'")
        assert notes(two) == THEIRS
        with raises("TN003"):
            authenticate(late, bound["key"])
        ops.execute("SELECT amp.invite_user('both@example.com', 'admin', 't1')")
        refuse(late, bound["key"])  # who is invited again does not find his old key working
        with pytest.raises(psycopg.Error):
            notes(one)


def test_tenant_suspended(amp):
    """A key does not outlive its tenant's suspension, and a deleted one's opens nothing."""
    key = issue(amp, "olga", "t1")
    with enter(amp, key) as inside, amp.connect("amp_ops") as ops, amp.connect("amp_client") as late:
        ops.execute("SELECT amp.suspend_tenant('t1')")
        for attempt in lambda: notes(inside), lambda: authenticate(late, key["key"]):
            with raises("TN002"):
                attempt()
        ops.execute("SELECT amp.activate_tenant('t1')")
        assert notes(inside) == MINE
        ops.execute("SELECT amp.delete_tenant('t1')")
        for attempt in lambda: notes(inside), lambda: authenticate(late, key["key"]):
            with raises("TN002"):
                attempt()


def test_bound_to_one_tenant(amp):
    """A key for one tenant opens no other of its user's, by no way of setting it; one for all of them does."""
    people(amp, both=("t1", "viewer"))
    people(amp, both=("t2", "admin"))
    with enter(amp, issue(amp, "both", "t2")) as session:
        assert notes(session) == THEIRS
        for attack in "SET amp.tenant_id = 't1'", "SET LOCAL amp.tenant_id = 't1'", "SELECT set_config('amp.tenant_id', 't1', false)", \
                "SELECT amp.users('t1')", "SELECT amp.invite_user('x@example.com', 'viewer', 't1')", "SELECT amp.create_api_key('vic', 't1', 'x')", \
                "SELECT amp.set_default_tenant('t1')":
            with raises("TN003"):
                session.execute(attack)
        assert [tenant["id"] for tenant in session.execute("SELECT amp.my_tenants()").fetchone()[0]["data"]] == ["t2"]
        assert notes(session) == THEIRS
        # A member's key is for the tenant in which it was made, whatever he asks for.
        assert create(session, "both")["tenant_id"] == "t2"
        with raises("TN003"):
            create(session, "both", "t1")
    with enter(amp, issue(amp, "both")) as session:
        assert notes(session) == MINE
        session.execute("SET amp.tenant_id = 't2'")
        assert notes(session) == THEIRS


def test_tenants_of_others_are_unknown(amp):
    """A client whose key opens all of his tenants names others to learn which exist: not his, suspended, deleted, never there."""
    with amp.connect("amp_ops") as ops:
        for tenant in "gone", "asleep":
            ops.execute("SELECT amp.create_tenant('T', %s, id => %s)", [f"slug-{tenant}", tenant])
        ops.execute("SELECT amp.delete_tenant('gone'), amp.suspend_tenant('asleep')")
    heard = set()
    with enter(amp, issue(amp, "olga")) as session:
        for tenant in "never", "gone", "asleep", "t2", "T1":
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"SET amp.tenant_id = '{tenant}'")
            heard.add(str(said(caught.value)).replace(tenant, "…"))
        assert notes(session) == MINE
    assert len(heard) == 1


# Who makes and revokes keys, and what they give at most.


def permissions(session):
    return session.execute("SELECT amp.context() -> 'permissions'").fetchone()[0]


def test_cap_outlives_a_promotion(amp):
    """kim makes a key for vic, who is promoted later: whoever has the key holds what kim held, not what vic holds now."""
    with member(amp, "ann") as ann, member(amp, "kim") as kim:
        ann.execute("SELECT amp.define_role('reader', '{content.view}'); SELECT amp.set_user_role('vic', 'reader')")
        key = create(kim, "vic")
        with enter(amp, key) as session:
            assert permissions(session) == ["content.view"]
            ann.execute("SELECT amp.set_user_role('vic', 'admin')")
            assert session.execute("SELECT amp.role()").fetchone() == ("admin",) and permissions(session) == ["content.view",
                "users.manage"]
            for attack in ("UPDATE orders SET note = 'x'", "DELETE FROM orders", "INSERT INTO orders (id) VALUES (99)",
                           "SELECT amp.set_user_role('kim', 'admin')",
                           "SELECT amp.define_role('people-desk', '{users.manage,content.view,billing.configure}')",
                           "SELECT amp.invite_user('m@example.com', 'admin')",
                           "SELECT amp.require_permission('billing.configure')", "SELECT amp.remove_user('ann')",
                           "SELECT amp.set_user_role('ann', 'reader')",
                           "SELECT amp.create_api_key('ann', name => 'x')", "SELECT amp.create_api_key('vic', name => 'x')"):
                with raises("TN004"):
                    session.execute(attack)
            assert notes(session) == MINE
            # Nor by a key made with the key: for somebody who holds no more, and then does.
            ann.execute("SELECT amp.set_user_role('olga', 'reader')")
            second = create(session, "olga")
            ann.execute("SELECT amp.set_user_role('olga', 'admin')")
            with enter(amp, second) as session:
                assert permissions(session) == ["content.view", "users.manage"]
                with raises("TN004"):
                    session.execute("UPDATE orders SET note = 'x'")
        # The cap narrows; it gives nothing that the user has not.
        ann.execute("SELECT amp.set_user_role('vic', 'viewer')")
        with enter(amp, key) as session:
            assert permissions(session) == ["content.view"]


def test_cap_of_a_permission_that_is_registered_later(amp):
    """An admin's key is capped by what he held when he made it: what the application adds later is not in it."""
    with member(amp, "ann") as ann, amp.connect("amp_ops") as ops:
        capped, free = create(ann, "ann"), create(ops, "ann", "t1")
        with enter(amp, capped) as one, enter(amp, free) as two:
            assert permissions(one) == permissions(two)
            ops.execute("SELECT amp.register_permission('invoices.view', 'See invoices')")
            assert column(one, "SELECT amp.has_permission('invoices.view')") == [False]
            assert column(two, "SELECT amp.has_permission('invoices.view')") == [True]


@pytest.mark.parametrize("user", ["olga", "vic", None])
def test_users_manage_is_needed(amp, user):
    """A member without users.manage, or a service that names nobody, makes keys for others, for himself, or revokes others'."""
    theirs = issue(amp, "ann", "t1")
    with member(amp, user or "olga") as session:
        if not user:
            session.execute("RESET amp.user_id")
        for victim in "ann", "vic", user or "olga":
            with raises("TN004"):
                create(session, victim)
        with raises("TN004"):
            session.execute("SELECT amp.revoke_api_key(%s)", [theirs["id"]])
        for attack in "SELECT amp.create_operator_key('x')", "SELECT amp.add_operator_key('x', NULL)":
            with raises("TN004"):
                session.execute(attack)
    with amp.connect("amp_client") as client:
        for attack in f"SELECT amp.revoke_api_key('{theirs['id']}')", "SELECT amp.create_api_key('ann', 't1', 'x')", "SELECT amp.create_api_key('ann')":
            with raises("TN001"):
                client.execute(attack)
    enter(amp, theirs).close()


@pytest.mark.parametrize("call", ["add_api_key('ann', 't1', NULL, 'x', NULL, NULL, false)", "add_api_key(NULL, NULL, NULL, 'x', NULL, NULL, true)",
                                  "new_api_key()",
                                  "end_api_key('key_x', 'ann', 't1')", "log_change('x')", "check_signing_key('HS256', 'x')", "actor()",
                                  "assert_called_by_operator()",
                                  "called_by_operator()"])  # fmt: skip
@pytest.mark.parametrize("role", ["amp_client", "amp_svc", "amp_ops"])
def test_the_work_is_nobodys_to_call(amp, role, call):
    """What does the work for who may, called directly."""
    with amp.connect(role) as session, raises("42501"):
        session.execute(f"SELECT amp.{call}")


@pytest.mark.parametrize("call", ["add_api_key_for_caller('ann', 't1', 'x', NULL, NULL)", "add_operator_key('x', NULL)",
                                  "revoke_api_key_for_caller('key_x')",
                                  "store_signing_key('mine', 'HS256', repeat('x', 32), NULL, NULL, false)",
                                  "retire_stored_signing_key('mine')",
                                  "store_binding('amp_client', 'ann')", "remove_binding('amp_client')",
                                  "add_tenant_for_caller('X', 'xxx', '{}', NULL, NULL)",
                                  "set_tenant_status('t2', 'deleted')", "add_permission('x.y', 'x', '{}')",
                                  "add_member_for_caller('t1', 'x@example.com', 'admin')"])  # fmt: skip
@pytest.mark.parametrize("role", ["amp_client", "amp_svc"])
def test_the_check_is_not_to_be_passed_by(amp, role, call):
    """What checks who called, called without anybody's word, and after one's own."""
    with amp.connect(role) as session:
        for attack in f"SELECT amp.{call}", f"SELECT amp.mark_caller(), amp.{call}", f"BEGIN; SELECT amp.mark_caller(); SELECT amp.{call}":
            with pytest.raises(psycopg.Error) as caught:
                session.execute(attack)
            assert caught.value.sqlstate in ("TN001", "TN004")
            session.execute("ROLLBACK")


def test_keys_of_who_holds_more(amp):
    """kim, who manages users and holds little else, makes a key of ann's, or of her own after a promotion of its user; or takes ann's away."""
    anns, vics = issue(amp, "ann", "t1"), issue(amp, "vic", "t1")
    with member(amp, "kim") as kim:
        for victim in "ann", "olga", "vic":
            with raises("TN004"):
                create(kim, victim)
        for key in anns, vics:
            with raises("TN004"):
                kim.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        assert create(kim, "kim")["user_id"] == "kim"
    for key in anns, vics:
        enter(amp, key).close()


def test_keys_of_another_tenant(amp):
    """ann revokes bob's key, an operator's, one of olga's for all of her tenants: each answer is that for a key that never was."""
    foreign = [issue(amp, "bob", "t2"), issue(amp, "bob"), operators_key(amp), issue(amp, "olga")]
    with member(amp, "ann") as ann:
        heard = set()
        for key in "key_never", *(key["id"] for key in foreign):
            with raises("42704") as caught:
                ann.execute("SELECT amp.revoke_api_key(%s)", [key])
            heard.add(str(said(caught.value)).replace(key, "…"))
        assert len(heard) == 1
        heard = set()
        for user in "bob", "nobody":
            with raises("TN003") as caught:
                create(ann, user)
            heard.add(str(said(caught.value)).replace(user, "…"))
        assert len(heard) == 1
        assert not {key["id"] for key in foreign} & set(column(ann, "SELECT id FROM amp.api_keys"))
        own = create(ann, "vic")
        assert column(ann, "SELECT id FROM amp.api_keys") == [own["id"]]
    for key in foreign:
        enter(amp, key).close()
    with enter(amp, foreign[3]) as olga:  # its own user ends it, wherever she is
        olga.execute("SELECT amp.revoke_api_key(%s)", [foreign[3]["id"]])
        with raises("TN007"):
            notes(olga)


def test_an_operators_tenant_must_be_the_users(amp):
    """An operator makes a key for a tenant that its user is no member of, or of nobody."""
    with amp.connect("amp_ops") as ops:
        for user, tenant, sqlstate in ("bob", "t1", "TN003"), ("nobody", "t1", "TN003"), ("nobody", None, "TN003"), (None, None,
            "TN003"), ("bob", "t9", "TN002"):
            with raises(sqlstate):
                create(ops, user, tenant)


# An operator's key.

OPERATORS = [
    "amp.create_tenant('Third', 'third', id => 't3')", "amp.suspend_tenant('t3')", "amp.activate_tenant('t3')",
    "amp.invite_user('new@example.com', 'viewer', 't3')", "amp.invite_user('ann@example.com', 'viewer', 't3')",
             "amp.set_user_role('ann', 'admin', 't3')",
    "amp.users('t3')", "amp.usage('t3')", "amp.create_api_key('ann', 't3', 'x')", "amp.create_api_key('ann', name => 'x')",
    "amp.revoke_api_key((amp.create_api_key('ann', 't3', 'x')) ->> 'id')", "amp.create_operator_key('x')",
             "amp.register_permission('x.y', 'x')",
    "amp.add_signing_key('new', 'HS256', repeat('x', 32))", "amp.retire_signing_key('new')", "amp.bind_role('amp_owner', 'ann')",
             "amp.unbind_role('amp_owner')",
    "amp.invite_user('two@example.com', 'admin', 't3')", "amp.remove_user('ann', 't3')", "amp.delete_tenant('t3')"]  # fmt: skip


def require_token(database):
    with database.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {database.name} SET amp.require_token = on")


@pytest.mark.parametrize("role", ["amp_client", "amp_svc", "amp_svc with require_token"])
def test_an_operators_key_gives_the_operators_functions(amp, role):
    """Every one of them works in a session that has passed the key, and in the same session none before and none after."""
    if "require" in role:
        require_token(amp)
    with amp.connect(role.split()[0]) as session:
        for call in OPERATORS:
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"SELECT {call}")
            assert caught.value.sqlstate in ("TN001", "TN004", "TN003")
        assert authenticate(session, operators_key(amp)["key"])["operator"] is True
        assert column(session, "SELECT amp.is_operator()") == [True]
        for call in OPERATORS:
            session.execute(f"SELECT {call}")
        session.execute("RESET ALL")
        assert column(session, "SELECT amp.is_operator()") == [False]
        with raises("TN004"):
            session.execute("SELECT amp.suspend_tenant('t1')")


def outcome(session, statement):
    try:
        return session.execute(statement).fetchall()
    except psycopg.Error as error:
        return error.sqlstate


@pytest.mark.parametrize("role", ["amp_client", "amp_svc", "amp_svc with require_token"])
def test_an_operators_key_gives_nothing_more(amp, role):
    """No tenant's rows, no user, no table of amp's that the login role does not read without it."""
    key = operators_key(amp)
    if "require" in role:
        require_token(amp)
    with amp.connect() as admin:
        tables = column(admin, "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'amp'::regnamespace "
                               "AND relname NOT IN ('stat_activity', 'locks')")  # a session's own
    with amp.connect(role.split()[0]) as plain_, enter(amp, key, role.split()[0]) as session:
        for table in *tables, "orders", "parents":
            for statement in f"SELECT * FROM {table}", f"SELECT count(*) FROM {table}", f"DELETE FROM {table}", f"TRUNCATE {table}":
                assert outcome(plain_, statement) == outcome(session, statement)
        with raises("TN001"):
            notes(session)
        if role != "amp_svc":  # a trusted service names any tenant, with a key or without
            for attack in "SET amp.tenant_id = 't1'", "SET amp.user_id = 'ann'", "SELECT set_config('amp.tenant_id', 't2', true)":
                with raises("TN003"):
                    session.execute(attack)
        with raises("42501"):
            session.execute("SELECT key FROM amp.signing_keys")
        with raises("TN003"):
            session.execute("SELECT amp.my_tenants()")
        for attack in "SELECT amp.record_usage('api_calls')", "SELECT amp.users()", "SELECT amp.lock_context()", "SELECT amp.has_permission('content.view')":
            with raises("TN001"):
                session.execute(attack)


def test_an_operators_key_ends(amp):
    """Revoked, expired, given up, replaced by a user's key: no operator any more, in the same session."""
    expires = soon(amp, 3)
    key, short = operators_key(amp), operators_key(amp, expires_at=expires)
    with enter(amp, key) as session, enter(amp, short) as brief:
        authenticate(session, issue(amp, "ann")["key"])
        with raises("TN004"):
            session.execute("SELECT amp.suspend_tenant('t2')")
        authenticate(session, key["key"])
        session.execute("SELECT amp.suspend_tenant('t2'), amp.activate_tenant('t2')")
        session.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        await_time(amp, expires)
        for ended in session, brief:
            with raises("TN004"):
                ended.execute("SELECT amp.suspend_tenant('t2')")
            assert column(ended, "SELECT amp.is_operator()") == [False]
        refuse(session, key["key"])


STRANGERS = """
    CREATE TABLE bait (x int);
    CREATE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql {security} AS $$ BEGIN RETURN $1; END $$;
    INSERT INTO bait SELECT generate_series(1, 50);
    CREATE INDEX ON bait (bite(x));
    CREATE OR REPLACE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql {security} AS $$
    DECLARE attack text;
    BEGIN
        FOREACH attack IN ARRAY ARRAY[{attacks}] LOOP
            BEGIN EXECUTE 'SELECT ' || attack; EXCEPTION WHEN OTHERS THEN NULL; END;
        END LOOP;
        RETURN $1;
    END $$;
    CREATE FUNCTION tripped() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM public.bite(1); RETURN NEW; END $$;
    CREATE TRIGGER trip BEFORE INSERT OR UPDATE ON bait FOR EACH ROW EXECUTE FUNCTION tripped();
    CREATE FUNCTION borrow() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT public.bite(1)';
    CREATE VIEW lure AS SELECT borrow() AS x;
    GRANT ALL ON bait, lure TO PUBLIC;"""
ATTACKS = ["amp.create_tenant('Evil', 'evil', id => 'evil')", "amp.suspend_tenant('t2')",
           "amp.invite_user('evil@example.com', 'admin', 't2')",
           "amp.create_operator_key('evil')", "amp.create_api_key('bob', 't2', 'evil')", "amp.bind_role('amp_owner', 'bob')",
           "amp.add_signing_key('evil', 'HS256', repeat('x', 32))", "amp.register_permission('evil.x', 'x')",
           "amp.mark_caller(), amp.add_tenant_for_caller('Evil', 'evil', '{}', 'evil', NULL)", "amp.mark_caller(), amp.add_operator_key('evil', NULL)",
           "amp.mark_caller(), amp.add_api_key_for_caller('bob', 't2', 'evil', NULL, NULL)", "amp.set_tenant_status('t2', 'deleted')",
           "amp.mark_caller(), amp.set_tenant_status('t2', 'deleted')",
           "amp.mark_caller(), amp.store_binding('amp_owner', 'bob')"]  # fmt: skip


def platform(database):
    """All that operators change."""
    with database.connect() as admin:
        return [column(admin, f"SELECT (to_jsonb(t) - 'last_used_at')::text FROM amp.{table} t")
                for table in ("tenants", "members", "app_users", "permissions", "stored_api_keys", "revoked_api_keys", "signing_keys",
                              "bound_roles")]


@pytest.mark.parametrize("victim", ["SELECT borrow()", "SELECT * FROM lure", "INSERT INTO bait VALUES (99)",
                                    "UPDATE bait SET x = x + 100 WHERE x = 1"])
def test_a_strangers_code_in_a_session_with_an_operators_key(amp, victim):
    """SECURITY DEFINER functions, views and triggers of a stranger, run by who has passed an operator's key: they are not him."""
    stranger(amp, "SECURITY DEFINER")
    with enter(amp, operators_key(amp)) as session:
        before = platform(amp)
        session.execute(victim)
        assert platform(amp) == before
        session.execute("BEGIN; SELECT amp.create_tenant('Fourth', 'fourth', id => 't4')")  # before and after an operator's own call
        session.execute(victim)
        session.execute("ROLLBACK")
    assert platform(amp) == before


def stranger(database, security):
    with database.connect("amp_owner") as owner:
        owner.execute(STRANGERS.format(security=security, attacks=", ".join("'" + attack.replace("'", "''") + "'" for attack in ATTACKS)))


@pytest.mark.parametrize("role", ["a member of the owner", "SET ROLE to the owner", "the owner"])
@pytest.mark.parametrize("victim", ["ANALYZE bait", "REINDEX TABLE bait", "VACUUM ANALYZE bait", "CREATE INDEX ON bait (bite(x))",
                                    "ANALYZE"])
def test_a_strangers_index_in_a_session_with_an_operators_key(amp, new_role, victim, role):
    """The same by an index expression, which PostgreSQL runs on the side as the table's owner: his tables are maintained by who may."""
    stranger(amp, "SECURITY INVOKER")
    with enter(amp, operators_key(amp), "amp_owner" if role == "the owner" else new_role("LOGIN IN ROLE amp_owner")) as session:
        if "SET ROLE" in role:
            session.execute("SET ROLE amp_owner")
        before = platform(amp)
        session.execute(victim)
        assert platform(amp) == before


def test_a_strangers_credential_on_the_side(amp, new_role):
    """An index expression passes a credential of its maker's: refused, and the session stays who it is."""
    key = issue(amp, "bob")
    with amp.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE TABLE bait AS SELECT generate_series(1, 50) x;
            CREATE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$; CREATE INDEX ON bait (bite(x));
            CREATE OR REPLACE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
            BEGIN
                BEGIN PERFORM amp.authenticate('{key['key']}'); EXCEPTION WHEN SQLSTATE 'TN006' THEN NULL; END;
                RETURN $1;
            END $$""")
    with enter(amp, issue(amp, "olga"), new_role("LOGIN IN ROLE amp_owner, amp_client")) as session:
        session.execute("ANALYZE bait")
        assert notes(session) == MINE


# When a key was used.


def test_last_used_at_appears(amp):
    """Somebody uses a key, in a transaction that rolls back even: its owner sees that it was used. A wrong secret is no use."""
    used, rolled_back, wrong_ = (issue(amp, "olga") for _ in range(3))
    enter(amp, used).close()
    with enter(amp, rolled_back, autocommit=False) as session:
        session.rollback()
    with amp.connect("amp_client") as client:
        refuse(client, wrong_["key"][:-1] + ("a" if wrong_["key"][-1] != "a" else "b"))
    query = "SELECT id FROM amp.api_keys WHERE last_used_at > now() - interval '1 minute' ORDER BY 1"
    with amp.connect("amp_ops") as ops, enter(amp, used) as olga:
        assert eventually(lambda: len(column(ops, query)) == 2)
        assert column(ops, query) == column(olga, query) == sorted([used["id"], rolled_back["id"]])
        assert notes(olga) == MINE


# What holds the proof, and where it ends.


@pytest.fixture
def forged(amp):
    """What amp.identity holds in a session that is bob."""
    with enter(amp, issue(amp, "bob")) as bob:
        return column(bob, "SELECT current_setting('amp.identity')")[0]


@pytest.mark.parametrize("role", ["amp_client", "amp_svc", "amp_ops", "postgres"])
def test_nobody_writes_a_proof(amp, forged, role):
    """amp.identity by every way that PostgreSQL has to set something, a superuser's included."""
    with amp.connect(role) as session:
        for attack in ("SET amp.identity = {}", "SET LOCAL amp.identity = {}", "SET SESSION amp.identity = {}",
                       "SELECT set_config('amp.identity', {}, false)",
                       "SELECT set_config('amp.identity', {}, true)", "DO $$ BEGIN PERFORM set_config('amp.identity', {}, true); END $$",
                       "ALTER ROLE amp_client SET amp.identity = {}", f"ALTER DATABASE {amp.name} SET amp.identity = {{}}",
                       "ALTER SYSTEM SET amp.identity = {}",
                       "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET amp.identity = {} AS 'SELECT 1'",
                       'SET "AMP.Identity" = {}'):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(attack.format(psycopg.sql.Literal(forged).as_string(session)))
            assert caught.value.sqlstate in ("42501", "TN006", "55P02", "TN004")
        session.execute("UPDATE pg_settings SET setting = %s WHERE name = 'amp.identity'", [forged])
        session.execute("SET SESSION AUTHORIZATION amp_client" if role == "postgres" else "SELECT")
        with raises("TN001"):
            notes(session)
    for setting in "amp.identity", "AMP.IDENTITY":
        with pytest.raises(psycopg.OperationalError):
            amp.connect(role, options=f"-c {setting}=" + forged.replace("\\", "\\\\").replace(" ", "\\ "))


@pytest.fixture(scope="module")
def late():
    """A server that does not preload the library, with olga in t1 and bob in t2."""
    from world import under_amp

    cluster = Cluster(shared_preload_libraries="")
    database = cluster.database(world=under_amp)
    people(database, olga=("t1", "operator"), bob=("t2", "admin"))
    yield database
    cluster.remove()


@pytest.mark.parametrize("role", ["amp_client", "amp_svc"])
def test_a_proof_from_before_the_library(late, role):
    """The library comes with the first function: what was put under the names of its settings before is no proof, and no exemption."""
    with enter(late, issue(late, "bob")) as bob:
        forged = column(bob, "SELECT current_setting('amp.identity')")[0]
    with late.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {late.name} SET amp.require_token = on")
    for way in "SELECT set_config('amp.identity', %s, false)", "BEGIN; SELECT set_config('amp.identity', %s, true)":
        with late.connect(role) as session:
            session.execute("SET amp.require_token = off; SET amp.token_leeway = 100000; SET amp.tenant_id = 't2'")
            session.execute(psycopg.sql.SQL(way.replace("%s", "{}")).format(forged))
            with pytest.raises(psycopg.Error) as caught:
                notes(session)
            assert caught.value.sqlstate in ("TN001", "TN003")
    with late.connect(role, options="-c amp.identity=" + forged.replace("\n", "\\\n") + " -c amp.require_token=off") as session:
        with raises("TN001"):
            notes(session)
        authenticate(session, issue(late, "olga")["key"])
        assert notes(session) == MINE
        with raises("TN003"):
            session.execute("SET amp.tenant_id = 't2'")


@pytest.mark.parametrize("reset", ["RESET ALL", "DISCARD ALL"])
def test_a_pools_reset_ends_the_proof(amp, reset):
    """What a pooler runs between two clients: the next one is nobody, in the tenant of nobody."""
    people(amp, both=("t2", "viewer"))
    people(amp, both=("t1", "viewer"))
    for key in issue(amp, "both"), issue(amp, "olga", "t1"), operators_key(amp):
        with enter(amp, key) as session:
            if key["user_id"] == "both":
                session.execute("SET amp.tenant_id = 't1'")
            session.execute(reset)
            for attack in "SELECT note FROM orders", "SELECT amp.tenant_id()":
                with raises("TN001"):
                    session.execute(attack)
            assert session.execute("SELECT amp.user_id(), amp.is_operator(), amp.context() -> 'proof'").fetchone() == (None, False, None)
            with raises("TN003"):
                session.execute("SET amp.tenant_id = 't1'")


def who(session):
    return column(session, "SELECT amp.user_id()")[0]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
def test_a_transactions_proof_ends_with_it(amp, end):
    """authenticate() in a transaction: afterwards the session is who it was before, nobody or somebody."""
    olga, bob = issue(amp, "olga")["key"], issue(amp, "bob")["key"]
    for before, expected in (None, None), (olga, "olga"):
        with amp.connect("amp_client") as session:
            if before:
                authenticate(session, before)
            session.execute("BEGIN")
            authenticate(session, bob)
            assert notes(session) == THEIRS
            session.execute(end)
            assert who(session) == expected
            if expected:
                assert notes(session) == MINE
            else:
                with raises("TN001"):
                    notes(session)


def test_a_failed_transactions_proof_ends_with_it(amp):
    """The same when an error ends it, and when the COMMIT of a failed transaction is a ROLLBACK."""
    with amp.connect("amp_client") as session:
        session.execute("BEGIN")
        authenticate(session, issue(amp, "bob")["key"])
        with raises("22012"):
            session.execute("SELECT 1 / 0")
        session.execute("COMMIT")
        assert who(session) is None


def test_savepoint(amp):
    """A rolled-back savepoint takes its proof along; a released one leaves it; the pin holds in any case."""
    people(amp, vera=("t1", "viewer"))
    olga, vera, bob = (issue(amp, user)["key"] for user in ("olga", "vera", "bob"))
    with amp.connect("amp_client", autocommit=False) as session:
        session.execute("SAVEPOINT a")
        authenticate(session, vera)
        assert who(session) == "vera"
        session.execute("ROLLBACK TO a")
        assert who(session) is None
        authenticate(session, olga)
        session.execute("SAVEPOINT b")
        authenticate(session, vera)
        session.execute("SAVEPOINT c")
        authenticate(session, olga)
        session.execute("RELEASE c")
        assert who(session) == "olga"
        session.execute("ROLLBACK TO b")
        assert who(session) == "olga" and notes(session) == MINE
        session.execute("SAVEPOINT d")
        with raises("TN006"):
            authenticate(session, issue(amp, "bob", "t2")["key"])
        session.execute("ROLLBACK TO d")
        authenticate(session, bob)
        with raises("TN006"):
            notes(session)
        session.execute("ROLLBACK TO d")
        assert notes(session) == MINE
        session.commit()
        assert who(session) is None


def test_exception_block(amp):
    """PL/pgSQL's EXCEPTION block is a savepoint, too."""
    with amp.connect("amp_client", autocommit=False) as session:
        authenticate(session, issue(amp, "olga")["key"])
        session.execute(f"""
            DO $$ BEGIN
                BEGIN PERFORM amp.authenticate('{issue(amp, "bob")["key"]}'); RAISE EXCEPTION 'back'; EXCEPTION WHEN raise_exception THEN NULL; END;
            END $$""")
        assert who(session) == "olga" and notes(session) == MINE


def test_commit_in_a_procedure(amp):
    """A procedure passes credentials and commits: called in no transaction, what it committed is the session's; what it rolled back is not."""
    olga, bob = issue(amp, "olga")["key"], issue(amp, "bob")["key"]
    with amp.connect("amp_client") as session:
        session.execute(f"""
            CREATE PROCEDURE pg_temp.p(INOUT seen text) LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM amp.authenticate('{olga}'); seen := amp.user_id();
                COMMIT;
                seen := seen || ' ' || coalesce(amp.user_id(), 'nobody');
                PERFORM amp.authenticate('{bob}'); seen := seen || ' ' || amp.user_id();
                ROLLBACK;
                seen := seen || ' ' || coalesce(amp.user_id(), 'nobody');
            END $$""")
        assert column(session, "CALL pg_temp.p(NULL)") == ["olga olga bob olga"]
        assert who(session) == "olga" and notes(session) == MINE
    with amp.connect() as admin:
        admin.execute(f"ALTER ROLE amp_client IN DATABASE {amp.name} SET amp.context_scope = 'transaction'")
    with amp.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE PROCEDURE p(INOUT seen text) LANGUAGE plpgsql AS $$
            BEGIN PERFORM amp.authenticate('{olga}'); seen := amp.user_id(); COMMIT; seen := seen || ' ' || coalesce(amp.user_id(), 'nobody'); END $$""")
    with amp.connect("amp_client") as session:
        assert column(session, "CALL p(NULL)") == ["olga nobody"]
        assert who(session) is None


# Parallel workers.


def test_workers_are_who_the_leader_is(big):  # noqa: F811
    """One user after the other, with their permissions and the cap of a key, in workers only."""
    with member(big, "ann") as ann:
        ann.execute("SELECT amp.define_role('blind', '{users.manage}')")
    people(big, deaf=("t1", "blind"))
    with member(big, "deaf") as deaf:
        capped = create(deaf, "deaf")
    with member(big, "ann") as ann:
        ann.execute("SELECT amp.set_user_role('deaf', 'admin')")
    with parallel(big, "amp_client") as client:
        for credential, rows in [(issue(big, "vic")["key"], 15000), (issue(big, "bob")["key"], 5000), (capped["key"], 0),
                                 (issue(big, "deaf")["key"], 15000)] * 2:
            authenticate(client, credential)
            assert column(client, COUNT) == [rows]
        client.execute("RESET ALL; SET parallel_setup_cost = 0")
    for key in operators_key(big), None:
        with parallel(big, "amp_client") as client:
            if key:
                authenticate(client, key["key"])
            with raises("TN001"):
                client.execute(COUNT)


def test_workers_stop_when_the_proof_expires(big):  # noqa: F811
    """A key expires while workers read, without the leader's help: they stop at the clock, and the next query does not start."""
    with parallel(big, "amp_client") as client:
        authenticate(client, issue(big, "vic", expires_at=soon(big, 3))["key"])
        assert column(client, COUNT) == [15000]
        client.execute("SET statement_timeout = '30s'")
        with raises("TN007"):
            client.execute("SELECT count(*) FROM big WHERE pg_sleep(0.01) IS NOT NULL")
        for query in COUNT, "SELECT DISTINCT tenant_id FROM big":
            with raises("TN007"):
                client.execute(query)


def test_workers_stop_when_the_key_is_revoked(big):  # noqa: F811
    """Revoked between two queries of one transaction."""
    key = issue(big, "vic")
    with parallel(big, "amp_client", autocommit=False) as client, big.connect("amp_ops") as ops:
        authenticate(client, key["key"])
        assert column(client, COUNT) == [15000]
        ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        with raises("TN007"):
            client.execute(COUNT)


# Bound login roles.


@pytest.fixture
def bound(amp, new_role):
    """A login role that is olga."""
    role = new_role("LOGIN IN ROLE amp_client")
    with amp.connect("amp_ops") as ops:
        ops.execute("SELECT amp.bind_role(%s, 'olga')", [role])
    return role


def test_a_bound_role_is_its_user(amp, bound):
    """The control; and it names no user and no tenant of others, and ends at the next statement when it is unbound."""
    with amp.connect(bound) as session, amp.connect("amp_ops") as ops:
        assert notes(session) == MINE and who(session) == "olga"
        session.execute("PREPARE q AS SELECT note FROM orders")
        assert column(session, "EXECUTE q") == MINE
        for attack, sqlstate in ("SET amp.user_id = 'ann'", "TN006"), ("SET amp.tenant_id = 't2'",
                                                                       "TN003"), ("SELECT amp.bind_role(session_user, 'ann')", "TN004"):
            with raises(sqlstate):
                session.execute(attack)
        ops.execute("SELECT amp.bind_role(%s, 'bob')", [bound])
        assert column(session, "EXECUTE q") == THEIRS
        ops.execute("SELECT amp.unbind_role(%s)", [bound])
        for attack in "EXECUTE q", "SELECT note FROM orders":
            with raises("TN001"):
                session.execute(attack)


def test_dropped_and_made_anew(amp, bound):
    """A role of the same name that comes later is bound to nobody; unbinding cleans up."""
    with amp.connect() as admin, amp.connect("amp_ops") as ops:
        admin.execute(f"DROP ROLE {bound}; CREATE ROLE {bound} LOGIN IN ROLE amp_client")
        with amp.connect(bound) as session, raises("TN001"):
            notes(session)
        ops.execute("SELECT amp.unbind_role(%s)", [bound])
        with raises("42704"):
            ops.execute("SELECT amp.unbind_role(%s)", [bound])
        ops.execute("SELECT amp.bind_role(%s, 'bob')", [bound])
    with amp.connect(bound) as session:
        assert notes(session) == THEIRS


def test_renamed(amp, bound):
    """A renamed role is bound to nobody, nor is another that gets its old name; in open sessions, too."""
    with amp.connect() as admin, amp.connect(bound) as open_:
        assert notes(open_) == MINE
        admin.execute(f"ALTER ROLE {bound} RENAME TO attack_renamed; CREATE ROLE {bound} LOGIN IN ROLE amp_client")
        try:
            for session in open_, amp.connect("attack_renamed"), amp.connect(bound):
                with raises("TN001"):
                    notes(session)
                session.close()
        finally:
            admin.execute(f"DROP ROLE {bound}; ALTER ROLE attack_renamed RENAME TO {bound}")
    with amp.connect(bound) as session:
        assert notes(session) == MINE


@pytest.mark.parametrize("grant, sqlstate", [("GRANT amp_operator TO {}", "TN001"), ("GRANT amp_service TO {}", "TN001"),
                                             ("ALTER ROLE {} BYPASSRLS", "TN009"), ("ALTER ROLE {} SUPERUSER", "TN009")])
def test_becomes_more_than_a_person(amp, bound, grant, sqlstate):
    """A bound role that comes to be an operator, a service, or to bypass row security: its binding counts no more."""
    with amp.connect() as admin, amp.connect(bound) as open_:
        assert notes(open_) == MINE
        admin.execute(grant.format(bound))
        for session in open_, amp.connect(bound):
            with raises(sqlstate):
                session.execute("SELECT amp.tenant_id()")
            if "service" in grant:
                session.execute("SET amp.tenant_id = 't2'")
                assert notes(session) == THEIRS and who(session) is None
            session.close()


@pytest.mark.parametrize("attributes, sqlstate", [("LOGIN SUPERUSER", "42501"), ("LOGIN BYPASSRLS", "42501"), ("LOGIN CREATEROLE", "42501"),
                                                  ("LOGIN REPLICATION", "42501"),
                                                  ("LOGIN IN ROLE amp_service", "42501"), ("LOGIN IN ROLE amp_ops", "42501"),
                                                  ("NOLOGIN", "42704")])
def test_who_cannot_be_bound(amp, new_role, attributes, sqlstate):
    """A superuser, a service, an operator, a group; and a user who is nobody."""
    role = new_role(attributes)
    with amp.connect("amp_ops") as ops:
        with raises(sqlstate):
            ops.execute("SELECT amp.bind_role(%s, 'olga')", [role])
        with raises("TN003"):
            ops.execute("SELECT amp.bind_role('amp_client', 'nobody')")
        assert column(ops, "SELECT role_name FROM amp.bound_roles") == []


def test_a_binding_survives_a_dump(amp, bound, make_cluster):
    """Dumped and restored, here and in a cluster where the role has another number: the same role is the same user, and nobody else."""
    elsewhere = make_cluster()
    with elsewhere.connect() as admin:
        admin.execute("CREATE ROLE somebody; CREATE ROLE amp_ballast")  # so that the numbers differ
        admin.execute(f"CREATE ROLE attack_other LOGIN IN ROLE amp_client; CREATE ROLE {bound} LOGIN IN ROLE amp_client")
    for cluster in amp.cluster, elsewhere:
        copy = copied(amp, cluster)
        with copy.connect(bound) as session:
            assert notes(session) == MINE and who(session) == "olga"
        with copy.connect("amp_client") as session, raises("TN001"):
            notes(session)
    with copy.connect("attack_other") as session, raises("TN001"):
        notes(session)


def test_keys_survive_a_dump(amp):
    """API keys, revocations and signing keys come along: what was accepted is, what was revoked or retired is not."""
    good, bad = issue(amp, "olga"), issue(amp, "olga")
    with amp.connect("amp_ops") as ops:
        ops.execute("SELECT amp.revoke_api_key(%s)", [bad["id"]])
        add_signing_key(ops)
        add_signing_key(ops, "retired")
        ops.execute("SELECT amp.retire_signing_key('retired')")
    copy = copied(amp, amp.cluster)
    with copy.connect("amp_client") as client:
        for credential in good["key"], token(claims("olga")):
            assert authenticate(client, credential)["user_id"] == "olga" and notes(client) == MINE
        for credential in bad["key"], token(claims("olga"), kid="retired"):
            refuse(client, credential)
