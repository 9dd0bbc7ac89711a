"""Tokens for a single use: once across all backends, whatever becomes of the transaction, and never where that cannot be known.

The leeway between clocks is 0 here, so that a token which is issued just after the server's start is accepted.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from threading import Barrier

import psycopg
import pytest

from credentials import KEYS, add_signing_key, claims, token
from harness import ROOT, Cluster, raises
from test_standby import replay

NO_LEEWAY = {"amp.token_leeway": "0"}
NUMBERS = count(1)


def prepared(cluster):
    """A database of two tenants, whose users may pass tokens of two keys for a single use, and of one for many."""
    db = cluster.database()
    with db.connect() as admin, db.connect("amp_ops") as operator:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("GRANT USAGE ON SCHEMA app TO amp_client; GRANT SELECT ON app.missions TO amp_client")
        for kid in "once", "another":
            add_signing_key(operator, kid, single_use=True)
        add_signing_key(operator, "often")
    return db


@pytest.fixture(scope="module")
def db():
    server = Cluster(**NO_LEEWAY)
    yield prepared(server)
    server.remove()


def fresh(kid="once", **more):
    """A token that nobody has used, issued now."""
    return token(claims("vic", "ant", **{"jti": f"jti-{next(NUMBERS)}", "iat": time.time(), **more}), kid=kid)


def use(session, credential):
    return session.execute("SELECT amp.authenticate(%s)", [credential]).fetchone()[0]["user_id"]


def missions(session):
    return session.execute("SELECT count(*) FROM app.missions").fetchone()[0]


def refused(db, *credentials):
    """Each is refused, in a session of its own."""
    for credential in credentials:
        with db.connect("amp_client") as client:
            with raises("TN003", "not accepted"):
                use(client, credential)
            with raises("TN001"):
                missions(client)


def accepted(db, credential):
    with db.connect("amp_client") as client:
        assert use(client, credential) == "vic" and missions(client) == 3


def test_a_token_is_accepted_once_across_all_backends(db):
    used = fresh()
    with db.connect("amp_client") as client:
        assert use(client, used) == "vic" and missions(client) == 3
        for _ in range(2):
            with raises("TN003"):
                use(client, used)
            refused(db, used)
        assert missions(client) == 3  # the session that used it goes on
    refused(db, used)


def test_a_key_without_single_use_accepts_a_token_again(db):
    for _ in range(3):
        accepted(db, token(claims("vic", "ant", jti="again", iat=1), kid="often"))


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "ROLLBACK TO s", "SELECT 1 / 0"])
def test_whatever_becomes_of_the_transaction_the_token_is_used(db, end):
    used = fresh()
    with db.connect("amp_client") as client:
        client.execute("BEGIN; SAVEPOINT s")
        use(client, used)
        assert missions(client) == 3
        refused(db, used)  # before the end, too: nobody waits for it
        with suppress(psycopg.errors.DivisionByZero):
            client.execute(end)
        client.execute("ROLLBACK")
        with raises("TN003"):
            use(client, used)
    refused(db, used)


def test_a_caught_error_does_not_give_the_token_back(db):
    used = fresh()
    with db.connect("amp_client") as client:
        client.execute(f"""
            DO $$ BEGIN PERFORM amp.authenticate('{used}'); RAISE EXCEPTION 'back';
            EXCEPTION WHEN raise_exception THEN NULL; END $$""")
        with raises("TN001"):
            missions(client)
    refused(db, used)


def test_a_killed_connection_does_not_give_the_token_back(db):
    used = fresh()
    client = db.connect("amp_client")
    client.execute("BEGIN")
    use(client, used)
    with db.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [client.info.backend_pid])
    refused(db, used)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_of_sixteen_at_once_one_wins(db, level):
    connections = [db.connect("amp_client") for _ in range(16)]
    for connection in connections:
        connection.execute(f"SET default_transaction_isolation = '{level}'")
    for _ in range(10):
        used, barrier = fresh(), Barrier(16)

        def attempt(connection):
            barrier.wait()
            try:
                with connection.transaction(force_rollback=True):
                    return use(connection, used)
            except psycopg.Error as error:
                return error.sqlstate

        with ThreadPoolExecutor(16) as pool:
            assert sorted(pool.map(attempt, connections)) == ["TN003"] * 15 + ["vic"]
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("missing", ["jti", "iat"])
def test_jti_and_iat_are_needed(db, missing):
    refused(db, fresh(**{missing: None}))
    accepted(db, fresh("often", **{missing: None}))


def test_a_jti_belongs_to_its_key_and_is_taken_as_it_is(db):
    used = f"Jti:{next(NUMBERS)}"
    for kid, jti in ("once", used), ("another", used), ("once", used.upper()), ("once", used + "/"), ("once", "/" + used):
        accepted(db, fresh(kid, jti=jti))
        refused(db, fresh(kid, jti=jti), fresh(kid, jti=jti, exp=time.time() + 3000), fresh(kid, jti=jti, tid="bee"))


def test_a_forged_token_uses_nothing_up(db):
    """Who can guess the next jti cannot take it away from its owner."""
    right = fresh()
    signed, _, signature = right.rpartition(".")
    refused(db, f"{signed}.{signature[::-1]}", f"{signed}.{signature[:-4]}AAAA")
    jti = f"jti-{next(NUMBERS) - 1}"
    refused(db, token(claims("vic", "ant", jti=jti, iat=time.time()), kid="once", key=type(KEYS["EdDSA"]).generate()))
    for wrong in {"aud": "x"}, {"sub": "nobody", "tid": None}, {"nbf": time.time() + 3000}, {"iat": time.time() + 3000}:
        refused(db, fresh(jti=jti, **wrong))
    accepted(db, right)


def test_the_log_says_why(db):
    used = fresh()
    accepted(db, used)
    begin = os.path.getsize(db.cluster.log)
    refused(db, used)
    with open(db.cluster.log, encoding="utf-8", errors="replace") as log:
        log.seek(begin)
        written = log.read()
    assert "used before" in written and used.rpartition(".")[2] not in written


def test_an_expired_token_is_refused_whether_it_was_used_or_not(db):
    for _ in range(2):
        with db.connect("amp_client") as client, raises("TN007"):
            use(client, fresh(jti="late", exp=time.time() - 1))


def test_a_token_from_before_a_restart_is_refused(make_cluster):
    db = prepared(make_cluster(**NO_LEEWAY))
    used, unused, kept = fresh(), fresh(), fresh("often")
    accepted(db, used)
    db.cluster.restart()
    refused(db, used, unused, fresh(iat=1), fresh(iat=time.time() - 60))
    accepted(db, fresh())
    accepted(db, kept)


def test_a_token_from_before_a_crash_is_refused(make_cluster):
    """The server starts shared memory anew when a backend has crashed: what it had remembered is gone."""
    db = prepared(make_cluster(**NO_LEEWAY))
    used, unused = fresh(), fresh()
    accepted(db, used)
    victim, witness = db.connect("amp_client"), db.connect("amp_client")
    os.kill(victim.info.backend_pid, signal.SIGKILL)
    with suppress(psycopg.OperationalError):
        while witness.execute("SELECT pg_sleep(0.05)"):  # until the server has noticed
            pass
    for _ in range(200):
        with suppress(psycopg.OperationalError):
            db.connect().close()
            break
        time.sleep(0.05)
    refused(db, used, unused)
    accepted(db, fresh())


def test_without_preload_every_such_token_is_refused():
    server = Cluster(shared_preload_libraries="")
    try:
        db = prepared(server)
        refused(db, *(fresh() for _ in range(3)))
        accepted(db, fresh("often"))
    finally:
        server.remove()


def test_on_a_standby_every_such_token_is_refused(make_cluster):
    """Its primary keeps a memory of its own. Once promoted, it accepts what is issued from then on."""
    primary = make_cluster(**NO_LEEWAY)
    db = prepared(primary)
    standby = make_cluster(primary)
    with db.connect() as admin:
        replay(admin, standby)
    there = type(db)(standby, db.name)
    used, unused = fresh(), fresh()
    accepted(db, used)
    refused(there, used, unused, fresh())
    accepted(there, fresh("often"))
    primary.stop()
    standby.promote()
    refused(there, used, unused)
    accepted(there, (last := fresh()))
    refused(there, last, used, unused)
