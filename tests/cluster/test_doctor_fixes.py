"""Each finding of the doctor: what makes it, that nothing else is found, and that its fix, run as it stands by psql, closes it.

A hole is made by a superuser while amp's event triggers are off, as it would be in a database that had it before. Where an attack is easy
to show, it works before the fix and not after it; or the library, which is preloaded here, has stopped it already (TN009).
"""

import re
import subprocess
import time
from dataclasses import dataclass

import psycopg
import pytest

from harness import ROOT, Cluster, program
from world import column

WORLD = """
    CREATE SCHEMA app AUTHORIZATION amp_owner;
    GRANT USAGE ON SCHEMA app TO amp_svc, amp_client;
    SET ROLE amp_owner;
    CREATE TABLE app.parents (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
    CREATE TABLE app.orders (tenant_id text COLLATE "C", id int, parent_id int, note text, state text, PRIMARY KEY (tenant_id, id),
                             FOREIGN KEY (tenant_id, parent_id) REFERENCES app.parents);
    SELECT amp.protect('app.parents'), amp.protect('app.orders');
    GRANT SELECT, INSERT, UPDATE, DELETE ON app.parents, app.orders TO amp_svc, amp_client;
    RESET ROLE;
    INSERT INTO app.parents VALUES ('t1', 1), ('t2', 2);
    INSERT INTO app.orders VALUES ('t1', 11, 1, 'mine', 'draft'), ('t2', 21, 2, 'theirs', 'draft');
    SELECT amp.harden();
"""

# A table of its own, which nothing refers to.
THINGS = """
    SET ROLE amp_owner;
    CREATE TABLE app.things (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
    SELECT amp.protect('app.things');
    RESET ROLE;"""


@dataclass
class Hole:
    code: str
    sql: str
    also: tuple = ()  # what is found with it, by its nature
    attack: tuple = ()  # (role, statement, what it answers while the hole is open)
    versions: range = range(15, 99)
    choice: tuple = ()  # (what the fix leaves open, what is chosen)
    guarded: bool = False  # made while amp's event triggers are on


HOLES = [
    Hole("row-security-off", "ALTER TABLE app.orders DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
         attack=("amp_client", "SELECT count(*) FROM app.orders", 2)),
    Hole("row-security-off", "ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY", attack=("amp_owner", "SELECT count(*) FROM app.orders", 2)),
    Hole("policy-changed", "ALTER POLICY amp_tenant ON app.orders USING (true)"),
    Hole("policy-changed", "DROP POLICY amp_update ON app.orders"),
    Hole("policy-permissive", "CREATE POLICY wide ON app.orders USING (true)"),
    Hole("policy-without-row-security", """
        CREATE TABLE app.notes (id int); INSERT INTO app.notes VALUES (1); GRANT SELECT ON app.notes TO amp_client;
        CREATE POLICY nobody ON app.notes USING (false)""", attack=("amp_client", "SELECT count(*) FROM app.notes", 1)),
    Hole("tenant-column-missing", "ALTER TABLE app.orders RENAME tenant_id TO owner_id", also=("foreign-key-without-tenant",),
         choice=("...", "owner_id")),
    Hole("tenant-column-type", THINGS + """
        DROP POLICY amp_allow ON app.things; DROP POLICY amp_tenant ON app.things;
        ALTER TABLE app.things ALTER tenant_id DROP DEFAULT, ALTER tenant_id TYPE integer USING 1""", also=("policy-changed", "tenant-default")),
    Hole("tenant-column-type", THINGS + """
        CREATE COLLATION app.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        DROP POLICY amp_allow ON app.things; DROP POLICY amp_tenant ON app.things;
        ALTER TABLE app.things ALTER tenant_id TYPE text COLLATE app.any_case""", also=("policy-changed",)),
    Hole("tenant-column-nullable", THINGS + "ALTER TABLE app.things DROP CONSTRAINT things_pkey, ALTER tenant_id DROP NOT NULL"),
    Hole("tenant-default", "ALTER TABLE app.orders ALTER tenant_id DROP DEFAULT"),
    Hole("truncate-unguarded", "DROP TRIGGER amp_truncate ON app.orders; GRANT TRUNCATE ON app.orders TO amp_client", also=("grant-truncate",),
         attack=("amp_client", "TRUNCATE app.orders", None)),
    Hole("truncate-unguarded", "ALTER TABLE app.orders DISABLE TRIGGER amp_truncate"),
    Hole("approval-ungated", """
        SELECT amp.require_approval('app.orders', 'state', '{published}', 'order'); ALTER TABLE app.orders DISABLE TRIGGER amp_approval"""),
    Hole("foreign-key-acts-on-strangers", """
        CREATE ROLE doctor_other; GRANT USAGE ON SCHEMA app TO doctor_other;
        CREATE TABLE app.lines (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id),
                                FOREIGN KEY (tenant_id, id) REFERENCES app.orders ON DELETE CASCADE);
        SELECT amp.protect('app.lines'); ALTER TABLE app.lines OWNER TO doctor_other"""),
    Hole("foreign-key-from-unprotected", """
        CREATE TABLE app.links (of text COLLATE "C", id int, FOREIGN KEY (of, id) REFERENCES app.orders);
        GRANT INSERT ON app.links TO amp_client""", attack=("amp_client", "INSERT INTO app.links VALUES ('t2', 22)", "23503")),
    Hole("foreign-key-from-unprotected", """
        CREATE TABLE app.links (tenant_id text COLLATE "C", id int, FOREIGN KEY (tenant_id, id) REFERENCES app.orders)""",
         also=("table-like-protected",)),
    Hole("foreign-key-to-unprotected", "CREATE TABLE app.kinds (id int PRIMARY KEY); ALTER TABLE app.orders ADD kind int REFERENCES app.kinds"),
    Hole("foreign-key-to-unprotected", """
        CREATE TABLE app.kinds (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id));
        ALTER TABLE app.orders ADD kind int, ADD FOREIGN KEY (tenant_id, kind) REFERENCES app.kinds""", also=("table-like-protected",)),
    Hole("part-unprotected", """
        CREATE TABLE app.parted (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
        SELECT amp.protect('app.parted');
        CREATE TABLE app.part (tenant_id text COLLATE "C" NOT NULL, id int NOT NULL); INSERT INTO app.part VALUES ('t2', 1);
        GRANT SELECT ON app.part TO amp_client; ALTER TABLE app.parted ATTACH PARTITION app.part DEFAULT""",
         attack=("amp_client", "SELECT count(*) FROM app.part", 1)),
    Hole("parent-unprotected", """
        CREATE TABLE app.base (tenant_id text COLLATE "C", id int); CREATE TABLE app.part () INHERITS (app.base);
        SELECT amp.protect('app.part'); INSERT INTO app.part VALUES ('t2', 1); GRANT SELECT ON app.base TO amp_client""",
         also=("table-like-protected",), attack=("amp_client", "SELECT count(*) FROM app.base", 1)),
    Hole("table-unprotected", """
        SELECT amp.protect_schema('app'); CREATE TABLE app.late AS SELECT * FROM app.orders; GRANT SELECT ON app.late TO amp_client""",
         attack=("amp_client", "SELECT count(*) FROM app.late", 2)),
    Hole("table-unprotected", "SELECT amp.protect_schema('app'); CREATE TABLE app.countries (code text PRIMARY KEY)"),
    Hole("foreign-table", """
        SELECT amp.protect_schema('app'); CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
        CREATE FOREIGN TABLE app.outside (tenant_id text) SERVER files OPTIONS (filename '/dev/null')"""),
    Hole("table-like-protected", "CREATE TABLE app.copied AS SELECT * FROM app.orders; GRANT SELECT ON app.copied TO amp_client",
         attack=("amp_client", "SELECT count(*) FROM app.copied", 2)),
    Hole("foreign-key-without-tenant", """
        ALTER TABLE app.parents ADD UNIQUE (id); ALTER TABLE app.orders ADD other int REFERENCES app.parents (id)""", also=("key-without-tenant",)),
    Hole("key-without-tenant", "ALTER TABLE app.orders ADD UNIQUE (note)"),
    Hole("key-without-tenant", """
        CREATE COLLATION app.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE UNIQUE INDEX twice ON app.orders (tenant_id COLLATE app.any_case, note)"""),
    Hole("foreign-key-sets-tenant", """
        ALTER TABLE app.orders DROP CONSTRAINT orders_tenant_id_parent_id_fkey, ALTER tenant_id SET DEFAULT 't2',
            ADD FOREIGN KEY (tenant_id, parent_id) REFERENCES app.parents ON DELETE SET DEFAULT""", also=("tenant-default",)),
    Hole("index-without-tenant", "CREATE INDEX ON app.orders (note)"),
    Hole("rule", "CREATE RULE copy AS ON DELETE TO app.orders DO ALSO NOTHING"),
    Hole("statistics-of-stranger", """
        CREATE ROLE doctor_other; CREATE STATISTICS app.pairs ON id, note FROM app.orders; GRANT CREATE ON SCHEMA app TO doctor_other;
        ALTER STATISTICS app.pairs OWNER TO doctor_other"""),
    Hole("sequence-shared", "ALTER TABLE app.orders ALTER id ADD GENERATED ALWAYS AS IDENTITY"),
    Hole("sequence-shared", "CREATE SEQUENCE app.numbers; ALTER TABLE app.orders ALTER id SET DEFAULT nextval('app.numbers')"),
    Hole("grant-trigger", "GRANT TRIGGER ON app.orders TO PUBLIC"),
    Hole("grant-trigger", """
        CREATE ROLE doctor_one; CREATE ROLE doctor_other; GRANT TRIGGER ON app.orders TO doctor_one WITH GRANT OPTION;
        GRANT USAGE ON SCHEMA app TO doctor_one; SET ROLE doctor_one; GRANT TRIGGER ON app.orders TO doctor_other; RESET ROLE"""),
    Hole("grant-references", "GRANT REFERENCES ON app.orders TO amp_client"),
    Hole("grant-references", """GRANT REFERENCES (tenant_id, id) ON app.orders TO "amp_client\""""),
    Hole("grant-truncate", "GRANT TRUNCATE ON app.orders TO amp_client"),
    Hole("grant-maintain", "GRANT MAINTAIN ON app.orders TO amp_client", versions=range(17, 99),
         attack=("amp_client", "REINDEX TABLE app.orders", None)),
    Hole("grant-default", "ALTER DEFAULT PRIVILEGES FOR ROLE amp_owner IN SCHEMA app GRANT TRIGGER ON TABLES TO amp_client"),
    Hole("grant-default", "ALTER DEFAULT PRIVILEGES FOR ROLE amp_owner GRANT ALL ON TABLES TO PUBLIC"),
    Hole("schema-creatable", "GRANT CREATE ON SCHEMA app TO PUBLIC"),
    Hole("schema-creatable", "GRANT CREATE ON SCHEMA app TO amp_service"),
    Hole("foreign-server", """
        CREATE EXTENSION postgres_fdw; CREATE SERVER "this one" FOREIGN DATA WRAPPER postgres_fdw; GRANT USAGE ON FOREIGN SERVER "this one" TO amp_svc"""),
    Hole("user-mapping", "CREATE EXTENSION postgres_fdw; CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw; CREATE USER MAPPING FOR PUBLIC SERVER here"),
    Hole("extension-function", "CREATE EXTENSION dblink"),
    Hole("extension-function", "CREATE EXTENSION pgstattuple; GRANT EXECUTE ON FUNCTION pgstattuple(text) TO amp_client",
         attack=("amp_client", "SELECT tuple_count FROM pgstattuple('app.orders')", 2)),
    Hole("view-without-security-invoker", "CREATE VIEW app.seen AS SELECT * FROM app.orders; GRANT SELECT ON app.seen TO amp_client",
         attack=("amp_client", "SELECT count(*) FROM app.seen", "TN009")),
    Hole("view-without-security-invoker", """
        CREATE VIEW app.below AS SELECT * FROM app.orders; CREATE VIEW app.seen WITH (security_invoker) AS SELECT * FROM app.below;
        GRANT SELECT ON app.seen, app.below TO amp_client""", attack=("amp_client", "SELECT count(*) FROM app.seen", "TN009")),
    Hole("materialized-view", """
        CREATE VIEW app.below WITH (security_invoker) AS SELECT * FROM app.orders; CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.below;
        GRANT SELECT ON app.kept TO amp_client""", attack=("amp_client", "SELECT count(*) FROM app.kept", 2)),
    Hole("materialized-view", "CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.orders; GRANT SELECT ON app.kept TO amp_client",
         attack=("amp_client", "SELECT count(*) FROM app.kept", 2)),
    Hole("rule-acts-as-owner", """
        CREATE TABLE app.box (id int); CREATE RULE peek AS ON INSERT TO app.box DO ALSO SELECT count(*) FROM app.orders;
        GRANT SELECT, INSERT ON app.box TO amp_client""", attack=("amp_client", "INSERT INTO app.box VALUES (1)", "TN009")),
    Hole("rule-acts-as-owner", """
        CREATE VIEW app.box WITH (security_invoker) AS SELECT 1 AS id; ALTER VIEW app.box OWNER TO amp_owner;
        CREATE RULE peek AS ON INSERT TO app.box DO INSTEAD DELETE FROM app.orders"""),
    Hole("definer-function", """
        CREATE FUNCTION app.ask() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = '' AS 'SELECT count(*) FROM app.orders'""",
         attack=("amp_client", "SELECT app.ask()", "TN009")),
    Hole("definer-function-reads", """
        CREATE VIEW app.below WITH (security_invoker) AS SELECT * FROM app.orders;
        CREATE FUNCTION app.ask("of" int DEFAULT 1) RETURNS bigint LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT count(*) FROM app.below; END""",
         attack=("amp_client", "SELECT app.ask()", "TN009")),
    Hole("definer-function-reads", """
        CREATE FUNCTION app.inner_ask() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.orders; END;
        CREATE FUNCTION app.ask() RETURNS bigint LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT app.inner_ask(); END""",
         attack=("amp_client", "SELECT app.ask()", "TN009")),
    Hole("definer-search-path", """
        CREATE FUNCTION app.ask() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN (SELECT count(*) FROM orders); END';
        ALTER FUNCTION app.ask() OWNER TO amp_owner"""),
    Hole("definer-search-path", """
        CREATE PROCEDURE app.act(inout n int) LANGUAGE plpgsql SECURITY DEFINER SET search_path = app, pg_catalog AS 'BEGIN END';
        ALTER PROCEDURE app.act OWNER TO amp_owner"""),
    Hole("leakproof-function", "CREATE FUNCTION app.same(text) RETURNS boolean LANGUAGE sql IMMUTABLE LEAKPROOF AS 'SELECT true'"),
    Hole("immutable-function", """
        CREATE FUNCTION app.mine() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT current_setting('amp.tenant_id', true)$$"""),
    Hole("immutable-function", "CREATE FUNCTION app.mine() RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT amp.tenant_id(); END"),
    Hole("untrusted-function", """
        CREATE LANGUAGE untrusted HANDLER plpgsql_call_handler; CREATE FUNCTION app.act() RETURNS void LANGUAGE untrusted AS 'BEGIN END'"""),
    Hole("function-of-stranger", """
        CREATE ROLE doctor_other; CREATE FUNCTION app.look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        GRANT CREATE ON SCHEMA app TO doctor_other; ALTER FUNCTION app.look() OWNER TO doctor_other;
        CREATE TRIGGER looks BEFORE INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION app.look()"""),
    Hole("service-bypasses", "CREATE ROLE doctor_service LOGIN SUPERUSER IN ROLE amp_service"),
    Hole("role-bypasses", """
        CREATE ROLE doctor_reader LOGIN BYPASSRLS; GRANT SELECT ON app.orders TO doctor_reader; GRANT USAGE ON SCHEMA app TO doctor_reader""",
         attack=("doctor_reader", "SELECT count(*) FROM app.orders", 2)),
    Hole("role-becomes-bypasser", """
        CREATE ROLE doctor_above BYPASSRLS; CREATE ROLE doctor_between IN ROLE doctor_above; CREATE ROLE doctor_service LOGIN IN ROLE doctor_between;
        GRANT amp_service TO doctor_service; GRANT SELECT ON app.orders TO doctor_above; GRANT USAGE ON SCHEMA app TO doctor_above""",
         attack=("doctor_service", "SET ROLE doctor_above; SELECT count(*) FROM app.orders", 2)),
    Hole("role-creates-roles", "CREATE ROLE doctor_service LOGIN CREATEROLE IN ROLE amp_service"),
    Hole("role-replicates", "CREATE ROLE doctor_service LOGIN REPLICATION IN ROLE amp_service"),
    Hole("role-reaches-files", "CREATE ROLE doctor_service LOGIN IN ROLE amp_service, pg_execute_server_program",
         attack=("doctor_service", "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'", None)),
    Hole("role-privileged", "CREATE ROLE doctor_service LOGIN IN ROLE amp_service, pg_signal_backend, pg_read_all_data"),
    Hole("role-is-both", "CREATE ROLE doctor_service LOGIN IN ROLE amp_service, amp_operator"),
    Hole("role-owns-table", "CREATE ROLE doctor_service LOGIN IN ROLE amp_service; GRANT amp_owner TO doctor_service"),
    Hole("service-owns-table", "CREATE ROLE doctor_service LOGIN IN ROLE amp_service; ALTER TABLE app.orders OWNER TO doctor_service",
         choice=("Give its tables to a role of their own: ALTER TABLE app.orders OWNER TO ...", "ALTER TABLE app.orders OWNER TO amp_owner")),
    Hole("publication", "CREATE PUBLICATION doctor FOR TABLE app.orders WHERE (tenant_id = 't1')"),
    Hole("publication", "CREATE PUBLICATION doctor FOR TABLES IN SCHEMA app"),
    Hole("publication", "CREATE PUBLICATION doctor FOR ALL TABLES"),
    Hole("subscription", """
        CREATE SUBSCRIPTION doctor CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false);
        ALTER SUBSCRIPTION doctor ENABLE; SET allow_system_table_mods = on;
        INSERT INTO pg_subscription_rel SELECT oid, 'app.orders'::regclass, 'r' FROM pg_subscription WHERE subname = 'doctor'"""),
    Hole("setting-granted", "CREATE ROLE doctor_service LOGIN; GRANT SET ON PARAMETER amp.require_token TO doctor_service"),
    Hole("setting-granted", "CREATE ROLE doctor_service LOGIN; GRANT SET, ALTER SYSTEM ON PARAMETER session_replication_role TO doctor_service"),
    Hole("setting-context", """
        CREATE ROLE doctor_service LOGIN; SET allow_system_table_mods = on;
        INSERT INTO pg_db_role_setting SELECT 0, oid, '{amp.tenant_id=t2}' FROM pg_roles WHERE rolname = 'doctor_service'"""),
    Hole("setting-row-security", "CREATE ROLE doctor_service LOGIN; ALTER ROLE doctor_service SET row_security = off"),
    Hole("setting-guards-off", "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$"),
    Hole("event-trigger-disabled", "ALTER EVENT TRIGGER amp_forget_dropped DISABLE", guarded=True),
    Hole("event-triggers-off", "ALTER SYSTEM SET event_triggers = off", versions=range(17, 99), guarded=True),
    Hole("plans-logged", "ALTER SYSTEM SET auto_explain.log_analyze = on", guarded=True),
    Hole("not-hardened", "SELECT amp.unharden()", attack=("amp_client", "SELECT count(*) > 0 FROM pg_locks", True)),
    Hole("hardening-undone", "GRANT EXECUTE ON FUNCTION pg_lock_status() TO PUBLIC", attack=("amp_client", "SELECT count(*) > 0 FROM pg_locks", True)),
    Hole("large-objects", "SELECT amp.unharden(); SELECT lo_create(0)", also=("not-hardened",)),
]

# Where the fix is not SQL: the tests below have these.
BY_HAND = {"not-preloaded", "old-minor", "statistics-views-old", "slug-not-descriptive"}


@pytest.fixture(scope="module")
def server():
    server = Cluster(shared_preload_libraries="amp_tenancy,auto_explain", **{
        "wal_level": "logical", "auto_explain.log_min_duration": "1h", "max_logical_replication_workers": "0"})
    with server.connect() as admin:
        admin.execute("CREATE DATABASE world")
    with server.connect("world") as admin:
        admin.execute("CREATE EXTENSION amp_tenancy")
        admin.execute("GRANT amp_service TO amp_svc; GRANT amp_operator TO amp_ops")
        admin.execute(WORLD)
    yield server
    server.remove()


@pytest.fixture
def place(server):
    """A database with protected tables, hardened, in which the doctor has nothing to say of; roles doctor_* are gone after the test."""
    with server.connect() as admin:
        admin.execute("CREATE DATABASE place TEMPLATE world")
    with server.connect("place") as admin:  # who may make temporary tables is not copied with a database
        admin.execute("SELECT amp.harden()")
    yield "place"
    with server.connect("place") as admin:
        for (subscription,) in admin.execute("SELECT subname FROM pg_subscription").fetchall():
            admin.execute(f"ALTER SUBSCRIPTION {subscription} DISABLE; ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)")
            admin.execute(f"DROP SUBSCRIPTION {subscription}")
    with server.connect() as admin:
        admin.execute("DROP DATABASE place WITH (FORCE)")
        for role in column(admin, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'doctor\\_%'"):
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


def findings(server, place, role="postgres"):
    """(code, severity, fix) of what is found, but for the age of the server."""
    with server.connect(place, role) as asker:
        return asker.execute("SELECT code, severity, fix FROM amp.doctor() WHERE code <> 'old-minor'").fetchall()


def codes(found):
    return sorted({code for code, _, _ in found})


def dig(server, place, hole):
    with server.connect(place) as admin:
        if hole.guarded:
            admin.execute(hole.sql)
            return
        triggers = admin.execute("""
            SELECT quote_ident(evtname), CASE evtenabled WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END
            FROM pg_event_trigger JOIN pg_proc p ON p.oid = evtfoid WHERE p.pronamespace = 'amp'::regnamespace""").fetchall()
        for trigger, _ in triggers:
            admin.execute(f"ALTER EVENT TRIGGER {trigger} DISABLE")
        admin.execute(hole.sql)
        admin.execute("RESET ALL")
        for trigger, enable in triggers:
            admin.execute(f"ALTER EVENT TRIGGER {trigger} {enable}")


def reload(server, place, change):
    """Runs `change`, and waits until new sessions have the settings that it made, if it made some."""
    def loaded_at():
        with server.connect(place) as admin:
            return column(admin, "SELECT pg_conf_load_time()")

    before = loaded_at()
    change()
    with server.connect(place) as admin:
        admin.execute("SELECT pg_reload_conf()")
    while loaded_at() == before:
        time.sleep(0.05)


def psql(server, place, text):
    done = subprocess.run([program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", server.host, "-U", "postgres", "-d", place], input=text,
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"


def answer(server, place, role, statement):
    """The first column of the last result, None without rows, or the SQLSTATE of the refusal."""
    try:
        with server.connect(place, role, autocommit=False) as session:
            cursor = session.execute(statement)
            while cursor.nextset():
                pass
            return cursor.fetchone()[0] if cursor.description else None
    except psycopg.Error as error:
        return error.sqlstate


def test_a_well_made_installation_has_nothing(server, place):
    assert findings(server, place) == findings(server, place, "amp_client") == []


def test_a_view_of_views_that_ask_as_the_asker_is_no_hole(server, place):
    dig(server, place, Hole("", """
        CREATE VIEW app.below WITH (security_invoker) AS SELECT * FROM app.orders; CREATE VIEW app.middle AS SELECT * FROM app.below;
        CREATE VIEW app.above AS SELECT (SELECT count(*) FROM app.below) + (SELECT count(*) FROM app.middle) AS all;
        GRANT SELECT ON app.above, app.orders TO amp_client"""))
    assert findings(server, place) == []
    assert answer(server, place, "amp_client", "SELECT * FROM app.above") == "TN001"


@pytest.mark.parametrize("hole", HOLES, ids=[f"{hole.code}-{number}" for number, hole in enumerate(HOLES)])
def test_the_fix_closes_what_is_found(server, place, hole):
    with server.connect() as admin:
        if admin.info.server_version // 10000 not in hole.versions:
            pytest.skip("not in this version of PostgreSQL")
    if hole.attack:
        role, statement, _ = hole.attack
    reload(server, place, lambda: dig(server, place, hole))
    found = findings(server, place)
    assert codes(found) == sorted({hole.code, *hole.also})
    assert found == findings(server, place, "amp_client")  # everybody may ask
    if hole.attack:
        assert answer(server, place, role, statement) == hole.attack[2]
    for code, _, fix in found:
        if code == hole.code:
            reload(server, place, lambda fix=fix: psql(server, place, fix.replace(*hole.choice) if hole.choice else fix + "\n;"))
    left = findings(server, place)
    assert hole.code not in codes(left)
    errors = {code for code, severity, _ in found if severity == "error"}
    assert {code for code, severity, _ in left if severity == "error"} <= errors
    if hole.attack:
        assert answer(server, place, role, statement) != hole.attack[2]


def test_statistics_views_of_an_old_cluster_are_found_and_repaired(server, place):
    with server.connect(place) as admin:
        [now] = column(admin, "SELECT pg_get_viewdef('pg_catalog.pg_stats_ext'::regclass)")
        before = now[: now.rindex("WHERE (pg_has_role")] + "WHERE NOT c.relrowsecurity OR NOT row_security_active(c.oid)"
        admin.execute("SET allow_system_table_mods = on")
        admin.execute(f"CREATE OR REPLACE VIEW pg_catalog.pg_stats_ext WITH (security_barrier) AS {before}")
        [(code, severity, fix)] = findings(server, place)
        assert (code, severity) == ("statistics-views-old", "error")
        script = re.search(r"[\w-]+\.sql", fix).group()
        sharedir = subprocess.run([program("pg_config"), "--sharedir"], check=True, capture_output=True, text=True).stdout.strip()
        if admin.info.server_version >= 170000:  # made without the hole: there is no script
            admin.execute(f"CREATE OR REPLACE VIEW pg_catalog.pg_stats_ext WITH (security_barrier) AS {now}")
        else:
            psql(server, place, f"\\i {sharedir}/{script}\n")
    assert findings(server, place) == []


def test_a_library_that_is_not_preloaded_is_found_until_it_is():
    server = Cluster(shared_preload_libraries="")
    try:
        database = server.database()
        with database.connect("amp_client") as client:
            assert column(client, "SELECT object FROM amp.doctor() WHERE code = 'not-preloaded'") == ["shared_preload_libraries"]
        with database.connect() as admin:
            admin.execute("ALTER SYSTEM SET shared_preload_libraries = 'amp_tenancy'")
        server.restart()
        with database.connect("amp_client") as client:
            assert column(client, "SELECT object FROM amp.doctor() WHERE code = 'not-preloaded'") == []
    finally:
        server.remove()


def test_a_server_older_than_the_fixes_is_found(server, place):
    repaired = {15: 20, 16: 16, 17: 12, 18: 7}
    with server.connect(place) as admin:
        major, minor = divmod(admin.info.server_version, 10000)
        found = column(admin, "SELECT fix FROM amp.doctor() WHERE code = 'old-minor'")
    assert found == ([f"Upgrade to {major}.{repaired[major]} or later."] if minor < repaired[major] else [])


def test_slugs_that_say_nothing_are_told_to_operators(server, place):
    with server.connect(place, "amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Acme', 'client-1', id => 'doctor1'), amp.create_tenant('Acme', 'acme-corp-2024', id => 'doctor2')")
        assert column(ops, "SELECT object FROM amp.doctor() WHERE code = 'slug-not-descriptive'") == ["tenant doctor1"]
    with server.connect(place, "amp_client") as client:
        assert column(client, "SELECT object FROM amp.doctor() WHERE code = 'slug-not-descriptive'") == []


def test_every_code_is_explained_and_tested():
    explained = set(re.findall(r"^\| `([a-z-]+)`", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE))
    assert explained == {hole.code for hole in HOLES} | BY_HAND
    sql = "".join(file.read_text() for file in (ROOT / "sql/isolation/doctor").glob("*.sql"))
    made = set(re.findall(r"'(?:error|warning|info)', '([a-z-]+)'", sql)) | set(re.findall(r"'([a-z]+(?:-[a-z]+)+)'", sql))
    grants = {f"grant-{privilege}" for privilege in ("trigger", "references", "truncate", "maintain")}
    assert made - {"warning", "info"} | grants == explained


# What a schema change asks: about these relations, what is found; about another table, nothing.
TOUCHED = {
    "a table": ("ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY", "app.orders", "row-security-off"),
    "an index": ("CREATE UNIQUE INDEX found ON app.orders (note)", "app.found", "key-without-tenant"),
    "the other end of a foreign key": ("""
        ALTER TABLE app.parents ADD UNIQUE (id); ALTER TABLE app.orders ADD other int REFERENCES app.parents (id)""", "app.parents", "foreign-key-without-tenant"),
    "a table that refers to a protected one": ("""
        CREATE TABLE app.links (of text COLLATE "C", id int, FOREIGN KEY (of, id) REFERENCES app.orders)""", "app.links", "foreign-key-from-unprotected"),
    "a part": ("""
        CREATE TABLE app.parted (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
        SELECT amp.protect('app.parted'); CREATE TABLE app.part PARTITION OF app.parted DEFAULT""", "app.part", "part-unprotected"),
    "a parent of a parent": ("""
        CREATE TABLE app.parted (tenant_id text COLLATE "C", id int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
        CREATE TABLE app.below PARTITION OF app.parted DEFAULT PARTITION BY RANGE (id); SELECT amp.protect('app.parted');
        CREATE TABLE app.part PARTITION OF app.below DEFAULT""", "app.parted", "part-unprotected"),
    "a view": ("CREATE VIEW app.seen AS SELECT * FROM app.orders", "app.seen", "view-without-security-invoker"),
    "a table below a view": ("CREATE VIEW app.seen AS SELECT * FROM app.orders", "app.orders", "view-without-security-invoker"),
    "a view below a materialized one": ("""
        CREATE VIEW app.below WITH (security_invoker) AS SELECT * FROM app.orders; CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.below""",
        "app.below", "materialized-view"),
    "what was granted": ("GRANT TRIGGER ON app.orders TO amp_client", "app.orders", "grant-trigger"),
}


@pytest.mark.parametrize("what", TOUCHED)
def test_what_concerns_a_relation_is_found_without_the_rest(server, place, what):
    sql, relation, code = TOUCHED[what]
    dig(server, place, Hole(code, THINGS + sql))
    asked = """
        SELECT f.code FROM (SELECT ARRAY['{0}'::regclass::oid] AS these) t CROSS JOIN LATERAL (
            SELECT * FROM amp.table_findings(these) UNION ALL SELECT * FROM amp.grant_findings(these)
            UNION ALL SELECT * FROM amp.dependent_findings(these)) f"""
    with server.connect(place, "amp_client") as client:
        assert code in column(client, asked.format(relation))
        assert column(client, asked.format("app.things")) == []


def test_what_concerns_a_function_is_found_without_the_rest(server, place):
    dig(server, place, Hole("", """
        CREATE FUNCTION app.ask() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; CREATE FUNCTION app.other() RETURNS int LANGUAGE sql AS 'SELECT 1'"""))
    with server.connect(place, "amp_client") as client:
        asked = "SELECT code FROM amp.function_findings(ARRAY['app.{}()'::regprocedure::oid])"
        assert column(client, asked.format("ask")) == ["definer-function", "definer-search-path"]
        assert column(client, asked.format("other")) == []
