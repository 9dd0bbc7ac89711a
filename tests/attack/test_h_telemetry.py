"""H, and what of G is read from statistics: what the server tells everybody about sessions, tables and the log.

Two tenants' sessions share a database role, so that PostgreSQL's own rule, each role its own, does not part them. Each leak is shown on
plain PostgreSQL, stays open under amp_tenancy, and is closed by amp.harden().
"""

import threading

import psycopg
import pytest

from harness import Cluster, raises
from neighbours import PLAIN, TRUSTED, Neighbours
from world import TABLES, column, isolate_plainly, under_amp

# The ways to others' statements.
ACTIVITY = {
    "view": "SELECT query FROM pg_stat_activity",
    "function": "SELECT query FROM pg_stat_get_activity(NULL)",
    "by backend": "SELECT pg_stat_get_backend_activity(i) FROM pg_stat_get_backend_idset() i",
}
# Those that tell who is connected, when and from where.
PRESENCE = [
    "SELECT pid FROM pg_stat_ssl", "SELECT pid FROM pg_stat_gssapi", "SELECT * FROM pg_stat_get_backend_idset()",
    "SELECT pg_stat_get_backend_start(1)", "SELECT pg_stat_get_backend_wait_event(1)", "SELECT numbackends FROM pg_stat_database",
    "SELECT * FROM pg_stat_progress_copy", "SELECT * FROM pg_stat_replication", "SELECT pg_blocking_pids(1)",
]  # fmt: skip


@pytest.fixture(scope="module")
def watched_cluster():
    """With pg_stat_statements, and prepared transactions."""
    server = Cluster(shared_preload_libraries="amp_tenancy,pg_stat_statements", max_prepared_transactions=5)
    yield server
    server.remove()


@pytest.fixture
def watched(watched_cluster):
    """watched(kind, hardened): neighbours in a database of that cluster."""
    databases = []

    def make(kind, hardened=False):
        database = watched_cluster.database(extension=kind != PLAIN, hardened=hardened)
        databases.append(database)
        if kind != PLAIN:
            return Neighbours(under_amp(database), kind)
        with database.connect("amp_owner") as owner:
            owner.execute(TABLES)
            isolate_plainly(owner, "parents", "orders")
        return Neighbours(database, PLAIN)

    yield make
    for database in databases:
        database.drop()


def spied_statements(neighbours, way):
    """What t1 sees of the statements of t2's session."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        victim.execute("SELECT count(*) FROM orders WHERE note = 'secret, too'")
        return [query for query in column(thief, ACTIVITY[way]) if "secret, too" in query]


@pytest.mark.parametrize("way", ACTIVITY)
def test_H1_statements_of_others_plain(plain_neighbours, way):
    assert spied_statements(plain_neighbours, way)


@pytest.mark.still_open("unhardened")
@pytest.mark.parametrize("way", ACTIVITY)
def test_H1_statements_of_others_unhardened(open_neighbours, way):
    assert spied_statements(open_neighbours, way)


@pytest.mark.parametrize("way", ACTIVITY)
def test_H1_statements_of_others(neighbours, way):
    with raises("42501", "permission denied for function"):
        spied_statements(neighbours, way)


def test_H1_the_own_session(neighbours):
    """Instead, a session sees its own row."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        victim.execute("SELECT count(*) FROM orders WHERE note = 'secret, too'")
        [(pid, role, state, query)] = thief.execute("SELECT pid, usename, state, query FROM amp.stat_activity").fetchall()
        assert (pid, role, state) == (thief.info.backend_pid, neighbours.role, "active") and "amp.stat_activity" in query


def test_H1_who_is_connected_plain(plain_neighbours):
    with plain_neighbours.open("t1") as thief:
        for query in PRESENCE:
            thief.execute(query)


def test_H1_who_is_connected(neighbours):
    with neighbours.open("t1") as thief:
        for query in PRESENCE:
            with raises("42501", "permission denied for function"):
                thief.execute(query)


def recorded_statements(neighbours):
    """What t1 sees of t2's statements that ended: a utility statement, whose values are kept."""
    with neighbours.database.connect() as admin:
        admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with neighbours.open("t2") as victim:
        with victim.cursor().copy("COPY (SELECT note FROM orders WHERE note = 'secret, too') TO STDOUT") as copy:
            assert len(list(copy)) == 1
    with neighbours.open("t1") as thief:
        return [row for row in thief.execute("SELECT query, rows FROM pg_stat_statements") if "secret, too" in row[0]]


def test_H2_recorded_statements_plain(watched):
    assert recorded_statements(watched(PLAIN))[0][1] == 1


@pytest.mark.still_open("unhardened")
def test_H2_recorded_statements_unhardened(watched):
    assert recorded_statements(watched(TRUSTED))[0][1] == 1


def test_H2_recorded_statements(watched):
    """An extension that comes later is a gap, until the database is hardened again."""
    neighbours = watched(TRUSTED, hardened=True)
    assert recorded_statements(neighbours)
    with neighbours.database.connect() as admin:
        [(gap, fix)] = admin.execute("SELECT * FROM amp.hardening_gaps() WHERE object LIKE '%(boolean)'").fetchall()
        assert gap == "function public.pg_stat_statements(boolean)"
        admin.execute(fix)
        assert admin.execute("SELECT * FROM amp.hardening_gaps()").fetchall() == []
    with raises("42501", "permission denied for function pg_stat_statements"):
        recorded_statements(neighbours)
    with neighbours.open("t1") as thief, raises("42501"):
        thief.execute("SELECT * FROM pg_stat_statements_info")


def terminated(neighbours):
    """t1 ends t2's session."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        done = thief.execute("SELECT pg_cancel_backend(%(p)s), pg_terminate_backend(%(p)s, 60000)", {"p": victim.info.backend_pid})
        assert done.fetchone() == (True, True)
        with pytest.raises(psycopg.OperationalError, match="terminating connection due to administrator command"):
            victim.execute("SELECT 1")


def test_H3_sessions_of_others_plain(plain_neighbours):
    terminated(plain_neighbours)


@pytest.mark.still_open("unhardened")
def test_H3_sessions_of_others_unhardened(open_neighbours):
    terminated(open_neighbours)


def test_H3_sessions_of_others(neighbours):
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        for function in "pg_cancel_backend(%s)", "pg_terminate_backend(%s)", "pg_terminate_backend(%s, 1000)":
            with raises("42501", "permission denied for function"):
                thief.execute(f"SELECT {function}", [victim.info.backend_pid])
        assert victim.execute("SELECT count(*) FROM orders").fetchone() == (3,)


def test_H3_a_client_cancels_its_own_statement(neighbours):
    """As drivers do it, by the protocol: with the key of the session, which nobody else has."""
    with neighbours.open("t1") as session, neighbours.database.connect() as admin:
        outcome = []

        def run():
            with pytest.raises(psycopg.errors.QueryCanceled) as caught:
                session.execute("SELECT pg_sleep(600)")
            outcome.append(caught.value.sqlstate)

        runner = threading.Thread(target=run)
        runner.start()
        asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
        while admin.execute(asleep, [session.info.backend_pid]).fetchone() != (True,):
            pass
        session.cancel()
        runner.join()
        assert outcome == ["57014"]


LOCKS = "SELECT mode FROM pg_locks WHERE relation = 'orders'::regclass AND pid <> pg_backend_pid()"


def spied_locks(neighbours):
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim, victim.transaction():
        victim.execute("UPDATE orders SET amount = 1")
        return column(thief, LOCKS)


def test_H4_locks_plain(plain_neighbours):
    assert "RowExclusiveLock" in spied_locks(plain_neighbours)


@pytest.mark.still_open("unhardened")
def test_H4_locks_unhardened(open_neighbours):
    assert "RowExclusiveLock" in spied_locks(open_neighbours)


def test_H4_locks(neighbours):
    with raises("42501", "permission denied for function pg_lock_status"):
        spied_locks(neighbours)
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim, victim.transaction(), thief.transaction():
        victim.execute("UPDATE orders SET amount = 1")
        thief.execute("SELECT count(*) FROM orders")
        seen = thief.execute("SELECT DISTINCT pid, mode FROM amp.locks WHERE relation = 'orders'::regclass").fetchall()
        assert seen == [(thief.info.backend_pid, "AccessShareLock")]


def left_behind(neighbours):
    """What t2, the next on one connection, sees of t1's: prepared statements and open cursors."""
    with neighbours.open("t1") as session:
        session.execute("PREPARE q AS SELECT 'of t1'")
        session.execute("DECLARE c CURSOR WITH HOLD FOR SELECT 'of t1, too'")
        neighbours.enter(session, "t2")
        return column(session, "SELECT statement FROM pg_prepared_statements UNION ALL SELECT statement FROM pg_cursors")


def test_H4_what_the_session_had_prepared_plain(plain_neighbours):
    assert "PREPARE q AS SELECT 'of t1'" in left_behind(plain_neighbours)


@pytest.mark.still_open("unhardened")
def test_H4_what_the_session_had_prepared_unhardened(open_neighbours):
    assert "PREPARE q AS SELECT 'of t1'" in left_behind(open_neighbours)


def test_H4_what_the_session_had_prepared(neighbours):
    with raises("42501", "permission denied for function"):
        left_behind(neighbours)
    with neighbours.open("t1") as session:
        for view in "pg_prepared_statements", "pg_cursors":
            with raises("42501"):
                session.execute(f"SELECT statement FROM {view}")


def spied_transactions(neighbours):
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        victim.execute("BEGIN; UPDATE orders SET amount = 1; PREPARE TRANSACTION 'of t2'")
        try:
            return column(thief, "SELECT gid FROM pg_prepared_xacts")
        finally:
            victim.execute("ROLLBACK PREPARED 'of t2'")


def test_H4_prepared_transactions_plain(watched):
    assert spied_transactions(watched(PLAIN)) == ["of t2"]


@pytest.mark.still_open("unhardened")
def test_H4_prepared_transactions_unhardened(watched):
    assert spied_transactions(watched(TRUSTED)) == ["of t2"]


def test_H4_prepared_transactions(watched):
    with watched(TRUSTED, hardened=True).open("t1") as thief, raises("42501"):
        thief.execute("SELECT gid FROM pg_prepared_xacts")


COUNTED = {
    "table": "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'orders'",
    "index": "SELECT pg_stat_get_xact_tuples_fetched(indexrelid) + pg_stat_get_xact_tuples_returned(indexrelid)"
    " FROM pg_index WHERE indrelid = 'orders'::regclass AND indexrelid::regclass::text = 'orders_note'",
    "blocks": "SELECT pg_stat_get_xact_blocks_fetched('orders'::regclass)",
}


def fetched(neighbours, note, way):
    """By how much a statement that shows no row moves the counters of its transaction."""
    with neighbours.database.connect("amp_owner") as owner, owner.transaction():
        owner.execute("CREATE INDEX IF NOT EXISTS orders_note ON orders (note)")  # not led by the tenant
    with neighbours.open("t1") as thief, thief.transaction():
        thief.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        [(before,)] = thief.execute(COUNTED[way]).fetchall()
        assert thief.execute("SELECT count(*) FROM orders WHERE note = %s", [note]).fetchone() == (0,)
        [(after,)] = thief.execute(COUNTED[way]).fetchall()
        return after - before


def many_of_t1(neighbours):
    """So many rows of t1 that the planner looks by the note."""
    with neighbours.open("t1") as session:
        session.execute("INSERT INTO orders (id, tenant_id, note) SELECT n, 't1', 'mine ' || n FROM generate_series(1000, 3000) n")
    with neighbours.database.connect() as admin:
        admin.execute("ANALYZE orders")


@pytest.mark.parametrize("way", COUNTED)
def test_G2_counters_of_the_transaction_plain(plain_neighbours, way):
    many_of_t1(plain_neighbours)
    assert fetched(plain_neighbours, "secret", way) > fetched(plain_neighbours, "nobody's", way)


@pytest.mark.still_open("unhardened")
@pytest.mark.parametrize("way", COUNTED)
def test_G2_counters_of_the_transaction_unhardened(open_neighbours, way):
    """Where there is an index that the tenant does not lead."""
    many_of_t1(open_neighbours)
    assert fetched(open_neighbours, "secret", way) > fetched(open_neighbours, "nobody's", way)


@pytest.mark.parametrize("way", COUNTED)
def test_G2_counters_of_the_transaction(neighbours, way):
    with raises("42501", "permission denied for function"):
        fetched(neighbours, "secret", way)


def test_G2_every_counter(neighbours):
    """By name, so that those of later versions are among them."""
    with neighbours.open("t1") as thief:
        callable_ = column(thief, """
            SELECT oid::regprocedure::text FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname LIKE 'pg\\_stat\\_get\\_%'
              AND has_function_privilege(oid, 'EXECUTE')""")
        # The server's checkpoints.
        assert [name for name in callable_ if "checkpoint" not in name and "bgwriter" not in name] in (
            [], ["pg_stat_get_buf_fsync_backend()", "pg_stat_get_buf_written_backend()"])


SIZES = ["pg_relation_size('orders')", "pg_table_size('orders')", "pg_total_relation_size('orders')", "pg_database_size(current_database())"]


def growth(neighbours, size):
    """By how much t1 sees a table grow when t2 writes to it."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        [(before,)] = thief.execute(f"SELECT {size}").fetchall()
        victim.execute("INSERT INTO orders (id, tenant_id, note) SELECT n, 't2', repeat('x', 100) FROM generate_series(1000, 3000) n")
        [(after,)] = thief.execute(f"SELECT {size}").fetchall()
        return after - before


@pytest.mark.parametrize("size", SIZES)
def test_G11_size_plain(plain_neighbours, size):
    assert growth(plain_neighbours, size) > 0


@pytest.mark.still_open("unhardened")
@pytest.mark.parametrize("size", SIZES)
def test_G11_size_unhardened(open_neighbours, size):
    assert growth(open_neighbours, size) > 0


@pytest.mark.parametrize("size", SIZES)
def test_G11_size(neighbours, size):
    with raises("42501", "permission denied for function"):
        growth(neighbours, size)


def test_G11_how_tables_are_used(neighbours):
    with neighbours.open("t1") as thief:
        for view in ("pg_stat_user_tables", "pg_stat_user_indexes", "pg_statio_user_tables", "pg_stat_database", "pg_stat_xact_user_tables"):
            with raises("42501", "permission denied for function"):
                thief.execute(f"SELECT * FROM {view}")


@pytest.mark.still_open("any")
def test_G11_what_the_catalog_estimates(neighbours):
    """pg_class cannot be hidden: it has the rows of all tenants together, as of the last ANALYZE or VACUUM."""
    with neighbours.open("t2") as victim:
        victim.execute("INSERT INTO orders (id, tenant_id) SELECT n, 't2' FROM generate_series(1000, 1999) n")
    with neighbours.database.connect() as admin:
        admin.execute("ANALYZE orders")
    with neighbours.open("t1") as thief:
        assert thief.execute("SELECT reltuples FROM pg_class WHERE relname = 'orders'").fetchone() == (1005,)


def written(neighbours, position):
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        [(before,)] = thief.execute(f"SELECT {position}").fetchall()
        victim.execute("UPDATE orders SET note = repeat('x', 100)")
        return thief.execute(f"SELECT {position} - %s > 0", [before]).fetchone()[0]


POSITIONS = ["pg_current_wal_insert_lsn()", "pg_current_wal_lsn()", "pg_logical_emit_message(false, '', ''::text)",
             "pg_logical_emit_message(true, '', ''::bytea)"]  # fmt: skip


@pytest.mark.parametrize("position", POSITIONS)
def test_G13_how_much_is_written_plain(plain_neighbours, position):
    assert written(plain_neighbours, position)


@pytest.mark.still_open("unhardened")
@pytest.mark.parametrize("position", POSITIONS)
def test_G13_how_much_is_written_unhardened(open_neighbours, position):
    assert written(open_neighbours, position)


@pytest.mark.parametrize("position", [*POSITIONS, "pg_current_wal_flush_lsn()"])
def test_G13_how_much_is_written(neighbours, position):
    with raises("42501", "permission denied for function"):
        written(neighbours, position)


# When, and with whom, others commit; what a standby has heard.
TOLD = ["pg_xact_commit_timestamp('3')", "pg_xact_commit_timestamp_origin('3')", "pg_last_committed_xact()", "pg_get_multixact_members('1')",
        "pg_last_xact_replay_timestamp()", "pg_control_recovery()"]  # fmt: skip


@pytest.mark.parametrize("told", TOLD)
def test_G13_when_others_write(plain_neighbours, neighbours, told):
    """Plain: it is answered, as far as the server keeps it."""
    with plain_neighbours.open("t1") as session:
        try:
            session.execute(f"SELECT {told}")
        except psycopg.Error as error:
            assert error.sqlstate in ("55000", "XX000"), error  # not kept, or no such multixact
    with neighbours.open("t1") as thief, raises("42501", "permission denied for function"):
        thief.execute(f"SELECT {told}")


def test_G13_who_locks_the_same_row_plain(plain_neighbours):
    """Plain: the transactions of a multixact, of which a row of one's own is the sign."""
    with plain_neighbours.open("t1") as thief, plain_neighbours.open("t1") as other:
        for session in thief, other:
            session.execute("BEGIN; SELECT FROM parents WHERE id = 1 FOR SHARE")
        [(multixact,)] = thief.execute("SELECT xmax FROM parents WHERE id = 1").fetchall()
        assert len(thief.execute("SELECT pg_get_multixact_members(%s::text::xid)", [multixact]).fetchall()) == 2


# What PostgreSQL lets everybody call that a hardened database leaves so, of what tells of the server: docs/hardening.md says why.
LEFT = {
    "pg_current_snapshot", "pg_current_xact_id", "pg_current_xact_id_if_assigned", "pg_xact_status", "txid_current", "txid_current_if_assigned",
    "txid_current_snapshot", "txid_status", "pg_export_snapshot", "age", "mxid_age", "pg_column_toast_chunk_id", "pg_sequence_last_value",
    "pg_get_sequence_data", "pg_relation_filenode", "pg_filenode_relation", "pg_control_system", "pg_control_init", "pg_is_in_recovery",
    "pg_is_wal_replay_paused", "pg_get_wal_replay_pause_state", "pg_get_wal_resource_managers", "pg_postmaster_start_time", "pg_conf_load_time",
    "pg_listening_channels", "pg_tablespace_databases", "pg_tablespace_location", "pg_get_loaded_modules", "pg_stat_clear_snapshot",
    "pg_stat_force_next_flush",
}  # fmt: skip

# By name: whatever speaks of transactions, WAL, locks, sessions, snapshots, sizes, files and replication.
SPEAKS = """
    SELECT DISTINCT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.provolatile <> 'i' AND has_function_privilege('amp_svc', p.oid, 'EXECUTE')
      AND p.proname ~ 'xact|txid|xid_age|^age$|wal|lsn|_lock|block|backend|snapshot|_size|file|replay|recovery|control|stat_|prepared|_cursor|notification|listen'
                      '|emit|toast_chunk|sequence_(data|last)|filenode|tablespace_|loaded|conf_load|start_time'
      AND p.proname !~ %s"""
# Of those: what asks for more than EXECUTE itself, acts on the own session alone, or reads and writes a type; and checkpoints.
HARMLESS = "^(pg_advisory_unlock.*|.*(in|out|recv|send)|binary_upgrade_.*|has_.*|pg_stat_get_(bgwriter|checkpoint|buf).*|pg_(read|rotate)_.*_old|pg_backend_pid|pg_column_size|pg_split_walfile_name)$"


def test_G13_every_function_is_decided_about(neighbours):
    """A new version's function that speaks of others fails here, until amp.harden() takes it or docs/hardening.md says why not."""
    with neighbours.database.connect() as admin:
        assert set(column(admin, SPEAKS, HARMLESS)) - LEFT == set()


@pytest.mark.still_open("any")
def test_G13_how_many_transactions_write(neighbours):
    """Transaction ids are the server's: a row of one's own shows its own (xmin)."""
    with neighbours.open("t1") as thief, neighbours.open("t2") as victim:
        own = "UPDATE orders SET amount = 1 WHERE id = 11 RETURNING xmin::text::bigint"
        [(before,)] = thief.execute(own).fetchall()
        for _ in range(7):
            victim.execute("UPDATE orders SET amount = 1")
        [(after,)] = thief.execute(own).fetchall()
        assert after - before > 7


def test_monitoring_and_operating_go_on(neighbours, new_role):
    """Who is in PostgreSQL's own groups for it keeps what he had; so does who owns the database."""
    monitor, signaller = new_role("LOGIN IN ROLE pg_monitor"), new_role("LOGIN IN ROLE pg_signal_backend")
    with neighbours.open("t2") as victim, neighbours.database.connect(monitor) as session:
        victim.execute("SELECT count(*) FROM orders WHERE note = 'secret, too'")
        assert any("secret, too" in query for query in column(session, ACTIVITY["view"]))
        for query in [LOCKS, *PRESENCE, *(f"SELECT {size}" for size in SIZES), *(f"SELECT {position}" for position in POSITIONS),
                      "SELECT * FROM pg_stat_user_tables", "SELECT * FROM pg_prepared_xacts"]:  # fmt: skip
            session.execute(query)
        with neighbours.database.connect(signaller) as session:
            pid = victim.info.backend_pid
            assert session.execute("SELECT pg_terminate_backend(%s, 60000)", [pid]).fetchone() == (True,)
    with neighbours.database.connect() as admin:
        admin.execute(f"ALTER DATABASE {neighbours.database.name} OWNER TO amp_owner")
    with neighbours.database.connect("amp_owner") as owner:
        owner.execute("SELECT pg_advisory_lock(1), lo_unlink(lo_create(0)); CREATE TEMP TABLE t (n int)")
