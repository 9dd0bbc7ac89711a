"""F. Writes: rows of another tenant made, changed, linked to, probed for and destroyed.

Not promised: F7's COPY FROM (PostgreSQL refuses it under row security) and F8 (logical replication's apply).
"""

import psycopg
import pytest

from harness import raises
from world import MINE, TABLES, column, isolate_plainly, notes, snapshot


@pytest.fixture(params=["plain", "amp"])
def world(request):
    """Attacks that plain PostgreSQL stops as well: (database, name of the setting)."""
    return request.getfixturevalue(request.param), {"plain": "app.tenant", "amp": "amp.tenant_id"}[request.param]


REFUSED = [
    "INSERT INTO orders VALUES (99, 't2', 'x')",
    "INSERT INTO orders VALUES (99, 't1', 'x'), (98, 't2', 'x')",
    "INSERT INTO orders SELECT 99, 't2', note FROM orders",
    "UPDATE orders SET tenant_id = 't2'",
    "UPDATE orders SET tenant_id = 't2' WHERE id = 11 RETURNING *",
    "INSERT INTO orders VALUES (99, 't2', 'x') ON CONFLICT DO NOTHING",
    "INSERT INTO orders VALUES (11, 't1', 'x') ON CONFLICT ON CONSTRAINT orders_pkey DO UPDATE SET tenant_id = 't2'",
    "MERGE INTO orders o USING (VALUES (11)) v(id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET tenant_id = 't2'",
    "MERGE INTO orders o USING (VALUES (21)) v(id) ON o.id = v.id WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (99, 't2')",
    "WITH w AS (INSERT INTO orders VALUES (99, 't2', 'x') RETURNING *) SELECT FROM w",
]


@pytest.mark.parametrize("attack", REFUSED)
def test_F0_writes_into_another_tenant(world, attack):
    """A row of another tenant is inserted, or one's own given away: by every verb."""
    database, name = world
    before = snapshot(database)
    with database.connect("amp_svc") as svc:
        svc.execute(f"SET {name} = 't1'")
        with raises("42501"):
            svc.execute(attack)
    assert snapshot(database) == before


UNSEEN = [
    "UPDATE orders SET note = 'x' WHERE id = 21",
    "UPDATE orders SET note = 'x' WHERE ctid IN ('(0,3)', '(0,4)', '(0,5)')",
    "UPDATE orders SET tenant_id = 't1' WHERE tenant_id = 't2'",
    "UPDATE orders o SET note = h.note FROM orders h WHERE h.tenant_id <> o.tenant_id",
    "DELETE FROM orders WHERE tenant_id = 't2'",
    "DELETE FROM orders WHERE id = 21 OR ctid = '(0,4)' RETURNING *",
    "DELETE FROM orders USING parents p WHERE p.id = 2",
    "MERGE INTO orders o USING (VALUES (21), (22)) v(id) ON o.id = v.id WHEN MATCHED THEN DELETE",
    "MERGE INTO orders o USING (VALUES (21)) v(id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = 'x'",
    "INSERT INTO orders SELECT id + 100, 't1', note FROM orders WHERE tenant_id = 't2'",
    "WITH w AS (DELETE FROM orders WHERE id > 20 RETURNING *) INSERT INTO orders SELECT * FROM w",
]


@pytest.mark.parametrize("attack", UNSEEN)
def test_F0_writes_to_hidden_rows(world, attack):
    """Another tenant's row is changed, taken over, copied or deleted: none is found."""
    database, name = world
    before = snapshot(database)
    with database.connect("amp_svc") as svc:
        svc.execute(f"SET {name} = 't1'")
        assert svc.execute(attack).rowcount == 0
    assert snapshot(database) == before


@pytest.mark.parametrize("role, sqlstate", [("amp_svc", "TN001"), ("amp_client", "TN001"), ("amp_ops", "TN001"), ("amp_owner", "TN001")])
def test_F0_every_verb_without_context(amp, role, sqlstate):
    """No tenant: every verb is an error, of empty results and empty tables, too."""
    before = snapshot(amp)
    with amp.connect(role) as session:
        for verb in ("SELECT FROM orders", "SELECT FROM orders WHERE id = 999", "INSERT INTO orders VALUES (99, 't1')",
                     "INSERT INTO orders (id) VALUES (99)", "UPDATE orders SET note = 'x' WHERE id = 999", "DELETE FROM orders WHERE id = 999",
                     "MERGE INTO orders o USING (VALUES (11)) v(id) ON o.id = v.id WHEN MATCHED THEN DELETE",
                     "COPY orders TO STDOUT", "COPY (SELECT note FROM orders) TO STDOUT", "SELECT FROM orders FOR UPDATE",
                     "DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders"):
            with raises(sqlstate):
                session.execute(verb)
    assert snapshot(amp) == before


def test_F0_insert_of_nothing_without_context(amp):
    """INSERT … SELECT of no rows, without a tenant."""
    with amp.connect("amp_svc") as svc:
        for attack in "INSERT INTO orders SELECT 99, 't1' FROM generate_series(1, 0)", "INSERT INTO orders (id) SELECT 99 FROM generate_series(1, 0)":
            with raises("TN001"):
                svc.execute(attack)


def test_F0_trigger_that_rewrites_the_tenant(world):
    """A BEFORE trigger changes NEW.tenant_id: the check comes after it."""
    database, name = world
    with database.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION give_away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant_id := 't2'; RETURN NEW; END $$;
            CREATE TRIGGER give_away BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION give_away()""")
    before = snapshot(database)
    with database.connect("amp_svc") as svc:
        svc.execute(f"SET {name} = 't1'")
        for attack in "INSERT INTO orders VALUES (99, 't1', 'x')", "UPDATE orders SET note = 'x'":
            with raises("42501"):
                svc.execute(attack)
    assert snapshot(database) == before


def said(connection, attack):
    """What an error tells the attacker, without the values he gave himself."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(attack)
    assert caught.value.sqlstate in ("23503", "23001")  # 18 has a code of its own for RESTRICT
    diagnosis = caught.value.diag
    return diagnosis.sqlstate, diagnosis.message_primary, diagnosis.constraint_name


def test_F1_link_to_a_hidden_parent(plain, amp):
    """A child that points at another tenant's parent: the link succeeds, and success tells that the parent exists."""
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; INSERT INTO orders VALUES (99, 't1', 'link', 1, 2)")
        assert said(svc, "INSERT INTO orders VALUES (98, 't1', 'link', 1, 999)")
    before = snapshot(amp)
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for attack in "INSERT INTO orders VALUES (99, 't1', 'link', 1, {})", "UPDATE orders SET parent_id = {} WHERE id = 11":
            assert said(svc, attack.format(2)) == said(svc, attack.format(999))
    assert snapshot(amp) == before


def test_F2_delete_a_parent_with_hidden_children(plain, amp):
    """The error on deleting one's own parent tells that somebody else's child points at it."""
    tables = """
        CREATE TABLE tops (id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL);
        CREATE TABLE notes (id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL, top int REFERENCES tops ON DELETE RESTRICT);
        GRANT SELECT, INSERT, DELETE ON tops, notes TO amp_svc"""
    with plain.connect("amp_owner") as owner:
        owner.execute(tables + "; INSERT INTO tops VALUES (3, 't1'); INSERT INTO notes VALUES (1, 't2', 3)")
        isolate_plainly(owner, "tops", "notes")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert said(svc, "DELETE FROM tops WHERE id = 3")
    with amp.connect("amp_owner") as owner:
        owner.execute(tables)
        owner.execute("SELECT amp.protect('tops'); SELECT amp.protect('notes', fix => true); SELECT amp.protect('tops', fix => true)")
    with amp.connect() as admin:
        admin.execute("INSERT INTO tops VALUES (3, 't1'), (3, 't2'); INSERT INTO notes VALUES (1, 't2', 3)")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert svc.execute("DELETE FROM tops WHERE id = 3").rowcount == 1
    with amp.connect() as admin:
        assert column(admin, "SELECT tenant_id FROM tops") == column(admin, "SELECT tenant_id FROM notes") == ["t2"]


def test_F2_rows_that_point_across_already(amp):
    """protect() finds rows that point into another tenant, and changes nothing."""
    with amp.connect("amp_owner") as owner, amp.connect() as admin:
        owner.execute("CREATE TABLE notes (id int PRIMARY KEY, tenant_id text COLLATE \"C\" NOT NULL, order_tenant text, parent int)")
        owner.execute("CREATE TABLE tops (id int PRIMARY KEY, tenant_id text COLLATE \"C\" NOT NULL)")
        owner.execute("ALTER TABLE notes ADD FOREIGN KEY (parent) REFERENCES tops; INSERT INTO tops VALUES (1, 't2')")
        owner.execute("INSERT INTO notes VALUES (1, 't1', NULL, 1); SELECT amp.protect('notes')")
        with raises("23503"):
            owner.execute("SELECT amp.protect('tops', fix => true)")
        assert column(admin, "SELECT relation::text FROM amp.protected_tables") == ["notes", "orders", "parents"]
        assert column(admin, "SELECT relrowsecurity FROM pg_class WHERE relname = 'tops'") == [False]


def world_with_foreign_key(database, action, amp):
    with database.connect("amp_owner") as owner:
        if amp:
            owner.execute("SELECT amp.unprotect('orders'); SELECT amp.unprotect('parents')")
        owner.execute("DROP TABLE orders; DROP TABLE parents")
        owner.execute(TABLES.replace("ON DELETE CASCADE ON UPDATE CASCADE", action).replace("parent_id int", "parent_id int DEFAULT 4"))
        owner.execute("INSERT INTO parents VALUES (3, 't1', 'bait'), (4, 't1', 'default')")
        owner.execute("INSERT INTO orders VALUES (13, 't1', 'baited', 0, 3)")
        if not amp:
            owner.execute("INSERT INTO orders VALUES (24, 't2', 'caught', 4, 3)")
            isolate_plainly(owner, "parents", "orders")
        else:
            owner.execute("SELECT amp.protect('parents'); SELECT amp.protect('orders', fix => true); SELECT amp.protect('parents', fix => true)")
    if amp:
        with database.connect() as admin:
            admin.execute("INSERT INTO parents VALUES (3, 't2', 'theirs'), (4, 't2', 'default'); INSERT INTO orders VALUES (24, 't2', 'caught', 4, 3)")


@pytest.mark.parametrize("action, attack, own", [
    ("ON DELETE CASCADE", "DELETE FROM parents WHERE id = 3", None),
    ("ON DELETE SET NULL", "DELETE FROM parents WHERE id = 3", (None,)),
    ("ON DELETE SET DEFAULT", "DELETE FROM parents WHERE id = 3", (4,)),
    ("ON UPDATE CASCADE", "UPDATE parents SET id = 5 WHERE id = 3", (5,)),
], ids=["cascade", "set null", "set default", "update cascade"])
def test_F3_F4_cascades_into_another_tenant(plain, amp, action, attack, own):
    """Foreign keys act without row security: one's own parent is deleted, and another tenant's child goes or changes with it."""
    theirs = (24, "t2", "caught", 4, 3)
    world_with_foreign_key(plain, action, amp=False)
    with plain.connect("amp_svc") as svc:
        svc.execute(f"SET app.tenant = 't1'; {attack}")
    assert theirs not in snapshot(plain)[1]
    world_with_foreign_key(amp, action, amp=True)
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert svc.execute(attack).rowcount == 1
        assert svc.execute("SELECT parent_id FROM orders WHERE id = 13").fetchone() == own
    rows = snapshot(amp)
    assert theirs in rows[1] and (3, "t2", "theirs") in rows[0]


# A foreign key that gives rows the default of their tenant column, and what makes it act.
SETS = {
    "on delete": ("ON DELETE SET DEFAULT", "DELETE FROM tops WHERE id = 1"),
    "on delete, of the tenant": ("ON DELETE SET DEFAULT (tenant_id)", "DELETE FROM tops WHERE id = 1"),
    "on update": ("ON UPDATE SET DEFAULT", "UPDATE tops SET id = 7 WHERE id = 1"),
}


@pytest.mark.parametrize("how", SETS)
def test_F4_set_default_moves_rows_to_another_tenant(plain, amp, how):
    """With a constant for the tenant column's default a row goes over when its parent does: refused, whichever of the two comes first."""
    action, attack = SETS[how]
    tables = """
        CREATE TABLE tops (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
        CREATE TABLE lines (tenant_id text COLLATE "C", id int, top int DEFAULT 1, PRIMARY KEY (tenant_id, id));
        GRANT SELECT, INSERT, UPDATE, DELETE ON tops, lines TO amp_svc"""
    rows = "INSERT INTO tops VALUES ('t1', 1), ('t2', 1); INSERT INTO lines VALUES ('t1', 1, 1)"
    key = f"ALTER TABLE lines ADD CONSTRAINT fk FOREIGN KEY (tenant_id, top) REFERENCES tops {action}"
    constant = "ALTER TABLE lines ALTER tenant_id SET DEFAULT 't2'"
    with plain.connect("amp_owner") as owner:
        owner.execute(f"{tables}; {rows}; {key}; {constant}")
        isolate_plainly(owner, "tops", "lines")
    with plain.connect("amp_svc") as svc:
        svc.execute(f"SET app.tenant = 't1'; {attack}")
        svc.execute("SET app.tenant = 't2'")
        assert svc.execute("SELECT * FROM lines").fetchall() == [("t2", 1, 1)]
    with amp.connect("amp_owner") as owner, amp.connect() as admin:
        owner.execute(f"{tables}; SELECT amp.protect('tops'); SELECT amp.protect('lines')")
        admin.execute(rows)
        for first, then in (key, constant), (constant, key):
            owner.execute(f"BEGIN; {first}")
            with raises("TN008", "foreign-key-sets-tenant"):
                owner.execute(then)
            owner.execute("ROLLBACK")
        # What only looks like amp's default is none; and one that names other columns may be.
        owner.execute(f"{key}; ALTER TABLE lines ALTER id SET DEFAULT 5, ALTER top SET DEFAULT 3")
        with raises("TN008", "foreign-key-sets-tenant"):
            owner.execute("ALTER TABLE lines ALTER tenant_id SET DEFAULT coalesce('t2', amp.tenant_id())")
        owner.execute(f"""
            BEGIN; ALTER TABLE lines DROP CONSTRAINT fk; {constant};
            ALTER TABLE lines ADD FOREIGN KEY (tenant_id, top) REFERENCES tops ON DELETE SET DEFAULT (top); ROLLBACK""")
        # The key protects what it leaves.
        owner.execute("ALTER TABLE lines ALTER top SET DEFAULT NULL")
        assert column(admin, "SELECT code FROM amp.doctor() WHERE severity = 'error'") == []
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        if "tenant_id" in action:  # (t1, 1) is what is deleted
            with raises("23503"):
                svc.execute(attack)
        else:
            assert svc.execute(attack).rowcount == 1
            assert svc.execute("SELECT * FROM lines").fetchall() == [("t1", 1, None)]
    with amp.connect() as admin:
        assert column(admin, "SELECT tenant_id FROM lines") == ["t1"]


def test_F3_cascade_in_a_table_that_points_at_itself(plain, amp):
    """A tree: deleting one's own root takes another tenant's branch."""
    tree = """
        CREATE TABLE tree (id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL, up int REFERENCES tree ON DELETE CASCADE);
        INSERT INTO tree VALUES (1, 't1', NULL), (2, 't1', 1); GRANT SELECT, INSERT, UPDATE, DELETE ON tree TO amp_svc"""
    for database, isolate in (plain, None), (amp, "SELECT amp.protect('tree', fix => true)"):
        with database.connect("amp_owner") as owner:
            owner.execute(tree)
            owner.execute(isolate) if isolate else isolate_plainly(owner, "tree")
    with plain.connect() as admin:
        admin.execute("INSERT INTO tree VALUES (3, 't2', 1)")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; DELETE FROM tree WHERE id = 1")
    with plain.connect() as admin:
        assert column(admin, "SELECT id FROM tree") == []
    with amp.connect() as admin:
        with raises("23503"):
            admin.execute("INSERT INTO tree VALUES (3, 't2', 1)")
        admin.execute("INSERT INTO tree VALUES (1, 't2', NULL), (3, 't2', 1)")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'; DELETE FROM tree WHERE id = 1")
    with amp.connect() as admin:
        assert column(admin, "SELECT id FROM tree") == [1, 3]


@pytest.mark.parametrize("first", ["parents", "orders"])
def test_F3_protection_in_either_order(amp, first):
    """Parent first or child first, protected again and again: the key includes the tenant, and once."""
    world_with_foreign_key(amp, "ON DELETE CASCADE", amp=True)
    with amp.connect("amp_owner") as owner:
        for table in first, "parents", "orders", "parents":
            owner.execute(f"SELECT amp.protect('{table}', fix => true)")
        assert column(owner, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'orders'::regclass") == [
            "FOREIGN KEY (tenant_id, parent_id) REFERENCES parents(tenant_id, id) ON DELETE CASCADE"]


def test_F5_G5_unique_keys_and_on_conflict(plain, amp):
    """A duplicate key, ON CONFLICT DO NOTHING and DO UPDATE WHERE false tell whether a hidden row has the value."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            owner.execute("""
                CREATE TABLE people (id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL, email text UNIQUE, code text);
                CREATE UNIQUE INDEX ON people (lower(code)) WHERE code IS NOT NULL;
                INSERT INTO people VALUES (1, 't1', 'me@x', 'me'), (2, 't2', 'ceo@x', 'ceo'); GRANT SELECT, INSERT, UPDATE, DELETE ON people TO amp_svc""")
            owner.execute("SELECT amp.protect('people', fix => true)") if database is amp else isolate_plainly(owner, "people")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        with raises("23505"):
            svc.execute("INSERT INTO people VALUES (3, 't1', 'ceo@x')")
        assert svc.execute("INSERT INTO people VALUES (3, 't1', 'ceo@x') ON CONFLICT (email) DO NOTHING").rowcount == 0
        assert svc.execute("INSERT INTO people VALUES (3, 't1', 'nobody@x') ON CONFLICT (email) DO NOTHING").rowcount == 1
        # An error here, or no row: 18.6 has it otherwise than 15.20. Either tells the hidden address from one that is nobody's.
        told = []
        for email in "ceo@x", "else@x":
            try:
                told.append(svc.execute(f"INSERT INTO people VALUES (4, 't1', '{email}') ON CONFLICT (email) DO UPDATE SET code = 'x' WHERE false").rowcount)
            except psycopg.Error as error:
                told.append(error.sqlstate)
        assert told in (["42501", 1], [0, 1])
    with amp.connect() as admin:
        before = admin.execute("SELECT * FROM people WHERE tenant_id = 't2'").fetchall()
    with amp.connect("amp_svc", autocommit=False) as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for values in "(2, 't1', 'ceo@x', 'CEO')", "(999, 't1', 'nobody@x', 'nobody')":
            for clause in ("", "ON CONFLICT DO NOTHING", "ON CONFLICT (tenant_id, email) DO UPDATE SET code = 'x' WHERE false",
                           "ON CONFLICT (tenant_id, id) DO UPDATE SET email = 'x' RETURNING *"):
                svc.execute("SAVEPOINT a")
                assert svc.execute(f"INSERT INTO people VALUES {values} {clause}").rowcount == 1
                svc.execute("ROLLBACK TO a")
        with raises("23505"):
            svc.execute("INSERT INTO people VALUES (1, 't1', 'other@x')")
    with amp.connect() as admin:
        assert admin.execute("SELECT * FROM people WHERE tenant_id = 't2'").fetchall() == before


def test_F5_insert_does_not_wait_for_a_hidden_row(plain, amp):
    """G7: an INSERT of a key that another tenant has just inserted waits for his transaction."""
    with plain.connect("amp_svc", autocommit=False) as other, plain.connect("amp_svc") as svc:
        other.execute("SET app.tenant = 't2'; INSERT INTO parents VALUES (9, 't2', 'in flight')")
        svc.execute("SET app.tenant = 't1'; SET lock_timeout = 200")
        with raises("55P03"):
            svc.execute("INSERT INTO parents VALUES (9, 't1', 'mine')")
    with amp.connect("amp_svc", autocommit=False) as other, amp.connect("amp_svc") as svc:
        other.execute("SET amp.tenant_id = 't2'; INSERT INTO parents VALUES (9, 't2', 'in flight')")
        svc.execute("SET amp.tenant_id = 't1'; SET lock_timeout = 200")
        svc.execute("INSERT INTO parents VALUES (9, 't1', 'mine')")


def test_F6_returning(world):
    """RETURNING on conflict and merge paths gives one's own rows."""
    database, name = world
    with database.connect("amp_svc") as svc:
        svc.execute(f"SET {name} = 't1'")
        assert column(svc, "UPDATE orders SET amount = 0 RETURNING note") == MINE
        assert column(svc, "INSERT INTO orders VALUES (11, 't1', 'x') ON CONFLICT ON CONSTRAINT orders_pkey DO UPDATE SET amount = 1 RETURNING note") == ["mine"]
        assert column(svc, "DELETE FROM orders RETURNING note") == MINE
        if svc.info.server_version >= 180000:
            assert column(svc, "INSERT INTO orders VALUES (15, 't1', 'new') RETURNING old.note") == [None]


def test_F7_copy(world):
    """COPY TO gives one's own rows; COPY FROM is refused under row security."""
    database, name = world
    with database.connect("amp_svc") as svc:
        svc.execute(f"SET {name} = 't1'")
        for source in "orders (note)", "(SELECT note FROM orders)":
            with svc.cursor().copy(f"COPY {source} TO STDOUT") as copy:
                assert sorted(row[0] for row in copy.rows()) == MINE
        with raises("0A000"):
            svc.execute("COPY orders FROM STDIN")
        assert notes(svc) == MINE
