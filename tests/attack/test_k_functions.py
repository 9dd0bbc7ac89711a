"""K. Changes that others make, heard by calls that touch no protected table; and what a stranger leaves behind for an operator's session."""

import pytest

from harness import raises
from proofs import BOUND, Proved
from world import people

ENDS = {
    "suspended tenant": "amp.suspend_tenant('t1')",
    "unbound role": "amp.unbind_role('amp_client')",
    "removed member": "amp.remove_user('one', 't1')",
}
CALLS = ["amp.users()", "amp.tenant()", "amp.usage()", "amp.role()", "amp.has_permission('content.view')", "amp.tenant_id()",
         "amp.providers('llm')", "amp.update_config('{}')"]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_K2_a_bound_role_hears_it_in_an_open_transaction(amp, end):
    """It has set nothing and passed no credential, and holds its locks: it would not hear of a change by itself."""
    people(amp, spare=("t1", "admin"))
    bound = Proved(amp, BOUND)
    with bound.open(autocommit=False) as session, amp.connect("amp_ops") as ops:
        for call in CALLS:
            session.execute(f"SELECT {call}")
        ops.execute(f"SELECT {ENDS[end]}")
        for call in CALLS:
            with pytest.raises(Exception) as caught, session.transaction():
                session.execute(f"SELECT {call}")
            assert caught.value.sqlstate in ("TN001", "TN002", "TN003"), call


def test_K3_another_role_counts_in_an_open_transaction(amp):
    """A bound role that is made a viewer between two calls."""
    people(amp, spare=("t1", "admin"))
    bound = Proved(amp, BOUND)
    with bound.open(autocommit=False) as session, amp.connect("amp_ops") as ops:
        ask = "SELECT amp.role(), amp.has_permission('missions.create')"
        assert session.execute(ask).fetchone() == ("operator", True)
        ops.execute("SELECT amp.set_user_role('one', 'viewer', 't1')")
        assert session.execute(ask).fetchone() == ("viewer", False)


@pytest.mark.parametrize("call", ["amp.tenant_document_for_caller(NULL) ->> 'id'", "amp.set_default_tenant('t1') ->> 'x'", "amp.user_id()",
                                  "amp.role()", "amp.has_permission('content.view')::text"])  # fmt: skip
def test_K2_expressions_of_plpgsql_hear_it_too(amp, call):
    """They are evaluated without the executor: the key is revoked within one DO."""
    with amp.connect("amp_client", autocommit=False) as session, amp.connect("amp_ops") as ops:
        people(amp, one=("t1", "operator"))
        key = ops.execute("SELECT amp.create_api_key('one', name => 'test')").fetchone()[0]
        session.execute("SELECT amp.authenticate(%s)", [key["key"]])
        session.execute(f"DO $$DECLARE v text; BEGIN v := {call}; END$$")
        ops.execute("SELECT amp.revoke_api_key(%s)", [key["id"]])
        with raises("TN007"):
            session.execute(f"DO $$DECLARE v text; BEGIN v := {call}; END$$")


@pytest.mark.parametrize("commit", ["DO $$BEGIN PERFORM trap.innocent(); COMMIT; END$$",
                                    "BEGIN; SELECT trap.innocent(); SET CONSTRAINTS ALL IMMEDIATE", "SELECT trap.innocent()",
                                    "BEGIN; SELECT trap.innocent(); COMMIT"])  # fmt: skip
def test_D3_a_strangers_deferred_trigger_in_an_operators_session(amp, commit):
    """His SECURITY DEFINER function leaves a deferred trigger behind, which runs with the operator's own rights."""
    with amp.connect("amp_owner") as stranger:
        stranger.execute("""
            CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC; CREATE TABLE trap.bait (a int);
            CREATE FUNCTION trap.fire() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN PERFORM amp.suspend_tenant('t2'); RETURN NULL; END$$;
            CREATE CONSTRAINT TRIGGER t AFTER INSERT ON trap.bait DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION trap.fire();
            CREATE FUNCTION trap.innocent() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
                $$BEGIN INSERT INTO trap.bait VALUES (1); RETURN 1; END$$""")
    with amp.connect("amp_ops") as ops, raises("TN004"):
        ops.execute(commit)
    with amp.connect("amp_ops") as ops:
        assert ops.execute("SELECT amp.tenant('t2') ->> 'status'").fetchone() == ("active",)


def test_an_operators_own_calls_work(amp):
    """Where operators call their functions: each way is theirs, but for a cursor, where the error says so."""
    with amp.connect("amp_ops") as ops:
        with ops.pipeline():
            ops.execute("SELECT amp.suspend_tenant('t2')")
            ops.execute("SELECT amp.activate_tenant('t2')")
        for call in ("DO $$BEGIN PERFORM amp.suspend_tenant('t2'); END$$", "SELECT amp.activate_tenant(id) FROM amp.tenants",
                     "DO $$DECLARE r record; BEGIN FOR r IN SELECT id FROM amp.tenants LOOP PERFORM amp.activate_tenant(r.id); END LOOP; END$$",
                     "CREATE TEMP TABLE t AS SELECT amp.users('t1')"):  # fmt: skip
            ops.execute(call)
        with raises("TN004", "EXPLAIN is not for"):
            ops.execute("EXPLAIN ANALYZE SELECT amp.users('t1')")
        with raises("TN004", "in a cursor"), ops.transaction():
            ops.execute("DECLARE c CURSOR FOR SELECT amp.users('t1')")
            ops.execute("FETCH c")
