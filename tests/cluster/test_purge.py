"""A purge among others: what was under way when the tenant was deleted leaves nothing behind, nobody else waits, and one that was broken
off goes on."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import ROOT, raises


@pytest.fixture(scope="module")
def server():
    from harness import Cluster

    cluster = Cluster(max_prepared_transactions=10)
    yield cluster
    cluster.remove()


@pytest.fixture
def db(server):
    database = server.database()
    with database.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("INSERT INTO app.missions SELECT 'ant', n, 'many' FROM generate_series(4, 1000) n")
    yield database
    with server.connect() as admin:
        for (gid,) in admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [database.name]).fetchall():
            with database.connect() as here:
                here.execute(f"ROLLBACK PREPARED '{gid}'")
    database.drop()


@pytest.fixture
def threads():
    with ThreadPoolExecutor() as pool:
        yield pool


def service(db, tenant="ant", **kw):
    connection = db.connect("amp_svc", **kw)
    connection.execute("SELECT set_config('amp.tenant_id', %s, false)", [tenant])
    connection.execute("SET statement_timeout = '20 s'")
    if not connection.autocommit:
        connection.commit()
    return connection


def rows(db, tenant="ant"):
    with db.connect() as admin:
        return admin.execute("SELECT count(*) FROM app.missions WHERE tenant_id = %s", [tenant]).fetchone()[0]


def purge(db, tenant="ant", batch=100, patience="30 s"):
    with db.connect("amp_ops") as ops:
        return ops.execute(f"CALL amp.purge_tenant('{tenant}', {batch}, '{patience}')").fetchone()[0]


def await_step(db, *steps):
    """Until the purge is at one of these steps, and waits there."""
    with db.connect() as admin:
        for _ in range(500):
            found = admin.execute("SELECT step FROM amp.purges WHERE awaited IS NOT NULL OR step = 'quiet'").fetchone()
            if found and found[0] in steps:
                return
            time.sleep(0.02)
    raise AssertionError(f"no purge waits at {steps}")


def begun(db, connection):
    """Until a statement of this session runs under a snapshot."""
    with db.connect() as admin:
        for _ in range(500):
            if admin.execute(
                "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND backend_xmin IS NOT NULL AND wait_event = 'PgSleep'",
                [connection.info.backend_pid],
            ).fetchone() is not None:  # fmt: skip
                return
            time.sleep(0.02)
    raise AssertionError("it did not begin")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_transaction_under_way_is_waited_for(db, threads, level):
    with service(db) as ant:
        ant.execute(f"BEGIN ISOLATION LEVEL {level}")
        ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        purging = threads.submit(purge, db)
        await_step(db, "transactions")
        with raises("TN002"):
            ant.execute("INSERT INTO app.missions VALUES ('ant', 5001, 'later')")
        ant.execute("ROLLBACK")
        purging.result()
    assert rows(db) == 0


def test_one_that_commits_leaves_nothing(db, threads):
    with service(db) as ant:
        ant.execute("BEGIN")
        ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        purging = threads.submit(purge, db)
        await_step(db, "transactions")
        assert rows(db) == 1000 and not purging.done()
        ant.execute("COMMIT")
        assert purging.result()["app.missions"] == 1001
    assert rows(db) == 0


def test_a_running_statement_without_a_transaction_id_is_waited_for(db, threads):
    """It passed the policies before the deletion, and would write after. The policies refuse it then; the purge does not count on that."""
    with service(db) as ant:
        inserting = threads.submit(
            ant.execute, "INSERT INTO app.missions SELECT 'ant', 5000 + n, s::text FROM generate_series(1, 3) n, pg_sleep(2) s"
        )
        begun(db, ant)
        purging = threads.submit(purge, db)
        await_step(db, "transactions")
        with raises("TN002"):
            inserting.result()
        purging.result()
    assert rows(db) == 0


def test_a_statement_that_is_writing_is_waited_for(db, threads):
    """By a superuser, past row security: nothing refuses him."""
    with db.connect() as loading:
        inserting = threads.submit(
            loading.execute,
            "INSERT INTO app.missions SELECT 'ant', 5000 + n, (SELECT pg_sleep(0.2 + 0 * n))::text FROM generate_series(1, 10) n",
        )
        begun(db, loading)
        purging = threads.submit(purge, db)
        await_step(db, "transactions")
        inserting.result()
        assert purging.result()["app.missions"] == 1010
    assert rows(db) == 0


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_prepared_transaction_is_waited_for(db, threads, before, end):
    """Prepared before the deletion, or while the purge waits for it already."""
    with service(db) as ant:
        ant.execute("BEGIN")
        ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        if before:
            ant.execute("PREPARE TRANSACTION 'late'")
            ant.close()
            purging = threads.submit(purge, db)
        else:
            purging = threads.submit(purge, db)
            await_step(db, "transactions")
            ant.execute("PREPARE TRANSACTION 'late'")
        await_step(db, "prepared")
        with db.connect("amp_ops") as ops, raises("55000", "1 transaction"):
            ops.execute("CALL amp.purge_tenant('ant', 100, '0.3 s')")
        assert rows(db) == 1000
        with db.connect() as admin:
            admin.execute(f"{end} PREPARED 'late'")
        purging.result()
    assert rows(db) == 0


def test_impatience_says_whom_it_waits_for(db):
    with service(db) as ant, db.connect("amp_ops") as ops:
        ant.execute("BEGIN")
        ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        with raises("55000", "1 transaction"):
            ops.execute("CALL amp.purge_tenant('ant', 100, '0.2 s')")
        with raises("55000", "1 transaction"):
            ops.execute("SELECT amp.delete_tenant('ant', true)")
        ant.execute("COMMIT")
        assert rows(db) == 1001
        ops.execute("CALL amp.purge_tenant('ant')")
    assert rows(db) == 0


def test_who_has_neither_snapshot_nor_id_is_not_waited_for(db, server):
    other = server.database(extension=False)
    with service(db, "bee") as bee, service(db) as ant, db.connect() as idle, other.connect() as elsewhere:
        bee.execute("BEGIN")
        bee.execute("SELECT count(*) FROM app.missions")
        ant.execute("BEGIN")
        ant.execute("SELECT count(*) FROM app.missions")
        idle.execute("SELECT 1")
        elsewhere.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE t (a int)")
        purge(db)
        with raises("TN002"):
            ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        bee.execute("INSERT INTO app.missions VALUES ('bee', 5000, 'fine')")
        bee.execute("COMMIT")
    other.drop()
    assert rows(db) == 0 and rows(db, "bee") == 6


def test_two_purges_do_not_wait_for_each_other(db, threads):
    with service(db) as ant, service(db, "bee") as bee:
        for session, tenant in ((ant, "ant"), (bee, "bee")):
            session.execute("BEGIN")
            session.execute(f"INSERT INTO app.missions VALUES ('{tenant}', 5000, 'late')")
        purging = [threads.submit(purge, db, tenant) for tenant in ("ant", "bee", "ant")]
        time.sleep(1)
        ant.execute("COMMIT")
        bee.execute("COMMIT")
        for one in purging:
            one.result()
    assert rows(db) == rows(db, "bee") == 0


def test_other_tenants_write_all_the_while(db, threads):
    done = threading.Event()

    def write():
        with service(db, "bee") as bee:
            bee.execute("SET lock_timeout = '5 s'")
            n = 0
            while not done.is_set():
                n += 1
                bee.execute("INSERT INTO app.missions VALUES ('bee', %s, 'busy')", [10000 + n])
                bee.execute("UPDATE app.missions SET name = 'busier' WHERE id = %s", [10000 + n])
            return n

    writing = threads.submit(write)
    try:
        purge(db, batch=50)
    finally:
        done.set()
    assert writing.result() > 0
    assert rows(db) == 0 and rows(db, "bee") == 5 + writing.result()


def test_a_purge_that_was_killed_goes_on(db, threads):
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION app.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
            CREATE TRIGGER slow AFTER DELETE ON app.missions EXECUTE FUNCTION app.slow()
        """)
    with db.connect("amp_ops") as ops, db.connect() as admin:
        purging = threads.submit(ops.execute, "CALL amp.purge_tenant('ant', 20)")
        for _ in range(500):
            found = admin.execute("SELECT (purged ->> 'app.missions')::int FROM amp.purges").fetchone()
            if found and found[0] and found[0] >= 100:
                break
            time.sleep(0.01)
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [ops.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            purging.result()
        counted = admin.execute("SELECT (purged ->> 'app.missions')::int FROM amp.purges").fetchone()[0]
        assert 100 <= counted < 1000 and rows(db) == 1000 - counted
        assert admin.execute("SELECT purged_at FROM amp.tenants WHERE id = 'ant'").fetchone() == (None,)
        admin.execute("DROP TRIGGER slow ON app.missions")
    assert purge(db)["app.missions"] == 1000
    assert rows(db) == 0 and rows(db, "bee") == 5


def test_a_waiting_purge_can_be_cancelled(db, threads):
    with service(db) as ant, db.connect("amp_ops") as ops:
        ant.execute("BEGIN")
        ant.execute("INSERT INTO app.missions VALUES ('ant', 5000, 'late')")
        purging = threads.submit(ops.execute, "CALL amp.purge_tenant('ant')")
        await_step(db, "transactions")
        ops.cancel()
        with raises("57014"):
            purging.result()
        ant.execute("ROLLBACK")
        assert ops.execute("SELECT status FROM amp.tenants WHERE id = 'ant'").fetchone() == ("deleted",)
        ops.execute("CALL amp.purge_tenant('ant')")
    assert rows(db) == 0


def test_it_is_not_for_a_transaction_block(db):
    with db.connect("amp_ops") as ops:
        ops.execute("BEGIN")
        with raises("2D000"):
            ops.execute("CALL amp.purge_tenant('ant')")
        ops.execute("ROLLBACK")
        assert ops.execute("SELECT status FROM amp.tenants WHERE id = 'ant'").fetchone() == ("active",)


def test_an_invitation_elsewhere_keeps_the_person(db, threads):
    """Whoever is being invited to another tenant while his last one is purged is there, or is asked to be invited again."""
    with db.connect("amp_ops", autocommit=False) as inviting:
        inviting.execute("SELECT amp.invite_user('vic@example.com', 'viewer', 'bee')")
        purging = threads.submit(purge, db)
        time.sleep(0.5)
        inviting.commit()
        purging.result()
    with db.connect() as admin:
        assert admin.execute("SELECT count(*) FROM amp.members m JOIN amp.app_users u ON u.id = m.user_id WHERE u.id = 'vic'").fetchone() == (1,)
