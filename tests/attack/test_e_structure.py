"""E. Structure: what a table's owner, a partition or a child does to its protection, now and when it is made later.

Waiting for the DDL guard: E1 (new table in a protected schema), dropping amp's own policies (E5, E7), E6 (drop and re-create), E8.
Waiting for the doctor: E12. E10 and E11 are F1 to F6, with protect(fix => true).
"""

import psycopg
import pytest

from harness import raises
from world import MINE, THEIRS, column, isolate_plainly, notes, snapshot

EVENTS = """
    CREATE TABLE events (id int, tenant_id text COLLATE "C" NOT NULL, note text) PARTITION BY LIST (tenant_id);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES IN ('t1') PARTITION BY RANGE (id);
    CREATE TABLE events_1a PARTITION OF events_1 DEFAULT;
    CREATE TABLE events_2 PARTITION OF events FOR VALUES IN ('t2') PARTITION BY RANGE (id);
    CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES FROM (0) TO (100);
    INSERT INTO events VALUES (1, 't1', 'mine'), (2, 't2', 'secret');
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON events, events_1, events_1a, events_2 TO amp_svc"""

# A new part of events or orders: what makes it, its name, and a tenant whose rows belong into it.
LATER = {
    "partition": ("CREATE TABLE events_3 PARTITION OF events DEFAULT", "events_3", "t3"),
    "sub-partition": ("CREATE TABLE events_2b PARTITION OF events_2 DEFAULT", "events_2b", "t2"),
    "attached": ("CREATE TABLE loose (LIKE events); ALTER TABLE events ATTACH PARTITION loose DEFAULT", "loose", "t3"),
    "attached tree": ("CREATE TABLE loose (LIKE events) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF loose DEFAULT;"
                      "ALTER TABLE events ATTACH PARTITION loose DEFAULT", "leaf", "t3"),
    "in CREATE SCHEMA": ("CREATE SCHEMA hidden CREATE TABLE part PARTITION OF public.events DEFAULT", "hidden.part", "t3"),
    "child": ("CREATE TABLE child () INHERITS (orders)", "child", "t2"),
    "grandchild": ("CREATE TABLE child () INHERITS (orders); CREATE TABLE grandchild (extra int) INHERITS (child)", "grandchild", "t2"),
    "adopted": ("CREATE TABLE loose (LIKE orders); ALTER TABLE loose INHERIT orders", "loose", "t2"),
    "child in CREATE SCHEMA": ("CREATE SCHEMA hidden CREATE TABLE child () INHERITS (public.orders)", "hidden.child", "t2"),
}


@pytest.mark.parametrize("kind", LATER)
def test_E2_E4_parts_that_come_later(plain, amp, kind):
    """A partition or child made or attached after the table was protected, and then named directly."""
    make, part, tenant = LATER[kind]
    row = f"INSERT INTO {part} (id, tenant_id, note) VALUES (%s, '{tenant}', 'late secret')"
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute(EVENTS)
            if database is plain:
                isolate_plainly(owner, "events")
            else:
                owner.execute("SELECT amp.protect('events')")
            owner.execute(make)
            owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {part} TO amp_svc")
            if "hidden" in part:
                owner.execute("GRANT USAGE ON SCHEMA hidden TO amp_svc")
        with database.connect() as admin:
            admin.execute(row, [150])
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, f"SELECT note FROM {part}") == ["late secret"]
        assert svc.execute(row, [151]).rowcount == 1
    with amp.connect("amp_svc") as svc:
        for attack in f"SELECT note FROM {part}", row.replace("%s", "151"), f"DELETE FROM {part}":
            with raises("TN001"):
                svc.execute(attack)
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, f"SELECT note FROM {part}") == []
        assert svc.execute(f"DELETE FROM {part}").rowcount == 0
        with raises("42501"):
            svc.execute(row, [151])
        with raises("TN004"):
            svc.execute(f"TRUNCATE {part}")


def test_E2_partitions_named_directly(plain, amp):
    """The parent's policies do not count for a partition that is named itself."""
    with plain.connect("amp_owner") as owner:
        owner.execute(EVENTS)
        isolate_plainly(owner, "events")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM events") == ["mine"]
        assert column(svc, "SELECT note FROM events_2") == ["secret"]
    with amp.connect("amp_owner") as owner:
        owner.execute(EVENTS)
        owner.execute("SELECT amp.protect('events', fix => true)")
    with amp.connect("amp_svc") as svc:
        for part in "events", "events_1", "events_1a", "events_2":
            with raises("TN001"):
                svc.execute(f"SELECT FROM {part}")
        svc.execute("SET amp.tenant_id = 't1'")
        for part, seen in ("events", ["mine"]), ("events_1", ["mine"]), ("events_1a", ["mine"]), ("events_2", []):
            assert column(svc, f"SELECT note FROM {part}") == seen
            assert svc.execute(f"UPDATE {part} SET note = note WHERE id = 2").rowcount == 0
        for part in "events", "events_2":
            with raises("42501"):
                svc.execute(f"INSERT INTO {part} VALUES (3, 't2', 'x')")
        with raises("42501"):
            svc.execute("UPDATE events SET tenant_id = 't2'")


def test_E3_detached_partition(plain, amp):
    """A detached partition is a table of its own, without policies."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute(EVENTS)
            if database is plain:
                isolate_plainly(owner, "events")
            else:
                owner.execute("SELECT amp.protect('events')")
            owner.execute("ALTER TABLE events DETACH PARTITION events_2 CONCURRENTLY; ")
            owner.execute("ALTER TABLE events DETACH PARTITION events_1")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM events_2") == ["secret"]
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "SELECT note FROM events_2") == [] and column(svc, "SELECT note FROM events_1a") == ["mine"]


def test_E4_inheritance(plain, amp):
    """A child is read directly; and its rows through the parent."""
    child = """
        CREATE TABLE child (extra text) INHERITS (orders);
        INSERT INTO child VALUES (41, 't2', 'inherited secret', 1, NULL, 'x'), (42, 't1', 'inherited', 1, NULL, 'x');
        GRANT SELECT, INSERT, UPDATE, DELETE ON child TO amp_svc"""
    with plain.connect("amp_owner") as owner:
        owner.execute(child)
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM child") == ["inherited", "inherited secret"]
    with amp.connect("amp_owner") as owner:
        owner.execute("SELECT amp.unprotect('orders')")
        owner.execute(child)
        owner.execute("SELECT amp.protect('orders', fix => true)")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "SELECT note FROM child") == ["inherited"]
        assert notes(svc) == ["inherited", *MINE]
        assert svc.execute("DELETE FROM orders").rowcount == 3
    assert [row[2] for row in snapshot(amp)[1]] == [*THEIRS, "inherited secret"]


@pytest.mark.parametrize("make, sqlstate", [
    ("CREATE FOREIGN TABLE far PARTITION OF events DEFAULT SERVER far", "42809"),
    ("CREATE FOREIGN TABLE far (id int, tenant_id text COLLATE \"C\" NOT NULL, note text) SERVER far;"
     "ALTER TABLE events ATTACH PARTITION far DEFAULT", "42809"),
    ("CREATE FOREIGN TABLE far () INHERITS (orders) SERVER far", "42809"),
    ("CREATE TEMP TABLE brief () INHERITS (orders)", "42809"),
])
def test_E2_parts_that_cannot_be_protected(amp, make, sqlstate):
    """A foreign or temporary part has no row security: the statement that makes it fails."""
    with amp.connect() as admin:
        admin.execute("CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; GRANT USAGE ON FOREIGN SERVER far TO amp_owner")
    with amp.connect("amp_owner") as owner:
        owner.execute(EVENTS)
        owner.execute("SELECT amp.protect('events')")
        with raises(sqlstate):
            owner.execute(make)
        assert column(owner, "SELECT count(*) FROM pg_class WHERE relname IN ('far', 'brief')") == [0]


@pytest.mark.parametrize("policy", [
    "USING (true)", "USING (true) WITH CHECK (true)", "FOR SELECT USING (note IS NOT NULL)", "TO amp_svc USING (true) WITH CHECK (true)",
    "FOR UPDATE USING (true) WITH CHECK (true)", "FOR DELETE USING (true)", "FOR INSERT WITH CHECK (true)"])
def test_E5_second_permissive_policy(plain, amp, policy):
    """A permissive policy that somebody adds is OR-ed to the first."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute(f"CREATE POLICY more ON orders {policy}")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        before = snapshot(plain)
        if "INSERT" in policy:
            svc.execute("INSERT INTO orders VALUES (99, 't2', 'x')")
        if "UPDATE" in policy or "DELETE" in policy:  # needs to see the row as well
            with plain.connect("amp_owner") as owner:
                owner.execute("CREATE POLICY see ON orders FOR SELECT USING (true)")
        if "UPDATE" in policy:
            svc.execute("UPDATE orders SET note = 'x' WHERE id = 21")
        if "DELETE" in policy:
            svc.execute("DELETE FROM orders WHERE id = 21")
        assert snapshot(plain) != before or notes(svc) == MINE + THEIRS
    before = snapshot(amp)
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE POLICY see ON orders FOR SELECT USING (true)")
    with amp.connect("amp_svc") as svc:
        with raises("TN001"):
            notes(svc)
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE
        assert svc.execute("UPDATE orders SET note = 'x' WHERE id > 20").rowcount == 0
        assert svc.execute("DELETE FROM orders WHERE id > 20").rowcount == 0
        for write in "INSERT INTO orders VALUES (99, 't2', 'x')", "UPDATE orders SET tenant_id = 't2'":
            with raises("42501"):
                svc.execute(write)
    assert snapshot(amp) == before


def test_E5_second_permissive_policy_does_not_widen_a_role(amp):
    """A permissive policy does not let a viewer write either."""
    with amp.connect("amp_ops") as ops:
        viewer = ops.execute("SELECT amp.invite_user('v@example.com', 'viewer', 't1') ->> 'id'").fetchone()[0]
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE POLICY more ON orders USING (true) WITH CHECK (true)")
    before = snapshot(amp)
    with amp.connect("amp_svc") as svc:
        svc.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{viewer}'")
        assert notes(svc) == MINE
        for write in ("INSERT INTO orders VALUES (99, 't1', 'x')", "UPDATE orders SET note = 'x'", "DELETE FROM orders",
                      "MERGE INTO orders o USING (VALUES (11)) v(id) ON o.id = v.id WHEN MATCHED THEN DELETE"):
            with raises("TN004"):
                svc.execute(write)
    assert snapshot(amp) == before


def test_E9_defaults_and_generated_columns(amp):
    """The tenant of a new row is the session's, whoever defined the default; a generated tenant column is refused."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'; INSERT INTO orders (id, note) VALUES (99, 'new')")
        assert column(svc, "SELECT tenant_id FROM orders WHERE id = 99") == ["t1"]
        with raises("42501"):
            svc.execute("INSERT INTO orders (id, tenant_id) VALUES (98, 't2')")
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE made (id text, tenant_id text GENERATED ALWAYS AS ('t' || id) STORED)")
        with raises("42809"):
            owner.execute("SELECT amp.protect('made')")


UGLY = ['we"ird; DROP TABLE orders; --', "t" * 63, "MiXeD", "ünïcödé ☃", "select", "a.b", "%I %s $1", "' OR true --", "$$", "\\", "new\nline"]


@pytest.mark.parametrize("name", UGLY)
def test_E13_hostile_identifiers(amp, name):
    """Schema, table, column, key and index of any name."""
    n = '"' + name.replace('"', '""') + '"'
    with amp.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE SCHEMA {n};
            CREATE TABLE {n}.parent ({n} text COLLATE "C", id int PRIMARY KEY);
            CREATE TABLE {n}.{n} ({n} text COLLATE "C", id int PRIMARY KEY, parent int, body text,
                CONSTRAINT {n} FOREIGN KEY (parent) REFERENCES {n}.parent);
            CREATE INDEX ON {n}.{n} (body);
            GRANT USAGE ON SCHEMA {n} TO amp_svc; GRANT SELECT, INSERT, UPDATE, DELETE ON {n}.parent, {n}.{n} TO amp_svc;
            INSERT INTO {n}.{n} VALUES ('t1', 1, NULL, 'mine'), ('t2', 2, NULL, 'secret')""")
        for _ in range(2):
            report = owner.execute("SELECT * FROM amp.protect_schema(%s, %s, fix => true)", [name, name]).fetchall()
        assert {row[0] for row in report} == {"kept"}
        owner.execute("SELECT amp.meter(%s::regclass, 'rows')", [f"{n}.{n}"])
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, f"SELECT body FROM {n}.{n}") == ["mine"]
        with raises("42501"):
            svc.execute(f"INSERT INTO {n}.{n} VALUES ('t2', 3)")
        svc.execute(f"INSERT INTO {n}.{n} (id) VALUES (2)")
    with amp.connect() as admin:
        assert column(admin, "SELECT count(*) FROM pg_class WHERE relname = 'orders'") == [1]
        assert column(admin, "SELECT amount FROM amp.usage_counters") == [1]


def test_E4_parents_that_are_not_protected_are_reported(amp):
    """A protected part is read through a parent that is not: protect() says so, and protect_schema() leaves nobody out."""
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA inh; CREATE TABLE inh.doc (id int); CREATE TABLE inh.invoice (tenant_id text) INHERITS (inh.doc)")
        reported = owner.execute("SELECT status, object, what FROM amp.protect_schema('inh')").fetchall()
        assert ("left", "table inh.doc", "has no column tenant_id") in reported
        assert ("left", "table inh.invoice", "its rows can be read through its parent inh.doc, which is not protected") in reported
        assert owner.execute("SELECT count(*) FROM amp.protected_tables WHERE relation = 'inh.invoice'::regclass").fetchone() == (1,)


def test_E4_parents_that_are_protected_by_different_columns(amp):
    """A child of two protected parents would be compared by one column through the one, by another through the other."""
    with amp.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE p1 (tenant_id text, x int); CREATE TABLE p2 (org text, x int)")
        owner.execute("SELECT amp.protect('p1'); SELECT amp.protect('p2', 'org')")
        with raises("42P16"):
            owner.execute("CREATE TABLE child () INHERITS (p1, p2)")
        assert owner.execute("SELECT to_regclass('child')").fetchone() == (None,)


def test_E12_statistics_of_a_stranger(plain, amp):
    """Extended statistics and expression indexes on somebody else's table: PostgreSQL asks for the owner (and for CREATE, CVE-2025-12817)."""
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        with database.connect("amp_svc") as svc:
            svc.execute(f"SET {setting} = 't1'")
            for attack in ("CREATE STATISTICS pg_temp.both_of ON note, amount FROM orders", "CREATE STATISTICS app_stats ON note, amount FROM orders",
                           "CREATE INDEX ON orders ((note || 'x'))", "ANALYZE orders; ALTER STATISTICS app_stats SET STATISTICS 1"):
                with pytest.raises(psycopg.Error) as caught:
                    svc.execute(attack)
                assert caught.value.sqlstate in ("42501", "42704", "0A000", "3F000"), attack
        with database.connect("amp_owner") as owner, raises("42501"):
            owner.execute("CREATE SCHEMA closed; REVOKE ALL ON SCHEMA closed FROM amp_owner; CREATE STATISTICS closed.s ON note, amount FROM orders")


def test_E6_dropped_and_made_anew(plain, amp):
    """The owner drops a table and makes one like it: without policies, for whoever is granted it."""
    make = """
        CREATE TABLE app.papers (tenant_id text COLLATE "C" NOT NULL, note text);
        INSERT INTO app.papers VALUES ('t1', 'mine'), ('t2', 'secret'); GRANT SELECT ON app.papers TO amp_svc"""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute(f"CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO amp_svc; {make}")
            isolate_plainly(owner, "app.papers") if database is plain else owner.execute("SELECT amp.protect_schema('app', fix => true)")
    with plain.connect("amp_owner") as owner:
        owner.execute(f"DROP TABLE app.papers; {make}")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM app.papers") == ["mine", "secret"]
    with amp.connect("amp_owner") as owner, raises("TN008"):
        owner.execute(f"BEGIN; DROP TABLE app.papers; {make}; COMMIT")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "SELECT note FROM app.papers") == ["mine"]


def test_E8_gaps_between_policies(plain, amp):
    """Policies without row security, for one command only, with a check that is always true: plainly open, and nothing that amp's owner can leave."""
    with plain.connect("amp_owner") as owner:
        owner.execute("""
            ALTER POLICY tenant ON orders WITH CHECK (true);
            ALTER TABLE parents DISABLE ROW LEVEL SECURITY""")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; INSERT INTO orders (id, tenant_id) VALUES (99, 't2')")
        assert column(svc, "SELECT name FROM parents") == ["one", "two"]
    before = snapshot(amp)
    with amp.connect("amp_owner") as owner:
        for gap in ("ALTER POLICY amp_tenant ON orders WITH CHECK (true)", "ALTER POLICY amp_tenant ON orders USING (true)", "DROP POLICY amp_tenant ON orders",
                    "ALTER POLICY amp_tenant ON orders TO amp_client", "DROP POLICY amp_update ON orders", "ALTER TABLE parents DISABLE ROW LEVEL SECURITY"):
            with raises("TN008"):
                owner.execute(gap)
        owner.execute("CREATE POLICY loose ON orders FOR INSERT WITH CHECK (true)")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("42501"):
            svc.execute("INSERT INTO orders (id, tenant_id) VALUES (99, 't2')")
        assert column(svc, "SELECT name FROM parents") == ["one"]
    assert snapshot(amp) == before


def test_E1_new_table_plain(plain):
    """Plain: a table like a protected one has its columns and keys, and no row security."""
    with plain.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE more (LIKE orders INCLUDING ALL); GRANT ALL ON more TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't2'; INSERT INTO more VALUES (99, 't2', 'secret'); SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM more") == ["secret"]
