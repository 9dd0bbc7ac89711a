"""A. Forging the context in sessions that have proved who they are: by a token, an API key, or a bound login role.

That each attack works on plain PostgreSQL, and what a trusted service meets, is in test_a_context_forging.py, under the same names.
Here, `proved` sessions can enter t1 alone; a `choosing` one may enter t2, too, but not in the same transaction.
"""

import time
from uuid import uuid4

import psycopg
import pytest

from credentials import claims, token
from harness import HARDENED, Cluster, raises
from proofs import BOUND, KEY, SERVICE, TOKEN, Proved, authenticate
from test_a_context_forging import A4_READ, A4_WRITES, MALFORMED, RESETS, WAYS
from world import MINE, THEIRS, column, notes, people, snapshot, under_amp

NOBODY = ["amp_client", "amp_svc"]


@pytest.fixture(params=NOBODY)
def stranger(amp, request):
    """Sessions that have proved nothing: a client's, and those of a service that has to."""
    made = Proved(amp, TOKEN if request.param == "amp_client" else SERVICE)
    made.credential = None
    return made


def test_A1_set_to_another_tenant(proved):
    """SET, set_config and DO name a tenant that the proof does not open."""
    with proved.open(autocommit=False) as session:
        assert notes(session) == MINE
        for way in WAYS:
            with raises("TN003"), session.transaction():
                session.execute(way.format("amp.tenant_id"))
            assert notes(session) == MINE


@pytest.mark.parametrize("way", WAYS)
def test_A1_set_to_a_tenant_of_ones_own(choosing, way):
    """The user is a member of both: in one transaction he still acts for one."""
    with choosing.open(autocommit=False) as session:
        assert notes(session) == MINE
        session.execute(way.format("amp.tenant_id"))
        with raises("TN006"):
            notes(session)
    with choosing.open(autocommit=False) as session:
        session.execute(way.format("amp.tenant_id"))
        assert notes(session) == THEIRS


def test_A1_set_without_a_proof(stranger):
    """Who has proved nothing names a tenant and a user."""
    with stranger.open(autocommit=False) as session:
        for way in WAYS:
            for attack in way.format("amp.tenant_id"), way.format("amp.user_id").replace("t2", "two"):
                with raises("TN003"), session.transaction():
                    session.execute(attack)
        with raises("TN001"):
            notes(session)


def test_A1_set_to_another_user(proved):
    """SET amp.user_id: a proof says who the user is, and even himself he does not name."""
    with proved.open() as session:
        for user in "two", "one", "both", "nobody":
            for way in "SET amp.user_id = '{}'", "SET LOCAL amp.user_id = '{}'", "SELECT set_config('amp.user_id', '{}', false)":
                with raises("TN006"):
                    session.execute(way.format(user))
        assert session.execute("SELECT amp.user_id(), amp.tenant_id()").fetchone() == (proved.user, "t1")


FORGED = ["amp.identity", "amp.require_token", "amp.context_scope", "amp.token_leeway", "amp.parallel_context"]


def shares_its_role(proved):
    """Whether others may log in with the same role, so that no session changes it: a service's, and any that is not bound, in a hardened database."""
    return proved.kind == SERVICE or HARDENED and proved.kind != BOUND


@pytest.mark.parametrize("setting", FORGED)
def test_A1_set_what_the_proof_is_kept_in(proved, setting):
    """The proof and the rules for it are settings, too: they are written, copied from another session, or taken away."""
    with proved.database.connect("amp_client") as other:
        value = {"amp.require_token": "off", "amp.context_scope": "session", "amp.token_leeway": "300"}.get(setting)
        if value is None:
            authenticate(other, token(claims("two")))
            value = other.execute(f"SHOW {setting}").fetchone()[0]
    with proved.open() as session:
        for attack in (f"SET {setting} = '{value}'", f"SET LOCAL {setting} = '{value}'", f"RESET {setting}", f"SET {setting} TO DEFAULT",
                       f"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET {setting} = '{value}' AS 'SELECT 1'",
                       f"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET {setting} FROM CURRENT AS 'SELECT 1'"):
            with raises("42501"):
                session.execute(attack)
        with raises("TN004" if shares_its_role(proved) else "42501"):
            session.execute(f"ALTER ROLE {proved.role} SET {setting} = '{value}'")
        for local in True, False:
            with raises("42501"):
                session.execute("SELECT set_config(%s, %s, %s)", [setting, value, local])
        session.execute("UPDATE pg_settings SET setting = %s WHERE name = %s AND context <> 'superuser'", [value, setting])
        assert notes(session) == MINE


def test_A1_a_superuser_cannot_write_a_proof(amp, proved):
    """What amp.identity holds is written by amp.authenticate() alone: granting the setting gives nobody away."""
    with amp.connect("amp_client") as other:
        authenticate(other, token(claims("two")))
        value = other.execute("SHOW amp.identity").fetchone()[0]
    with amp.connect() as admin:
        with raises("TN006"):
            admin.execute("SELECT set_config('amp.identity', %s, false)", [value])
        admin.execute(f"GRANT SET ON PARAMETER amp.identity TO {proved.role}")
        try:
            with proved.open() as session:
                with raises("TN006"):
                    session.execute("SELECT set_config('amp.identity', %s, false)", [value])
                assert notes(session) == MINE
        finally:
            admin.execute(f"REVOKE SET ON PARAMETER amp.identity FROM {proved.role}")


def test_A2_update_pg_settings(proved):
    """UPDATE pg_settings is a rule that calls set_config."""
    with proved.open() as session:
        for name, value in ("amp.tenant_id", "t2"), ("amp.user_id", "two"), ("amp.identity", ""):
            assert session.execute("UPDATE pg_settings SET setting = %s WHERE name = %s", [value, name]).rowcount <= 0
        assert notes(session) == MINE


FLIPS = {"set_config": "set_config('amp.tenant_id', 't2', false)", "authenticate": "amp.authenticate('{}')::text"}


def flip(how):
    return FLIPS[how].format(token(claims("two")))


@pytest.mark.parametrize("how", FLIPS)
def test_A3_flip_in_the_middle_of_a_statement(proved, how):
    """set_config, or a credential for t2 (which the attacker happens to have), in the target list after the first row."""
    attack = f"SELECT DISTINCT tenant_id FROM (SELECT tenant_id, {flip(how)} FROM orders OFFSET 0) x"
    with proved.open() as session:
        with raises("TN003" if how == "set_config" else "TN006"):
            session.execute(attack)
        assert notes(session) == MINE


@pytest.mark.parametrize("how", FLIPS)
def test_A3_flip_to_a_tenant_of_ones_own(choosing, how):
    """The same by who may enter both: one statement sees one tenant."""
    with choosing.open() as session:
        with raises("TN006"):
            session.execute(f"SELECT DISTINCT tenant_id FROM (SELECT tenant_id, {flip(how)} FROM orders OFFSET 0) x")
        assert notes(session) == MINE


def test_A3_flip_to_an_operators_key(amp, proved):
    """An operator's key in the middle of a statement: it opens no tenant, so the rest of the rows is refused."""
    with amp.connect("amp_ops") as ops:
        key = column(ops, "SELECT amp.create_operator_key('test') ->> 'key'")[0]
    with proved.open() as session, pytest.raises(psycopg.Error) as caught:
        session.execute(f"SELECT note FROM orders WHERE amp.authenticate('{key}') IS NOT NULL")
    assert caught.value.sqlstate in ("TN001", "TN003")


@pytest.mark.parametrize("how", FLIPS)
def test_A4_one_statement_injection_reads(proved, how):
    """A CTE changes the tenant and the same statement reads."""
    attack = f"""
        WITH f AS MATERIALIZED (SELECT {flip(how)} AS changed)
        SELECT note FROM f CROSS JOIN LATERAL (SELECT * FROM orders WHERE f.changed IS NOT NULL OFFSET 0) o"""
    with proved.open() as session:
        with raises("TN003" if how == "set_config" else "TN006"):
            session.execute(attack)
        assert notes(session) == MINE


def test_A4_one_statement_injection_by_who_has_no_context(stranger):
    """The statement of who has proved nothing is refused before its first row, also if it brings a credential along."""
    with stranger.open() as session:
        for attack in A4_READ.format("amp.tenant_id"), f"SELECT note FROM orders WHERE {flip('authenticate')} IS NOT NULL":
            with raises("TN001"):
                session.execute(attack)


@pytest.mark.parametrize("attack", A4_WRITES)
def test_A4_one_statement_injection_writes(amp, proved, attack):
    """One statement sets the tenant and writes a row of it."""
    before = snapshot(amp)
    with proved.open() as session, raises("TN003"):
        session.execute(attack.format("amp.tenant_id"))
    assert snapshot(amp) == before


@pytest.mark.parametrize("attack", A4_WRITES)
def test_A4_one_statement_injection_writes_to_a_tenant_of_ones_own(amp, choosing, attack):
    """The same by who may enter both."""
    before = snapshot(amp)
    with choosing.open() as session, raises("TN006"):
        session.execute(attack.format("amp.tenant_id"))
    assert snapshot(amp) == before


@pytest.mark.parametrize("how", FLIPS)
def test_A5_temporary_function_sets_then_reads(proved, how):
    """A function in pg_temp changes the tenant and reads."""
    with proved.open(autocommit=False) as session:
        session.execute(f"""
            CREATE FUNCTION pg_temp.g() RETURNS SETOF text LANGUAGE plpgsql AS $$
            BEGIN PERFORM {flip(how)}; RETURN QUERY SELECT note FROM orders; END $$""")
        assert notes(session) == MINE
        with raises("TN003" if how == "set_config" else "TN006"):
            session.execute("SELECT pg_temp.g()")


def test_A5_a_credential_in_code_that_the_server_runs_on_the_side(amp, proved):
    """An index expression that authenticates, in the owner's ANALYZE, makes nobody another user."""
    with amp.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE TABLE bait AS SELECT generate_series(1, 100) x;
            CREATE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
            CREATE INDEX ON bait (bite(x));
            CREATE OR REPLACE FUNCTION bite(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
            BEGIN PERFORM amp.authenticate('{token(claims("two"))}'); RETURN $1; END $$""")
        with raises("TN006"):
            owner.execute("ANALYZE bait")
        with raises("TN001"):
            notes(owner)


def test_A6_function_set_clause(proved):
    """CREATE FUNCTION … SET tenant = 't2', or SET … FROM CURRENT."""
    with proved.open() as session:
        for clause in "amp.tenant_id = 't2'", "amp.tenant_id = 't1'", "amp.user_id = 'two'":
            with raises("TN006"):
                session.execute(f"CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql SET {clause} AS 'SELECT note FROM orders'")
        session.execute("SET amp.tenant_id = 't1'")
        with raises("TN006"):
            session.execute("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET amp.tenant_id FROM CURRENT AS 'SELECT 1'")


def test_A6_proof_in_a_function_with_a_set_clause(proved):
    """A function with a SET clause has settings of its own while it runs: a credential that it passes holds as any other."""
    with proved.connect() as session:
        session.execute(f"""
            CREATE FUNCTION pg_temp.f(credential text) RETURNS text LANGUAGE plpgsql SET work_mem = '1MB' AS $$
            BEGIN PERFORM amp.authenticate(credential); RETURN (SELECT min(note) FROM orders); END $$""")
        session.execute("BEGIN")
        assert column(session, "SELECT pg_temp.f(%s)", token(claims("two"))) == ["secret"]
        with raises("TN006"):
            proved.enter(session, token(claims("both", "t1")))
        session.execute("ROLLBACK")
        if proved.kind != BOUND:
            with raises("TN001"):
                notes(session)


def test_A7_role_and_database_settings(proved):
    """ALTER ROLE and ALTER DATABASE … SET the tenant, or drop the superuser's rules, for every new session. One that shares its role changes none at all."""
    proved.set("amp.context_scope = 'transaction'")
    shared = shares_its_role(proved)
    with proved.open() as session:
        for way in f"ALTER ROLE {proved.role}", f"ALTER ROLE {proved.role} IN DATABASE {proved.database.name}":
            with raises("TN004" if shared else "TN006"):
                session.execute(f"{way} SET amp.tenant_id = 't2'")
            for rule in "SET amp.require_token = off", "SET amp.context_scope = 'session'", "SET amp.token_leeway = 300":
                with raises("TN004" if shared else "42501"):
                    session.execute(f"{way} {rule}")
            try:
                session.execute(f"{way} RESET ALL")
            except psycopg.Error as error:
                assert error.sqlstate == ("TN004" if shared else "42501")
        with raises("42501"):
            session.execute(f"ALTER DATABASE {proved.database.name} SET amp.tenant_id = 't2'")
    with proved.connect(autocommit=False) as session:
        if proved.kind == BOUND:
            assert notes(session) == MINE
        else:
            with raises("TN001"), session.transaction():
                notes(session)
            with raises("TN003"), session.transaction():
                session.execute("SET amp.tenant_id = 't1'")
            proved.enter(session)
            session.commit()
            with raises("TN001"):
                notes(session)


@pytest.mark.parametrize("setting", ["amp.tenant_id=t1", "amp.user_id=one", "amp.identity=x", "amp.require_token=off",
                                     "amp.context_scope=session", "amp.token_leeway=300"])
def test_A8_startup_option(proved, setting):
    """PGOPTIONS names the tenant, or loosens the rules, before the first statement."""
    with pytest.raises(psycopg.OperationalError, match=r"SQL in the session only|permission denied"):
        proved.connect(options=f"-c {setting}")


@pytest.mark.parametrize("reset", RESETS)
def test_A9_reset_ends_in_no_context_or_the_proofs(proved, reset):
    """RESET goes back to where the proof starts; RESET ALL and DISCARD ALL give the proof up."""
    with proved.open() as session:
        session.execute("SET amp.tenant_id = 't1'")
        session.execute(reset.format("amp.tenant_id"))
        if "ALL" in reset and proved.kind != BOUND:
            with raises("TN001"):
                notes(session)
            with raises("TN003"):
                session.execute("SET amp.tenant_id = 't1'")
        else:
            assert notes(session) == MINE


@pytest.mark.parametrize("reset", RESETS)
def test_A9_reset_of_a_chosen_tenant(choosing, reset):
    """The user was in t2 by SET: RESET does not leave him there."""
    with choosing.open() as session:
        session.execute("SET amp.tenant_id = 't2'")
        assert notes(session) == THEIRS
        session.execute(reset.format("amp.tenant_id"))
        if "ALL" in reset:
            with raises("TN001"):
                notes(session)
        else:
            assert notes(session) == MINE


def test_A9_reset_in_a_transaction_that_has_read(choosing):
    """RESET as a way to change the tenant of a transaction: the pin stays."""
    for reset, sqlstate in ("RESET amp.tenant_id", "TN006"), ("RESET ALL", "TN001"):
        with choosing.open(autocommit=False) as session:
            session.execute("SET amp.tenant_id = 't2'")
            assert notes(session) == THEIRS
            session.execute(reset)
            with raises(sqlstate):
                notes(session)


def test_A10_rollback_brings_an_earlier_proof_back(proved):
    """Authenticated for t2; BEGIN; authenticated for t1; ROLLBACK: in session scope his own earlier proof is back, in transaction scope none."""
    with proved.connect() as session:
        proved.enter(session, token(claims("two")))
        assert notes(session) == THEIRS
        session.execute("BEGIN")
        proved.enter(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        session.execute("ROLLBACK")
        assert notes(session) == THEIRS
    proved.set("amp.context_scope = 'transaction'")
    with proved.connect() as session:
        proved.enter(session, token(claims("two")))
        session.execute("BEGIN")
        proved.enter(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        session.execute("ROLLBACK")
        if proved.kind == BOUND:
            assert notes(session) == MINE
        else:
            with raises("TN001"):
                notes(session)


def test_A10_a_proof_that_comes_back_is_checked_again(proved):
    """The earlier proof is an API key, and was revoked meanwhile."""
    key, credential = proved.new_key("two", "t2")
    with proved.connect() as session, proved.database.connect("amp_ops") as ops:
        proved.enter(session, credential)
        session.execute("BEGIN")
        proved.enter(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        ops.execute("SELECT amp.revoke_api_key(%s)", [key])
        session.execute("ROLLBACK")
        with raises("TN007"):
            notes(session)


def test_A10_a_tenant_that_outlives_the_proof_it_was_set_under(proved):
    """BEGIN; a credential for both; SET (not LOCAL) t2; COMMIT: the tenant stays set, without the credential that opened it."""
    for end in "COMMIT", "ROLLBACK":
        with proved.open() as session:
            session.execute("BEGIN")
            proved.enter(session, token(claims("both")))
            session.execute("SET amp.tenant_id = 't2'")
            assert notes(session) == THEIRS
            session.execute(end)
            if end == "COMMIT":
                with raises("TN003"):
                    notes(session)
                session.execute("RESET amp.tenant_id")
            assert notes(session) == MINE


def test_A11_savepoint(proved):
    """ROLLBACK TO a savepoint brings another proof into a transaction that has read by one already."""
    with proved.connect(autocommit=False) as session:
        proved.enter(session, token(claims("two")))
        session.execute("SAVEPOINT a")
        proved.enter(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        session.execute("ROLLBACK TO a")
        with raises("TN006"):
            notes(session)


def test_A11_savepoint_before_the_proof(stranger):
    """ROLLBACK TO a savepoint from before the proof takes it away."""
    with stranger.connect(autocommit=False) as session:
        session.execute("SAVEPOINT a")
        authenticate(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        session.execute("ROLLBACK TO a")
        with raises("TN001"):
            notes(session)


def test_A11_exception_block(proved):
    """A PL/pgSQL EXCEPTION block is a savepoint, too."""
    with proved.connect(autocommit=False) as session:
        session.execute(f"""
            CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql AS $$ DECLARE seen text; BEGIN
                PERFORM amp.authenticate('{token(claims("two"))}');
                BEGIN
                    PERFORM amp.authenticate('{token(claims("both", "t1"))}');
                    SELECT string_agg(note, '; ') INTO seen FROM orders;
                    RAISE EXCEPTION 'back';
                EXCEPTION WHEN raise_exception THEN NULL; END;
                RETURN seen || (SELECT min(note) FROM orders);
            END $$""")
        with raises("TN006"):
            session.execute("SELECT pg_temp.f()")


LEAVING = ["SET amp.tenant_id = 't2'", "SET LOCAL amp.tenant_id = 't2'", "RESET ALL", "RESET amp.tenant_id", "ROLLBACK TO before",
           "authenticate", "SELECT set_config('amp.tenant_id', 't2', true)"]


@pytest.mark.parametrize("way", LEAVING)
def test_A11_locked_context(proved, way):
    """amp.lock_context(): no SET, RESET, credential or savepoint leads out of it before the transaction ends."""
    with proved.connect(autocommit=False) as session:
        session.execute("SAVEPOINT before")
        proved.enter(session)
        session.execute("SELECT amp.lock_context()")
        session.execute("SAVEPOINT inside")
        try:
            if way == "authenticate":
                proved.enter(session, token(claims("both")))
            else:
                session.execute(way)
            assert notes(session) == MINE
        except psycopg.Error as error:
            assert error.sqlstate in ("TN001", "TN003", "TN006")
            session.execute(f"ROLLBACK TO {'before' if 'before' in way else 'inside'}")
        if "before" in way:  # the lock stays although the proof is gone
            with raises("TN006"):
                proved.enter(session, token(claims("both")))
        else:
            assert notes(session) == MINE


@pytest.mark.parametrize("way", ["RESET amp.user_id", "SET amp.user_id = 'both'", "SET LOCAL amp.user_id = ''", "RESET ALL",
                                 "SET amp.tenant_id = 't2'", "ROLLBACK TO before", "authenticate"])
def test_A11_locked_context_of_a_trusted_service(amp, way):
    """A service acts as a viewer and locks that: injected SQL drops the user, to act as the tenant itself."""
    Proved(amp, TOKEN)
    people(amp, vic=("t1", "viewer"))
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET LOCAL amp.tenant_id = 't1'; SAVEPOINT before; SET LOCAL amp.user_id = 'vic'; SELECT amp.lock_context()")
        with pytest.raises(psycopg.Error) as caught:
            svc.execute(way) if way != "authenticate" else authenticate(svc, token(claims("both", "t1")))
            svc.execute("UPDATE orders SET note = 'stolen'")
        assert caught.value.sqlstate in ("TN001", "TN006")


def test_A11_locked_context_ends_with_the_transaction(choosing):
    """The lock is for one transaction; nobody locks a context that he does not have."""
    with choosing.open() as session:
        session.execute("BEGIN; SELECT amp.lock_context(); COMMIT; SET amp.tenant_id = 't2'")
        assert notes(session) == THEIRS
        session.execute("RESET ALL")
        with raises("TN001"):
            session.execute("SELECT amp.lock_context()")


@pytest.mark.parametrize("chain", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
def test_A12_chained_transaction(proved, chain):
    """The proof is local to its transaction: the chained one has none, or the session's, never the last one's."""
    with proved.connect() as session:
        session.execute("BEGIN")
        proved.enter(session, token(claims("two")))
        assert notes(session) == THEIRS
        session.execute(chain)
        if proved.kind == BOUND:
            assert notes(session) == MINE
        else:
            with raises("TN001"):
                notes(session)
    with proved.open() as session:
        session.execute("BEGIN")
        proved.enter(session, token(claims("two")))
        session.execute(chain)
        assert notes(session) == MINE


def test_A12_commit_in_a_procedure(proved):
    """COMMIT inside CALL: in transaction scope the proof ends in the middle of the procedure."""
    proved.set("amp.context_scope = 'transaction'")
    with proved.database.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE PROCEDURE p(INOUT result text) LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM amp.authenticate('{token(claims("two", "t2"))}');
                PERFORM FROM orders;
                COMMIT;
                SELECT min(note) INTO result FROM orders;
            END $$""")
    with proved.connect() as session:
        proved.enter(session, token(claims("two")))
        if proved.kind == BOUND:
            assert column(session, "CALL p(NULL)") == ["mine"]
        else:
            with raises("TN001"):
                session.execute("CALL p(NULL)")


def test_A13_proof_outside_of_a_transaction(proved):
    """In transaction scope, a credential that is passed in autocommit proves nothing to the next statement."""
    proved.set("amp.context_scope = 'transaction'")
    with proved.connect() as session:
        for credential in token(claims("two")), proved.credential:
            proved.enter(session, credential)
            if proved.kind == BOUND:
                assert notes(session) == MINE
            else:
                with raises("TN001"):
                    notes(session)
                assert session.execute("SELECT amp.context() -> 'proof', amp.user_id()").fetchone() == (None, None)


def test_A13_set_local_outside_of_a_transaction(choosing):
    """SET LOCAL in autocommit sets nothing: the statement after it is where the proof starts."""
    with choosing.open() as session:
        session.execute("SET LOCAL amp.tenant_id = 't2'")
        assert notes(session) == MINE


@pytest.fixture(scope="module")
def late():
    """A server that does not preload the library."""
    server = Cluster(shared_preload_libraries="")
    yield server
    server.remove()


@pytest.mark.parametrize("kind", [SERVICE, TOKEN])
def test_A14_placeholders_before_the_library(late, kind):
    """Before the library comes its settings are anybody's: a forged proof, and the superuser's rules switched off, are dropped."""
    proved = Proved(under_amp(late.database()), kind)
    with proved.connect() as other:
        authenticate(other, token(claims("two")))
        assert notes(other) == THEIRS
        value = other.execute("SHOW amp.identity").fetchone()[0]
    proved.set("amp.context_scope = 'transaction'")
    forged = {"amp.identity": value, "amp.require_token": "off", "amp.context_scope": "session", "amp.tenant_id": "t2", "amp.user_id": "two"}
    for way in "SELECT set_config(%s, %s, false)", "SELECT set_config(%s, %s, true)":
        with proved.connect(autocommit="false" in way) as session:
            for setting, to in forged.items():
                session.execute(way, [setting, to])
            with raises("TN001"):
                notes(session)
            if not session.autocommit:
                session.rollback()
            with raises("TN003"), session.transaction():
                session.execute("SET LOCAL amp.tenant_id = 't2'")
            with session.transaction():
                proved.enter(session)
                assert notes(session) == MINE
            with raises("TN001"):
                notes(session)


def test_A15_empty_string(amp, proved):
    """'' is no tenant: not a row's, not a token's, not an API key's."""
    with amp.connect() as admin:
        admin.execute("INSERT INTO orders VALUES (31, '', 'nobody''s')")
    with proved.open() as session:
        session.execute("SET amp.tenant_id = ''; SET amp.user_id = ''")
        assert notes(session) == MINE
    with proved.connect() as session:
        for credential in token(claims("two", tid="")), token(claims("", "t1")), "":
            with raises("TN003"):
                authenticate(session, credential)
        if proved.kind == BOUND:
            assert notes(session) == MINE
        else:
            with raises("TN001"):
                notes(session)
    with pytest.raises(psycopg.Error):
        proved.new_key("two", "")


def test_A15_null_credential(proved):
    """amp.authenticate(NULL) is no proof, and takes none away."""
    with proved.open() as session:
        with raises("TN003"):
            authenticate(session, None)
        assert notes(session) == MINE


def test_A18_malformed_id(proved):
    """What is no id is refused where it is set or signed, and the tenant stays what it was."""
    with proved.open() as session:
        for value in MALFORMED:
            for setting in "amp.tenant_id", "amp.user_id":
                with raises("22023"):
                    session.execute("SELECT set_config(%s, %s, false)", [setting, value])
            for credential in token(claims("two", value)), token(claims(value, "t1")):
                with raises("TN003"):
                    authenticate(session, credential)
        assert notes(session) == MINE


def refusal(session, tenant):
    """What a session hears that names a tenant: everything but the name."""
    with pytest.raises(psycopg.Error) as caught:
        session.execute(f"SET amp.tenant_id = '{tenant}'")
    said = caught.value.diag
    return tuple(text and text.replace(tenant, "…") for text in (said.sqlstate, said.message_primary, said.message_detail, said.message_hint))


def test_A18_unknown_and_foreign_tenants_look_the_same(amp, proved):
    """A client names tenants to learn which exist: unknown, deleted, suspended, and active ones of others."""
    with amp.connect("amp_ops") as ops:
        for tenant in "gone", "asleep":
            ops.execute("SELECT amp.create_tenant('T', %s, id => %s)", [f"slug-{tenant}", tenant])
        ops.execute("SELECT amp.delete_tenant('gone'); SELECT amp.suspend_tenant('asleep')")
    with proved.open() as session:
        assert len({refusal(session, tenant) for tenant in ("never", "gone", "asleep", "t2", "T1")}) == 1
        assert notes(session) == MINE


def test_A19_stolen_token_after_its_time(proved):
    """A token that was written down somewhere is used when it has expired: nothing else about it counts then."""
    stolen = claims("two", "t2", exp=time.time() - 60)
    with proved.open() as session:
        for algorithm in "HS256", "ES256", "EdDSA":
            with raises("TN007"):
                authenticate(session, token(stolen, algorithm=algorithm))
        assert notes(session) == MINE


def test_A19_replayed_token(amp, proved):
    """A token for a single use is used again: here, in another session, after a rollback."""
    with amp.connect("amp_ops") as ops:
        ops.execute("SELECT amp.add_signing_key('once', 'HS256', %s, single_use => true)", ["s" * 32])

    def fresh():
        return token(claims("two", "t2", jti=str(uuid4()), iat=time.time()), "s" * 32, "once", "HS256")

    proved.set("amp.token_leeway = 0")  # else tokens of the server's first ten seconds may be from before it
    with proved.connect() as session, proved.connect() as thief:
        for end in "COMMIT", "ROLLBACK":
            used = fresh()
            session.execute("BEGIN")
            proved.enter(session, used)
            assert notes(session) == THEIRS
            with raises("TN003"):
                proved.enter(thief, used)
            session.execute(end)
            for again in session, thief:
                with raises("TN003"):
                    proved.enter(again, used)


def test_A19_a_session_tells_nobody_its_credential(amp, proved):
    """Who can run SQL in the session, or look at it from another, looks for the credential itself."""
    with proved.open() as session, amp.connect() as admin, amp.connect("amp_ops") as ops:
        assert notes(session) == MINE
        for secret in "hash FROM amp.stored_api_keys", "* FROM amp.stored_api_keys", "key FROM amp.signing_keys", "* FROM amp.signing_keys":
            for reader in session, ops:
                with raises("42501"):
                    reader.execute(f"SELECT {secret}")
        seen = [session.execute("SHOW amp.identity").fetchone(), session.execute("SELECT amp.context()").fetchone(),
                session.execute("SELECT setting FROM pg_settings").fetchall(),
                session.execute("SELECT to_jsonb(k) FROM amp.api_keys k").fetchall(),
                admin.execute("SELECT query FROM pg_stat_activity").fetchall(),
                ops.execute("SELECT to_jsonb(a) FROM amp.audit_log a").fetchall()]
    if proved.credential:
        assert proved.credential.rsplit(".")[-1] not in str(seen)


@pytest.mark.parametrize("kind", [SERVICE, KEY, TOKEN])
def test_A19_a_proof_does_not_travel(amp, kind):
    """What one session has accepted is nobody else's: not the next connection's, nor a second one's of the same role."""
    proved = Proved(amp, kind)
    with proved.open() as session, proved.connect() as other:
        assert notes(session) == MINE
        with raises("TN001"):
            notes(other)
    with proved.connect() as later, raises("TN001"):
        notes(later)


def test_A21_another_role(proved):
    """SET ROLE and SET SESSION AUTHORIZATION to somebody who may more."""
    with proved.open() as session:
        for attack in "SET ROLE amp_ops", "SET ROLE postgres", "SET SESSION AUTHORIZATION amp_ops", "SET ROLE amp_owner":
            with raises("42501"):
                session.execute(attack)
        assert notes(session) == MINE


def test_A21_set_role_does_not_change_who_was_proved(amp, choosing, new_role):
    """A client that is a member of a service and of an operator without inheriting takes their roles: he is who he proved."""
    client = new_role("LOGIN NOINHERIT IN ROLE amp_svc, amp_ops")
    with amp.connect(client) as session:
        authenticate(session, token(claims("both", "t1")))
        for role in "amp_svc", "amp_ops":
            session.execute(f"SET ROLE {role}")
            assert notes(session) == MINE
            with raises("TN003"):
                session.execute("SET amp.tenant_id = 't2'")
            with raises("TN006"):
                session.execute("SET amp.user_id = 'two'")
            with raises("TN004"):
                session.execute("SELECT amp.suspend_tenant('t2')")
            session.execute("RESET ROLE")


def test_A21_set_role_to_a_bound_role(amp, new_role):
    """Who is a member of a bound role takes it: the binding is for who logs in as it."""
    Proved(amp, BOUND)
    with amp.connect(new_role("LOGIN IN ROLE amp_client")) as session:
        session.execute("SET ROLE amp_client")
        with raises("TN001"):
            notes(session)
        with raises("TN003"):
            session.execute("SET amp.tenant_id = 't1'")


def test_A21_set_role_afterwards_to_one_that_bypasses(amp, proved, new_role):
    """Who has proved something takes a role that row security does not apply to."""
    bypass = new_role("BYPASSRLS")
    with amp.connect() as admin:
        admin.execute(f"GRANT {bypass} TO {proved.role}; GRANT SELECT ON orders TO {bypass}")
    with proved.open() as session:
        assert notes(session) == MINE
        session.execute(f"SET ROLE {bypass}")
        if proved.kind == BOUND:
            # PostgreSQL lets the role that was chosen see everything; a context that was never named isolates nobody.
            assert notes(session) == MINE + THEIRS
        else:
            with raises("TN009"):
                notes(session)
        with raises("TN009"):
            authenticate(session, token(claims("both", "t1")))
    with amp.connect() as admin:
        admin.execute(f"REVOKE {bypass} FROM {proved.role}; REVOKE ALL ON orders FROM {bypass}")


def test_A21_session_authorization_takes_the_proof_along(amp, choosing):
    """A superuser's session becomes a client's that proves who he is, then others': a proof never widens what a role may do."""
    with amp.connect() as session:
        with raises("TN009"):
            authenticate(session, choosing.credential)
        session.execute("SET SESSION AUTHORIZATION amp_client")
        authenticate(session, token(claims("both", "t1")))
        assert notes(session) == MINE
        session.execute("SET SESSION AUTHORIZATION amp_ops")
        with raises("TN001"):
            notes(session)
        with raises("TN003"):
            authenticate(session, choosing.credential)
        session.execute("BEGIN; SET LOCAL SESSION AUTHORIZATION amp_svc")
        assert notes(session) == MINE
        session.execute("ROLLBACK")
        with raises("TN001"):
            notes(session)
        session.execute("RESET SESSION AUTHORIZATION")
        with raises("TN009"):
            notes(session)


def test_A21_an_operators_key_opens_no_tenant(amp, proved):
    """Injected SQL brings an operator's key: it runs the platform, and sees no row."""
    with amp.connect("amp_ops") as ops:
        key = column(ops, "SELECT amp.create_operator_key('test') ->> 'key'")[0]
    with proved.connect() as session:
        authenticate(session, key)
        assert column(session, "SELECT amp.is_operator()") == [True]
        with raises("TN001"):
            notes(session)
        with raises("TN003"):
            session.execute("SET amp.tenant_id = 't2'")


@pytest.mark.parametrize("kind", [SERVICE, KEY, TOKEN])
def test_A21_who_has_proved_a_user_is_no_operator(amp, kind):
    """Who is a user by proof calls the operators' functions."""
    with Proved(amp, kind).open() as session:
        for attack in ("amp.suspend_tenant('t2')", "amp.create_account('X', 'agency')", "amp.create_operator_key('x')", "amp.bind_role('amp_client', 'two')",
                       "amp.add_signing_key('mine', 'HS256', repeat('x', 32))", "amp.retire_signing_key('EdDSA')"):
            with raises("TN004"):
                session.execute(f"SELECT {attack}")
        # The admin of an account makes tenants in it, if his credential is not for one tenant only, as these tokens are.
        with raises("TN004" if kind == KEY else "TN003"):
            session.execute("SELECT amp.create_tenant('X', 'xxx')")


def test_D12_truncate(amp, proved):
    """TRUNCATE by who may act as the table's owner, and has proved who he is: he is in a tenant, and it would empty all of them."""
    before = snapshot(amp)
    with amp.connect() as admin:
        admin.execute(f"GRANT amp_owner TO {proved.role}")
    try:
        with proved.open() as session, raises("TN004"):
            session.execute("TRUNCATE orders")
    finally:
        with amp.connect() as admin:
            admin.execute(f"REVOKE amp_owner FROM {proved.role}")
    assert snapshot(amp) == before
