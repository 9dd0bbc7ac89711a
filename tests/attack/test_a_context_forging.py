"""A. Forging the context, as a service over a real connection; a client is refused outright.

A19 (stolen or replayed proofs) is in test_a_identity.py. A20 is C5, in test_c_shadowing.py; A14 is in test_a_late_library.py.
"""

import psycopg
import pytest

from harness import raises
from world import MINE, THEIRS, column, notes, snapshot

# Every statement that sets a parameter; {0} is its name.
WAYS = [
    "SET {0} = 't2'",
    "SET SESSION {0} = 't2'",
    "SET LOCAL {0} = 't2'",
    "SELECT set_config('{0}', 't2', false)",
    "SELECT set_config('{0}', 't2', true)",
    "DO $$ BEGIN PERFORM set_config('{0}', 't2', false); END $$",
    "DO $$ BEGIN EXECUTE 'SET {0} = ''t2'''; END $$",
]


def transaction_scope(database):
    with database.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {database.name} SET amp.context_scope = 'transaction'")


@pytest.mark.parametrize("way", WAYS)
def test_A1_set_to_another_tenant(plain, amp, way):
    """SET, set_config and DO change the tenant of the running transaction."""
    with plain.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET app.tenant = 't1'")
        assert notes(svc) == MINE
        svc.execute(way.format("app.tenant"))
        assert notes(svc) == THEIRS
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE
        svc.execute(way.format("amp.tenant_id"))
        with raises("TN006"):
            notes(svc)


@pytest.mark.parametrize("role", ["amp_client", "amp_ops"])
@pytest.mark.parametrize("way", WAYS)
def test_A1_set_by_who_may_not_choose(amp, way, role):
    """A client or an operator names a tenant."""
    with amp.connect(role, autocommit=False) as session:
        with raises("TN003"), session.transaction():
            session.execute(way.format("amp.tenant_id"))
        with raises("TN003"), session.transaction():
            session.execute("SET amp.user_id = 'user_x'")
        with raises("TN001"):
            notes(session)


def test_A2_update_pg_settings(plain, amp):
    """UPDATE pg_settings is a rule that calls set_config."""
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        with database.connect("amp_svc") as svc:
            svc.execute(f"SET {setting} = 't1'")
            assert svc.execute("UPDATE pg_settings SET setting = 't2' WHERE name = %s", [setting]).rowcount <= 0
            assert notes(svc) == MINE


def test_A3_flip_in_the_middle_of_a_statement(plain, amp):
    """A set_config in the target list changes the tenant after the first row."""
    flip = "SELECT DISTINCT tenant_id FROM (SELECT tenant_id, set_config('{0}', 't2', false) FROM orders OFFSET 0) x"
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, flip.format("app.tenant")) == ["t1", "t2"]
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN006"):
            svc.execute(flip.format("amp.tenant_id"))
        assert notes(svc) == MINE


A4_READ = """
    WITH f AS MATERIALIZED (SELECT set_config('{0}', 't2', true))
    SELECT note FROM f CROSS JOIN LATERAL (SELECT * FROM orders WHERE f.set_config IS NOT NULL OFFSET 0) o"""
A4_WRITES = [
    pytest.param("WITH f AS MATERIALIZED (SELECT set_config('{0}', 't2', true)) INSERT INTO orders SELECT 99, 't2', 'forged' FROM f"),
    pytest.param("INSERT INTO orders VALUES (99, 't2', (SELECT 'forged' FROM set_config('{0}', 't2', true)))"),
    "UPDATE orders SET tenant_id = 't2', note = set_config('{0}', 't2', true) WHERE id = 11",
]


def test_A4_one_statement_injection_reads(plain, amp):
    """A CTE sets the tenant and the same statement reads: works through the extended protocol."""
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, A4_READ.format("app.tenant")) == THEIRS
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN006"):
            svc.execute(A4_READ.format("amp.tenant_id"))
    with amp.connect("amp_client") as client, raises("TN001"):
        client.execute(A4_READ.format("amp.tenant_id"))


@pytest.mark.parametrize("attack", A4_WRITES)
def test_A4_one_statement_injection_writes(plain, amp, attack):
    """One statement sets the tenant and writes a row of it."""
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        before = snapshot(plain)
        svc.execute(attack.format("app.tenant"))
        assert snapshot(plain) != before
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        before = snapshot(amp)
        with raises("TN006"):
            svc.execute(attack.format("amp.tenant_id"))
        assert snapshot(amp) == before


def test_A5_temporary_function_sets_then_reads(plain, amp):
    """A function in pg_temp sets the tenant and reads."""
    function = """
        CREATE FUNCTION pg_temp.g() RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN PERFORM set_config('{0}', 't2', true); RETURN QUERY SELECT note FROM orders; END $$"""
    with plain.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET app.tenant = 't1'")
        svc.execute(function.format("app.tenant"))
        assert notes(svc) == MINE and column(svc, "SELECT pg_temp.g()") == THEIRS
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        svc.execute(function.format("amp.tenant_id"))
        assert notes(svc) == MINE
        with raises("TN006"):
            svc.execute("SELECT pg_temp.g()")
    with amp.connect("amp_client") as client:
        client.execute(function.format("amp.tenant_id"))
        with raises("TN003"):
            client.execute("SELECT pg_temp.g()")


def test_A6_function_set_clause(plain, amp):
    """CREATE FUNCTION … SET tenant = 't2': refused for an unknown parameter, open as soon as it is granted."""
    function = "CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql SET {} AS 'SELECT note FROM orders'"
    with plain.connect("amp_svc") as svc, plain.connect() as admin:
        svc.execute("SET app.tenant = 't1'")
        with raises("42501"):
            svc.execute(function.format("app.tenant = 't2'"))
        admin.execute("GRANT SET ON PARAMETER app.tenant TO amp_svc")
        try:
            svc.execute(function.format("app.tenant = 't2'"))
            assert column(svc, "SELECT pg_temp.f()") == THEIRS
        finally:
            admin.execute("REVOKE SET ON PARAMETER app.tenant FROM amp_svc")
    for role in "amp_svc", "amp_client":
        with amp.connect(role) as session:
            for value in "amp.tenant_id = 't2'", "amp.user_id = 'user_x'":
                with raises("TN006"):
                    session.execute(function.format(value))


def test_A7_role_and_database_settings(plain, amp):
    """ALTER ROLE and ALTER DATABASE … SET the tenant of every new session. A service's session changes no role, not even its own."""
    with plain.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {plain.name} SET app.tenant = 't2'")
    with plain.connect("amp_svc") as svc:
        assert notes(svc) == THEIRS
        with raises("42501"):
            svc.execute("ALTER ROLE amp_svc SET app.tenant = 't1'")
    for role in "postgres", "amp_svc":
        with amp.connect(role) as session:
            for way in "ALTER ROLE amp_svc", f"ALTER ROLE amp_svc IN DATABASE {amp.name}", f"ALTER DATABASE {amp.name}":
                refusal = "TN006" if role == "postgres" else "42501" if way.startswith("ALTER DATABASE") else "TN004"
                with raises(refusal):
                    session.execute(f"{way} SET amp.tenant_id = 't2'")
    with amp.connect("amp_svc") as svc, raises("TN001"):
        notes(svc)


def test_A7_alter_system(amp):
    """ALTER SYSTEM SET, by a superuser even."""
    with amp.connect() as admin, raises("55P02"):
        admin.execute("ALTER SYSTEM SET amp.tenant_id = 't2'")
    with amp.connect("amp_svc") as svc, raises("42501"):
        svc.execute("ALTER SYSTEM SET amp.tenant_id = 't2'")


def test_A7_widening_the_scope(amp):
    """A role drops the superuser's amp.context_scope from its own settings, or sets another."""
    transaction_scope(amp)
    with amp.connect("amp_svc") as svc:
        for attack in "SET amp.context_scope = 'session'", "SET amp.require_user = off":
            with raises("42501"):
                svc.execute(attack)
        for attack in ("ALTER ROLE amp_svc SET amp.context_scope = 'session'", f"ALTER ROLE amp_svc IN DATABASE {amp.name} RESET amp.context_scope",
                       "ALTER ROLE amp_svc RESET ALL", f"ALTER ROLE amp_svc IN DATABASE {amp.name} RESET ALL"):
            with raises("TN004", "roles cannot be changed"):
                svc.execute(attack)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        amp.connect("amp_svc", options="-c amp.context_scope=session")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN001"):
            notes(svc)


@pytest.mark.parametrize("setting", ["amp.tenant_id=t2", "AMP.Tenant_ID=t2", "amp.user_id=user_x", "amp.parallel_context=t2"])
def test_A8_startup_option(plain, amp, setting):
    """PGOPTIONS names the tenant before the first statement."""
    with plain.connect("amp_svc", options="-c app.tenant=t2") as svc:
        assert notes(svc) == THEIRS
    for role in "amp_svc", "amp_client", "postgres":
        with pytest.raises(psycopg.OperationalError, match=r"SQL in the session only|permission denied|cannot be set"):
            amp.connect(role, options=f"-c {setting}")


RESETS = ["RESET {0}", "SET {0} TO DEFAULT", "RESET ALL", "DISCARD ALL", "SELECT set_config('{0}', NULL, false)"]


@pytest.mark.parametrize("reset", RESETS)
def test_A9_reset_ends_in_no_context(plain, amp, reset):
    """RESET and DISCARD go back to the start-up option's tenant."""
    with plain.connect("amp_svc", options="-c app.tenant=t2") as svc:
        svc.execute("SET app.tenant = 't1'")
        svc.execute(reset.format("app.tenant"))
        assert notes(svc) == THEIRS
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'")
        svc.execute("SET amp.tenant_id = 't1'")
        svc.execute(reset.format("amp.tenant_id"))
        with raises("TN001"):
            notes(svc)


def test_A10_rollback_brings_an_earlier_tenant_back(plain, amp):
    """SET t2; BEGIN; SET t1; ROLLBACK: the session is in t2 again."""
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't2'")
        svc.execute("BEGIN; SET app.tenant = 't1'; ROLLBACK")
        assert notes(svc) == THEIRS
    transaction_scope(amp)
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'")
        svc.execute("BEGIN; SET amp.tenant_id = 't1'; SELECT FROM orders; ROLLBACK")
        with raises("TN001"):
            notes(svc)


def test_A10_rollback_in_session_scope_is_checked_again(amp):
    """In session scope the session's own earlier value comes back, and has to hold by what is true now."""
    with amp.connect("amp_svc") as svc, amp.connect("amp_ops") as ops:
        svc.execute("SET amp.tenant_id = 't2'")
        svc.execute("BEGIN; SET amp.tenant_id = 't1'; SELECT FROM orders")
        ops.execute("SELECT amp.suspend_tenant('t2')")
        svc.execute("ROLLBACK")
        with raises("TN002"):
            notes(svc)
        ops.execute("SELECT amp.activate_tenant('t2')")
        assert notes(svc) == THEIRS


def test_A11_savepoint(plain, amp):
    """ROLLBACK TO a savepoint brings another tenant into a transaction that has read one already."""
    attack = "BEGIN; SET LOCAL {0} = 't2'; SAVEPOINT a; SET LOCAL {0} = 't1'"
    with plain.connect("amp_svc") as svc:
        svc.execute(attack.format("app.tenant"))
        assert notes(svc) == MINE
        svc.execute("ROLLBACK TO a")
        assert notes(svc) == THEIRS
    with amp.connect("amp_svc") as svc:
        svc.execute(attack.format("amp.tenant_id"))
        assert notes(svc) == MINE
        svc.execute("ROLLBACK TO a")
        with raises("TN006"):
            notes(svc)


def test_A11_exception_block(plain, amp):
    """A PL/pgSQL EXCEPTION block is a savepoint, too: what is read under one tenant, then under the other."""
    attack = """
        DO $$ DECLARE seen text; BEGIN
            PERFORM set_config('{0}', 't2', true);
            BEGIN
                PERFORM set_config('{0}', 't1', true);
                SELECT string_agg(note, '; ') INTO seen FROM orders;
                RAISE EXCEPTION 'back';
            EXCEPTION WHEN raise_exception THEN NULL; END;
            RAISE WARNING '% | %', seen, (SELECT min(note) FROM orders);
        END $$"""
    heard = []
    with plain.connect("amp_svc") as svc:
        svc.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        svc.execute(attack.format("app.tenant"))
    assert heard == ["mine; mine, too | secret"]
    with amp.connect("amp_svc") as svc, raises("TN006"):
        svc.execute(attack.format("amp.tenant_id"))


def test_A12_commit_and_chain(plain, amp):
    """COMMIT AND CHAIN drops SET LOCAL: the session's value shows through."""
    attack = "BEGIN; SET LOCAL {0} = 't1'; SELECT FROM orders; COMMIT AND CHAIN"
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't2'")
        svc.execute(attack.format("app.tenant"))
        assert notes(svc) == THEIRS
    transaction_scope(amp)
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'")
        svc.execute(attack.format("amp.tenant_id"))
        with raises("TN001"):
            notes(svc)


def test_A12_commit_in_a_procedure(plain, amp):
    """COMMIT inside CALL ends SET LOCAL in the middle of the procedure, and the session's value shows through."""
    procedure = """
        CREATE PROCEDURE p(INOUT result text) LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('{0}', 't1', true);
            SELECT min(note) INTO result FROM orders;
            COMMIT;
            SELECT min(note) INTO result FROM orders;
        END $$"""
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        with database.connect("amp_owner") as owner:
            owner.execute(procedure.format(setting))
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't2'")
        assert column(svc, "CALL p(NULL)") == ["secret"]
    transaction_scope(amp)
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'")
        with raises("TN001"):
            svc.execute("CALL p(NULL)")


def test_A12_tenant_as_an_argument_outlives_a_commit(amp):
    """CALL p(amp.tenant_id()), and p commits: its argument must still be what it was."""
    with amp.connect("amp_svc") as svc:
        svc.execute("""
            CREATE PROCEDURE pg_temp.p(tenant text, INOUT kept text) LANGUAGE plpgsql AS $$
            BEGIN COMMIT; PERFORM set_config('amp.tenant_id', 't2', false); PERFORM FROM orders; kept := tenant; END $$""")
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "CALL pg_temp.p(amp.tenant_id(), NULL)") == ["t1"]


def test_A13_set_local_outside_of_a_transaction(plain, amp):
    """SET LOCAL in autocommit sets nothing: nobody's rows, and not in silence."""
    with plain.connect("amp_svc") as svc:
        svc.execute("SET LOCAL app.tenant = 't1'")
        assert notes(svc) == []
    with amp.connect("amp_svc") as svc:
        svc.execute("SET LOCAL amp.tenant_id = 't1'")
        with raises("TN001"):
            notes(svc)


def test_A15_empty_string(plain, amp):
    """After a SET LOCAL the setting is '' and not NULL: rows of tenant '' appear."""
    with plain.connect() as admin:
        admin.execute("INSERT INTO orders VALUES (31, '', 'nobody''s')")
    with plain.connect("amp_svc") as svc:
        svc.execute("BEGIN; SET LOCAL app.tenant = 't1'; COMMIT")
        assert notes(svc) == ["nobody's"]
    with amp.connect() as admin:
        admin.execute("INSERT INTO orders VALUES (31, '', 'nobody''s')")
    with amp.connect("amp_ops") as ops, raises("22023"):
        ops.execute("SELECT amp.create_tenant('Empty', 'empty', id => '')")
    with amp.connect("amp_svc") as svc:
        svc.execute("BEGIN; SET LOCAL amp.tenant_id = 't1'; COMMIT")
        with raises("TN001"):
            notes(svc)
        svc.execute("SET amp.tenant_id = ''")
        with raises("TN001"):
            notes(svc)


def test_A16_equality_that_is_too_wide(plain, amp):
    """A tenant column whose = takes two ids for one: protect() refuses it."""
    folding = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    with plain.connect("amp_owner") as owner:
        owner.execute(folding)
        owner.execute("CREATE TABLE wide (tenant_id text COLLATE folding NOT NULL); INSERT INTO wide VALUES ('ACME')")
        owner.execute("ALTER TABLE wide ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY p ON wide USING (tenant_id = current_setting('app.tenant')); GRANT SELECT ON wide TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 'acme'")
        assert column(svc, "SELECT tenant_id FROM wide") == ["ACME"]
    with amp.connect("amp_owner") as owner:
        owner.execute(folding)
        for type_, sqlstate in ("text COLLATE folding", "42P22"), ("char(8)", "42804"), ("numeric", "42804"), ("name", "42804"):
            owner.execute(f"DROP TABLE IF EXISTS wide; CREATE TABLE wide (tenant_id {type_} NOT NULL)")
            with raises(sqlstate):
                owner.execute("SELECT amp.protect('wide')")


def test_A16_two_spellings_of_one_key(amp):
    """Tenants 01 and 1, or a uuid in capitals, on a table keyed by bigint or uuid."""
    upper = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA"
    with amp.connect("amp_ops") as ops:
        for number, tenant in enumerate(["1", "01", upper, upper.lower()]):
            ops.execute("SELECT amp.create_tenant('T', %s, id => %s)", [f"spelling-{number}", tenant])
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE numbered (tenant_id bigint); CREATE TABLE lettered (tenant_id uuid)")
        owner.execute("SELECT amp.protect('numbered'); SELECT amp.protect('lettered')")
        owner.execute("GRANT SELECT, INSERT ON numbered, lettered TO amp_svc")
    for table, exact, other in ("numbered", "1", "01"), ("lettered", upper.lower(), upper):
        with amp.connect("amp_svc") as svc:
            svc.execute(f"SET amp.tenant_id = '{exact}'")
            svc.execute(f"INSERT INTO {table} DEFAULT VALUES")
            assert len(column(svc, f"SELECT tenant_id FROM {table}")) == 1
            svc.execute(f"SET amp.tenant_id = '{other}'")
            with raises("22P02"):
                svc.execute(f"SELECT * FROM {table}")
            with raises("22P02"):
                svc.execute(f"INSERT INTO {table} DEFAULT VALUES")


def test_A17_null_tenant(plain, amp):
    """Rows without a tenant, and a policy that finds NULL equal to no context."""
    with plain.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE loose (tenant_id text, note text); INSERT INTO loose VALUES (NULL, 'unowned')")
        owner.execute("ALTER TABLE loose ENABLE ROW LEVEL SECURITY; GRANT SELECT ON loose TO amp_svc")
        owner.execute("CREATE POLICY p ON loose USING (tenant_id IS NOT DISTINCT FROM current_setting('app.tenant', true))")
    with plain.connect("amp_svc") as svc:
        assert column(svc, "SELECT note FROM loose") == ["unowned"]
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE loose (tenant_id text, note text); INSERT INTO loose VALUES (NULL, 'unowned')")
        with raises("23502"):
            owner.execute("SELECT amp.protect('loose')")
        owner.execute("DELETE FROM loose; SELECT amp.protect('loose'); GRANT SELECT, INSERT ON loose TO amp_svc")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("42501"):  # the policy's check comes before the column's
            svc.execute("INSERT INTO loose VALUES (NULL, 'unowned')")


MALFORMED = ["t 1", " t1", "t1 ", "t1'--", "t1;t2", "t1\nt2", "t1,t2", "*", "%", "tëst", "т1", "t1\u200b", "x" * 65, "../t2", '"t1"']


@pytest.mark.parametrize("value", MALFORMED)
def test_A18_malformed_id(amp, value):
    """What is no id is refused where it is set, and the tenant stays what it was."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for setting in "amp.tenant_id", "amp.user_id":
            for local in False, True:
                with raises("22023"):
                    svc.execute("SELECT set_config(%s, %s, %s)", [setting, value, local])
        assert notes(svc) == MINE
    with amp.connect("amp_ops") as ops, raises("22023"):
        ops.execute("SELECT amp.create_tenant('T', 'malformed', id => %s)", [value])


def test_A18_unknown_and_inactive_tenants_look_the_same(amp):
    """An unknown, a suspended and a deleted tenant are refused at SET, in the same words."""
    with amp.connect("amp_ops") as ops:
        for tenant in "gone", "asleep":
            ops.execute("SELECT amp.create_tenant('T', %s, id => %s)", [f"slug-{tenant}", tenant])
        ops.execute("SELECT amp.delete_tenant('gone'); SELECT amp.suspend_tenant('asleep')")
    said = set()
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for tenant in "never", "gone", "asleep", "x" * 64, "T1":
            with raises("TN002") as caught:
                svc.execute(f"SET amp.tenant_id = '{tenant}'")
            diagnosis = caught.value.diag
            said.add((diagnosis.message_primary.replace(tenant, "…"), diagnosis.message_detail, diagnosis.message_hint))
        assert notes(svc) == MINE
    assert len(said) == 1


def test_A21_another_role(plain, amp):
    """SET ROLE and SET SESSION AUTHORIZATION to somebody who may more."""
    for database in plain, amp:
        with database.connect("amp_client") as client:
            for attack in "SET ROLE amp_svc", "SET ROLE postgres", "SET SESSION AUTHORIZATION amp_svc", "SET ROLE amp_owner":
                with raises("42501"):
                    client.execute(attack)


def test_A21_set_role_does_not_change_who_logged_in(amp, new_role):
    """A client that is a member of a service without inheriting takes its role: he is a client still."""
    client = new_role("LOGIN NOINHERIT IN ROLE amp_svc")
    with amp.connect(client) as session:
        session.execute("SET ROLE amp_svc")
        with raises("TN003"):
            session.execute("SET amp.tenant_id = 't2'")
        with raises("TN001"):
            notes(session)


def test_A21_session_authorization_takes_the_context_along(amp):
    """A superuser's session becomes a service's, then a client's: each is judged by itself."""
    with amp.connect() as session:
        session.execute("SET SESSION AUTHORIZATION amp_svc; SET amp.tenant_id = 't1'")
        assert notes(session) == MINE
        session.execute("SET SESSION AUTHORIZATION amp_client")
        with raises("TN003"):
            notes(session)
        session.execute("BEGIN; SET LOCAL SESSION AUTHORIZATION amp_svc")
        assert notes(session) == MINE
        session.execute("ROLLBACK")
        with raises("TN003"):
            notes(session)
