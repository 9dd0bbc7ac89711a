"""A real PgBouncer in transaction mode with one server connection, which all clients share.

What a plain setting does behind it comes first: it leaks one client's tenant to the next. With amp.context_scope =
'transaction' a context lives in the transaction that set it and nowhere else (P5).
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from threading import Thread

import psycopg
import pytest

from attack.credentials import add_signing_key, claims, token
from harness import ROOT, raises


@pytest.fixture(scope="module")
def pool(cluster):
    """connect(db): a client of a PgBouncer in front of the cluster."""
    folder = tempfile.mkdtemp(prefix="amp.", dir="/tmp")
    files = os.stat(cluster.dir)  # belongs to the unprivileged user who runs the servers
    with open(f"{folder}/pgbouncer.ini", "w") as config:
        config.write(f"""
[databases]
* = host={cluster.host}
[pgbouncer]
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users
logfile = {folder}/log
pool_mode = transaction
default_pool_size = 1
""")
    with open(f"{folder}/users", "w") as users:
        users.write('"amp_svc" ""\n"amp_ops" ""\n"amp_client" ""\n')
    os.chown(folder, files.st_uid, files.st_gid)
    bouncer = subprocess.Popen(
        ["/usr/sbin/pgbouncer", "-q", f"{folder}/pgbouncer.ini"],
        user=files.st_uid, group=files.st_gid, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(100):
            if os.path.exists(f"{folder}/.s.PGSQL.6432"):
                break
            time.sleep(0.05)

        def connect(db, user="amp_svc"):
            # The pooler knows nothing of statements that were prepared on a server connection.
            return psycopg.connect(
                host=folder, port=6432, dbname=db.name, user=user, autocommit=True, prepare_threshold=None
            )

        yield connect
    finally:
        bouncer.terminate()
        bouncer.wait()
        shutil.rmtree(folder)


@pytest.fixture
def db(fresh_db):
    """Two tenants, and contexts that live in a transaction."""
    with fresh_db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {fresh_db.name} SET amp.context_scope = 'transaction'")
    return fresh_db


@pytest.fixture
def clients(pool, db):
    """Two clients on one server connection."""
    with closing(pool(db)) as one, closing(pool(db)) as other:
        server = "SELECT pg_backend_pid()"
        assert one.execute(server).fetchone() == other.execute(server).fetchone()
        yield one, other


def test_plain_row_security_leaks_through_the_pool(pool, plain_db):
    with plain_db.connect() as admin:
        admin.execute("""
            CREATE TABLE missions (tenant_id text, name text);
            INSERT INTO missions VALUES ('ant', 'secret of ant');
            ALTER TABLE missions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON missions USING (tenant_id = current_setting('app.tenant', true));
            GRANT SELECT, INSERT, UPDATE, DELETE ON missions TO amp_svc;
        """)
    with closing(pool(plain_db)) as one, closing(pool(plain_db)) as other:
        assert other.execute("SELECT * FROM missions").fetchall() == []
        one.execute("SET app.tenant = 'ant'")
        assert other.execute("SELECT * FROM missions").fetchall() == [("ant", "secret of ant")]


@pytest.mark.parametrize("statements", [
    ["SET amp.tenant_id = 'ant'"],
    ["SET amp.user_id = 'ada'", "SET amp.tenant_id = 'ant'"],
    ["SELECT set_config('amp.tenant_id', 'ant', false)"],
    ["SELECT set_config('amp.tenant_id', 'ant', true)"],
    ["DO $$BEGIN PERFORM set_config('amp.tenant_id', 'ant', false); END$$"],
    ["BEGIN", "SET amp.tenant_id = 'ant'", "SELECT * FROM app.missions", "COMMIT"],
    ["BEGIN", "SET LOCAL amp.tenant_id = 'ant'", "SELECT * FROM app.missions", "COMMIT"],
    ["BEGIN", "SELECT set_config('amp.tenant_id', 'ant', false)", "SELECT * FROM app.missions", "COMMIT"],
    ["BEGIN", "SET amp.tenant_id = 'ant'", "SAVEPOINT s", "SET LOCAL amp.tenant_id = 'ant'", "RELEASE s", "COMMIT"],
    # A session value that comes back when a later transaction rolls back.
    ["SET amp.tenant_id = 'ant'", "BEGIN", "SET amp.tenant_id = 'bee'", "ROLLBACK"],
    ["BEGIN", "SET amp.tenant_id = 'ant'", "COMMIT", "BEGIN", "SET LOCAL amp.tenant_id = 'bee'", "COMMIT"],
    ["BEGIN", "SET amp.tenant_id = 'ant'", "COMMIT AND CHAIN", "COMMIT"],
    ["BEGIN", "SET amp.tenant_id = 'ant'", "ROLLBACK AND CHAIN", "COMMIT"],
    ["SET amp.tenant_id = 'ant'; SELECT * FROM app.missions"],
    ["BEGIN; SET amp.tenant_id = 'ant'; COMMIT"],
])  # fmt: skip
def test_no_context_outlives_its_transaction(clients, statements):
    one, other = clients
    for statement in statements:
        one.execute(statement)
    for client in (other, one):
        with raises("TN001"):
            client.execute("SELECT * FROM app.missions")
        with raises("TN001"):
            client.execute("INSERT INTO app.missions (id) VALUES (9)")
        assert client.execute("SELECT amp.context() ->> 'tenant_id', amp.user_id()").fetchone() == (None, None)


@pytest.mark.parametrize("chain", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
@pytest.mark.parametrize("set_tenant", ["SET", "SET LOCAL"])
def test_a_chained_transaction_starts_without_a_context(clients, set_tenant, chain):
    one, _ = clients
    one.execute("BEGIN")
    one.execute(f"{set_tenant} amp.tenant_id = 'ant'")
    assert one.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
    one.execute(chain)
    with raises("TN001"):
        one.execute("SELECT * FROM app.missions")
    one.execute("ROLLBACK")


def test_a_procedure_that_commits_loses_the_context(clients, db):
    with db.connect() as admin:
        admin.execute("""CREATE PROCEDURE app.commits() LANGUAGE plpgsql AS $$
            BEGIN PERFORM set_config('amp.tenant_id', 'ant', false); COMMIT; PERFORM * FROM app.missions; END$$""")
    for client in clients:
        with raises("TN001"):
            client.execute("CALL app.commits()")


@pytest.mark.parametrize("failing", ["SELECT 1/0", "SELECT * FROM nowhere", "SET LOCAL amp.tenant_id = 'cat'", "not SQL"])
def test_an_error_leaves_nothing_behind(clients, failing):
    one, other = clients
    one.execute("BEGIN")
    one.execute("SET amp.tenant_id = 'ant'")
    one.execute("SELECT * FROM app.missions")
    with pytest.raises(psycopg.Error):
        one.execute(failing)
    one.execute("ROLLBACK")
    with raises("TN001"):
        other.execute("SELECT * FROM app.missions")


def test_a_client_killed_in_the_middle_leaves_nothing_behind(pool, db):
    with closing(pool(db)) as other:
        for kill in (False, True):
            victim = pool(db)
            victim.execute("SET amp.tenant_id = 'ant'")
            victim.execute("BEGIN")
            victim.execute("SET amp.tenant_id = 'ant'")
            victim.execute("INSERT INTO app.missions VALUES ('ant', 99, 'never')")
            if kill:
                with socket.socket(fileno=os.dup(victim.fileno())) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
            victim.close()
            with raises("TN001"):
                other.execute("SELECT * FROM app.missions")
            other.execute("BEGIN")
            other.execute("SET LOCAL amp.tenant_id = 'ant'")
            assert other.execute("SELECT count(*) FROM app.missions").fetchone() == (3,)
            other.execute("COMMIT")


def test_the_next_tenant_on_the_connection_is_not_the_previous_user(clients):
    one, other = clients
    one.execute("SET amp.user_id = 'vic'")
    with other.transaction():
        other.execute("SET LOCAL amp.tenant_id = 'bee'")  # vic is no member there
        assert other.execute("SELECT amp.tenant_id(), amp.user_id(), amp.role()").fetchone() == ("bee", None, None)


def test_a_suspension_comes_through_the_pool(clients, pool, db):
    one, other = clients
    with closing(pool(db, "amp_ops")) as operator, one.transaction():
        one.execute("SET LOCAL amp.tenant_id = 'ant'")
        one.execute("SELECT * FROM app.missions")
        operator.execute("SELECT amp.suspend_tenant('ant')")
        with raises("TN002"), one.transaction():
            one.execute("SELECT * FROM app.missions")
    with raises("TN002"), other.transaction():
        other.execute("SET LOCAL amp.tenant_id = 'ant'")


def test_many_clients_on_one_connection_never_see_each_others_rows(pool, db):
    foreign, done = [], []

    def serve(tenant, rows):
        with closing(pool(db)) as client:
            for request in range(100):
                how = ("SET LOCAL amp.tenant_id = '{}'", "SET amp.tenant_id = '{}'")[request % 2]
                with client.transaction(force_rollback=request % 5 == 0):
                    client.execute(how.format(tenant))
                    seen = client.execute("SELECT tenant_id, count(*) FROM app.missions GROUP BY 1").fetchall()
                if seen != [(tenant, rows)]:
                    foreign.append((tenant, seen))
                done.append(tenant)

    threads = [Thread(target=serve, args=("ant", 3) if n % 2 else ("bee", 5)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert foreign == [] and len(done) == 600


# The same with proofs: every transaction says by a credential who it is for, as a client or as a service that has to.


@pytest.fixture(params=["amp_client", "amp_svc"])
def proving(request, db):
    """A database whose role `login` has to prove every context."""
    with db.connect() as admin:
        admin.execute(f"ALTER ROLE amp_client IN DATABASE {db.name} SET amp.context_scope = 'transaction'")
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {db.name} SET amp.require_token = on")
        admin.execute("GRANT USAGE ON SCHEMA app TO amp_client; GRANT SELECT, INSERT, UPDATE, DELETE ON app.missions TO amp_client")
        admin.execute("INSERT INTO amp.app_users (id, email) VALUES ('ben', 'ben@example.com')")
        admin.execute("INSERT INTO amp.members VALUES ('bee', 'ben', 'operator')")
    with db.connect("amp_ops") as ops:
        add_signing_key(ops)
    db.login = request.param
    return db


@pytest.fixture
def borrowers(pool, proving):
    """Two clients on one server connection, who have to prove who they are."""
    with closing(pool(proving, proving.login)) as one, closing(pool(proving, proving.login)) as other:
        server = "SELECT pg_backend_pid()"
        assert one.execute(server).fetchone() == other.execute(server).fetchone()
        yield one, other


def authenticate(client, user, tenant=None, **more):
    return client.execute("SELECT amp.authenticate(%s)", [token(claims(user, tenant, **more))]).fetchone()[0]


def count(client):
    return client.execute("SELECT count(*) FROM app.missions").fetchone()[0]


def has_no_context(client):
    """Neither in autocommit nor in a transaction."""
    for statement in "SELECT * FROM app.missions", "INSERT INTO app.missions (id) VALUES (9)", "DELETE FROM app.missions":
        with raises("TN001"):
            client.execute(statement)
        with raises("TN001"), client.transaction():
            client.execute(statement)
    with raises("TN003"):
        client.execute("SET amp.tenant_id = 'ant'")
    nobody = client.execute("SELECT amp.context() ->> 'tenant_id', amp.user_id(), amp.context() ->> 'proof'").fetchone()
    assert nobody == (None, None, None)


def test_two_tenants_share_a_connection_by_tokens(borrowers):
    one, other = borrowers
    for _ in range(2):
        with one.transaction():
            authenticate(one, "ada", "ant")
            assert count(one) == 3
            assert one.execute("SELECT amp.tenant_id(), amp.user_id(), amp.role()").fetchone() == ("ant", "ada", "admin")
        with other.transaction():
            authenticate(other, "ben", "bee")
            assert count(other) == 5
            assert other.execute("SELECT amp.tenant_id(), amp.user_id(), amp.role()").fetchone() == ("bee", "ben", "operator")


@pytest.mark.parametrize("statements", [
    ["SELECT amp.authenticate('{}')"],
    ["SELECT amp.authenticate('{}'); SELECT * FROM app.missions"],
    ["DO $$BEGIN PERFORM amp.authenticate('{}'); END$$"],
    ["SELECT amp.authenticate('{}')", "SELECT amp.authenticate('{}')"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "SELECT * FROM app.missions", "COMMIT"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "SET amp.tenant_id = 'ant'", "SELECT * FROM app.missions", "COMMIT"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "SELECT * FROM app.missions", "ROLLBACK"],
    ["BEGIN", "SAVEPOINT s", "SELECT amp.authenticate('{}')", "RELEASE s", "COMMIT"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "SELECT amp.lock_context()", "COMMIT"],
    # A session value that comes back when a later transaction ends.
    ["SELECT amp.authenticate('{}')", "BEGIN", "SELECT amp.authenticate('{}')", "ROLLBACK"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "COMMIT AND CHAIN", "COMMIT"],
    ["BEGIN", "SELECT amp.authenticate('{}')", "ROLLBACK AND CHAIN", "COMMIT"],
    ["BEGIN; SELECT amp.authenticate('{}'); COMMIT"],
])  # fmt: skip
def test_no_proof_outlives_its_transaction(borrowers, statements):
    one, other = borrowers
    credential = token(claims("ada", "ant"))
    for statement in statements:
        one.execute(statement.format(credential))
    for client in (other, one):
        has_no_context(client)


def test_a_forgotten_authenticate_is_an_error(borrowers):
    one, other = borrowers
    with one.transaction():
        authenticate(one, "ada", "ant")
        assert count(one) == 3
    with raises("TN001"), other.transaction():
        count(other)
    with raises("TN003"), other.transaction():
        other.execute("SET LOCAL amp.tenant_id = 'bee'")


@pytest.mark.parametrize("failing", ["SELECT 1/0", "not SQL", "SET LOCAL amp.tenant_id = 'bee'", "SELECT amp.authenticate('x')"])
def test_an_error_leaves_no_proof_behind(borrowers, failing):
    one, other = borrowers
    one.execute("BEGIN")
    authenticate(one, "ada", "ant")
    assert count(one) == 3
    with pytest.raises(psycopg.Error):
        one.execute(failing)
    one.execute("ROLLBACK")
    has_no_context(other)


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("autocommit_first", [False, True])
def test_a_client_killed_after_authenticate_leaves_nothing_behind(pool, proving, kill, autocommit_first):
    with closing(pool(proving, proving.login)) as other:
        victim = pool(proving, proving.login)
        if autocommit_first:
            authenticate(victim, "ada", "ant")
        victim.execute("BEGIN")
        authenticate(victim, "ada", "ant")
        victim.execute("INSERT INTO app.missions VALUES ('ant', 99, 'never')")
        if kill:
            with socket.socket(fileno=os.dup(victim.fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        victim.close()
        has_no_context(other)
        with other.transaction():
            authenticate(other, "ada", "ant")
            assert count(other) == 3


def test_the_next_borrower_is_not_the_previous_user(borrowers):
    one, other = borrowers
    with one.transaction():
        authenticate(one, "ada")  # opens both of hers
        one.execute("SET LOCAL amp.tenant_id = 'bee'")
        assert count(one) == 5
    with other.transaction():
        authenticate(other, "vic", "ant")
        assert other.execute("SELECT amp.tenant_id(), amp.user_id(), amp.role()").fetchone() == ("ant", "vic", "viewer")
        with raises("TN004"), other.transaction():
            other.execute("DELETE FROM app.missions")
        with raises("TN003"), other.transaction():
            other.execute("SET LOCAL amp.tenant_id = 'bee'")


def test_a_token_of_one_tenant_in_the_transaction_of_another(borrowers):
    one, _ = borrowers
    with one.transaction():
        authenticate(one, "ada", "ant")
        assert count(one) == 3
        with raises("TN006"), one.transaction():
            authenticate(one, "ben", "bee")
        assert count(one) == 3


def test_an_ended_proof_comes_through_the_pool(borrowers, pool, proving):
    one, other = borrowers
    with proving.connect("amp_ops") as ops:
        key = ops.execute("SELECT amp.create_api_key('ada', 'ant', 'pooled')").fetchone()[0]
        with one.transaction():
            one.execute("SELECT amp.authenticate(%s)", [key["key"]])
            assert count(one) == 3
            ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
            with raises("TN007"), one.transaction():
                count(one)
        with raises("TN003"), other.transaction():
            other.execute("SELECT amp.authenticate(%s)", [key["key"]])
        with other.transaction():
            authenticate(other, "ada", "ant")
            assert count(other) == 3
            ops.execute("SELECT amp.retire_signing_key('EdDSA')")
            with raises("TN007"), other.transaction():
                count(other)
        with raises("TN003"), one.transaction():
            authenticate(one, "ada", "ant")


def test_many_clients_with_tokens_on_one_connection(pool, proving):
    foreign, done = [], []

    def serve(user, tenant, rows):
        with closing(pool(proving, proving.login)) as client:
            for request in range(60):
                if request % 10 == 3:
                    with raises("TN001"), client.transaction():
                        foreign.append((tenant, count(client)))
                    continue
                if request % 10 == 7:
                    authenticate(client, user, tenant)
                with client.transaction(force_rollback=request % 5 == 0):
                    authenticate(client, user, tenant)
                    seen = client.execute("SELECT tenant_id, amp.user_id(), count(*) FROM app.missions GROUP BY 1").fetchall()
                if seen != [(tenant, user, rows)]:
                    foreign.append((tenant, seen))
                done.append(tenant)

    people = [("ada", "ant", 3), ("ben", "bee", 5), ("vic", "ant", 3)]
    threads = [Thread(target=serve, args=people[n % 3]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert foreign == [] and len(done) == 6 * 54
