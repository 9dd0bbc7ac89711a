"""Meters: whoever writes rows neither hides them from his own tenant's count nor lets another tenant pay for them."""

import pytest

from harness import raises
from world import column


@pytest.fixture
def metered(amp):
    """A partitioned table that counts its rows, and those that are shown; a client may make objects of his own."""
    with amp.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE items (tenant_id text COLLATE "C" NOT NULL, id int, state text) PARTITION BY LIST (state);
            CREATE TABLE items_draft PARTITION OF items FOR VALUES IN ('draft');
            CREATE TABLE items_shown PARTITION OF items FOR VALUES IN ('shown');
            GRANT SELECT, INSERT, UPDATE, DELETE ON items TO amp_svc;
            SELECT amp.protect('items');
            SELECT amp.meter('items', 'made'), amp.meter('items', 'shown', 'state', '{shown}')""")
    with amp.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_client, amp_svc")
    return amp


def counted(database):
    with database.connect() as admin:
        return admin.execute("SELECT tenant_id, metric, sum(amount)::int FROM amp.usage_counters GROUP BY 1, 2 ORDER BY 1, 2").fetchall()


def test_rows_are_not_taken_back_by_hand(metered):
    """A client calls what a moved row calls, for rows that he has just inserted: in RETURNING, and with every row that it could take."""
    with metered.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for row in "items.*", "ROW(items.*)", "ROW(items.*)::items", "NULL::items", "(items.*)::text::items":
            for returning in (f"amp.meter_moved('made', {row})", f"(SELECT amp.meter_moved('made', {row}))"):
                with raises("55000"):
                    svc.execute(f"INSERT INTO items (id, state) VALUES (1, 'draft') RETURNING {returning}")
        with raises("55000"):
            svc.execute("""WITH i AS (INSERT INTO items (id, state) VALUES (1, 'draft') RETURNING items)
                           SELECT amp.meter_moved('made', i.items) FROM i JOIN items o ON true RIGHT JOIN generate_series(1, 2) g ON true""")
        with raises("55000"):
            svc.execute("SELECT amp.meter_moved('made', NULL)")
        svc.execute("INSERT INTO items (id, state) VALUES (1, 'draft')")
    assert counted(metered) == [("t1", "made", 1)]


@pytest.mark.parametrize("row", ["NEW.*", "ROW(NEW.*)::items", "NULL::items"])
def test_rows_are_not_taken_back_by_another_tables_trigger(metered, row):
    """... with rows that move in a table of his own, in the same statement, whose trigger has the condition of the metered one's."""
    with metered.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        svc.execute(f"""
            CREATE TEMP TABLE own (tenant_id text, id int, state text) PARTITION BY LIST (state);
            CREATE TEMP TABLE own_a PARTITION OF own FOR VALUES IN ('a');
            CREATE TEMP TABLE own_b PARTITION OF own FOR VALUES IN ('b');
            INSERT INTO own SELECT 't1', id, 'a' FROM generate_series(1, 5) id;
            CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER moved AFTER UPDATE ON own FOR EACH ROW
                WHEN (amp.meter_moved('made', {row})) EXECUTE FUNCTION pg_temp.nothing()""")
        attack = """WITH i AS (INSERT INTO items (id, state) SELECT id, 'draft' FROM generate_series(1, 5) id RETURNING id)
                    UPDATE own SET state = 'b' FROM i WHERE own.id = i.id"""
        if row == "NEW.*":
            svc.execute(attack)
            assert counted(metered) == [("t1", "made", 5)]
        else:
            with raises("55000"):
                svc.execute(attack)


def test_the_table_is_its_owners(metered):
    """... in a partition of his own, or with a trigger on the table itself: both take its owner."""
    with metered.connect("amp_svc") as svc:
        svc.execute("CREATE TABLE mine (tenant_id text COLLATE \"C\" NOT NULL, id int, state text)")
        with raises("42501"):
            svc.execute("ALTER TABLE items ATTACH PARTITION mine FOR VALUES IN ('mine')")
        with raises("42501"):
            svc.execute("CREATE TRIGGER mine AFTER UPDATE ON items FOR EACH ROW WHEN (amp.meter_moved('made', NEW.*)) "
                        "EXECUTE FUNCTION amp.count_inserted('made')")
        with raises("42501"):
            svc.execute("SET session_replication_role = replica")
        with raises("42501"):
            svc.execute("ALTER TABLE items DISABLE TRIGGER ALL")


def test_another_tenant_does_not_pay(metered):
    """A client counts by hand for another tenant, before, in and after statements of his own."""
    by_hand = "amp.meter_row('made', 't2', 'items')"
    with metered.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        svc.execute(f"SELECT {by_hand} FROM generate_series(1, 100)")
        svc.execute(f"BEGIN; SELECT {by_hand}; INSERT INTO items (id, state) SELECT 1, 'draft' WHERE NOT {by_hand} RETURNING {by_hand}; COMMIT")
        svc.execute(f"BEGIN; INSERT INTO items (id, state) VALUES (2, 'draft'); SAVEPOINT s; SELECT {by_hand}; ROLLBACK TO s; COMMIT")
    assert {tenant for tenant, _, _ in counted(metered)} == {"t1"}
    with metered.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'; INSERT INTO items (id, state) VALUES (1, 'shown')")
    assert [row for row in counted(metered) if row[0] == "t2"] == [("t2", "made", 1), ("t2", "shown", 1)]


def test_a_superusers_statement_does_not_add_what_a_strangers_index_counted(metered):
    """A stranger's index expression counts for a tenant in a superuser's ANALYZE, who then loads rows in the same transaction."""
    with metered.connect("amp_client") as client:
        client.execute("""
            CREATE TABLE trap (id int);
            INSERT INTO trap SELECT generate_series(1, 100);
            CREATE FUNCTION count(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
            BEGIN
                IF session_user = 'postgres' THEN
                    PERFORM amp.meter_row('made', 't2', 0);
                END IF;
                RETURN id;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING '%', SQLSTATE;
                RETURN id;
            END $$;
            CREATE INDEX ON trap (public.count(id))""")
    with metered.connect() as admin:
        warned = []
        admin.add_notice_handler(lambda notice: warned.append(notice.message_primary))
        admin.execute("BEGIN; ANALYZE trap; INSERT INTO items VALUES ('t1', 1, 'draft'); COMMIT")
    assert set(warned) == {"55000"}
    assert counted(metered) == [("t1", "made", 1)]


def test_triggers_made_by_hand(amp):
    """A client makes the triggers of a meter on a table of his own."""
    with amp.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_svc")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("22023"):
            svc.execute("CREATE TABLE own (tenant_id text COLLATE \"C\"); SELECT amp.protect('own'); SELECT amp.meter('own', 'cost_cents')")
        svc.execute("CREATE TABLE own (tenant_id text COLLATE \"C\"); SELECT amp.protect('own')")
        for arguments in "'cost_cents'", "'Bad'", "":
            svc.execute(f"CREATE OR REPLACE TRIGGER own AFTER INSERT ON own FOR EACH STATEMENT EXECUTE FUNCTION amp.count_inserted({arguments})")
            with raises("22023"):
                svc.execute("INSERT INTO own DEFAULT VALUES")
        svc.execute("CREATE OR REPLACE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION amp.count_inserted('made')")
        with raises("55000"):
            svc.execute("INSERT INTO own DEFAULT VALUES")
        svc.execute("DROP TRIGGER own ON own; RESET amp.tenant_id; SELECT amp.meter('own', 'made'); SET amp.tenant_id = 't1'")
        amp.open_hole("ALTER TABLE own DISABLE ROW LEVEL SECURITY")
        for tenant in "t1", "t2":
            with raises("42501", match="add_usage"):
                svc.execute("INSERT INTO own VALUES (%s)", [tenant])
        with raises("0A000"):
            svc.execute("SELECT amp.count_inserted()")
    assert counted(amp) == []


def test_a_viewers_refused_rows_and_a_suspended_tenants_count_for_nobody(metered):
    with metered.connect("amp_svc") as svc, metered.connect("amp_ops") as ops:
        svc.execute("SET amp.tenant_id = 't1'; BEGIN; INSERT INTO items (id, state) VALUES (1, 'draft')")
        ops.execute("SELECT amp.suspend_tenant('t1')")
        with raises("TN002"):
            svc.execute("INSERT INTO items (id, state) VALUES (2, 'draft')")
        svc.execute("ROLLBACK")
    assert counted(metered) == []


def test_what_an_aborted_statement_counted_is_not_added_later(metered):
    """A statement that fails at its last row, in a savepoint and in a function's block, and then one that does not."""
    with metered.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        fails = "INSERT INTO items (id, state) SELECT 10 / (3 - g), 'draft' FROM generate_series(1, 3) g"
        svc.execute("BEGIN; SAVEPOINT s")
        with raises("22012"):
            svc.execute(fails)
        svc.execute("ROLLBACK TO s; INSERT INTO items (id, state) VALUES (1, 'draft')")
        svc.execute(f"DO $$ BEGIN {fails}; EXCEPTION WHEN division_by_zero THEN INSERT INTO items (id, state) VALUES (2, 'draft'); END $$")
        svc.execute("COMMIT")
        with raises("22012"):
            svc.execute(fails)
        svc.execute("INSERT INTO items (id, state) VALUES (3, 'draft')")
        assert column(svc, "SELECT id FROM items") == [1, 2, 3]
    assert counted(metered) == [("t1", "made", 3)]
