"""B. What one borrower of a connection leaves behind for the next.

Two tenants' transactions one after the other on one server connection, as behind a pooler, in transaction scope: t1's by proof, then
another's. A real PgBouncer is in tests/cluster/test_pooler.py.
"""

from contextlib import closing, contextmanager, suppress

import psycopg
import pytest

from credentials import claims, token
from harness import HARDENED, Cluster, raises
from proofs import BOUND, CHOOSES, KEY, KINDS, SERVICE, TOKEN, Proved, authenticate
from test_k_concurrency import CURSORS
from world import MINE, TABLES, THEIRS, column, isolate_plainly, notes, snapshot, under_amp

class Plain:
    """A pooled connection with plain settings."""

    kind = "plain"

    def __init__(self, database):
        self.database = database

    def connect(self, **kw):
        return self.database.connect("amp_svc", **kw)

    def enter(self, session, tenant):
        session.execute(f"SET LOCAL app.tenant = '{tenant}'")


class Trusted(Plain):
    """One with a trusted service's context."""

    kind = "service"

    def enter(self, session, tenant):
        session.execute(f"SET LOCAL amp.tenant_id = '{tenant}'")


class ByProof(Proved):
    """One whose every transaction proves its tenant: t1 by the kind's own credential, t2 by a token."""

    def enter(self, session, tenant=None):
        credential = token(claims("two", "t2")) if tenant == "t2" else self.credential
        if credential:
            authenticate(session, credential)


@contextmanager
def borrowed(world, connection, tenant):
    """A request of one tenant on a pooled connection: a transaction."""
    with connection.transaction():
        world.enter(connection, tenant)
        yield connection


@pytest.fixture
def poor(plain):
    return Plain(plain)


@pytest.fixture(params=["service", *KINDS])
def pooled(amp, request):
    """Pooled connections of every kind in transaction scope."""
    made = Trusted(amp) if request.param == "service" else ByProof(amp, request.param)
    with amp.connect() as admin:
        for role in "amp_svc", "amp_client":
            admin.execute(f"ALTER ROLE {role} IN DATABASE {amp.name} SET amp.context_scope = 'transaction'")
    return made


def nothing_left(world, connection):
    """The next borrower forgot to say who he is."""
    if world.kind == BOUND:  # whoever logged in is one user in every transaction
        assert notes(connection) == MINE
        return
    for attack in "SELECT note FROM orders", "INSERT INTO orders (id) VALUES (99)", "DELETE FROM orders", "COPY orders TO STDOUT":
        with raises("TN001"):
            connection.execute(attack)
    assert connection.execute("SELECT amp.context() ->> 'tenant_id', amp.user_id(), amp.context() ->> 'proof'").fetchone() == (None,) * 3


def test_B1_last_setting_wins_plain(plain):
    """Plain: the setting of whoever came last is everybody's."""
    with plain.connect("amp_svc") as connection:
        connection.execute("SET app.tenant = 't1'")
        connection.execute("SET app.tenant = 't2'")
        assert notes(connection) == THEIRS


def test_B1_nothing_outlives_its_transaction(pooled):
    """Borrowers of two tenants in turn, and one who forgets to say who he is."""
    with pooled.connect() as connection:
        for _ in range(2):
            for tenant, rows in ("t1", MINE), ("t2", THEIRS):
                with borrowed(pooled, connection, tenant):
                    assert notes(connection) == rows
                nothing_left(pooled, connection)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
def test_B1_however_it_ends(pooled, end):
    """COMMIT, ROLLBACK and their chained forms leave nothing."""
    with pooled.connect() as connection:
        connection.execute("BEGIN")
        pooled.enter(connection, "t2")
        assert notes(connection) == THEIRS
        connection.execute(end)
        if "CHAIN" in end and pooled.kind != BOUND:
            with raises("TN001"):
                notes(connection)
            connection.execute("ROLLBACK")
        nothing_left(pooled, connection)


def test_B1_autocommit(pooled):
    """The context of a borrower who set it in autocommit, by session settings or by a credential, is nobody's."""
    with pooled.connect() as connection:
        if pooled.kind == "service":
            connection.execute("SET amp.tenant_id = 't2'")
        else:
            pooled.enter(connection, "t2")
        nothing_left(pooled, connection)
        connection.execute("BEGIN")
        if pooled.kind != BOUND:
            with raises("TN001"):
                notes(connection)
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("kind", [SERVICE, KEY, TOKEN])
def test_B1_pooler_in_session_mode(amp, kind):
    """In session scope a borrower's proof stays until the pooler runs DISCARD ALL, as it does between two sessions."""
    with Proved(amp, kind).open() as connection:
        assert notes(connection) == MINE
        connection.execute("DISCARD ALL")
        nothing_left(Plain(amp), connection)


@pytest.mark.parametrize("failing", ["SELECT 1/0", "SELECT * FROM nowhere", "not SQL", "SET LOCAL amp.tenant_id = 'nowhere'",
                                     "SELECT amp.authenticate('nonsense')", "SELECT pg_cancel_backend(pg_backend_pid())"])
def test_B2_an_error_between_begin_and_commit(pooled, failing):
    """A borrower's transaction fails; the pooler rolls it back and gives the connection to the next."""
    with pooled.connect() as connection:
        connection.execute("BEGIN")
        pooled.enter(connection, "t2")
        assert notes(connection) == THEIRS
        with pytest.raises(psycopg.Error):
            connection.execute(failing)
        connection.execute("ROLLBACK")
        nothing_left(pooled, connection)


def with_hold(world):
    with closing(world.connect()) as connection:
        with borrowed(world, connection, "t1"):
            connection.execute("DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders")
        with borrowed(world, connection, "t2"):
            return column(connection, "FETCH ALL FROM c")


def test_B3_with_hold_cursor_plain(poor):
    """Plain: t1's holdable cursor is fetched by t2."""
    assert with_hold(poor) == MINE


def test_B3_with_hold_cursor(pooled):
    """The same under amp: refused."""
    with raises("TN004", "WITH HOLD"):
        with_hold(pooled)


def temporary_table(world, make):
    with closing(world.connect()) as connection:
        with borrowed(world, connection, "t1"):
            connection.execute(make)
        with borrowed(world, connection, "t2"):
            return column(connection, "SELECT note FROM kept")


COPIES = ["CREATE TEMP TABLE kept AS SELECT note FROM orders", "SELECT note INTO TEMP kept FROM orders",
          "CREATE TEMP TABLE kept (note text); INSERT INTO kept SELECT note FROM orders"]


@pytest.mark.parametrize("make", COPIES)
def test_B4_temporary_table_plain(poor, make):
    """Plain: t1's rows in a temporary table are t2's to read."""
    assert temporary_table(poor, make) == MINE


@pytest.mark.parametrize("make", COPIES)
def test_B4_temporary_table(pooled, make):
    """The same under amp: refused."""
    with raises("TN004", "temporary"):
        temporary_table(pooled, make)


TEMPORARY = [
    "CREATE TEMP TABLE kept (id int) ON COMMIT DROP",
    "CREATE TEMP VIEW kept AS SELECT 1",
    "CREATE TEMP SEQUENCE kept",
    "CREATE TYPE pg_temp.kept AS (id int)",
    "CREATE DOMAIN pg_temp.kept AS int",
    "CREATE FUNCTION pg_temp.kept() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR pg_temp.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
    "CREATE AGGREGATE pg_temp.kept (int) (SFUNC = int4pl, STYPE = int)",
    "SET LOCAL search_path = pg_temp; CREATE TABLE kept (id int)",
    "DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE kept (id int)'; END $$",
    "PREPARE p AS SELECT 1; CREATE TEMP TABLE kept AS EXECUTE p",
]


@pytest.mark.parametrize("make", TEMPORARY)
def test_B4_any_temporary_object(pooled, make):
    """Whatever lives in pg_temp, however it is made, is refused, and nothing is there afterwards."""
    with pooled.connect() as connection:
        with raises("TN004", "temporary"), borrowed(pooled, connection, "t1"):
            connection.execute(make)
        left = "SELECT count(*) FROM pg_class WHERE relname = 'kept'"
        assert connection.execute(left).fetchone() == (0,)


def test_B4_temporary_objects_in_session_scope(proved):
    """A session that nobody else borrows may have them."""
    with proved.open() as session:
        session.execute("CREATE TEMP TABLE kept AS SELECT note FROM orders")
        assert column(session, "SELECT note FROM kept") == MINE


@pytest.mark.parametrize("query", CURSORS)
def test_B5_cursor_under_another_tenant(proved, query):
    """A cursor is opened under one tenant and fetched under another, by any means, or under none."""
    changes = [("SET amp.tenant_id = 't2'", "TN003", "set"), (token(claims("two")), "TN006", "authenticate"),
               (token(claims("two", "t2")), "TN006", "authenticate"), ("RESET ALL", "TN001", "set")]
    for change, sqlstate, how in changes:
        with proved.open(autocommit=False) as session:
            session.execute(f"DECLARE c CURSOR FOR {query}")
            assert column(session, "FETCH 1 FROM c") == ["mine"]
            if change == "RESET ALL" and proved.kind == BOUND:
                continue  # he is who he is
            with raises(sqlstate):
                authenticate(session, change) if how == "authenticate" else session.execute(change)
                session.execute("FETCH 1 FROM c")


@pytest.mark.parametrize("query", CURSORS)
def test_B5_cursor_under_another_tenant_of_ones_own(choosing, query):
    """The same by a user of both: the cursor does not turn, and does not go on."""
    for change, sqlstate in ("SET amp.tenant_id = 't2'", "TN006"), ("RESET ALL", "TN001"):
        with choosing.open(autocommit=False) as session:
            session.execute(f"DECLARE c CURSOR FOR {query}")
            assert column(session, "FETCH 1 FROM c") == ["mine"]
            session.execute(change)
            with raises(sqlstate):
                session.execute("FETCH 1 FROM c")


def test_B5_cursor_under_another_user_of_the_tenant(amp):
    """Another credential for the same tenant in the middle of a cursor: the tenant stays, what may be read is asked anew."""
    proved = Proved(amp, KEY)
    with amp.connect() as admin:
        admin.execute("INSERT INTO amp.roles (tenant_id, name, permissions) VALUES ('t1', 'blind', '{}')")
        admin.execute("UPDATE amp.members SET role = 'blind' WHERE tenant_id = 't1' AND user_id = 'both'")
    with proved.open(autocommit=False) as session:
        session.execute("DECLARE c CURSOR FOR SELECT note FROM orders ORDER BY note")
        assert column(session, "FETCH 1 FROM c") == ["mine"]
        proved.enter(session, token(claims("both", "t1")))
        with raises("TN004"):
            session.execute("FETCH 1 FROM c")


def poisoned_table(world):
    with closing(world.connect()) as connection:
        with borrowed(world, connection, "t1"):
            connection.execute("CREATE TEMP TABLE orders (LIKE public.orders)")
        with borrowed(world, connection, "t2"):
            connection.execute("INSERT INTO orders VALUES (99, 't2', 'private')")
        with borrowed(world, connection, "t1"):
            return column(connection, "SELECT note FROM pg_temp.orders")


def test_B6_temporary_table_in_front_plain(poor):
    """Plain: t1 leaves a temporary table with the name of the real one; t2 writes into it and t1 reads that."""
    assert poisoned_table(poor) == ["private"]


def test_B6_temporary_table_in_front(pooled):
    """The same under amp: refused."""
    with raises("TN004", "temporary"):
        poisoned_table(pooled)


def poisoned_statement(world):
    with closing(world.connect()) as connection:
        with borrowed(world, connection, "t1"):
            connection.execute("PREPARE getorders AS SELECT 'poisoned'")
        with borrowed(world, connection, "t2"):
            return column(connection, "EXECUTE getorders")


def test_B7_prepared_statement_in_front_plain(poor):
    """Plain: t1 prepares a statement under the name that t2 executes."""
    assert poisoned_statement(poor) == ["poisoned"]


def test_B7_prepared_statement_in_front(pooled):
    """The same under amp: gone with the transaction that prepared it, committed or not."""
    with raises("26000"):
        poisoned_statement(pooled)
    with pooled.connect() as connection:
        connection.execute("BEGIN; PREPARE getorders AS SELECT 'poisoned'; EXECUTE getorders; ROLLBACK")
        with raises("26000"):
            connection.execute("EXECUTE getorders")
        with raises("TN004", "PREPARE outside of a transaction"):
            connection.execute("PREPARE getorders AS SELECT 'poisoned'")


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_B7_a_prepared_statement_has_the_tenant_of_who_executes_it(pooled, monitor, mode):
    """Prepared by the protocol, as drivers do, and planned under t1; executed under t2 and under nobody."""
    with pooled.connect(options=f"-c plan_cache_mode={mode}") as connection:

        def run(statement):
            return sorted(row[0] for row in connection.execute(statement, prepare=True))

        read, write = "SELECT note FROM orders", "UPDATE orders SET note = note RETURNING note"
        for tenant, rows in ("t1", MINE), ("t2", THEIRS), ("t1", MINE):
            with borrowed(pooled, connection, tenant):
                assert run(read) == run(write) == rows
        names = column(connection, "SELECT statement FROM pg_prepared_statements WHERE NOT from_sql")
        assert {read, write} <= set(names)
        for statement in read, write:
            if pooled.kind == BOUND:
                assert run(statement) == MINE
            else:
                with raises("TN001"):
                    run(statement)


RESIDUE = {
    "search_path": ("SET search_path = pg_temp, public", "SHOW search_path"),
    "row_security": ("SET row_security = off", "SHOW row_security"),
    "statement_timeout": ("SET statement_timeout = '1h'", "SHOW statement_timeout"),
    "default_transaction_read_only": ("SET default_transaction_read_only = on", "SHOW default_transaction_read_only"),
    "role": ("SET ROLE pg_monitor", "SELECT current_user"),
    "listen": ("LISTEN t1_events", "SELECT count(*)::text FROM pg_listening_channels()"),
    "advisory lock": ("SELECT pg_advisory_lock(42)", "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
}


def residue(world, leave, look):
    with closing(world.connect()) as connection:
        before = connection.execute(look).fetchone()
        with borrowed(world, connection, "t1"):
            connection.execute(leave)
        with borrowed(world, connection, "t2"):
            return before, connection.execute(look).fetchone()


@pytest.fixture
def monitor(cluster):
    """A role that the pool's login roles may take."""
    with cluster.connect() as admin:
        admin.execute("GRANT pg_monitor TO amp_svc, amp_client")
    yield
    with cluster.connect() as admin:
        admin.execute("REVOKE pg_monitor FROM amp_svc, amp_client")


@pytest.mark.parametrize("kind", RESIDUE)
def test_B8_session_state_plain(poor, monitor, kind):
    """Plain: what t1 sets, takes or listens to is still so for t2."""
    before, after = residue(poor, *RESIDUE[kind])
    assert before != after


@pytest.mark.parametrize("kind", RESIDUE)
def test_B8_session_state(pooled, monitor, kind):
    """The same under amp: as it was, or refused where it cannot end with the transaction; in a hardened database such locks are refused anyway."""
    if kind in ("listen", "advisory lock"):
        with raises("42501" if HARDENED and kind == "advisory lock" else "TN004"):
            residue(pooled, *RESIDUE[kind])
        return
    before, after = residue(pooled, *RESIDUE[kind])
    assert before == after


SETTING = [
    "SET statement_timeout = 12345",
    "SELECT set_config('statement_timeout', '12345', false)",
    "UPDATE pg_settings SET setting = '12345' WHERE name = 'statement_timeout'",
    "DO $$ BEGIN PERFORM set_config('statement_timeout', '12345', false); END $$",
    "SET statement_timeout = 1; SET LOCAL statement_timeout = 12345",
    "SET LOCAL statement_timeout = 1; SET statement_timeout = 12345",
    "SAVEPOINT a; SET statement_timeout = 12345; RELEASE a",
    "SET TimeZone = 'Asia/Tokyo'; SET statement_timeout = 12345",
]


@pytest.mark.parametrize("how", SETTING)
def test_B8_set_ends_with_the_transaction(pooled, how):
    """Every way of setting something for the session: it counts in the transaction, and ends with it; the client is told."""
    look = "SELECT current_setting('statement_timeout'), current_setting('TimeZone')"
    with pooled.connect() as connection:
        told = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.execute("SET statement_timeout = '1h'")  # set up before it is lent, and kept
        before = connection.execute(look).fetchone()
        assert before[0] == "1h"
        with borrowed(pooled, connection, "t1"):
            connection.execute(how)
            assert connection.execute(look).fetchone()[0] == "12345ms"
        assert connection.execute(look).fetchone() == before
        assert len(told) == 1 and "statement_timeout" in told[0]


def test_B8_what_a_pooler_sets_stays(pooled):
    """Outside of a transaction, once lent: poolers' own settings stay, others end with the statement."""
    with pooled.connect() as connection:
        with borrowed(pooled, connection, "t1"):
            connection.execute("SELECT 1")
        if pooled.kind == BOUND:
            assert notes(connection) == MINE
        connection.execute("SET client_encoding = 'LATIN1'; SET TimeZone = 'Asia/Tokyo'; SET application_name = 'pooler'")
        connection.execute("SET search_path = pg_temp, public")
        look = "SELECT current_setting('client_encoding'), current_setting('TimeZone'), current_setting('application_name')"
        assert connection.execute(look).fetchone() == ("LATIN1", "Asia/Tokyo", "pooler")
        assert column(connection, "SHOW search_path") == ['"$user", public']


CHAINED = {
    "COMMIT AND CHAIN": "{set}; COMMIT AND CHAIN",
    "chained twice": "COMMIT AND CHAIN; COMMIT AND CHAIN; {set}; COMMIT AND CHAIN",
    "after ROLLBACK AND CHAIN": "ROLLBACK AND CHAIN; {set}; COMMIT AND CHAIN",
    "in the next one": "COMMIT AND CHAIN; {set}",
    "savepoint": "SAVEPOINT a; {set}; COMMIT AND CHAIN",
    "released savepoint": "SAVEPOINT a; {set}; RELEASE a; COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN": "{set}; ROLLBACK AND CHAIN",
    "of a failed one": "{set}; SAVEPOINT a; SELECT 1/0; ROLLBACK AND CHAIN",
}


@pytest.mark.parametrize("way", CHAINED)
def test_B8_what_a_pooler_sets_ends_with_a_chained_transaction(pooled, way):
    """In a transaction they are the borrower's, whichever way it ends: what the pooler has set comes back."""
    look = "SELECT current_setting('DateStyle'), current_setting('client_encoding'), current_setting('application_name')"
    with pooled.connect() as connection:
        connection.execute("SET application_name = 'pooler'")
        before = connection.execute(look).fetchone()
        connection.execute("BEGIN")
        pooled.enter(connection, "t1")
        assert notes(connection) == MINE
        change = "SET DateStyle = 'German'; SET client_encoding = 'LATIN1'; SELECT set_config('application_name', 'mine', false)"
        for statement in CHAINED[way].format(set=change).split("; "):
            with suppress(psycopg.errors.DivisionByZero):
                connection.execute(statement)
        connection.execute("COMMIT")
        assert connection.execute(look).fetchone() == before


def test_B8_what_a_pooler_sets_stays_after_a_chain_that_failed(pooled):
    """AND CHAIN outside of a transaction is an error, and begins none."""
    with pooled.connect() as connection:
        with borrowed(pooled, connection, "t1"):
            assert notes(connection) == MINE
        for statement in "COMMIT AND CHAIN", "SELECT 1; COMMIT AND CHAIN", "ROLLBACK AND CHAIN":
            with raises("25P01"):
                connection.execute(statement)
            connection.execute("SET DateStyle = 'German'")
            assert column(connection, "SHOW DateStyle") == ["German, DMY"]
            connection.execute("RESET DateStyle")


def test_B8_session_scope_and_operators_keep_what_they_set(amp):
    """Nobody borrows those."""
    with amp.connect("amp_svc") as session:
        session.execute("BEGIN; SET amp.tenant_id = 't1'; SET statement_timeout = '1h'; PREPARE q AS SELECT 1; COMMIT")
        assert column(session, "SHOW statement_timeout") == ["1h"]
        assert column(session, "EXECUTE q") == [1]
    with amp.connect() as admin:
        admin.execute(f"ALTER ROLE amp_ops IN DATABASE {amp.name} SET amp.context_scope = 'transaction'")
    with amp.connect("amp_ops") as session:
        session.execute("BEGIN; SET statement_timeout = '1h'; COMMIT; LISTEN platform")
        assert column(session, "SHOW statement_timeout") == ["1h"]


def last_id(world):
    """t1 inserts a row with a generated id, t2 asks for the last one."""
    with world.database.connect("amp_owner") as owner:
        owner.execute("CREATE SEQUENCE ids START 7001; GRANT USAGE ON ids TO amp_svc, amp_client")
    with closing(world.connect()) as connection:
        with borrowed(world, connection, "t1"):
            connection.execute("INSERT INTO orders (id, tenant_id) VALUES (nextval('ids'), 't1')")
            assert column(connection, "SELECT lastval()") == [7001]
        with borrowed(world, connection, "t2"):
            return column(connection, "SELECT lastval()")


def test_B8_last_value_plain(poor):
    """Plain: t2 is told the id that t1 was given last."""
    assert last_id(poor) == [7001]


def test_B8_last_value(pooled):
    """The same under amp: forgotten."""
    with raises("55000", "lastval"):
        last_id(pooled)


def test_B8_row_security_off_shows_nothing(pooled):
    """Switched off before the connection is lent, it is an error for t2, not everybody's rows."""
    with pooled.connect() as connection:
        connection.execute("SET row_security = off")
        with raises("42501"), borrowed(pooled, connection, "t2"):
            notes(connection)


def test_B8_search_path_does_not_move_what_amp_asks(pooled):
    """Functions and tables of amp's names in front, from before the connection is lent: t2's context is amp's own."""
    with pooled.database.connect() as admin:
        admin.execute(f"""
            CREATE SCHEMA front AUTHORIZATION {"amp_svc" if pooled.kind in ("service", SERVICE) else "amp_client"};
            CREATE FUNCTION front.tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 't1' $$;
            CREATE TABLE front.members AS SELECT 't1' AS tenant_id; CREATE TABLE front.signing_keys AS SELECT 'x' AS kid;
            GRANT EXECUTE ON FUNCTION front.tenant_id() TO PUBLIC""")
    with pooled.connect() as connection:
        connection.execute("SET search_path = front, amp, public, pg_catalog")
        with borrowed(pooled, connection, "t2"):
            assert column(connection, "SHOW search_path") == ["front, amp, public, pg_catalog"]
            assert column(connection, "SELECT note FROM public.orders") == THEIRS
            assert column(connection, "SELECT amp.tenant_id()") == ["t2"]


@pytest.fixture(scope="module")
def two_phase():
    """A server that keeps prepared transactions."""
    server = Cluster(max_prepared_transactions=5)
    yield server
    server.remove()


def prepared(world, database):
    """t1 prepares a transaction, t2 finds and commits it; what was written."""
    with closing(world.connect()) as connection:
        connection.execute("BEGIN")
        world.enter(connection, "t1")
        connection.execute("INSERT INTO orders VALUES (99, 't1', 'prepared')")
        connection.execute("PREPARE TRANSACTION 'g'")
        try:
            with borrowed(world, connection, "t2"):
                gid = column(connection, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            connection.execute(f"COMMIT PREPARED '{gid[0]}'")
        finally:
            with database.connect() as admin:
                for (gid,) in admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
                    admin.execute(f"ROLLBACK PREPARED '{gid}'")
    return (99, "t1", "prepared", None, None) in snapshot(database)[1]


def test_B9_two_phase_plain(two_phase):
    """Plain: t2 commits what t1 prepared."""
    database = two_phase.database(extension=False)
    with database.connect("amp_owner") as owner:
        owner.execute(TABLES)
        isolate_plainly(owner, "parents", "orders")
    assert prepared(Plain(database), database)


def two_phase_world(two_phase, kind, scope="transaction", hardened=None):
    database = under_amp(two_phase.database(hardened=hardened))
    with database.connect() as admin:
        for role in "amp_svc", "amp_client":
            admin.execute(f"ALTER ROLE {role} IN DATABASE {database.name} SET amp.context_scope = '{scope}'")
    return Trusted(database) if kind == "service" else ByProof(database, kind)


@pytest.mark.parametrize("kind", ["service", *KINDS])
def test_B9_two_phase(two_phase, kind):
    """The same under amp: refused."""
    world = two_phase_world(two_phase, kind)
    with raises("TN004", "prepared"):
        prepared(world, world.database)


@pytest.mark.parametrize("kind", ["service", *KINDS, CHOOSES])
def test_B9_a_prepared_transaction_takes_its_context_along(two_phase, kind):
    """Where it is allowed, PREPARE TRANSACTION ends the transaction for its session: the next one there starts with no context."""
    world = two_phase_world(two_phase, kind, "session", hardened=False)
    with closing(world.connect()) as connection:
        connection.execute("BEGIN")
        world.enter(connection, "t1")
        assert notes(connection) == MINE
        connection.execute("INSERT INTO orders VALUES (99, 't1', 'prepared'); PREPARE TRANSACTION 'h'")
        nothing_left(world, connection)
        with borrowed(world, connection, "t2"):
            assert notes(connection) == THEIRS
        connection.execute("ROLLBACK PREPARED 'h'")


def test_B10_reset_role_plain(plain, new_role):
    """Plain: a role for each tenant, which the pooler takes by SET ROLE; injected SQL takes the next one's."""
    first, second = new_role("NOLOGIN"), new_role("NOLOGIN")
    with plain.connect("amp_owner") as owner:
        owner.execute(f"""
            DROP POLICY tenant ON orders; GRANT SELECT ON orders TO {first}, {second};
            CREATE POLICY one ON orders TO {first} USING (tenant_id = 't1'); CREATE POLICY two ON orders TO {second} USING (tenant_id = 't2')""")
    with plain.connect(new_role(f"LOGIN IN ROLE {first}, {second}")) as session:
        session.execute(f"SET ROLE {first}")
        assert notes(session) == MINE
        session.execute(f"RESET ROLE; SET ROLE {second}")
        assert notes(session) == THEIRS
    with plain.connect("amp_owner") as owner:
        owner.execute(f"DROP POLICY one ON orders; DROP POLICY two ON orders; REVOKE ALL ON orders FROM {first}, {second}")


def test_B10_reset_role(amp, proved, new_role):
    """Under amp the proof says who it is: no role that the session takes or gives up does."""
    other = new_role("NOLOGIN IN ROLE amp_service")
    with amp.connect() as admin:
        admin.execute(f"ALTER ROLE {proved.role} NOINHERIT; GRANT {other} TO {proved.role}; GRANT SELECT ON orders TO {other}")
    try:
        with proved.open() as session:
            for change in f"SET ROLE {other}", "RESET ROLE", "SET ROLE NONE":
                session.execute(change)
                assert notes(session) == MINE
                with raises("TN003"):
                    session.execute("SET amp.tenant_id = 't2'")
                with pytest.raises(psycopg.Error) as caught:
                    session.execute(f"ALTER ROLE {proved.role} SET amp.require_token = off")
                inherits = proved.kind == SERVICE and session.info.server_version >= 160000  # 16: inherited as granted
                assert caught.value.sqlstate == "TN004" if inherits else caught.value.sqlstate in ("42501", "TN004" if HARDENED else "42501")
    finally:
        with amp.connect() as admin:
            admin.execute(f"ALTER ROLE {proved.role} INHERIT; REVOKE {other} FROM {proved.role}; REVOKE ALL ON orders FROM {other}")
