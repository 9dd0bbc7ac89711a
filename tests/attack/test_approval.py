"""Approval: every state and transition of docs/approval.md, and every way around it.

The clock is moved as a superuser who moves what is stored: a request of 25 hours ago is the same as one that 25 hours have passed on.
"""

import json
import threading
import time

import psycopg
import pytest

from harness import raises
from world import column, people

POSTS = """
    CREATE TABLE posts (tenant_id text COLLATE "C", id int, title text, score float8, at timestamptz DEFAULT '2026-01-01 12:00+00',
                        status text NOT NULL DEFAULT 'draft', PRIMARY KEY (tenant_id, id));
    GRANT SELECT, INSERT, UPDATE, DELETE ON posts TO amp_svc, amp_client;
    SELECT amp.protect('posts');
"""
TEAM = {"ann": ("t1", "operator"), "bob": ("t1", "operator"), "cat": ("t1", "operator"), "dan": ("t1", "admin"), "eve": ("t1", "viewer"),
        "zed": ("t2", "admin")}


class World:
    def __init__(self, database):
        self.database, self.connections = database, []

    def session(self, user=None, tenant="t1", role="amp_svc", **kw):
        connection = self.database.connect(role, **kw)
        self.connections.append(connection)
        connection.execute(f"SET amp.tenant_id = '{tenant}'")
        if user:
            connection.execute(f"SET amp.user_id = '{user}'")
        connection.commit()
        return connection

    def run(self, sql, *args, user=None, **kw):
        with self.session(user, **kw) as connection:
            cursor = connection.execute(sql, args or None)
            return cursor.fetchone()[0] if cursor.description else None

    def operate(self, sql, *args):
        with self.database.connect("amp_ops") as ops:
            return ops.execute(sql, args or None).fetchone()[0]

    def admin(self, sql, *args):
        with self.database.connect() as admin:
            cursor = admin.execute(sql, args or None)
            return cursor.fetchone()[0] if cursor.description else None

    def own(self, sql, *args):
        with self.database.connect("amp_owner") as owner:
            owner.execute(sql, args or None)

    def rules(self, **rules):
        nothing = dict.fromkeys(("auto_approve_after_hours", "approvers", "approval_order", "escalation_after_hours", "escalation_to"))
        self.operate("SELECT amp.update_config(%s, 't1')", json.dumps({"approval": nothing | {"require_approval": True, **rules}}))

    def hours(self, hours):
        self.admin("UPDATE amp.approval_requests SET requested_at = requested_at - %s * interval '1 hour'", hours)
        self.admin("UPDATE amp.approval_decisions SET at = at - %s * interval '1 hour'", hours)

    def request(self, user="ann", subject="1", content='{"a": 1}', kind="posts", **kw):
        return self.run("SELECT amp.request_approval(%s, %s, %s)", kind, subject, content, user=user, **kw)

    def look(self, request, **kw):
        return self.run("SELECT amp.approval(%s)", request, user="eve", **kw)

    def approved(self, row, kind="posts", table="posts"):
        """Requests approval of a row, as ann, and has bob approve it."""
        content = self.run(f"SELECT amp.content_of('{table}', %s)", row, user="ann")
        request = self.run("SELECT amp.request_approval(%s, %s, %s)", kind, row, json.dumps(content), user="ann")
        return self.run("SELECT amp.approve(%s)", request["id"], user="bob")


@pytest.fixture
def world(fresh_db):
    world = World(fresh_db)
    with fresh_db.connect("amp_ops") as ops:
        for tenant in ("t1", "t2"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    people(fresh_db, **TEAM)
    world.own(POSTS)
    world.rules()
    yield world
    for connection in world.connections:
        connection.close()


@pytest.fixture
def gated(world):
    world.run("INSERT INTO posts VALUES ('t1', 1, 'draft', 0.1), ('t1', 2, 'other', 1)")
    world.run("INSERT INTO posts VALUES ('t2', 1, 'theirs', 1)", tenant="t2")
    world.own("SELECT amp.require_approval('posts', 'status', '{published,featured}')")
    return world


# The table of docs/approval.md, walked: steps of one request by ann, and what holds after each.

ALL = {"approvers": ["bob", "cat"], "approval_order": "all"}
ROW = {"approvers": ["bob", "cat", "dan"], "approval_order": "sequential"}
BOSS = {**ALL, "escalation_after_hours": 12, "escalation_to": "dan"}
WALKS = {
    "nobody named": ({}, ["is pending *", "bob approves", "is approved decided"]),
    "nobody named, by order all": ({"approval_order": "all"}, ["bob approves", "is approved decided"]),
    "nobody named, rejected": ({}, ["cat rejects", "is rejected decided", "bob approves 55000", "cat rejects", "ann asks", "is pending *"]),
    "own": ({}, ["ann approves TN004", "ann rejects TN004", "is pending *"]),
    "a viewer": ({}, ["eve approves TN004", "eve rejects TN004", "is pending *"]),
    "a service": ({}, ["- approves TN003", "- rejects TN003", "is pending *"]),
    "another tenant": ({}, ["zed approves 42704", "zed rejects 42704", "is pending *"]),
    "any": ({"approvers": ["bob", "cat"]}, ["is pending bob,cat", "dan approves TN004", "cat approves", "is approved decided", "cat approves", "bob approves 55000"]),
    "any, one rejects": ({"approvers": ["bob", "cat"]}, ["dan rejects TN004", "bob rejects", "is rejected decided", "cat approves 55000"]),
    "any, requester named": ({"approvers": ["ann", "cat"]}, ["is pending cat", "ann approves TN004"]),
    "any, only the requester named": ({"approvers": ["ann"]}, ["is pending -", "ann approves TN004", "bob approves TN004", "dan approves TN004", "hours 720", "is expired timeout"]),
    "all": (ALL, ["is pending bob,cat", "bob approves", "is pending cat", "bob approves", "bob rejects 55000", "cat approves", "is approved decided"]),
    "all, one rejects": (ALL, ["bob approves", "cat rejects", "is rejected decided"]),
    "all, one leaves": (ALL, ["bob approves", "cat leaves", "is approved decided", "stored approved", "cat returns", "is approved decided"]),
    "all, one is demoted": (ALL, ["bob approves", "cat is viewer", "is approved decided", "stored approved", "cat is operator", "is approved decided"]),
    "all, who has approved leaves": (ALL, ["bob approves", "bob leaves", "is pending cat", "cat approves", "is approved decided"]),
    "all, all leave": (ALL, ["bob approves", "bob leaves", "cat is viewer", "is pending -"]),
    "all, all leave before": (ALL, ["bob leaves", "cat leaves", "is pending -", "dan approves TN004", "bob returns", "is pending bob"]),
    "sequential": (ROW, ["is pending bob", "cat approves TN004", "cat rejects TN004", "bob approves", "is pending cat", "dan approves TN004", "cat approves", "dan approves", "is approved decided"]),
    "sequential, the next one leaves": (ROW, ["bob approves", "cat leaves", "is pending dan", "dan approves", "is approved decided"]),
    "sequential, one comes back": (ROW, ["bob leaves", "cat approves", "bob returns", "is pending bob", "dan approves TN004", "bob approves", "is pending dan", "dan rejects", "is rejected decided"]),
    "escalation": (BOSS, ["dan approves TN004", "hours 11.999", "is pending bob,cat", "hours 0.001", "is escalated bob,cat,dan", "dan approves", "is approved escalation"]),
    "escalation, rejects": (BOSS, ["hours 12", "dan rejects", "is rejected decided"]),
    "escalation, nobody able": (BOSS, ["bob leaves", "cat is viewer", "is escalated dan", "dan approves", "is approved escalation"]),
    "escalation to the requester": ({**BOSS, "escalation_to": "ann"}, ["hours 13", "is escalated bob,cat", "ann approves TN004"]),
    "escalation to a viewer": ({**BOSS, "escalation_to": "eve"}, ["hours 13", "is escalated bob,cat", "eve approves TN004"]),
    "escalation to one of them": ({**BOSS, "escalation_to": "bob"}, ["bob approves", "is pending cat", "hours 12", "is approved escalation"]),
    "auto": ({"auto_approve_after_hours": 24}, ["hours 23.999", "is pending *", "hours 0.001", "is approved auto", "stored pending", "bob rejects 55000", "bob approves 55000", "settle 1", "stored approved"]),
    "auto, rejected before": ({"auto_approve_after_hours": 24}, ["bob rejects", "hours 25", "is rejected decided"]),
    "auto, nobody able": ({**ALL, "auto_approve_after_hours": 24}, ["bob leaves", "cat leaves", "hours 24", "is approved auto"]),
    "no expiry beside auto": ({"auto_approve_after_hours": 8760}, ["hours 8759", "is pending *", "hours 1", "is approved auto"]),
    "expiry": (ALL, ["bob approves", "hours 719.999", "is pending cat", "hours 0.001", "is expired timeout", "cat approves 55000", "bob leaves", "cat leaves", "is expired timeout", "stored expired"]),
    "rules change after time": ({"auto_approve_after_hours": 24}, ["hours 24", "rules {}", "is approved auto", "stored approved"]),
    "rules change before time": ({"auto_approve_after_hours": 24}, ["hours 23", "rules {}", "hours 2", "is pending *"]),
    "rules change after expiry": ({}, ['hours 720', 'rules {"auto_approve_after_hours": 1}', "is expired timeout"]),
    "rules change from all to any": (ALL, ["bob approves", 'rules {"approvers": ["bob"]}', "is approved decided", "stored approved"]),
    "rules change to other people": (ALL, ["bob approves", 'rules {"approvers": ["dan"]}', "is pending dan"]),
    "rules switched off": ({}, ['rules {"require_approval": false}', "is pending *", "bob approves", "is approved decided"]),
    "superseded": ({}, ["other asks", "is expired superseded", "bob approves 55000"]),
    "asked again": (ALL, ["bob approves", "ann asks", "is pending cat"]),
    "asked again by a service": ({}, ["- asks", "is pending *", "ann approves TN004"]),
    "asked again by another": ({}, ["cat asks", "is pending *", "cat approves TN004", "ann approves", "is approved decided"]),
}


@pytest.mark.parametrize("name", WALKS)
def test_walk(world, name):
    rules, steps = WALKS[name]
    world.rules(**rules)
    request = world.request()["id"]

    for step in steps:
        who, what, *rest = step.split(maxsplit=2)
        rest = rest[0] if rest else ""
        if who == "is":
            state = world.look(request)
            assert state == world.run("SELECT amp.approvals(%s) #> '{data,0}'", state["status"], user="ann") | {"content": {"a": 1}} or "asks" in " ".join(steps)
            if what in ("pending", "escalated"):
                assert state["status"] == "pending", step
                waiting = {"*": None, "-": []}.get(rest, rest.split(","))
                assert (state["waiting_for"], state["escalated"], state["decided_at"]) == (waiting, what == "escalated", None), step
            else:
                assert (state["status"], state["reason"], state["waiting_for"]) == (what, rest, []), (step, state)
                assert state["decided_at"] is not None
        elif who == "hours":
            world.hours(float(what))
        elif who == "rules":
            world.rules(**json.loads(step.split(maxsplit=1)[1]))
        elif who == "stored":
            assert world.admin("SELECT status FROM amp.approval_requests WHERE id = %s", request) == what, step
        elif who == "settle":
            assert world.operate("SELECT amp.settle_approvals()") == int(what)
        elif who == "other":
            world.request("cat", content='{"a": 2}')
        elif what == "asks":
            request = world.request(None if who == "-" else who)["id"]
        elif what == "leaves":
            world.operate("SELECT amp.remove_user(%s, 't1')", who)
        elif what == "returns":
            world.operate("SELECT amp.invite_user(%s, 'operator', 't1')", f"{who}@example.com")
        elif what == "is":
            world.operate("SELECT amp.set_user_role(%s, %s, 't1')", who, rest)
        else:
            call = f"SELECT amp.{what.removesuffix('s')}(%s)"
            user, tenant = (None if who == "-" else who), ("t2" if who == "zed" else "t1")
            if rest:
                with raises(rest):
                    world.run(call, request, user=user, tenant=tenant)
            else:
                assert world.run(call, request, user=user, tenant=tenant)["id"] == request


def test_what_the_rules_do_not_require(world):
    world.rules(require_approval=False)
    assert (world.request()["status"], world.request(subject="2")["reason"]) == ("approved", "not_required")
    world.operate("SELECT amp.update_config(%s, 't1')", '{"approval": null}')
    assert world.request(subject="3")["reason"] == "not_required"


# The gate. First the leak.


def test_without_the_gate_anybody_publishes(world):
    world.run("INSERT INTO posts VALUES ('t1', 1, 'unread', 0, now(), 'published')", user="ann")
    assert world.admin("SELECT status FROM posts") == "published"


WAYS_IN = {
    "update": "UPDATE posts SET status = 'published' WHERE id = 1",
    "update to another state": "UPDATE posts SET status = 'featured' WHERE id = 1",
    "insert": "INSERT INTO posts VALUES ('t1', 7, 'x', 0, now(), 'published')",
    "insert select": "INSERT INTO posts SELECT tenant_id, id + 7, title, score, at, 'published' FROM posts",
    "on conflict": "INSERT INTO posts VALUES ('t1', 1, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET status = 'published'",
    "merge": "MERGE INTO posts p USING (VALUES (1)) v(id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET status = 'published'",
    "merge insert": "MERGE INTO posts p USING (VALUES (9)) v(id) ON p.id = v.id WHEN NOT MATCHED THEN INSERT VALUES ('t1', 9, 'x', 0, now(), 'published')",
    "with": "WITH w AS (UPDATE posts SET status = 'published' WHERE id = 1 RETURNING 1) SELECT count(*) FROM w",
    "do": "DO $$ BEGIN UPDATE posts SET status = 'published' WHERE id = 1; END $$",
    "replica role": "SET session_replication_role = replica; UPDATE posts SET status = 'published'",
    "triggers off": "ALTER TABLE posts DISABLE TRIGGER amp_approval",
    "drop": "DROP TRIGGER amp_approval ON posts",
    "the registry": "DELETE FROM amp.approval_gates",
    "the requests": "UPDATE amp.approval_requests SET status = 'approved'",
    "an insert": "INSERT INTO amp.approval_decisions VALUES ('x', 'bob', 'approve', now())",
    "reading the requests": "SELECT * FROM amp.approval_requests",
    "opposite": "SELECT amp.drop_approval_requirement('posts')",
    "weaker": "SELECT amp.require_approval('posts', 'status', '{other}')",
    "settling by hand": "SELECT amp.settle_request('x', '{}')",
    "deciding by hand": "SELECT amp.decide('x', 'approve', '')",
    "forgetting": "SELECT amp.mark_caller(); SELECT amp.forget_gate('posts')",
    "registering": "SELECT amp.mark_caller(); SELECT amp.register_gate(g) FROM amp.approval_gates g",
    "row security off": "SET row_security = off; UPDATE posts SET status = 'published' WHERE id = 1",
}


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_ways_in(gated, way, level):
    with gated.session("ann", autocommit=False) as ann:
        ann.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        with pytest.raises(psycopg.Error) as caught:
            ann.execute(WAYS_IN[way])
        assert caught.value.sqlstate in ("TN004", "42501", "0A000"), caught.value
        ann.rollback()
    assert gated.admin("SELECT count(*) FROM posts WHERE status <> 'draft'") == 0


def test_copy(gated):
    """PostgreSQL refuses it under row security: the gate, like the policies, is never asked."""
    with gated.session("ann") as ann, raises("0A000"), ann.cursor().copy("COPY posts (id, title, status) FROM STDIN") as copy:
        copy.write("8\tx\tpublished\n")
    assert gated.admin("SELECT count(*) FROM posts WHERE status <> 'draft'") == 0


def test_approved_content_enters_and_stays(gated):
    assert gated.approved("1")["status"] == "approved"
    with gated.session("eve") as eve, raises("TN004", "viewer"):
        eve.execute("UPDATE posts SET status = 'published' WHERE id = 1")
    with gated.session("ann") as ann:
        with raises("TN004", match="row 2 of table public.posts is not approved to be published"):
            ann.execute("UPDATE posts SET status = 'published'")
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
        ann.execute("UPDATE posts SET status = 'featured' WHERE id = 1")
        for change in ("title = 'swapped'", "id = 3", "score = 0.1 + 1e-16", "at = at + interval '1 microsecond'", "title = NULL",
                       "id = 3, status = 'featured'", "title = title || ' '"):
            with raises("TN004"):
                ann.execute(f"UPDATE posts SET {change} WHERE id = 1")
        with raises("TN004"):
            ann.execute("INSERT INTO posts VALUES ('t1', 1, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET title = 'swapped'")
        with raises("TN004"):
            ann.execute("MERGE INTO posts p USING (VALUES (1)) v(id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET title = 'x'")
        # As a draft it can be anything; published again it has to be what was approved.
        ann.execute("UPDATE posts SET status = 'draft', title = 'swapped' WHERE id = 1")
        with raises("TN004"):
            ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
        ann.execute("UPDATE posts SET title = 'draft' WHERE id = 1; UPDATE posts SET status = 'published' WHERE id = 1")
        ann.execute("DELETE FROM posts WHERE id = 1")
        ann.execute("INSERT INTO posts VALUES ('t1', 1, 'draft', 0.1, '2026-01-01 12:00+00', 'published')")


def test_an_approval_is_of_one_subject_of_one_tenant(gated):
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    for kind, subject, user, tenant in (("posts", "2", "ann", "t1"), ("public.posts", "1", "ann", "t1"), ("posts", "1", None, "t2")):
        request = gated.run("SELECT amp.request_approval(%s, %s, %s)", kind, subject, json.dumps(content), user=user, tenant=tenant)
        if tenant == "t1":
            gated.run("SELECT amp.approve(%s)", request["id"], user="bob")
        else:
            assert request["reason"] == "not_required"
    with gated.session("ann") as ann, raises("TN004"):
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
    # A tenant without rules is let pass, with its own rows.
    gated.run("UPDATE posts SET status = 'published'", tenant="t2")
    assert gated.admin("SELECT array_agg(tenant_id || status ORDER BY 1) FROM posts") == ["t1draft", "t1draft", "t2published"]


def test_the_last_word_counts(gated):
    gated.approved("1")
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    again = gated.request("ann", "1", json.dumps(content))
    with gated.session("ann") as ann:
        ann.execute("BEGIN; UPDATE posts SET status = 'published' WHERE id = 1; ROLLBACK")
        gated.run("SELECT amp.reject(%s)", again["id"], user="bob")
        with raises("TN004"):
            ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")


def test_approvals_that_nobody_gave_are_not_hoarded(gated):
    """While the rules require none, somebody has everything approved that he wants to publish when they do."""
    gated.rules(require_approval=False)
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    assert gated.request("ann", "1", json.dumps(content))["reason"] == "not_required"
    gated.rules()
    with gated.session("ann") as ann, raises("TN004"):
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
    assert gated.approved("1")["status"] == "approved"
    gated.run("UPDATE posts SET status = 'published' WHERE id = 1", user="ann")


HOSTILE = ("SET extra_float_digits = -15; SET timezone = 'Pacific/Kiritimati'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';"
           "SET bytea_output = 'escape'; SET quote_all_identifiers = on; SET lc_monetary = 'C'")


def test_settings_change_no_content(world):
    world.own("""
        CREATE TABLE odd (tenant_id text COLLATE "C", id timestamptz, f float8, r float4, i interval, b bytea, d daterange, t tstzrange,
                          a timestamptz[], c regclass, m money, published boolean NOT NULL DEFAULT false, PRIMARY KEY (tenant_id, id));
        GRANT SELECT, INSERT, UPDATE, DELETE ON odd TO amp_svc; SELECT amp.protect('odd'); SELECT amp.require_approval('odd', 'published', '{true}')""")
    world.run("""INSERT INTO odd VALUES ('t1', '2026-01-02 03:04:05.678+00', 0.1, 0.1, '1 year -3 days', 'a\\000', '[2026-01-02,2026-03-04)',
                 '[2026-01-02 03:04:05+00,)', '{2026-01-02 03:04:05+00}', 'pg_class', 12.5)""")
    key = world.run("SELECT to_jsonb(id) #>> '{}' FROM (SELECT id AT TIME ZONE 'UTC' AT TIME ZONE 'UTC' AS id FROM odd) o", user="ann")
    key = "2026-01-02T03:04:05.678+00:00" if key else None
    assert world.approved(key, "odd", "odd")["status"] == "approved"
    with world.session("ann") as ann:
        plain = ann.execute("SELECT amp.content_of('odd', %s)", [key]).fetchone()
        ann.execute(HOSTILE)
        assert ann.execute("SELECT amp.content_of('odd', %s)", [key]).fetchone() == plain
        for change in ("f = 0.1 + 1e-17 * 4", "r = 0.1::float4 + 1e-8::float4", "id = id + interval '1 microsecond'",
                       "i = '12 months -3 days 00:00:00.000001'", "b = '\\x6101'", "d = '[2026-01-02,2026-03-05)'", "a = a || a", "c = 'pg_proc'"):
            with raises("TN004"):
                ann.execute(f"UPDATE odd SET published = true, {change}")
        ann.execute("UPDATE odd SET published = true")
        for change in ("r = 0.1::float4 + 1e-8::float4", "i = '1 year -4 days'", "t = '[2026-01-02 03:04:05.000001+00,)'"):
            with raises("TN004"):
                ann.execute(f"UPDATE odd SET {change}")


def test_shadowing(gated):
    gated.admin("CREATE SCHEMA evil AUTHORIZATION amp_client; GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT TEMPORARY ON DATABASE "
                f"{gated.database.name} TO PUBLIC")
    with gated.database.connect("amp_client") as client:
        client.execute("""
            CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
            CREATE FUNCTION evil.differ(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
            CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.differ);
            CREATE FUNCTION evil.bytes(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true';
            CREATE OPERATOR evil.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.bytes);
            CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
            CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;
            CREATE FUNCTION evil.row_security_active(oid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
            CREATE TABLE evil.approval_gates (LIKE amp.approval_gates); CREATE TABLE evil.posts (LIKE public.posts)""")
    with gated.session("ann") as ann:
        ann.execute("SET search_path = evil, pg_catalog, public; CREATE TEMP TABLE approval_gates (x int); CREATE TEMP TABLE approval_requests (x int)")
        with raises("TN004"):
            ann.execute("UPDATE public.posts SET status = 'published' WHERE id OPERATOR(pg_catalog.=) 1")
        ann.execute("PREPARE p AS UPDATE public.posts SET status = 'published'")
        with raises("TN004"):
            ann.execute("EXECUTE p")


def test_partitions_and_children(world):
    world.own("""
        CREATE TABLE parts (tenant_id text COLLATE "C", id int, day date, title text, status text COLLATE "C" DEFAULT 'draft',
                            PRIMARY KEY (tenant_id, id, day)) PARTITION BY RANGE (day);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE kin (tenant_id text COLLATE "C", id int, title text, status text DEFAULT 'draft', PRIMARY KEY (tenant_id, id));
        CREATE TABLE kin_1 (more text) INHERITS (kin);
        SELECT amp.protect('parts'); SELECT amp.protect('kin');
        SELECT amp.require_approval('parts', 'status', '{published}', content_columns => '{title}'), amp.require_approval('kin', 'status', '{published}');
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        CREATE TABLE late (day date NOT NULL, status text COLLATE "C", id int NOT NULL, title text, tenant_id text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id, id, day));
        SELECT amp.protect('late'); ALTER TABLE parts ATTACH PARTITION late FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
        CREATE TABLE kin_2 (own int) INHERITS (kin);
        CREATE TABLE kin_3 (LIKE kin); SELECT amp.protect('kin_3'); ALTER TABLE kin_3 INHERIT kin;
        GRANT SELECT, INSERT, UPDATE, DELETE ON parts, parts_1, parts_2, late, kin, kin_1, kin_2, kin_3 TO amp_svc""")
    assert column(world.database.connect(), "SELECT relation::text FROM amp.approval_gates") == sorted(
        ["parts", "parts_1", "parts_2", "late", "kin", "kin_1", "kin_2", "kin_3"])
    assert world.admin("SELECT bool_and(tgenabled = 'A') FROM pg_trigger WHERE tgname = 'amp_approval'")
    with world.session("ann") as ann:
        for table in ("parts", "parts_1"):
            with raises("TN004"):
                ann.execute(f"INSERT INTO {table} (id, day, status) VALUES (1, '2026-01-05', 'published')")
        for table, day in (("parts_2", "2026-02-05"), ("late", "2026-03-05")):
            with raises("TN004"):
                ann.execute(f"INSERT INTO {table} (id, day, status) VALUES (1, '{day}', 'published')")
        for table in ("kin", "kin_1", "kin_2", "kin_3"):
            with raises("TN004"):
                ann.execute(f"INSERT INTO {table} (id, status) VALUES (1, 'published')")
        ann.execute("INSERT INTO parts (id, day, title) VALUES (1, '2026-01-05', 'x')")
        ann.execute("INSERT INTO kin_1 (id, title, more) VALUES (5, 'x', 'more')")
    world.approved("1,2026-01-05", "parts", "parts")
    world.approved("5", "kin", "kin")
    with world.session("ann") as ann:
        assert ann.execute("SELECT amp.content_of('kin', '5') ->> 'more'").fetchone() == ("more",)
        ann.execute("UPDATE kin SET status = 'published' WHERE id = 5")
        with raises("TN004"):
            ann.execute("UPDATE kin_1 SET more = 'swapped'")
        with raises("TN004"):
            ann.execute("UPDATE parts SET status = 'published', day = '2026-02-05'")
        ann.execute("UPDATE parts SET status = 'published'")
        with raises("TN004"):
            ann.execute("UPDATE parts SET day = '2026-02-05'")
        with raises("TN004"):
            ann.execute("UPDATE parts_1 SET title = 'y'")
    with raises("55000"):
        world.own("SELECT amp.drop_approval_requirement('parts_1')")
    world.own("ALTER TABLE parts DETACH PARTITION parts_1; DROP TABLE late; SELECT amp.drop_approval_requirement('kin')")
    left = column(world.database.connect(), "SELECT relation::text FROM amp.approval_gates")
    assert left == ["parts", "parts_1", "parts_2"]
    with world.session("ann") as ann:
        ann.execute("UPDATE parts_1 SET status = 'draft', title = 'y'")
        with raises("TN004"):
            ann.execute("UPDATE parts_1 SET status = 'published'")
    world.own("SELECT amp.drop_approval_requirement('parts_1')")
    world.own("SELECT amp.unprotect('parts')")
    assert world.admin("SELECT count(*) FROM amp.approval_gates") == 0
    assert world.admin("SELECT count(*) FROM pg_trigger WHERE tgname = 'amp_approval'") == 0


def test_content_that_a_foreign_key_changes(world):
    """A published row changes by CASCADE: the statement is about another table."""
    world.own("""
        CREATE TABLE topics (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
        CREATE TABLE items (tenant_id text COLLATE "C", id int, topic int, status text DEFAULT 'draft', PRIMARY KEY (tenant_id, id),
                            FOREIGN KEY (tenant_id, topic) REFERENCES topics ON UPDATE CASCADE ON DELETE SET NULL (topic) DEFERRABLE INITIALLY DEFERRED);
        GRANT SELECT, INSERT, UPDATE, DELETE ON topics, items TO amp_svc; SELECT amp.protect('topics'); SELECT amp.protect('items');
        SELECT amp.require_approval('items', 'status', '{published}')""")
    world.run("INSERT INTO topics VALUES ('t1', 1)")
    world.run("INSERT INTO items VALUES ('t1', 1, 1)")
    world.approved("1", "items", "items")
    with world.session("ann", autocommit=False) as ann:
        ann.execute("UPDATE items SET status = 'published'")
        ann.commit()
        for change in ("UPDATE topics SET id = 2", "DELETE FROM topics"):
            for deferred in ("IMMEDIATE", "DEFERRED"):
                ann.execute(f"SET CONSTRAINTS ALL {deferred}")
                with raises("TN004"):
                    ann.execute(change)
                    ann.commit()
                ann.rollback()
    assert world.admin("SELECT topic FROM items") == 1


def test_another_way_round(gated):
    """Through the owner's function and view, a cursor, a swallowed error, a trigger that swaps the content before or after."""
    gated.database.open_hole("GRANT CREATE ON SCHEMA public TO amp_client; GRANT TRIGGER ON posts TO amp_client; CREATE VIEW by_superuser AS SELECT * FROM posts; GRANT ALL ON by_superuser TO amp_svc")
    gated.own("""
        CREATE FUNCTION publish() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ UPDATE public.posts SET status = 'published' $$;
        CREATE VIEW by_owner AS SELECT * FROM posts; GRANT ALL ON by_owner TO amp_svc""")
    with gated.session("ann", autocommit=False) as ann:
        ann.execute("DECLARE c CURSOR FOR SELECT * FROM posts WHERE id = 2 FOR UPDATE; FETCH c; SAVEPOINT s")
        for way, refusal in (("SELECT publish()", "TN004"), ("UPDATE by_owner SET status = 'published'", "TN004"),
                             ("UPDATE by_superuser SET status = 'published'", "TN009"), ("UPDATE posts SET status = 'published' WHERE CURRENT OF c", "TN004")):
            with raises(refusal):
                ann.execute(way)
            ann.execute("ROLLBACK TO s")
        ann.execute("DO $$ BEGIN UPDATE posts SET status = 'published'; EXCEPTION WHEN OTHERS THEN NULL; END $$")
        assert column(ann, "SELECT status FROM posts") == ["draft", "draft"]
    gated.approved("1")
    with gated.database.connect("amp_client") as client, gated.session("ann") as ann:
        client.execute("""
            CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := 'swapped'; RETURN NEW; END $$;
            CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.title <> 'late' THEN UPDATE public.posts SET title = 'late' WHERE id = NEW.id; END IF; RETURN NULL; END $$""")
        for trigger in ("BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION swap()", "AFTER UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION follow()"):
            with raises("TN008"):
                client.execute(f"CREATE TRIGGER zzz {trigger}")
            gated.admin(f"CREATE TRIGGER zzz {trigger}")
            with raises("TN004"):
                ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
            gated.own("DROP TRIGGER zzz ON posts")
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")


def test_states_and_values_that_are_equal(world):
    """A collation by which PUBLISHED is published; numbers that are equal and not the same."""
    world.admin("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    world.own("""
        CREATE TABLE loose (tenant_id text COLLATE "C", id int, n numeric, status text COLLATE ci DEFAULT 'draft', PRIMARY KEY (tenant_id, id));
        GRANT SELECT, INSERT, UPDATE, DELETE ON loose TO amp_svc; SELECT amp.protect('loose'); SELECT amp.require_approval('loose', 'status', '{published}')""")
    with world.session("ann") as ann:
        for spelling in ("published", "PUBLISHED", "Published"):
            with raises("TN004"):
                ann.execute("INSERT INTO loose VALUES ('t1', 1, 1.0, %s)", [spelling])
        ann.execute("INSERT INTO loose VALUES ('t1', 1, 1.0)")
        world.approved("1", "loose", "loose")
        ann.execute("UPDATE loose SET status = 'PUBLISHED'")
        with raises("TN004"):
            ann.execute("UPDATE loose SET n = 1.00")


def test_trees_of_partitions(world):
    world.own("""
        CREATE TABLE p (tenant_id text COLLATE "C", id int, status text, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
        SELECT amp.protect('p'); SELECT amp.require_approval('p', 'status', '{published}');
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN ('t1') PARTITION BY RANGE (id); CREATE TABLE p11 PARTITION OF p1 FOR VALUES FROM (0) TO (100);
        CREATE TABLE q (tenant_id text COLLATE "C" NOT NULL, id int NOT NULL, status text, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
        ALTER TABLE p ATTACH PARTITION q FOR VALUES IN ('t2'); GRANT SELECT, INSERT, UPDATE, DELETE ON p, p1, p11, q, q1 TO amp_svc""")
    gates = "SELECT relation::text || coalesce(' of ' || parent::text, '') FROM amp.approval_gates"
    assert column(world.database.connect(), gates) == ["p", "p1 of p", "p11 of p1", "q of p", "q1 of q"]
    with world.session("ann") as ann:
        for table in ("p", "p1", "p11"):
            with raises("TN004"):
                ann.execute(f"INSERT INTO {table} VALUES ('t1', 1, 'published')")
        world.own("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY")
        assert column(world.database.connect(), gates) == ["p", "p1", "p11 of p1", "q of p", "q1 of q"]
        for table in ("p1", "p11"):
            with raises("TN004"):
                ann.execute(f"INSERT INTO {table} VALUES ('t1', 1, 'published')")
    world.own("SELECT amp.require_approval('p', 'status', '{published,featured}')")
    world.own("DROP TABLE p")
    assert column(world.database.connect(), gates) == ["p1", "p11 of p1"]


def test_the_registry_is_not_a_weapon(gated):
    """A client notes somebody else's table as the parent of his own, so that its DDL fails."""
    gated.admin("GRANT CREATE ON SCHEMA public TO amp_client")
    with gated.database.connect("amp_client") as client:
        client.execute("CREATE TABLE own (tenant_id text COLLATE \"C\", id int PRIMARY KEY, status text)")
        for parent in ("posts", "own"):
            with raises("22023"):
                client.execute(f"SELECT amp.mark_caller(); SELECT amp.register_gate(ROW('own', 'x', '{{y}}', 'own', '{{z}}', NULL, '{parent}'))")
        with raises("42501"):
            client.execute("SELECT amp.mark_caller(); SELECT amp.register_gate(ROW('posts', 'x', '{y}', 'own', '{z}', NULL, NULL))")
        client.execute("SELECT amp.mark_caller(); SELECT amp.register_gate(ROW('own', 'x', '{y}', 'own', '{z}', NULL, NULL))")
    gated.own("ALTER TABLE posts ADD COLUMN more int; CREATE TABLE other (i int)")
    gated.admin("CREATE TABLE third (i int)")


def test_waiting_for_nobody_who_cannot_see_it(world):
    """A request that nobody could see while its time ran."""
    world.rules(auto_approve_after_hours=1)
    with world.session("ann", autocommit=False) as ann:
        ann.execute("SELECT amp.request_approval('posts', '1', '{}')")
        with raises("55000", match="cannot be prepared"):
            ann.execute("PREPARE TRANSACTION 'later'")


def test_a_rejection_that_has_not_committed_is_waited_for(gated):
    """Somebody rejects in time and commits when time has approved: nothing is published in between."""
    gated.rules(auto_approve_after_hours=24)
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    request = gated.request("ann", "1", json.dumps(content))["id"]
    gated.hours(24 - 3 / 3600)
    outcome = []
    with gated.session("bob", autocommit=False) as bob, gated.session("ann") as ann:
        bob.execute("SELECT amp.reject(%s)", [request])
        time.sleep(3)
        assert gated.look(request)["reason"] == "auto"

        def publish():
            try:
                ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
                outcome.append("published")
            except psycopg.Error as error:
                outcome.append(error.sqlstate)

        thread = threading.Thread(target=publish)
        thread.start()
        time.sleep(0.5)
        assert outcome == []
        bob.commit()
        thread.join(10)
    assert outcome == ["TN004"]
    assert gated.look(request)["status"] == "rejected"


def test_who_decides_does_not_put_off_his_removal(world):
    world.rules(**ALL)
    request = world.request()["id"]
    with world.session("bob", autocommit=False) as bob:
        bob.execute("SELECT amp.approve(%s)", [request])
        with world.database.connect("amp_ops") as ops:
            ops.execute("SET statement_timeout = '5s'")
            ops.execute("SELECT amp.remove_user('bob', 't1')")
        with raises("TN003"):
            bob.execute("SELECT amp.approval(%s)", [request])
        bob.rollback()


LOSES_IT = {
    "removed": "SELECT amp.remove_user('bob', 't1')",
    "a viewer": "SELECT amp.set_user_role('bob', 'viewer', 't1')",
}


@pytest.mark.parametrize("loses", LOSES_IT)
@pytest.mark.parametrize("decides", ["approve", "reject"])
def test_P6_who_cannot_decide_any_more_does_not_commit_what_he_has_decided(gated, loses, decides):
    """He keeps a decision open until he is gone: it would count from then on, whenever he commits."""
    gated.rules(approvers=["bob"], auto_approve_after_hours=24)
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    request = gated.request("ann", "1", json.dumps(content))["id"]
    with gated.session("bob", autocommit=False) as bob:
        bob.execute("SAVEPOINT a")
        bob.execute(f"SELECT amp.{decides}(%s)", [request])
        bob.execute("RELEASE a")
        gated.operate(f"{LOSES_IT[loses]}")
        with raises("TN004", match='user "bob" may not decide about approval requests any more'):
            bob.commit()
    assert gated.look(request)["status"] == "pending" and gated.look(request)["decisions"] == []
    with gated.session("ann") as ann, raises("TN004"):
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")


def test_P6_a_decision_is_not_prepared(world):
    """It could be committed by somebody else, when who decided is gone."""
    world.rules()
    request = world.request()["id"]
    with world.session("bob", autocommit=False) as bob:
        bob.execute("SELECT amp.approve(%s)", [request])
        with raises("55000", match="cannot be prepared"):
            bob.execute("PREPARE TRANSACTION 'later'")
    with world.session("bob", autocommit=False) as bob:
        bob.execute("SELECT amp.approve(%s)", [request])
    assert world.look(request)["status"] == "approved"


def test_other_tenants(world):
    request = world.request()["id"]
    with world.session("zed", "t2") as zed:
        for call in ("approval", "approve", "reject"):
            with raises("42704") as theirs:
                zed.execute(f"SELECT amp.{call}(%s)", [request])
            with raises("42704") as nobodys:
                zed.execute(f"SELECT amp.{call}(%s)", [request.swapcase()])
            assert str(theirs.value).replace(request, "") == str(nobodys.value).replace(request.swapcase(), "")
        with raises("42704"):
            zed.execute("SELECT amp.approvals(before => %s)", [request])
        assert zed.execute("SELECT amp.approvals()").fetchone()[0] == {"data": []}
        assert zed.execute("SELECT amp.settle_approvals()").fetchone()[0] == 0
    for role in ("amp_ops", "amp_client", "amp_owner"):
        with world.database.connect(role) as session:
            for call in ("approvals()", f"approval('{request}')", f"approve('{request}')", "request_approval('a', 'b', '{}')"):
                with raises("TN001"):
                    session.execute(f"SELECT amp.{call}")
            for table in ("approval_requests", "approval_decisions"):
                with raises("42501"):
                    session.execute(f"SELECT * FROM amp.{table}")
            assert "approval_requests" not in str(session.execute("SELECT * FROM amp.approval_gates").fetchall())


def test_a_second_key_is_the_same_person(world):
    key = world.operate("SELECT amp.create_api_key('ann', 't1', 'second')")["key"]
    request = world.request()["id"]
    with world.database.connect("amp_client") as client:
        client.execute("SELECT amp.authenticate(%s)", [key])
        with raises("TN004", match="your own"):
            client.execute("SELECT amp.approve(%s)", [request])


def test_what_repeatable_read_has_seen_is_not_what_counts(gated):
    content = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    gated.rules(auto_approve_after_hours=24)
    request = gated.request("ann", "1", json.dumps(content))["id"]
    with gated.session("ann", autocommit=False) as ann:
        ann.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ann.execute("SELECT count(*) FROM posts")
        gated.run("SELECT amp.reject(%s)", request, user="bob")
        gated.hours(25)
        with pytest.raises(psycopg.Error) as caught:
            ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
        assert caught.value.sqlstate in ("TN004", "40001")


def test_reading_in_a_read_only_transaction(world):
    world.rules(auto_approve_after_hours=24)
    request = world.request()["id"]
    world.hours(24)
    with world.session("eve", autocommit=False) as eve:
        eve.execute("SET TRANSACTION READ ONLY")
        assert eve.execute("SELECT amp.approval(%s) ->> 'reason'", [request]).fetchone() == ("auto",)
        assert eve.execute("SELECT jsonb_array_length(amp.approvals('approved') -> 'data')").fetchone() == (1,)
        assert eve.execute("SELECT amp.approvals('pending')").fetchone() == ({"data": []},)


def test_who_may_not(world):
    request = world.request()["id"]
    with world.session("eve") as eve:
        with raises("TN004"):
            eve.execute("SELECT amp.request_approval('posts', '9', '{}')")
    world.run("SELECT amp.define_role('blind', '{content.approve,missions.create}')", user="dan")
    world.operate("SELECT amp.set_user_role('cat', 'blind', 't1')")
    with world.session("cat") as cat:
        for call in ("approvals()", f"approval('{request}')", "settle_approvals()"):
            with raises("TN004"):
                cat.execute(f"SELECT amp.{call}")
        assert cat.execute("SELECT amp.approve(%s)", [request]).fetchone()[0]["content"] is None


def test_role_without_the_permission(world):
    """A role that loses content.approve: who has it is not waited for, and what this decided stays."""
    world.run("SELECT amp.define_role('reviewer', '{content.approve,content.view}')", user="dan")
    world.operate("SELECT amp.set_user_role('cat', 'reviewer', 't1')")
    world.rules(**ALL)
    request = world.request()["id"]
    world.run("SELECT amp.approve(%s)", request, user="bob")
    world.run("SELECT amp.define_role('reviewer', '{content.view}')", user="dan")
    assert world.admin("SELECT status FROM amp.approval_requests") == "approved"
    world.run("SELECT amp.define_role('reviewer', '{content.approve,content.view}')", user="dan")
    assert world.look(request)["reason"] == "decided"


def blocked(connection, sql, *args):
    """Whether a statement waits for somebody."""
    connection.execute("SET lock_timeout = '1s'")
    try:
        connection.execute(sql, args or None)
        return False
    except psycopg.errors.LockNotAvailable:
        return True


def test_a_viewer_who_looks_keeps_nobody_from_deciding(world):
    """Neither by settling what is not over yet, nor by asking the gate."""
    world.rules(auto_approve_after_hours=24)
    request = world.request()["id"]
    with world.session("eve", autocommit=False) as eve, world.session("bob") as bob, world.database.connect("amp_ops") as ops:
        assert eve.execute("SELECT amp.settle_approvals(), amp.is_approved('posts', '1', '\\x00')").fetchone() == (0, False)
        assert not blocked(ops, "SELECT amp.update_config('{\"approval\": {\"auto_approve_after_hours\": 30}}', 't1')")
        assert not blocked(bob, "SELECT amp.reject(%s)", request)
        eve.rollback()
    assert world.look(request)["status"] == "rejected"


@pytest.mark.parametrize("content", ["same", "other"])
@pytest.mark.parametrize("end", ["rollback", "commit"])
def test_nobody_holds_off_a_rejection_until_time_approves(gated, content, end):
    """The requester keeps the request's row: a rejection is not put off, and what time has approved beside it is not published."""
    gated.rules(auto_approve_after_hours=24, approvers=["bob", "cat"])
    document = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    request = gated.request("ann", "1", json.dumps(document))["id"]
    gated.hours(23)
    with gated.session("ann", autocommit=False) as ann, gated.session("bob") as bob:
        ann.execute("SELECT amp.request_approval('posts', '1', %s)", [json.dumps(document if content == "same" else {"x": 1})])
        bob.execute("SET lock_timeout = '1s'")
        assert bob.execute("SELECT amp.reject(%s) ->> 'status'", [request]).fetchone() == ("rejected",)
        getattr(ann, end)()
    gated.hours(2)
    assert gated.look(request)["status"] == ("rejected" if end == "rollback" or content == "same" else "expired")
    with gated.session("ann") as ann, raises("TN004"):
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")
    if end == "rollback" or content == "same":
        assert [r["id"] for r in gated.run("SELECT amp.approvals('rejected')", user="eve")["data"]] == [request]


def test_a_rejection_beside_an_approval_by_time_wins(gated):
    """Somebody writes down that time has approved while the rejection is not committed."""
    gated.rules(auto_approve_after_hours=24, approvers=["bob"])
    document = gated.run("SELECT amp.content_of('posts', '1')", user="ann")
    request = gated.request("ann", "1", json.dumps(document))["id"]
    with gated.session("ann", autocommit=False) as holder, gated.session("bob", autocommit=False) as bob:
        holder.execute("SELECT amp.request_approval('posts', '1', %s)", [json.dumps(document)])  # so that the rejection holds no row
        bob.execute("SELECT amp.reject(%s)", [request])
        holder.rollback()
        gated.hours(25)
        assert gated.run("SELECT amp.settle_approvals()", user="eve") == 1
        bob.commit()
    assert gated.look(request)["status"] == "rejected"
    with gated.session("ann") as ann, raises("TN004"):
        ann.execute("UPDATE posts SET status = 'published' WHERE id = 1")


KIN = """
    CREATE TABLE kin (tenant_id text COLLATE "C", id int, title text, status text DEFAULT 'draft', PRIMARY KEY (tenant_id, id));
    CREATE TABLE own (LIKE kin INCLUDING ALL);
    SELECT amp.protect('kin'); SELECT amp.protect('own');
    SELECT amp.require_approval('kin', 'status', '{published}'); SELECT amp.require_approval('own', 'status', '{archived}');
    GRANT SELECT, INSERT, UPDATE, DELETE ON kin, own TO amp_svc;
"""


def test_a_child_that_is_attached_takes_its_parents_gate(world):
    world.rules()
    world.own(KIN + "ALTER TABLE own INHERIT kin")
    with world.session("ann") as ann, raises("TN004"):
        ann.execute("INSERT INTO own (id, status) VALUES (1, 'published')")


def test_a_child_that_leaves_keeps_gate_and_registration(world):
    world.own(KIN + "ALTER TABLE own INHERIT kin; ALTER TABLE own NO INHERIT kin")
    with world.database.connect() as admin:
        assert column(admin, "SELECT relation::text FROM amp.approval_gates WHERE relation::text IN ('kin', 'own')") == ["kin", "own"]
    world.rules()
    with world.session("ann") as ann, raises("TN004"):
        ann.execute("INSERT INTO own (id, status) VALUES (1, 'published')")
    world.rules(require_approval=False)
    with world.session("ann") as ann:
        ann.execute("INSERT INTO own (id, status) VALUES (1, 'published')")


def test_a_type_whose_owner_says_what_its_json_is_cannot_be_approved(world):
    world.admin("GRANT CREATE ON SCHEMA public TO amp_client")
    try:
        with world.database.connect("amp_client") as client:
            client.execute("""
                CREATE TYPE mood AS ENUM ('fine', 'evil');
                CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql AS $$ SELECT '"fine"'::json $$;
                CREATE CAST (mood AS json) WITH FUNCTION as_json(mood)""")
        world.own("""CREATE TABLE m (tenant_id text COLLATE "C", id int, feel mood, status text, PRIMARY KEY (tenant_id, id));
                     SELECT amp.protect('m')""")
        with world.database.connect("amp_owner") as owner:
            with raises("42804", match="cast to json"):
                owner.execute("SELECT amp.require_approval('m', 'status', '{published}')")
            owner.execute("SELECT amp.require_approval('m', 'status', '{published}', content_columns => '{id}')")
    finally:
        world.admin("REVOKE ALL ON SCHEMA public FROM amp_client")


def test_the_doctor_sees_a_gate_that_is_off(gated):
    gated.database.open_hole("ALTER TABLE posts DISABLE TRIGGER amp_approval")
    with gated.database.connect() as admin:
        [fix] = column(admin, "SELECT fix FROM amp.doctor() WHERE code = 'approval-ungated'")
        admin.execute(fix)
        assert column(admin, "SELECT code FROM amp.doctor() WHERE code = 'approval-ungated'") == []
