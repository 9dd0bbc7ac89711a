"""pg_dump and pg_restore: tenants, people, usage and protection all come back, and hold (P12)."""

import subprocess

import pytest

from harness import ROOT, Cluster, Database, program, raises

UUID = "6f3b1d0a-9c55-4d3e-8f1c-0a1b2c3d4e5f"

# Tenants with ids of three kinds, in tables with hostile names, partitions, children and foreign keys of every kind.
SCHEMA = f"""
SELECT amp.create_tenant('Uuid', 'uuid', id => '{UUID}'), amp.create_tenant('Number', 'number', id => '42'),
       amp.create_tenant('Suspended', 'suspended', id => 'dog'), amp.create_tenant('Deleted', 'deleted', id => 'elk'),
       amp.suspend_tenant('dog'), amp.delete_tenant('elk'),
       amp.register_permission('invoices.view', 'See invoices', ARRAY['admin']);
SET SESSION AUTHORIZATION amp_owner;
CREATE TABLE app."Weird ""table"" – Ümlaut" ("Tenant Id" uuid, id int PRIMARY KEY, "select" text UNIQUE);
CREATE TABLE app.numbers (tenant_id bigint, n int);
CREATE TABLE app.parts (tenant_id text, id int, mission_id int, boss_id int, at date, state text, PRIMARY KEY (tenant_id, id, at),
    FOREIGN KEY (mission_id) REFERENCES app.plans ON DELETE CASCADE) PARTITION BY RANGE (at);
CREATE TABLE app.parts_2025 PARTITION OF app.parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE app.parts_rest PARTITION OF app.parts DEFAULT;
CREATE TABLE app.child (extra text) INHERITS (app.numbers);
CREATE TABLE app.steps (tenant_id text, id int PRIMARY KEY, plan_id int REFERENCES app.plans ON DELETE SET NULL);
CREATE TABLE app.countries (code text PRIMARY KEY);
CREATE TABLE app.dropped (tenant_id text);
INSERT INTO app."Weird ""table"" – Ümlaut" VALUES ('{UUID}', 1, 'a'), ('00000000-0000-4000-8000-000000000000', 2, 'b');
INSERT INTO app.numbers VALUES (42, 1), (43, 2);
INSERT INTO app.child VALUES (42, 3, 'x'), (43, 4, 'y');
INSERT INTO app.plans VALUES ('ant', 1), ('bee', 2);
INSERT INTO app.parts VALUES ('ant', 1, 1, 1, '2025-05-05'), ('ant', 2, 1, 1, '2030-01-01'), ('bee', 3, 2, 1, '2025-05-05');
INSERT INTO app.steps VALUES ('ant', 1, 1), ('bee', 2, 2);
SELECT amp.share_table('app.countries');
SELECT * FROM amp.protect('app.numbers');
SELECT * FROM amp.protect('app."Weird ""table"" – Ümlaut"', 'Tenant Id', "insert" => 'content.approve', fix => true);
SELECT * FROM amp.protect('app.dropped');
SELECT * FROM amp.protect_schema('app', fix => true);
SELECT amp.meter('app.missions', 'missions_created'), amp.meter('app.parts', 'content_generated');
SELECT amp.require_approval('app.parts', 'state', '{{published}}', content_columns => '{{mission_id}}');
DROP TABLE app.dropped;
RESET SESSION AUTHORIZATION;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO amp_svc;
"""


@pytest.fixture(scope="module")
def source(cluster):
    db = cluster.database(hardened=False)
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("CREATE TABLE app.plans (tenant_id text, id int PRIMARY KEY); ALTER TABLE app.plans OWNER TO amp_owner")
        admin.execute(SCHEMA)
    with db.connect("amp_svc") as service:
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("INSERT INTO app.missions VALUES ('ant', 4, 'metered')")
        service.execute("SELECT amp.record_usage('cost_cents', 250, 'charge-1')")
        service.execute("SELECT amp.request_approval('parts', '1,2025-05-05', amp.content_of('app.parts', '1,2025-05-05'))")
        service.execute("SET amp.user_id = 'ada'")
        service.execute("SELECT amp.define_role('auditor', '{content.view,invoices.view}')")
        service.execute("SELECT amp.invite_user('Eve@example.com', 'auditor'), amp.set_default_tenant('ant')")
    return db


@pytest.fixture(scope="module")
def elsewhere():
    """Another cluster; the roles of the application are there, those of the extension are not."""
    server = Cluster()
    yield server
    server.remove()


def run(name, *arguments, ok=True):
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True)
    assert not ok or done.returncode == 0, done.stderr
    return done


def dump(db, path, *options):
    run("pg_dump", "-h", db.cluster.host, "-U", "postgres", "-d", db.name, "-f", path, *options)
    return path


def restore(path, db, *options, ok=True):
    to = ["-h", db.cluster.host, "-U", "postgres", "-d", db.name, *options]
    if str(path).endswith(".sql"):
        return run("psql", *to, "-qX", "-v", f"ON_ERROR_STOP={int(ok)}", "-f", path, ok=ok)
    return run("pg_restore", *to, *(["--exit-on-error"] if ok else []), path, ok=ok)


def contents(db):
    """All that amp knows and enforces in a database, as text."""
    with db.connect(options="-c search_path=") as admin:
        tables = admin.execute("""
            SELECT t::regclass::text FROM pg_extension, unnest(extconfig) t WHERE extname = 'amp_tenancy'
            UNION SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'app'""")
        rows = {table: admin.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall() for (table,) in tables}
        # Not what these tests themselves were refused: a worker writes that when it comes to it.
        rows["amp.audit_log"] = [row for row in rows["amp.audit_log"] if "context.refused" not in row[0]]
        catalogs = [
            admin.execute(query).fetchall()
            for query in (
                "SELECT * FROM pg_policies ORDER BY schemaname, tablename, policyname",
                "SELECT oid::regclass::text, relrowsecurity, relforcerowsecurity, relacl::text FROM pg_class"
                " WHERE relnamespace IN ('app'::regnamespace, 'amp'::regnamespace) AND relkind IN ('r', 'p') ORDER BY 1",
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'app'::regnamespace ORDER BY 1, 2",
                "SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
                "SELECT adrelid::regclass::text, adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef ORDER BY 1, 2",
                "SELECT evtname, evtenabled FROM pg_event_trigger ORDER BY 1",
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'app' ORDER BY 1",
            )
        ]
    return rows, catalogs


def check_isolation(db):
    """What holds in the original has to hold in the copy. Everything is rolled back, so that it can be asked of both."""
    with db.connect("amp_svc", autocommit=False) as service:
        tables = [table for (table,) in service.execute("SELECT relation::text FROM amp.protected_tables")]
        assert len(tables) == 9
        for table in tables:
            with raises("TN001"), service.transaction():
                service.execute(f"SELECT * FROM {table}")
        service.rollback()
        for tenant, table, rows in (
            ("ant", "app.missions", 4), ("bee", "app.missions", 5), ("ant", "app.parts", 2), ("bee", "app.parts", 1),
            ("bee", "app.parts_2025", 1), ("bee", "app.parts_rest", 0), ("ant", "app.plans", 1), ("ant", "app.steps", 1),
            ("42", "app.numbers", 2), ("42", "app.child", 1), (UUID, 'app."Weird ""table"" – Ümlaut"', 1),
        ):  # fmt: skip
            service.execute("SELECT set_config('amp.tenant_id', %s, true)", [tenant])
            assert service.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,), (tenant, table)
            service.rollback()

        service.execute("SET LOCAL amp.tenant_id = 'ant'")
        for statement, sqlstate in (
            ("INSERT INTO app.missions VALUES ('bee', 99)", "42501"),
            ("INSERT INTO app.parts_rest VALUES ('bee', 99)", "42501"),
            ("INSERT INTO app.steps VALUES ('ant', 99, 2)", "23503"),  # bee's plan
            ("SELECT amp.record_usage('cost_cents', 1, 'charge-1')", "22023"),
            ("SELECT amp.invite_user('f@example.com', 'viewer')", "TN004"),
        ):
            with raises(sqlstate), service.transaction():
                service.execute(statement)
        assert service.execute("SELECT amp.record_usage('cost_cents', 250, 'charge-1')").fetchone() == (False,)
        service.execute("INSERT INTO app.missions VALUES ('ant', 5, 'metered'); INSERT INTO app.steps VALUES ('ant', 5, 1)")
        service.execute("DELETE FROM app.plans")
        assert service.execute("SELECT count(*), count(plan_id) FROM app.steps").fetchone() == (2, 0)
        assert service.execute("SELECT count(*) FROM app.parts").fetchone() == (0,)
        usage = service.execute("SELECT amp.usage()").fetchone()[0]["usage"]
        assert (usage["missions_created"], usage["cost_cents"]) == (2, 250)
        service.rollback()

        service.execute("SET LOCAL amp.tenant_id = 'ant'; SET LOCAL amp.user_id = 'vic'")
        with raises("TN004"):
            service.execute("UPDATE app.missions SET name = 'mine'")
        service.rollback()
        service.execute("SET LOCAL amp.user_id = 'ada'")
        [ant, bee] = service.execute("SELECT amp.my_tenants()").fetchone()[0]["data"]
        assert (ant["is_default"], bee["is_default"]) == (True, False)
        service.execute("SET LOCAL amp.tenant_id = 'ant'")
        assert service.execute("SELECT amp.has_permission('invoices.view')").fetchone() == (True,)
        service.execute("SET LOCAL amp.user_id = ''")  # a user who is no member would be told just that
        for tenant in ("dog", "elk", "fox"):
            with raises("TN002"), service.transaction():
                service.execute(f"SET LOCAL amp.tenant_id = '{tenant}'")
        service.rollback()
    with db.connect("amp_owner", autocommit=False) as owner:
        done = owner.execute("""
            SELECT p.* FROM amp.protected_tables t, amp.protect(t.relation, t.tenant_column, t.read_permission, NULL,
                t.insert_permission, t.update_permission, t.delete_permission) p WHERE p.status <> 'kept'""")
        assert done.fetchall() == []
        owner.execute("CREATE TABLE app.parts_2026 PARTITION OF app.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
        assert owner.execute("SELECT count(*) FROM pg_policy WHERE polrelid = 'app.parts_2026'::regclass").fetchone() > (0,)
        owner.rollback()
    with db.connect("amp_ops") as operator, raises("23505"):
        operator.execute("SELECT amp.create_tenant('Elk', 'elks', id => 'elk')")  # an id is never given again


def test_the_original_is_isolated(source):
    check_isolation(source)


@pytest.mark.parametrize("where", ["the same cluster", "a new cluster"])
@pytest.mark.parametrize("how", ["plain", "custom", "directory", "parallel", "sections"])
def test_a_restored_database_is_the_original(source, elsewhere, cluster, tmp_path, how, where):
    there = cluster if where == "the same cluster" else elsewhere
    copy = there.database(extension=False)
    match how:
        case "plain":
            restore(dump(source, tmp_path / "dump.sql"), copy)
        case "custom":
            restore(dump(source, tmp_path / "dump", "-Fc"), copy)
        case "directory":
            restore(dump(source, tmp_path / "dump", "-Fd", "-j2"), copy)
        case "parallel":
            restore(dump(source, tmp_path / "dump", "-Fc"), copy, "-j2")
        case "sections":
            archive = dump(source, tmp_path / "dump", "-Fc")
            for section in "pre-data", "data", "post-data":
                restore(archive, copy, f"--section={section}")
    with copy.connect() as admin:
        admin.execute("GRANT amp_service TO amp_svc; GRANT amp_operator TO amp_ops")
    assert contents(copy) == contents(source)
    check_isolation(copy)


def test_data_can_be_restored_in_any_order(source, cluster, tmp_path):
    """As pg_restore -j may do it: a dump says of a table's data only that it needs the table."""
    copy = cluster.database(extension=False)
    archive = dump(source, tmp_path / "dump", "-Fc")
    entries = run("pg_restore", "-l", archive).stdout.splitlines(keepends=True)
    data = [line for line in entries if " TABLE DATA " in line]
    backwards = [data.pop() if " TABLE DATA " in line else line for line in entries]
    (tmp_path / "list").write_text("".join(backwards))
    restore(archive, copy, "-L", tmp_path / "list")
    assert contents(copy) == contents(source)


def test_a_restored_copy_can_be_dumped_again(source, cluster, tmp_path):
    first, second = cluster.database(extension=False), cluster.database(extension=False)
    restore(dump(source, tmp_path / "first.sql"), first)
    restore(dump(first, tmp_path / "second.sql"), second)
    assert contents(second) == contents(source)


def test_schema_and_data_can_be_restored_one_after_the_other(source, cluster, tmp_path, monkeypatch):
    copy = cluster.database(extension=False)
    restore(dump(source, tmp_path / "schema", "-Fc", "--schema-only"), copy)
    with copy.connect("amp_svc") as service, raises("TN002"):
        service.execute("SET amp.tenant_id = 'ant'")
    # As a replica, so that neither meters count nor foreign keys ask. pg_restore's --disable-triggers would do, too, but
    # enables them afterwards as ordinary ones, and amp's are ENABLE ALWAYS.
    with monkeypatch.context() as replica:
        replica.setenv("PGOPTIONS", "-c session_replication_role=replica")
        restore(dump(source, tmp_path / "data", "-Fc", "--data-only"), copy)
    assert contents(copy) == contents(source)
    check_isolation(copy)


@pytest.mark.parametrize("extension", [True, False])
def test_a_schema_dumped_alone_is_not_open(source, cluster, tmp_path, extension):
    copy = cluster.database(extension)
    restore(dump(source, tmp_path / "app.sql", "-n", "app"), copy, ok=extension)
    with source.connect() as admin:
        tables = [table for (table,) in admin.execute("SELECT relation::text FROM amp.protected_tables")]
    with copy.connect("amp_svc") as service:
        for table in tables:  # with the extension they are there, under policies; without it they cannot be created
            with raises("TN001" if extension else "42P01"):
                service.execute(f"SELECT * FROM {table}")


def test_data_restored_over_a_schema_of_its_own_is_not_open(source, cluster, tmp_path):
    copy = cluster.database(hardened=False)
    restore(dump(source, tmp_path / "schema.sql", "--schema-only", "-n", "app"), copy)
    restore(dump(source, tmp_path / "data", "-Fc", "--data-only"), copy, ok=False)  # the meters refuse to count it
    with copy.connect("amp_svc") as service:
        for table in ("app.missions", "app.parts", "app.parts_2025", "app.numbers"):
            with raises("TN001"):
                service.execute(f"SELECT * FROM {table}")


def test_a_dump_that_row_security_would_thin_out_fails(source, tmp_path):
    """Attack J2: plain row security dumps no row and reports success."""
    for options in ([], ["--enable-row-security"]):
        done = run("pg_dump", "-h", source.cluster.host, "-U", "amp_owner", "-d", source.name, "-n", "app", *options, ok=False)
        assert done.returncode != 0 and ("no tenant is set" if options else "row-level security") in done.stderr


def test_a_database_with_holes_comes_back_with_them(cluster, tmp_path):
    """What the original's owner was let do is refused in the copy, unless a superuser lets it pass there, too; a key that was left is not."""
    original, copy = cluster.database(hardened=False), cluster.database(extension=False)
    with original.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA app; CREATE TABLE app.posts (tenant_id text, id int PRIMARY KEY); GRANT ALL ON app.posts TO amp_svc;"
                      "SELECT amp.protect('app.posts')")
    archive = dump(original, tmp_path / "dump", "-Fc")
    restore(archive, copy, "--section=pre-data")
    with copy.connect() as admin:
        admin.execute("ALTER EVENT TRIGGER amp_refuse_unsafe DISABLE")
    restore(archive, copy, "--section=data", "--section=post-data")
    with copy.connect() as admin:
        admin.execute("ALTER EVENT TRIGGER amp_refuse_unsafe ENABLE ALWAYS")
    assert contents(copy) == contents(original)
    again = cluster.database(extension=False)
    assert "grant-" in restore(archive, again, ok=False).stderr
    with again.connect() as admin, original.connect() as there:
        errors = "SELECT code FROM amp.doctor() WHERE severity = 'error' AND code NOT LIKE 'grant%'"
        assert admin.execute(errors).fetchall() == there.execute(errors).fetchall() == [("key-without-tenant",)]
