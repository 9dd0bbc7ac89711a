"""E and D by schema changes: what a table's owner, a superuser or a stranger would open is refused by the statement that would open it.

test_e_structure shows what these holes are on plain PostgreSQL; here is the guard that keeps them from being made (P9).
"""

import psycopg
import pytest

from harness import raises
from world import MINE, THEIRS, column, isolate_plainly, notes, snapshot


@pytest.fixture
def owner(amp):
    with amp.connect("amp_owner") as session:
        yield session


@pytest.fixture
def admin(amp):
    with amp.connect() as session:
        yield session


@pytest.fixture
def schema(amp, owner):
    """A protected schema with one table."""
    owner.execute("""
        CREATE SCHEMA app;
        GRANT USAGE ON SCHEMA app TO amp_svc;
        CREATE TABLE app.posts (tenant_id text COLLATE "C", id int, body text, PRIMARY KEY (tenant_id, id));
        GRANT SELECT, INSERT, UPDATE, DELETE ON app.posts TO amp_svc;
        SELECT amp.protect_schema('app', fix => true)""")
    return "app"


def refused(session, statement, code):
    """The statement fails with TN008 and names the finding; whatever it did is undone."""
    with raises("TN008", f"would leave a hole: .*\\({code}\\)") as caught:
        session.execute(statement)
    assert caught.value.diag.message_detail and caught.value.diag.message_hint


def errors(session):
    return session.execute("SELECT code, object FROM amp.doctor() WHERE severity = 'error' ORDER BY 1, 2").fetchall()


# What the owner of a table may do in PostgreSQL, and what it opens.
HOLES = {
    "DISABLE": ("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "row-security-off"),
    "NO FORCE": ("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "row-security-off"),
    "ONLY": ("ALTER TABLE ONLY orders NO FORCE ROW LEVEL SECURITY", "row-security-off"),
    "among others": ("ALTER TABLE orders ADD COLUMN more int, NO FORCE ROW LEVEL SECURITY, ADD COLUMN yet_more int", "row-security-off"),
    "drop policy": ("DROP POLICY amp_tenant ON orders", "policy-changed"),
    "drop the allowing policy": ("DROP POLICY amp_allow ON orders", "policy-changed"),
    "drop a verb's policy": ("DROP POLICY amp_delete ON orders", "policy-changed"),
    "alter policy": ("ALTER POLICY amp_tenant ON orders USING (true)", "policy-changed"),
    "alter its check": ("ALTER POLICY amp_tenant ON orders WITH CHECK (true)", "policy-changed"),
    "alter its roles": ("ALTER POLICY amp_tenant ON orders TO amp_owner", "policy-changed"),
    "rename policy": ("ALTER POLICY amp_tenant ON orders RENAME TO mine", "policy-changed"),
    "null tenants": ("ALTER TABLE orders DROP CONSTRAINT orders_pkey, ALTER tenant_id DROP NOT NULL", "tenant-column-nullable"),
    "drop the tenant": ("ALTER TABLE orders DROP COLUMN tenant_id CASCADE", "policy-changed|tenant-column-missing"),
    "drop trigger": ("DROP TRIGGER amp_truncate ON orders", "truncate-unguarded"),
    "disable trigger": ("ALTER TABLE orders DISABLE TRIGGER amp_truncate", "truncate-unguarded"),
    "disable triggers": ("ALTER TABLE orders DISABLE TRIGGER USER", "truncate-unguarded"),
    "enable trigger": ("ALTER TABLE orders ENABLE TRIGGER amp_truncate", "truncate-unguarded"),
    "E10: unique": ("ALTER TABLE orders ADD UNIQUE (id)", "key-without-tenant"),
    "E10: unique index": ("CREATE UNIQUE INDEX ON orders (note)", "key-without-tenant"),
    "E10: new column": ("ALTER TABLE orders ADD COLUMN code int UNIQUE", "key-without-tenant"),
    "E10: exclusion": ("ALTER TABLE orders ADD EXCLUDE USING btree (note WITH =)", "key-without-tenant"),
    "E10: primary key": ("ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id)", "key-without-tenant"),
    "E11: foreign key": ("ALTER TABLE orders ADD FOREIGN KEY (note, parent_id) REFERENCES parents (tenant_id, id) NOT VALID", "foreign-key-without-tenant"),
    "D9: rule": ("CREATE RULE copy AS ON INSERT TO orders DO ALSO INSERT INTO parents VALUES (NEW.id)", "rule"),
    "D10: TRIGGER": ("GRANT TRIGGER ON orders TO amp_client", "grant-trigger"),
    "D11: REFERENCES": ("GRANT REFERENCES ON orders TO PUBLIC", "grant-references"),
    "D14: ALL": ("GRANT ALL ON orders TO amp_svc", "grant-(references|trigger)"),
    "D14: ALL TABLES": ("GRANT ALL ON ALL TABLES IN SCHEMA public TO amp_svc", "grant-(references|trigger)"),
    "D14: default privileges": ("ALTER DEFAULT PRIVILEGES FOR ROLE amp_owner GRANT ALL ON TABLES TO amp_svc", "grant-default"),
    "D2: materialized view": ("CREATE MATERIALIZED VIEW copy AS SELECT * FROM orders WITH NO DATA", "materialized-view"),
    "D2: through a view": ("CREATE VIEW v WITH (security_invoker) AS SELECT * FROM orders;"
                           "CREATE MATERIALIZED VIEW copy AS SELECT * FROM v WITH NO DATA", "materialized-view"),
    "E4: a parent that is not protected": ("CREATE TABLE above (LIKE orders); ALTER TABLE orders INHERIT above", "parent-unprotected"),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_E7_owner_cannot_open_a_table(amp, owner, admin, hole):
    """Every statement, of the owner and of a superuser; in a function, a DO block and a transaction, too; nothing of it stays."""
    statement, code = HOLES[hole]
    before = errors(admin)
    for session in owner, admin:
        refused(session, statement, code)
        refused(session, f"DO $do$ BEGIN EXECUTE $sql${statement}$sql$; END $do$", code)
        session.execute("BEGIN")
        with pytest.raises(Exception, match=code), session.transaction():
            session.execute(statement)
        session.execute("COMMIT")
    assert errors(admin) == before
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE


def test_E7_what_the_guard_prevents(plain, amp):
    """On plain PostgreSQL the owner opens the table for everybody by one statement."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            if database is amp:
                refused(owner, "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "row-security-off")
            else:
                owner.execute("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")
    with plain.connect("amp_svc") as svc:
        assert notes(svc) == sorted(MINE + THEIRS)
    with amp.connect("amp_svc") as svc, raises("TN001"):
        notes(svc)


def test_E7_caught_errors_do_not_confuse_it(owner):
    """Refused in a savepoint and in a function's EXCEPTION block, and then again: each statement is compared with what it found."""
    owner.execute("""
        CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN EXECUTE statement; RETURN 'done'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$""")
    for _ in range(3):
        assert column(owner, "SELECT attempt('ALTER TABLE orders NO FORCE ROW LEVEL SECURITY')") == ["TN008"]
        assert column(owner, "SELECT attempt('ALTER TABLE missing ADD x int')") == ["42P01"]
        assert column(owner, "SELECT attempt('CREATE INDEX ON orders (tenant_id, note)')") == ["done"]
    with owner.transaction():
        for _ in range(3):
            with raises("TN008"), owner.transaction():
                owner.execute("DROP POLICY amp_allow ON orders")
        owner.execute("ALTER TABLE orders ADD COLUMN more int")
    refused(owner, "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "row-security-off")


def test_E7_nested_statements(owner):
    """A schema change that runs inside of another one, by a column's default."""
    owner.execute("""
        CREATE FUNCTION opens() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN CREATE TABLE IF NOT EXISTS inner_table (x int); ALTER TABLE parents NO FORCE ROW LEVEL SECURITY; RETURN 1; END $$;
        CREATE FUNCTION harmless() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN CREATE TABLE IF NOT EXISTS inner_table (x int); RETURN 1; END $$""")
    refused(owner, "CREATE TABLE made AS SELECT opens()", "row-security-off")
    owner.execute("CREATE TABLE made AS SELECT harmless()")


def test_E7_older_snapshots(amp, owner):
    """A transaction that began before the table was protected must not take it for unprotected."""
    with amp.connect("amp_owner") as early:
        owner.execute("CREATE TABLE young (tenant_id text, id int)")
        early.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert column(early, "SELECT count(*) FROM amp.protected_tables") == [2]
        owner.execute("SELECT amp.protect('young')")
        assert column(early, "SELECT count(*) FROM amp.protected_tables") == [2]
        refused(early, "ALTER TABLE young DISABLE ROW LEVEL SECURITY", "row-security-off")
        early.execute("ROLLBACK")


# A view over orders that a superuser owns, and each way to lose its option.
VIEWS = {
    "made so": "CREATE VIEW leak AS SELECT * FROM orders",
    "in a subquery": "CREATE VIEW leak AS SELECT note FROM (SELECT o.note FROM parents p RIGHT JOIN orders o ON o.parent_id = p.id) q",
    "option reset": "CREATE VIEW leak WITH (security_invoker) AS SELECT * FROM orders; ALTER VIEW leak RESET (security_invoker)",
    "option off": "CREATE VIEW leak WITH (security_invoker) AS SELECT * FROM orders; ALTER VIEW leak SET (security_invoker = off)",
    "replaced": "CREATE VIEW leak WITH (security_invoker) AS SELECT * FROM orders; CREATE OR REPLACE VIEW leak AS SELECT * FROM orders",
    "below another": "CREATE TABLE other (LIKE orders); CREATE VIEW mid AS SELECT * FROM other; CREATE VIEW leak AS SELECT * FROM mid;"
                     "CREATE OR REPLACE VIEW mid AS SELECT * FROM orders",
    "given away": "SET ROLE amp_owner; CREATE VIEW leak AS SELECT * FROM orders; RESET ROLE; ALTER VIEW leak OWNER TO postgres",
}  # fmt: skip


@pytest.mark.parametrize("how", VIEWS)
def test_D1_views_of_superusers(plain, amp, how):
    """A view reads as its owner; a superuser's reads every row."""
    with plain.connect() as admin:
        admin.execute(VIEWS[how])
        admin.execute("GRANT SELECT ON leak TO amp_svc; GRANT SELECT ON ALL TABLES IN SCHEMA public TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT note FROM leak") == sorted(MINE + THEIRS)
    with amp.connect() as admin:
        refused(admin, VIEWS[how], "view-without-security-invoker")
        admin.execute("RESET ROLE")
        admin.execute("CREATE VIEW fine WITH (security_invoker) AS SELECT * FROM orders; GRANT SELECT ON fine TO amp_svc")
        admin.execute("CREATE OR REPLACE VIEW fine WITH (security_invoker) AS SELECT *, 1 AS one FROM orders; ALTER VIEW fine RENAME TO fine2")
        admin.execute("CREATE VIEW unrelated AS SELECT * FROM pg_catalog.pg_class")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "SELECT note FROM fine2") == MINE


# Rules of a superuser's relation, which act with his rights even on a view with security_invoker: how they come to be, and what they let through.
RULES = {
    "made": ("CREATE TABLE box (id int); CREATE RULE r AS ON INSERT TO box DO ALSO SELECT note FROM orders", "box"),
    "its condition": ("CREATE TABLE box (id int); CREATE RULE r AS ON INSERT TO box WHERE EXISTS (SELECT FROM orders WHERE note = 'secret')"
                      " DO INSTEAD SELECT 'secret' AS note", "box"),
    "of a view": ("CREATE VIEW box WITH (security_invoker) AS SELECT 1 AS id;"
                  "CREATE RULE r AS ON INSERT TO box DO INSTEAD SELECT note FROM orders", "box"),
    "given away": ("SET ROLE amp_owner; CREATE TABLE box (id int); CREATE RULE r AS ON INSERT TO box DO ALSO SELECT note FROM orders; RESET ROLE;"
                   "ALTER TABLE box OWNER TO postgres", "box"),
    "a view given away": ("SET ROLE amp_owner; CREATE VIEW box WITH (security_invoker) AS SELECT 1 AS id;"
                          "CREATE RULE r AS ON INSERT TO box DO INSTEAD SELECT note FROM orders; RESET ROLE; ALTER VIEW box OWNER TO postgres", "box"),
    "replaced": ("CREATE TABLE box (id int); CREATE RULE r AS ON INSERT TO box DO ALSO NOTHING;"
                 "CREATE OR REPLACE RULE r AS ON INSERT TO box DO ALSO SELECT note FROM orders", "box"),
}  # fmt: skip


@pytest.mark.parametrize("how", RULES)
def test_D9_rules_of_superusers(plain, amp, how):
    """A rule elsewhere reads and writes as its relation's owner: a superuser's past every policy."""
    rule, box = RULES[how]
    with plain.connect() as admin:
        admin.execute(rule)
        admin.execute(f"GRANT SELECT, INSERT ON {box} TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert "secret" in column(svc, f"INSERT INTO {box} VALUES (1)")
    with amp.connect() as admin:
        refused(admin, rule, "rule-acts-as-owner")
    # By a superuser's override, or in a database that had it before: the doctor names it, and whoever writes there is stopped.
    amp.open_hole(rule)
    with amp.connect() as admin:
        admin.execute(f"GRANT SELECT, INSERT ON {box} TO amp_svc")
        assert errors(admin) == [("rule-acts-as-owner", f"rule r on public.{box}")]
        admin.execute("CREATE TABLE unrelated (id int); CREATE RULE r AS ON INSERT TO unrelated DO ALSO SELECT 1")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        with raises("TN009"):
            svc.execute(f"INSERT INTO {box} VALUES (1)")


def test_D9_rules_that_write(plain, amp):
    rule = """CREATE VIEW box WITH (security_invoker) AS SELECT * FROM orders;
              CREATE RULE r AS ON UPDATE TO box DO INSTEAD UPDATE orders SET note = NEW.note WHERE id = 21"""
    with plain.connect() as admin:
        admin.execute(f"{rule}; GRANT SELECT, UPDATE ON box TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; UPDATE box SET note = 'taken' WHERE id = 11")
    assert "taken" in [row[2] for row in snapshot(plain)[1] if row[1] == "t2"]
    with amp.connect() as admin:
        refused(admin, rule, "rule-acts-as-owner")


def test_D9_rules_that_act_under_row_security_pass(amp, owner, admin):
    """Those of an owner who is under it, and what reaches a table through a view that asks as whoever writes."""
    owner.execute("CREATE TABLE box (id int); CREATE RULE r AS ON INSERT TO box DO ALSO SELECT note FROM orders; GRANT SELECT, INSERT ON box TO amp_svc")
    admin.execute("""
        CREATE VIEW v WITH (security_invoker) AS SELECT * FROM orders; GRANT SELECT ON v TO amp_svc;
        CREATE TABLE other (id int); CREATE RULE r AS ON INSERT TO other DO ALSO SELECT note FROM v; GRANT SELECT, INSERT ON other TO amp_svc""")
    assert errors(admin) == []
    assert column(admin, "SELECT severity FROM amp.doctor() WHERE code = 'rule-acts-as-owner'") == ["warning"]
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        for box in "box", "other":
            assert column(svc, f"INSERT INTO {box} VALUES (1)") == MINE


# A function of a superuser that reads protected tables, and each way to let others call it, or make it read them.
ASKS = """
    CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT note FROM orders; END;
    REVOKE EXECUTE ON FUNCTION ask() FROM PUBLIC; ALTER FUNCTION ask() SECURITY DEFINER;"""
FUNCTIONS = {
    "made": ("CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT note FROM orders; END", ""),
    "altered": ("CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT note FROM orders; END",
                "ALTER FUNCTION ask() SECURITY DEFINER"),
    "granted": (ASKS, "GRANT EXECUTE ON FUNCTION ask() TO amp_svc"),
    "granted as a routine": (ASKS, "GRANT ALL ON ROUTINE ask() TO PUBLIC"),
    "granted with all functions": (ASKS, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO amp_svc"),
    "granted with all routines": (ASKS, "GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO amp_svc"),
    "granted in a block": (ASKS, "DO $do$ BEGIN GRANT EXECUTE ON FUNCTION ask() TO amp_svc; END $do$"),
    "granted, calls another": (ASKS.replace("ask()", "inner_ask()").replace("ALTER FUNCTION inner_ask() SECURITY DEFINER;", "") + """
        CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT inner_ask(); END;
        REVOKE EXECUTE ON FUNCTION ask() FROM PUBLIC; ALTER FUNCTION ask() SECURITY DEFINER""", "GRANT EXECUTE ON FUNCTION ask() TO amp_svc"),
    "calls another": ("CREATE FUNCTION inner_ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT note FROM orders; END",
                      "CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT inner_ask(); END"),
    "calls another through a view": (
        "CREATE FUNCTION inner_ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT note FROM orders; END; CREATE VIEW v AS SELECT inner_ask() AS note",
        "CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT note FROM v; END"),
    "what it calls is replaced": (
        "CREATE FUNCTION inner_ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT 'x'; END;"
        "CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT inner_ask(); END",
        "CREATE OR REPLACE FUNCTION inner_ask() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT note FROM orders; END"),
    "a view below is replaced": (
        "CREATE TABLE other (LIKE orders); CREATE VIEW low WITH (security_invoker) AS SELECT * FROM other;"
        "CREATE VIEW high WITH (security_invoker) AS SELECT * FROM low;"
        "CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT note FROM high; END",
        "CREATE OR REPLACE VIEW low WITH (security_invoker) AS SELECT * FROM orders"),
    "given away": ("SET ROLE amp_owner; CREATE FUNCTION ask() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT note FROM orders; END;"
                   "RESET ROLE", "ALTER FUNCTION ask() OWNER TO postgres"),
}  # fmt: skip


@pytest.mark.parametrize("how", FUNCTIONS)
def test_D3_functions_of_superusers(plain, amp, how):
    """A SECURITY DEFINER function of a superuser, as far as what it reads is known, is not given to anybody."""
    before, opens = FUNCTIONS[how]
    with plain.connect() as admin:
        admin.execute(before)
        admin.execute(opens)
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'")
        assert column(svc, "SELECT ask()") == MINE + THEIRS
    with amp.connect() as admin:
        if opens:
            admin.execute(before)
        refused(admin, opens or before, "definer-function-reads")
        assert errors(admin) == []
        admin.execute("""
            CREATE FUNCTION fine() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM orders; END; GRANT EXECUTE ON FUNCTION fine() TO amp_svc;
            CREATE FUNCTION over_fine() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT fine(); END; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA amp TO postgres;
            CREATE PROCEDURE nothing() LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT 1; END; GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA public TO amp_svc""")


def test_D3_functions_that_act_as_others(owner, admin):
    """What a superuser's function calls, and acts as an owner who is under row security, reads as he does."""
    owner.execute("CREATE FUNCTION mine() RETURNS bigint LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT count(*) FROM orders; END")
    admin.execute("CREATE FUNCTION ask() RETURNS bigint LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT mine(); END")
    assert errors(admin) == []
    refused(admin, "ALTER FUNCTION mine() SECURITY INVOKER", "definer-function-reads")


# What an ordinary role owns, and what it opens once it belongs to a role that bypasses row security.
REASSIGNED = {
    "view": ("CREATE VIEW leak AS SELECT note FROM orders", "SELECT note FROM leak", "view-without-security-invoker"),
    "rule": ("CREATE TABLE leak (id int); CREATE RULE r AS ON INSERT TO leak DO ALSO SELECT note FROM orders", "INSERT INTO leak VALUES (1)",
             "rule-acts-as-owner"),
    "function": ("CREATE FUNCTION leak() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT note FROM orders; END", "SELECT leak()",
                 "definer-function-reads"),
}  # fmt: skip


@pytest.mark.parametrize("what", REASSIGNED)
def test_D15_reassign_owned(plain, amp, new_role, what):
    """PostgreSQL fires no event trigger for REASSIGN OWNED: it is refused all the same, with all it did, and the next statement is compared aright."""
    make, attack, code = REASSIGNED[what]
    bypass = new_role("BYPASSRLS IN ROLE amp_svc")
    member = new_role(f"LOGIN IN ROLE {bypass}")
    reassign = f"REASSIGN OWNED BY {member} TO {bypass}"
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute(f"GRANT CREATE ON SCHEMA public TO {member}, {bypass}; GRANT SELECT ON orders TO {member}, {bypass}")
            if database is amp:
                admin.execute(f"GRANT amp_service TO {member}")
        with database.connect(member) as session:
            session.execute(f"{make}; CREATE TABLE own (id int); GRANT SELECT ON own TO amp_svc")
            session.execute("GRANT SELECT, INSERT ON leak TO amp_svc" if what != "function" else "SELECT")
            if database is amp:
                refused(session, reassign, code)
                refused(session, f"DO $do$ BEGIN {reassign}; END $do$", code)
                session.execute("BEGIN")
                for _ in range(2):
                    with raises("TN008"), session.transaction():
                        session.execute(reassign)
                session.execute("CREATE TABLE more (id int); COMMIT")
                assert column(session, "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('own', 'leak', 'more')") == [member]
            else:
                session.execute(reassign)
        with database.connect("amp_svc") as svc:
            svc.execute(f"SET {'amp.tenant_id' if database is amp else 'app.tenant'} = 't1'")
            if database is plain:
                assert column(svc, attack) == MINE + THEIRS
    # A superuser is refused the same, and may let it pass; what opens nothing does so by itself.
    with amp.connect() as admin:
        refused(admin, reassign, code)
        warned = []
        admin.add_notice_handler(lambda notice: warned.append((notice.sqlstate, notice.message_primary)))
        with admin.transaction():
            admin.execute(f"SET LOCAL amp.allow_unsafe_ddl = on; {reassign}")
        [(sqlstate, message)] = warned
        assert sqlstate == "TN008" and message.startswith("REASSIGN OWNED leaves a hole: ") and code in message
        assert column(admin, "SELECT detail ->> 'code' FROM amp.audit_log WHERE action = 'ddl.unsafe'") == [code]
        assert [found for found, _ in errors(admin) if found != "role-becomes-bypasser"] == [code]
        admin.execute(f"REASSIGN OWNED BY {bypass} TO {member}")
        assert [found for found, _ in errors(admin)] == ["role-becomes-bypasser"]
        admin.execute(f"REASSIGN OWNED BY {member}, amp_owner TO amp_client; REASSIGN OWNED BY amp_client TO amp_owner")
        refused(admin, "REASSIGN OWNED BY amp_owner TO CURRENT_USER", code)
        for database in plain, amp:
            with database.connect() as cleaner:
                cleaner.execute(f"DROP OWNED BY {member}, {bypass}")


def test_other_holes_do_not_block(amp, owner, admin):
    """A hole that is there already blocks neither other tables, nor other changes of its own, nor its repair, one of two at a time."""
    admin.execute("""
        BEGIN; SET LOCAL amp.allow_unsafe_ddl = on; SET LOCAL client_min_messages = error;
        ALTER TABLE orders ADD UNIQUE (id), ADD UNIQUE (note), NO FORCE ROW LEVEL SECURITY; GRANT TRIGGER ON parents TO amp_svc; COMMIT""")
    assert len(errors(admin)) == 4
    owner.execute("""
        CREATE TABLE unrelated (id int PRIMARY KEY);
        ALTER TABLE parents ADD COLUMN more int;
        CREATE INDEX ON parents (tenant_id, more);
        ALTER TABLE parents RENAME TO elders;
        GRANT SELECT ON elders TO amp_svc""")
    refused(owner, "GRANT TRIGGER ON elders TO amp_client", "grant-trigger")
    refused(owner, "ALTER TABLE elders NO FORCE ROW LEVEL SECURITY", "row-security-off")
    owner.execute("ALTER TABLE orders FORCE ROW LEVEL SECURITY")
    owner.execute("ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases RENAME COLUMN note TO remark")
    owner.execute("ALTER TABLE purchases DROP CONSTRAINT orders_note_key")
    owner.execute("ALTER TABLE purchases ADD COLUMN more int")
    refused(owner, "ALTER TABLE purchases ADD UNIQUE (more)", "key-without-tenant")
    refused(owner, "ALTER TABLE purchases DROP CONSTRAINT orders_id_key, ADD UNIQUE (more)", "key-without-tenant")
    owner.execute("ALTER TABLE purchases DROP CONSTRAINT orders_id_key; REVOKE TRIGGER ON elders FROM amp_svc")
    assert errors(admin) == []


SAFE = """
    CREATE TABLE colours (id int PRIMARY KEY, name text UNIQUE);
    SELECT amp.share_table('colours');
    ALTER TABLE orders ADD COLUMN colour int REFERENCES colours;
    ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'draft' CHECK (state <> '');
    ALTER TABLE orders ALTER COLUMN amount TYPE bigint, ALTER COLUMN note SET DEFAULT '', ALTER COLUMN note SET STATISTICS 10;
    CREATE UNIQUE INDEX ON orders (tenant_id, note, id);
    ALTER TABLE parents ADD UNIQUE (tenant_id, name);
    CREATE INDEX ON orders (tenant_id, state) WHERE state <> 'draft';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE orders DISABLE TRIGGER touch;
    CREATE POLICY narrow ON orders AS RESTRICTIVE USING (state <> 'secret');
    DROP POLICY narrow ON orders;
    GRANT SELECT (id, note), UPDATE ON orders TO amp_client;
    REVOKE ALL ON orders FROM amp_ops;
    CREATE VIEW mine WITH (security_invoker) AS SELECT * FROM orders;
    COMMENT ON TABLE orders IS 'x';
    ALTER TABLE orders RENAME COLUMN note TO remark;
    ALTER TABLE orders RENAME TO purchases;
    ALTER TABLE purchases RENAME CONSTRAINT orders_pkey TO purchases_pkey;
    CREATE SCHEMA elsewhere;
    ALTER TABLE purchases SET SCHEMA elsewhere;
    DROP VIEW mine;
    CREATE TABLE steps (tenant_id text, id int, parent int, PRIMARY KEY (tenant_id, id));
    SELECT amp.protect('steps');
    ALTER TABLE steps ADD FOREIGN KEY (tenant_id, parent) REFERENCES parents (tenant_id, id) NOT VALID;
    ALTER TABLE steps VALIDATE CONSTRAINT steps_tenant_id_parent_fkey;
    ALTER TABLE steps DROP COLUMN parent;
    CREATE TEMP TABLE scratch AS SELECT 1 AS x;
    DROP TABLE steps;
    SELECT amp.protect('parents'); SELECT amp.protect('elsewhere.purchases', read => 'analytics.view', fix => true);
    SELECT amp.unprotect('elsewhere.purchases');
    DROP TABLE elsewhere.purchases, parents, colours CASCADE
"""


def test_safe_changes_pass(owner, admin):
    """What a migration does all day, by statement and in one transaction."""
    with owner.transaction(force_rollback=True):
        owner.execute(SAFE)
    for statement in SAFE.split(";\n"):
        owner.execute(statement)
    assert errors(admin) == []


def test_E11_foreign_keys_can_be_added(amp, owner):
    """Adding or validating one looks at all rows, although the owner is in no tenant and the policies are forced; and finds strays."""
    owner.execute("ALTER TABLE orders DROP CONSTRAINT orders_parent_id_fkey")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'; INSERT INTO orders (id, parent_id) VALUES (24, 99)")
    add = "ALTER TABLE orders ADD CONSTRAINT fk FOREIGN KEY (tenant_id, parent_id) REFERENCES parents (tenant_id, id)"
    with raises("23503"):
        owner.execute(add)
    owner.execute(f"{add} NOT VALID")
    with raises("23503"):
        owner.execute("ALTER TABLE orders VALIDATE CONSTRAINT fk")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'; DELETE FROM orders WHERE id = 24")
    owner.execute("ALTER TABLE orders VALIDATE CONSTRAINT fk")
    with raises("TN001"):  # nothing else is let past the policies: not the owner's own checks
        owner.execute("""
            CREATE FUNCTION peeks() RETURNS boolean LANGUAGE sql AS 'SELECT count(*) > 0 FROM orders';
            ALTER TABLE parents ADD CHECK (peeks()), ADD FOREIGN KEY (tenant_id, id) REFERENCES parents (tenant_id, id)""")
    with raises("TN001"):
        notes(owner)


# E1: a table with rows of tenants and without policies, each way to make one in a protected schema.
NEW_TABLES = {
    "CREATE TABLE": "CREATE TABLE app.fresh (tenant_id text, id int)",
    "without the column": "CREATE TABLE app.fresh (id int)",
    "CREATE TABLE AS": "CREATE TABLE app.fresh AS SELECT 't1'::text AS tenant_id, 1 AS id",
    "SELECT INTO": "SELECT 't1'::text AS tenant_id, 1 AS id INTO app.fresh",
    "LIKE": "CREATE TABLE app.fresh (LIKE app.posts INCLUDING ALL)",
    "SET SCHEMA": "CREATE TABLE public.fresh (tenant_id text, id int); ALTER TABLE public.fresh SET SCHEMA app",
    "partitioned": "CREATE TABLE app.fresh (tenant_id text, id int) PARTITION BY LIST (id)",
    "E6: a look-alike": "DROP TABLE app.posts; CREATE TABLE app.posts (tenant_id text, id int); ALTER TABLE app.posts RENAME TO fresh",
    "in a function": "DO $$ BEGIN CREATE TABLE app.fresh (tenant_id text, id int); END $$",
}  # fmt: skip


@pytest.mark.parametrize("how", NEW_TABLES)
def test_E1_new_tables_of_a_protected_schema(amp, owner, admin, schema, how):
    """Alone it fails; in the transaction that protects or shares the table it passes, however late that comes."""
    make = NEW_TABLES[how]
    for session in owner, admin:
        refused(session, make, "table-unprotected")
        assert column(session, "SELECT count(*) FROM pg_class WHERE relname = 'fresh'") == [0]
        session.execute("BEGIN")
        session.execute(make)
        with raises("TN008", "table-unprotected"):
            session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        session.execute("ROLLBACK")
        session.execute(f"BEGIN; {make}; CREATE TABLE app.other (id int); DROP TABLE app.other")
        refused(session, "COMMIT", "table-unprotected")
    cure = "SELECT amp.share_table('app.fresh')" if how == "without the column" else "SELECT amp.protect('app.fresh')"
    owner.execute("BEGIN")
    owner.execute(make)
    owner.execute(f"{cure}; GRANT SELECT ON app.fresh TO amp_svc; COMMIT")
    if "share" not in cure:
        assert column(admin, "SELECT count(*) FROM pg_policy WHERE polrelid = 'app.fresh'::regclass AND polname = 'amp_tenant'") == [1]
        refused(owner, "ALTER TABLE app.fresh NO FORCE ROW LEVEL SECURITY", "row-security-off")


def test_E1_new_tables_of_other_schemas(plain, owner):
    """Elsewhere everything is free, with LIKE as on plain PostgreSQL: no row security is copied."""
    with plain.connect("amp_owner") as session:
        session.execute("CREATE TABLE fresh (LIKE orders INCLUDING ALL)")
        assert column(session, "SELECT relrowsecurity FROM pg_class WHERE relname = 'fresh'") == [False]
    owner.execute("CREATE TABLE fresh (LIKE orders INCLUDING ALL); CREATE TEMP TABLE brief (tenant_id text)")


def test_unprotecting_stays_possible(amp, owner, admin, schema):
    """amp.unprotect() is how the owner takes protection away, also in a protected schema: it is in the audit log."""
    owner.execute("SELECT amp.unprotect('app.posts'); SELECT amp.unprotect('orders')")
    assert column(admin, "SELECT count(*) FROM pg_policy WHERE polrelid IN ('app.posts'::regclass, 'orders'::regclass)") == [0]
    assert column(admin, "SELECT detail ->> 'table' FROM amp.audit_log WHERE action = 'table.unprotected'") == ["app.posts", "public.orders"]
    owner.execute("ALTER TABLE app.posts ADD COLUMN more int; SELECT amp.protect_schema('app')")
    # Out of the registry without losing the policies: the transaction fails.
    with raises("55000"):
        owner.execute("SELECT amp.mark_caller(), amp.forget_table('app.posts')")
    assert column(admin, "SELECT relation::text FROM amp.protected_tables") == ["app.posts", "parents"]


def test_E2_E3_partitions(amp, owner, admin):
    """Attached, detached (also concurrently) and dropped partitions; a detached one stays protected and guarded."""
    owner.execute("""
        CREATE TABLE events (id int, tenant_id text COLLATE "C" NOT NULL, at date, PRIMARY KEY (tenant_id, id, at)) PARTITION BY RANGE (at);
        SELECT amp.protect('events');
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
        CREATE TABLE events_2 (LIKE events INCLUDING ALL);
        ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
        CREATE TABLE keyed (LIKE events, UNIQUE (id))""")
    attach = "ALTER TABLE events ATTACH PARTITION keyed FOR VALUES FROM ('2025-03-01') TO ('2025-04-01')"
    refused(owner, attach, "key-without-tenant")  # it brings a key along
    owner.execute(f"ALTER TABLE keyed DROP CONSTRAINT keyed_id_key; {attach}")
    for part in "events", "events_1", "events_2", "keyed":
        refused(owner, f"ALTER TABLE {part} NO FORCE ROW LEVEL SECURITY", "row-security-off")
    refused(owner, "CREATE TABLE events_3 PARTITION OF events (UNIQUE (id)) FOR VALUES FROM ('2025-05-01') TO ('2025-06-01')", "key-without-tenant")
    owner.execute("ALTER TABLE events DETACH PARTITION events_1")
    owner.execute("ALTER TABLE events DETACH PARTITION events_2 CONCURRENTLY")
    for part in "events_1", "events_2":
        refused(owner, f"DROP POLICY amp_tenant ON {part}", "policy-changed")
    owner.execute("DROP TABLE events_1, keyed, events, events_2")
    assert errors(admin) == []


def test_E7_renamed_columns_are_followed(amp, owner, admin):
    """The tenant column, here and in all parts, and the columns of meters and approval."""
    owner.execute("""
        CREATE TABLE events (id int, tenant_id text COLLATE "C" NOT NULL, state text, note text, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
        CREATE TABLE events_1 PARTITION OF events DEFAULT;
        GRANT SELECT, INSERT, UPDATE, DELETE ON events, events_1 TO amp_svc;
        SELECT amp.protect('events');
        SELECT amp.meter('events', 'published', 'state', '{published}');
        SELECT amp.require_approval('events', 'state', '{published}', content_columns => '{note}');
        ALTER TABLE events RENAME tenant_id TO org;
        ALTER TABLE events RENAME state TO status;
        ALTER TABLE events RENAME note TO body;
        ALTER TABLE orders RENAME COLUMN tenant_id TO "Org Id"
    """)
    assert column(admin, "SELECT relation || ' ' || tenant_column FROM amp.protected_tables") == ["events org", "events_1 org", "orders Org Id", "parents tenant_id"]
    assert column(admin, "SELECT DISTINCT state_column FROM amp.meters") == ["status"]
    assert admin.execute("SELECT DISTINCT gated_column, content_columns, key_columns FROM amp.approval_gates").fetchall() == [("status", ["body"], ["id"])]
    assert errors(admin) == []
    with owner.transaction():
        owner.execute("CREATE TABLE events_2 PARTITION OF events FOR VALUES IN ('t2'); SELECT amp.protect('events', 'org'); SELECT amp.protect('orders', 'Org Id')")
    assert errors(admin) == []
    refused(owner, "ALTER TABLE events_2 NO FORCE ROW LEVEL SECURITY", "row-security-off")
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'; INSERT INTO events (id, body) VALUES (1, 'x')")
        assert notes(svc) == MINE
        assert column(svc, "SELECT org FROM events") == ["t1"]
    owner.execute("ALTER TABLE events RENAME org TO a; ALTER TABLE events RENAME status TO org; ALTER TABLE events RENAME a TO status")
    assert column(admin, "SELECT DISTINCT tenant_column FROM amp.protected_tables WHERE relation::text LIKE 'events%%'") == ["status"]
    assert errors(admin) == []


def test_E1_renamed_schemas_are_followed(owner, admin, schema):
    owner.execute("ALTER SCHEMA app RENAME TO platform")
    assert column(admin, "SELECT schema::text FROM amp.protected_schemas") == ["platform"]
    refused(owner, "CREATE TABLE platform.fresh (tenant_id text)", "table-unprotected")
    owner.execute("CREATE SCHEMA app; CREATE TABLE app.free (id int)")


def test_the_override_is_a_superusers_and_ends_with_the_transaction(amp, owner, admin, new_role):
    """It lets a statement pass, warns, and leaves an entry; it cannot be had from elsewhere, and is gone afterwards."""
    with raises("42501"):
        owner.execute("BEGIN; SET LOCAL amp.allow_unsafe_ddl = on")
    owner.execute("ROLLBACK")
    for elsewhere in (
        "SET amp.allow_unsafe_ddl = on", "ALTER ROLE amp_owner SET amp.allow_unsafe_ddl = on", "ALTER SYSTEM SET amp.allow_unsafe_ddl = on",
        f"ALTER DATABASE {amp.name} SET amp.allow_unsafe_ddl = on", "SELECT set_config('amp.allow_unsafe_ddl', 'on', false)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET amp.allow_unsafe_ddl = on AS 'SELECT 1'",
    ):  # fmt: skip
        with pytest.raises(Exception, match="amp.allow_unsafe_ddl"):
            admin.execute(elsewhere)
    with pytest.raises(Exception, match="amp.allow_unsafe_ddl"):
        amp.connect(options="-c amp.allow_unsafe_ddl=on")

    warned = []
    admin.add_notice_handler(lambda notice: warned.append((notice.sqlstate, notice.message_primary)))
    with admin.transaction():
        admin.execute("SET amp.allow_unsafe_ddl = on; SET LOCAL ROLE amp_owner; ALTER TABLE orders NO FORCE ROW LEVEL SECURITY")
    assert warned == [("TN008", "ALTER TABLE leaves a hole: public.orders (row-security-off)")]
    assert admin.execute("SELECT login_role, detail FROM amp.audit_log WHERE action = 'ddl.unsafe'").fetchall() == [
        ("postgres", {"command": "ALTER TABLE", "code": "row-security-off", "object": "public.orders"})]
    admin.execute("ALTER TABLE orders FORCE ROW LEVEL SECURITY")
    refused(admin, "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "row-security-off")  # the setting outlived its transaction: it does not count
    with admin.transaction():
        refused_inside = admin.execute("SELECT amp.unsafe_ddl_allowed()").fetchone()
    assert refused_inside == (False,)
    # With its transaction the change is undone, and so is the entry.
    with admin.transaction(force_rollback=True):
        admin.execute("SET LOCAL amp.allow_unsafe_ddl = on; DROP POLICY amp_tenant ON orders")
    assert column(admin, "SELECT count(*) FROM amp.audit_log WHERE action = 'ddl.unsafe'") == [1]
    # A savepoint's rollback takes it back, too.
    admin.execute("BEGIN; SAVEPOINT s; SET LOCAL amp.allow_unsafe_ddl = on; ROLLBACK TO s")
    refused(admin, "DROP POLICY amp_tenant ON orders", "policy-changed")
    admin.execute("ROLLBACK")


def test_it_fires_whatever_the_session_sets(amp, owner, admin):
    """Not even a superuser switches it off by accident, or an owner by a search_path, temporary objects or row_security."""
    admin.execute("SET session_replication_role = replica")
    refused(admin, "DROP POLICY amp_tenant ON orders", "policy-changed")
    with raises("42501"):
        owner.execute("ALTER EVENT TRIGGER amp_refuse_unsafe DISABLE")
    owner.execute("""
        CREATE SCHEMA evil;
        CREATE VIEW evil.pg_class AS SELECT 1::oid AS oid; CREATE VIEW evil.pg_policy AS SELECT 1 AS x;
        CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT 1/0';
        CREATE TEMP TABLE protected_tables (relation oid);
        CREATE TEMP TABLE pg_policy (polrelid oid, polname name);
        SET search_path = evil, pg_temp, pg_catalog, public, amp;
        SET row_security = off""")
    refused(owner, "DROP POLICY amp_tenant ON public.orders", "policy-changed")
    owner.execute("ALTER TABLE public.orders ADD COLUMN more int")


def test_strangers_cannot_use_its_parts(amp):
    """What runs as the extension's owner is not there to be called."""
    for role in "amp_client", "amp_owner", "amp_svc":
        with amp.connect(role) as session:
            for call in (
                "SELECT amp.catalogs_at('now', 'SELECT rolpassword FROM pg_authid LIMIT 1', '{}', '{}')", "SELECT amp.refuse_opened('x', '[]')",
                "SELECT amp.opened('now', '{}', '{}')", "INSERT INTO amp.unfinished_tables VALUES (1)", "SELECT * FROM amp.unfinished_tables",
                "SELECT amp.unsafe_ddl_allowed()", "SELECT amp.ddl_renames()", "SELECT amp.refuse_unsafe_reassignment('{}')",
                "SELECT amp.refuse_if_opened('x', '{}', '{}')", "SELECT amp.owned_by('{}', '{}')", "SELECT amp.functions_over('{}', '{}')",
            ):  # fmt: skip
                with raises("42501"):
                    session.execute(call)
            for function in "amp.note_ddl()", "amp.refuse_unsafe_ddl()", "amp.follow_renames()", "amp.assert_finished()":
                with pytest.raises(Exception, match="permission denied|can only be called"):
                    session.execute(f"SELECT {function}")


def test_E10_concurrent_unique_indexes(amp, owner, admin):
    """One that is made in several transactions is refused before the first: nothing is left behind."""
    refused(owner, "CREATE UNIQUE INDEX CONCURRENTLY telltale ON orders (note)", "key-without-tenant")
    assert column(owner, "SELECT count(*) FROM pg_class WHERE relname = 'telltale'") == [0]
    owner.execute("CREATE INDEX CONCURRENTLY ON orders (tenant_id, note)")
    owner.execute("CREATE UNIQUE INDEX CONCURRENTLY ON orders (tenant_id, note)")
    owner.execute("DROP INDEX CONCURRENTLY orders_tenant_id_note_idx")
    owner.execute("REINDEX TABLE CONCURRENTLY orders")
    assert errors(admin) == []


@pytest.fixture
def any_case(plain, amp):
    """A collation under which two tenants' ids can be equal, in both databases."""
    for database in plain, amp:
        with database.connect("amp_owner") as owner:
            try:
                owner.execute("CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
            except psycopg.errors.FeatureNotSupported:
                pytest.skip("a server without ICU")


# A unique key of the tenant's column in another comparison than that of the policies.
COLLATED = {
    "in front": "CREATE UNIQUE INDEX ON orders (tenant_id COLLATE any_case, amount)",
    "behind": "CREATE UNIQUE INDEX ON orders (amount, tenant_id COLLATE any_case)",
    "in parentheses": "CREATE UNIQUE INDEX ON orders ((tenant_id COLLATE any_case), amount)",
    "exclusion": "ALTER TABLE orders ADD EXCLUDE USING btree (tenant_id COLLATE any_case WITH =, amount WITH =)",
    "concurrently": "CREATE UNIQUE INDEX CONCURRENTLY ON orders (tenant_id COLLATE any_case, amount)",
}


@pytest.mark.parametrize("how", COLLATED)
def test_E10_keys_under_which_tenants_are_equal(plain, amp, owner, admin, any_case, how):
    """With t2 and T2 such a key tells the one which values the other has."""
    key = COLLATED[how]
    with plain.connect("amp_owner") as session:
        session.execute(key)
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 'T2'")
        with raises("23P01" if how == "exclusion" else "23505"):
            svc.execute("INSERT INTO orders VALUES (31, 'T2', 'x', 3)")
    refused(owner, key, "key-without-tenant")
    owner.execute("CREATE UNIQUE INDEX ON orders (tenant_id COLLATE \"POSIX\", amount); CREATE UNIQUE INDEX ON orders (tenant_id, note COLLATE any_case)")
    assert errors(admin) == []


def test_E10_keys_by_an_operator_class_of_ones_own(amp, owner, admin):
    """A superuser's operator class may take two tenants for one."""
    admin.execute("""
        CREATE FUNCTION same(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp(lower($1), lower($2))';
        CREATE OPERATOR CLASS loose FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 same(text, text)""")
    for concurrently in "", "CONCURRENTLY":
        refused(owner, f"CREATE UNIQUE INDEX {concurrently} ON orders (tenant_id loose, amount)", "key-without-tenant")
        owner.execute(f"CREATE UNIQUE INDEX {concurrently} ON orders (tenant_id text_pattern_ops, amount)")
    assert errors(admin) == []
