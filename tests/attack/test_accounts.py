"""Accounts: a role in all of an account's tenants, in no other, and not a statement longer than it is held."""

import threading

import psycopg
import pytest

from harness import raises
from world import column, notes, people

ROWS = "SELECT note FROM orders"


@pytest.fixture
def agency(amp):
    """Tenants t1 and t2 belong to an account; ag is its admin, val its viewer, and ann is a member of t1 alone."""
    people(amp, ann=("t1", "viewer"))
    with amp.connect() as admin, amp.connect("amp_ops") as ops:
        for user in ("ag", "bo", "val"):
            admin.execute("INSERT INTO amp.app_users VALUES (%s, %s)", [user, f"{user}@example.com"])
        ops.execute("SELECT amp.create_account('Agency', 'agency', 'acc')")
        ops.execute("SELECT amp.create_account('Rival', 'agency', 'rival')")
        for user, role in (("ag", "admin"), ("val", "viewer")):
            ops.execute("SELECT amp.add_account_member('acc', %s, %s)", [f"{user}@example.com", role])
        for tenant in ("t1", "t2"):
            ops.execute("SELECT amp.set_tenant_account(%s, 'acc')", [tenant])
    return amp


def key(database, user, *, account=None, tenant=None):
    with database.connect("amp_ops") as ops:
        row = ops.execute(
            "SELECT amp.create_api_key(%s, %s, 'a key', account_id => %s) ->> 'key'", [user, tenant, account]
        ).fetchone()
    return row[0]


def session(database, credential, tenant=None):
    client = database.connect("amp_client")
    client.execute("SELECT amp.authenticate(%s)", [credential])
    if tenant:
        client.execute(f"SET amp.tenant_id = '{tenant}'")
    return client


ENDS = {
    "left": "SELECT amp.remove_account_member('acc', 'val')",
    "moved": "SELECT amp.set_tenant_account('t1', 'rival')",
    "ownerless": "SELECT amp.set_tenant_account('t1', NULL)",
}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("end", ENDS)
def test_P6_leaving_the_account_bites_at_the_next_statement(agency, end, isolation):
    with session(agency, key(agency, "val"), "t1") as client, agency.connect("amp_ops") as ops:
        client.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        assert column(client, ROWS) == ["mine", "mine, too"]
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")  # a tenant needs one that stays
        ops.execute(ENDS[end])
        with raises("TN003"):
            client.execute(ROWS)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_P6_a_lower_role_in_the_account_bites_at_the_next_statement(agency, isolation):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.add_account_member('acc', 'bo@example.com', 'operator')")
        with session(agency, key(agency, "bo"), "t1") as client:
            client.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            client.execute("UPDATE orders SET amount = 5 WHERE id = 11")
            ops.execute("SELECT amp.add_account_member('acc', 'bo@example.com', 'viewer')")
            with raises("TN004"):
                client.execute("UPDATE orders SET amount = 6 WHERE id = 11")


def test_P6_more_by_the_account_counts_at_the_next_statement(agency):
    """A cached answer that has too little in it is wrong, too."""
    with session(agency, key(agency, "ann"), "t1") as client, agency.connect("amp_ops") as ops:
        assert client.execute("SELECT amp.role(), amp.has_permission('users.manage')").fetchone() == ("viewer", False)
        ops.execute("SELECT amp.add_account_member('acc', 'ann@example.com', 'admin')")
        assert client.execute("SELECT amp.role(), amp.has_permission('users.manage')").fetchone() == ("admin", True)
        ops.execute("SELECT amp.remove_account_member('acc', 'ann')")
        assert client.execute("SELECT amp.role(), amp.has_permission('users.manage')").fetchone() == ("viewer", False)
    with session(agency, key(agency, "val"), "t1") as client, agency.connect("amp_ops") as ops:
        assert client.execute("SELECT amp.has_permission('users.manage')").fetchone() == (False,)
        ops.execute("SELECT amp.invite_user('val@example.com', 'admin', 't1')")
        assert client.execute("SELECT amp.has_permission('users.manage')").fetchone() == (True,)


def test_P6_what_is_rolled_back_was_never_held(agency):
    """The transaction that makes somebody a member of the account keeps no answer that rests on it."""
    with agency.connect("amp_svc") as service, agency.connect("amp_ops") as ops:
        made = ops.execute("SELECT amp.create_operator_key('k') ->> 'key'").fetchone()[0]
        service.execute("SET amp.tenant_id = 't1'; SET amp.user_id = 'ann'")
        service.execute("BEGIN; SELECT amp.role()")
        service.execute("ROLLBACK")
        with agency.connect("amp_client") as client:
            client.execute("BEGIN")
            client.execute("SELECT amp.authenticate(%s)", [made])
            client.execute("SELECT amp.add_account_member('acc', 'ann@example.com', 'admin')")
            client.execute("ROLLBACK")
        assert service.execute("SELECT amp.role(), amp.has_permission('users.manage')").fetchone() == ("viewer", False)


def test_P1_a_key_for_an_account_opens_no_other_tenant_of_its_user(agency):
    """Also where the session has just been there by another key, and remembers."""
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Three', 'tenant-three', id => 't3')")
        ops.execute("SELECT amp.invite_user('ag@example.com', 'admin', 't3'), amp.invite_user('ag@example.com', 'admin', 't2')")
        ops.execute("SELECT amp.set_tenant_account('t2', NULL)")
    everything, narrow = key(agency, "ag"), key(agency, "ag", account="acc")
    with session(agency, everything, "t3") as client:
        assert client.execute("SELECT amp.role()").fetchone() == ("admin",)
        client.execute("SELECT amp.authenticate(%s)", [narrow])
        for tenant in ("t2", "t3"):
            with raises("TN003"):
                client.execute(f"SET amp.tenant_id = '{tenant}'")
        client.execute("SET amp.tenant_id = 't1'")
        assert notes(client) == ["mine", "mine, too"]
        client.execute("SELECT amp.authenticate(%s)", [narrow])
        listed = client.execute("SELECT amp.my_tenants()").fetchone()[0]["data"]
        assert [tenant["id"] for tenant in listed] == ["t1"]
        client.execute("SET amp.tenant_id = 't1'")
        assert client.execute("SELECT count(*) FROM amp.api_keys").fetchone() == (0,)


def test_P1_a_default_tenant_outside_of_the_account_is_not_where_its_key_starts(agency):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Three', 'tenant-three', id => 't3')")
        ops.execute("SELECT amp.invite_user('ag@example.com', 'admin', 't3')")
    with agency.connect("amp_client") as client:
        started = client.execute("SELECT amp.authenticate(%s) ->> 'tenant_id'", [key(agency, "ag")]).fetchone()
        assert started == ("t3",)
        started = client.execute("SELECT amp.authenticate(%s) ->> 'tenant_id'", [key(agency, "ag", account="acc")]).fetchone()
        assert started == (None,)
        with raises("TN001"):
            client.execute(ROWS)


@pytest.mark.parametrize("moved", [True, False])
def test_P6_a_key_for_an_account_ends_in_a_tenant_that_is_moved_away(agency, moved):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.invite_user('ag@example.com', 'admin', 't1')")
        with session(agency, key(agency, "ag", account="acc"), "t1") as client:
            client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert notes(client) == ["mine", "mine, too"]
            if moved:  # ag is a member of t1 by himself still; his key is for the account
                ops.execute("SELECT amp.set_tenant_account('t1', 'rival')")
                with raises("TN003"):
                    client.execute(ROWS)
            else:
                assert notes(client) == ["mine", "mine, too"]


ADMINISTRATION = {
    "tenant": "SELECT amp.create_tenant('New', 'brand-new-one')",
    "named": "SELECT amp.create_tenant('New', 'brand-new-one', account_id => 'acc')",
    "member": "SELECT amp.add_account_member('acc', 'bo@example.com', 'admin')",
    "removal": "SELECT amp.remove_account_member('acc', 'val')",
    "key": "SELECT amp.create_api_key('val', name => 'k', account_id => 'acc')",
    "document": "SELECT amp.account('acc')",
}


@pytest.mark.parametrize("deed", ADMINISTRATION)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_P7_who_is_no_admin_of_the_account_any_more_administers_nothing(agency, deed, isolation):
    """His open transaction's snapshot still shows him as one."""
    with agency.connect("amp_ops") as ops, session(agency, key(agency, "ag")) as client:
        ops.execute("SELECT amp.add_account_member('acc', 'bo@example.com', 'admin')")
        client.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        client.execute("SELECT amp.my_accounts()")
        ops.execute("SELECT amp.add_account_member('acc', 'ag@example.com', 'operator')")
        with raises("TN004"):
            client.execute(ADMINISTRATION[deed])


@pytest.mark.parametrize("deed", ADMINISTRATION)
def test_P7_a_key_for_one_tenant_administers_no_account(agency, deed):
    with session(agency, key(agency, "ag", tenant="t1")) as client:
        assert client.execute("SELECT amp.role()").fetchone() == ("admin",)
        with raises("TN003"):
            client.execute(ADMINISTRATION[deed])


@pytest.mark.parametrize("deed", [deed for deed in ADMINISTRATION if deed != "tenant"])
def test_P7_an_admin_of_another_account_administers_nothing_here(agency, deed):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.add_account_member('rival', 'bo@example.com', 'admin')")
    with session(agency, key(agency, "bo")) as client, raises("TN003"):
        client.execute(ADMINISTRATION[deed])


@pytest.mark.parametrize("deed", ADMINISTRATION)
def test_P7_a_service_that_names_nobody_administers_no_account(agency, deed):
    with agency.connect("amp_svc") as service:
        service.execute("SET amp.tenant_id = 't1'")
        with pytest.raises(psycopg.Error) as refused:
            service.execute(ADMINISTRATION[deed])
        assert refused.value.sqlstate in ("TN003", "TN004")


def test_P7_two_admins_who_remove_each_other_leave_one(agency):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.add_account_member('acc', 'bo@example.com', 'admin')")
    outcomes, ready = [], threading.Barrier(2)

    def remove(who, whom):
        with session(agency, key(agency, who)) as client:
            ready.wait()
            try:
                client.execute("SELECT amp.remove_account_member('acc', %s)", [whom])
                outcomes.append("removed")
            except psycopg.Error as error:
                outcomes.append(error.sqlstate)

    threads = [threading.Thread(target=remove, args=pair) for pair in (("ag", "bo"), ("bo", "ag"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) in (["TN003", "removed"], ["TN004", "removed"]), outcomes
    with agency.connect() as admin:
        assert admin.execute("SELECT count(*) FROM amp.account_members WHERE role = 'admin'").fetchone() == (1,)


def test_P7_a_tenants_last_admin_may_go_where_the_account_has_one(agency):
    with agency.connect("amp_ops") as ops, agency.connect() as admin:
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")
        ops.execute("SELECT amp.remove_user('ann', 't1')")
        ops.execute("SELECT amp.create_tenant('Three', 'tenant-three', id => 't3')")
        ops.execute("SELECT amp.invite_user('ann@example.com', 'admin', 't3')")
        with raises("TN004", match="last admin"):
            ops.execute("SELECT amp.remove_user('ann', 't3')")
        assert admin.execute("SELECT count(*) FROM amp.members").fetchone() == (1,)


def test_P7_an_account_member_is_not_changed_from_inside_a_tenant(agency):
    """The client's admin cannot lower, remove or impersonate the agency's people."""
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")
    with session(agency, key(agency, "ann", tenant="t1")) as client:
        for deed in ("amp.set_user_role('ag', 'viewer')", "amp.remove_user('ag')"):
            with raises("TN003"):
                client.execute(f"SELECT {deed}")
        # A key of his is for this tenant, and gives no more than ann holds.
        made = client.execute("SELECT amp.create_api_key('ag', name => 'k')").fetchone()[0]
        assert made["tenant_id"] == "t1"
    with session(agency, made["key"]) as client:
        for deed in ("amp.create_tenant('New', 'brand-new-one')", "amp.account('acc')"):
            with raises("TN003"):
                client.execute(f"SELECT {deed}")
        with raises("TN003"):
            client.execute("SET amp.tenant_id = 't2'")


@pytest.mark.parametrize("relation", ["accounts", "account_members", "memberships", "members"])
def test_P1_the_tables_behind_accounts_tell_nothing(agency, new_role, relation):
    """To nobody but operators; who may read everything (pg_read_all_data) reads by the policies."""
    reader = new_role("LOGIN")
    with agency.connect() as admin:
        admin.execute(f"GRANT pg_read_all_data TO {reader}")
    with agency.connect("amp_client") as client, pytest.raises(psycopg.Error) as refused:
        client.execute(f"SELECT * FROM amp.{relation}")
    assert refused.value.sqlstate in ("42501", "TN001")
    with agency.connect(reader) as client:
        try:
            assert client.execute(f"SELECT * FROM amp.{relation}").fetchall() == []
        except psycopg.Error as error:
            assert error.sqlstate == "TN001"


def test_P1_a_key_for_an_account_tells_nothing_of_its_users_other_tenants(agency):
    """An admin of the account may make one of anybody in it: where else he is, is none of his business."""
    with agency.connect("amp_ops") as ops:
        for number, member in ((3, True), (4, False), (5, True)):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [f"T{number}", f"tenant-{number}", f"t{number}"])
            if member:
                ops.execute("SELECT amp.invite_user('val@example.com', 'viewer', %s)", [f"t{number}"])
        ops.execute("SELECT amp.suspend_tenant('t5')")
    with session(agency, key(agency, "val", account="acc")) as client:
        answers = set()
        for tenant in ("t3", "t4", "t5", "t6"):
            with raises("TN003") as refused:
                client.execute(f"SET amp.tenant_id = '{tenant}'")
            answers.add(str(refused.value))
        assert len(answers) == 1, answers


@pytest.mark.parametrize("kind", ["account", "tenant"])
def test_P6_a_key_of_an_earlier_membership_opens_nothing(agency, kind):
    """Also one that was made where the removal could not see it, or that a move of the tenant has hidden from it."""
    with agency.connect("amp_ops", autocommit=False) as late, agency.connect("amp_ops") as ops:
        where = {"account": "account_id => 'acc'", "tenant": "tenant_id => 't1'"}[kind]
        made = late.execute(f"SELECT amp.create_api_key('val', name => 'k', {where}) ->> 'key'").fetchone()[0]
        ops.execute("SELECT amp.remove_account_member('acc', 'val')")
        late.commit()
        ops.execute("SELECT amp.add_account_member('acc', 'val@example.com', 'admin')")
    with agency.connect("amp_client") as client, raises("TN003"):
        client.execute("SELECT amp.authenticate(%s)", [made])
    # One of the membership that he has now does.
    with session(agency, key(agency, "val", **{kind: {"account": "acc", "tenant": "t1"}[kind]}), "t1") as client:
        assert notes(client) == ["mine", "mine, too"]


def test_P6_a_key_for_a_tenant_that_left_the_account_opens_nothing_by_a_later_invitation(agency):
    made = key(agency, "val", tenant="t1")
    with session(agency, made) as client, agency.connect("amp_ops") as ops:
        assert notes(client) == ["mine", "mine, too"]
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")
        ops.execute("SELECT amp.set_tenant_account('t1', 'rival')")
        with raises("TN003"):
            client.execute(ROWS)
        ops.execute("SELECT amp.remove_account_member('acc', 'val')")
        ops.execute("SELECT amp.invite_user('val@example.com', 'viewer', 't1')")
        with raises("TN007"):
            client.execute(ROWS)


def test_P7_who_holds_less_does_not_end_an_account_members_keys(agency):
    """By inviting him to the tenant and removing him again."""
    made = key(agency, "ag", tenant="t1")
    with agency.connect("amp_svc") as service, agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")
        service.execute("SET amp.tenant_id = 't1'; SET amp.user_id = 'ann'")
        service.execute("SELECT amp.define_role('hr', '{users.manage,content.view}')")
        ops.execute("SELECT amp.invite_user('bo@example.com', 'hr', 't1')")
    with session(agency, key(agency, "bo", tenant="t1")) as desk:
        desk.execute("SELECT amp.invite_user('ag@example.com', 'hr')")
        desk.execute("SELECT amp.remove_user('ag')")
    with session(agency, made) as client:
        assert client.execute("SELECT amp.role()").fetchone() == ("admin",)


@pytest.mark.parametrize("deed", ADMINISTRATION)
def test_P4_a_locked_context_is_one_tenants(agency, deed):
    """A service that has locked it for a user whom it names: injected SQL does not reach the user's account."""
    with agency.connect("amp_svc") as service:
        service.execute("BEGIN; SET LOCAL amp.tenant_id = 't1'; SET LOCAL amp.user_id = 'ag'; SELECT amp.lock_context()")
        with raises("TN006"):
            service.execute(ADMINISTRATION[deed])


STRANGERS = {
    "definer": """
        CREATE FUNCTION app.trap() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN PERFORM amp.add_account_member('acc', 'evil@example.com', 'admin'); RETURN 1; END $$""",
    "trigger": """
        CREATE FUNCTION app.trap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM amp.add_account_member('acc', 'evil@example.com', 'admin'); RETURN NEW; END $$;
        CREATE TRIGGER trap BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION app.trap()""",
    "deferred": """
        CREATE FUNCTION app.trap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM amp.add_account_member('acc', 'evil@example.com', 'admin'); RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON orders INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.trap()""",
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_P7_a_strangers_code_in_an_admins_session_is_no_admin(agency, kind):
    with agency.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC")
        owner.execute(STRANGERS[kind])
    with session(agency, key(agency, "ag"), "t1") as client:
        with raises("TN004"):
            if kind == "definer":
                client.execute("SELECT app.trap()")
            else:
                client.execute("INSERT INTO orders (id, note) VALUES (31, 'new')")
    with agency.connect() as admin:
        assert column(admin, "SELECT user_id FROM amp.account_members") == ["ag", "val"]


def test_P7_a_move_leaves_no_tenant_without_an_admin(agency):
    with agency.connect("amp_ops") as ops:
        for account in ("NULL", "'rival'"):
            with raises("TN004", match="no admin"):
                ops.execute(f"SELECT amp.set_tenant_account('t1', {account})")
        ops.execute("SELECT amp.set_user_role('ann', 'admin', 't1')")
        ops.execute("SELECT amp.set_tenant_account('t1', NULL)")


def test_P6_nobody_puts_off_his_own_demotion_by_holding_his_own_row(agency):
    with agency.connect("amp_ops") as ops, agency.connect("amp_svc", autocommit=False) as holder:
        holder.execute("SET amp.user_id = 'val'; SELECT amp.set_default_tenant('t1')")
        ops.execute("SET lock_timeout = '1s'")
        ops.execute("SELECT amp.add_account_member('acc', 'val@example.com', 'operator')")
        ops.execute("SELECT amp.remove_account_member('acc', 'val')")


def test_an_account_member_may_be_an_approver(agency):
    with agency.connect("amp_ops") as ops:
        ops.execute("SELECT amp.update_config('{\"approval\": {\"approvers\": [\"ag\", \"ann\"]}}', 't1')")
        with raises("TN010", match=r"approvers\[0\]"):
            ops.execute("SELECT amp.update_config('{\"approval\": {\"approvers\": [\"bo\"]}}', 't1')")


def test_an_admin_sees_the_keys_for_his_account(agency):
    key(agency, "val", account="acc")
    with session(agency, key(agency, "ag", account="acc")) as client:
        [first, second] = client.execute("SELECT amp.account() -> 'api_keys'").fetchone()[0]
        assert (first["user_id"], second["user_id"]) == ("val", "ag")
        client.execute("SELECT amp.revoke_api_key(%s)", [first["id"]])
        assert [k["id"] for k in client.execute("SELECT amp.account() -> 'api_keys'").fetchone()[0]] == [second["id"]]


def test_an_operators_key_makes_none_that_outlives_it(agency):
    with agency.connect("amp_ops") as ops:
        made = ops.execute("SELECT amp.create_operator_key('k', now() + interval '1 hour')").fetchone()[0]
    with agency.connect("amp_client") as client:
        client.execute("SELECT amp.authenticate(%s)", [made["key"]])
        for call in ("amp.create_operator_key('x')", "amp.create_api_key('ag', name => 'x')"):
            assert client.execute(f"SELECT {call} ->> 'expires_at'").fetchone() == (made["expires_at"],)


LONG = [
    "SELECT amp.invite_user(jsonb_build_object(repeat('x', 50000000), 1))",
    "SELECT amp.providers_of(jsonb_build_object(repeat('x', 50000000), 1), 'llm')",
    "SELECT amp.providers_of(jsonb_build_object('cost_limits', jsonb_build_object(repeat('x', 3000000), 1)), 'llm')",
    "SELECT amp.providers_of('{}', repeat('x', 50000000))",
    "SELECT amp.account_role(repeat('x', 50000000))",
    "SELECT amp.account_role(E'\\u00fc')",
]


@pytest.mark.parametrize("statement", LONG)
def test_nothing_long_is_unpacked_to_be_refused(agency, statement):
    """An allocation of Rust's that fails ends the server, and nobody can cancel a comparison of megabytes."""
    with agency.connect("amp_client") as client:
        client.execute("SET statement_timeout = '5s'")
        try:
            client.execute(statement)
        except psycopg.Error as error:
            assert error.sqlstate in ("TN010", "22023", "TN003"), error


def test_an_approver_who_leaves_the_account_is_not_waited_for(agency):
    """In none of its tenants, and what was approved without him stays so when he is back."""
    rules = '{"approval": {"require_approval": true, "approval_order": "all", "approvers": ["val", "one"]}}'
    with agency.connect("amp_ops") as ops, agency.connect("amp_svc") as service:
        ops.execute("SELECT amp.add_account_member('acc', 'val@example.com', 'operator')")
        people(agency, one=("t1", "operator"))
        people(agency, one=("t2", "operator"))
        ops.execute("SELECT amp.update_config(%s, t) FROM unnest('{t1,t2}'::text[]) t", [rules])
        requests = {}
        for tenant in ("t1", "t2"):
            service.execute(f"SET amp.tenant_id = '{tenant}'")
            requests[tenant] = service.execute("SELECT amp.request_approval('posts', '1', '{}') ->> 'id'").fetchone()[0]
            service.execute("SET amp.user_id = 'one'")
            decided = service.execute("SELECT amp.approve(%s) ->> 'status'", [requests[tenant]]).fetchone()
            assert decided == ("pending",)
            service.execute("RESET amp.user_id")
        ops.execute("SELECT amp.remove_account_member('acc', 'val')")
        ops.execute("SELECT amp.add_account_member('acc', 'val@example.com', 'operator')")
        for tenant in ("t1", "t2"):
            service.execute(f"SET amp.tenant_id = '{tenant}'")
            assert service.execute("SELECT amp.approval(%s) ->> 'status'", [requests[tenant]]).fetchone() == ("approved",)
