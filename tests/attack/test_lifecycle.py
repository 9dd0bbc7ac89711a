"""A tenant's way out: who may export what, that an export is all of it, and that a purge runs no stranger's code with anybody's rights
but his own."""

import json

import psycopg
import pytest

from harness import raises
from world import column, people

SCHEMA = """
    CREATE TABLE clients (tenant_id text COLLATE "C", id int, name text, c int, t int, r int, PRIMARY KEY (tenant_id, id));
    CREATE TABLE jobs (
        tenant_id text COLLATE "C", id int, client_id int, note text, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, client_id) REFERENCES clients);
    CREATE TABLE folders (
        tenant_id text COLLATE "C", id int, parent_id int, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, parent_id) REFERENCES folders);
    CREATE TABLE lefts (tenant_id text COLLATE "C", id int, right_id int, PRIMARY KEY (tenant_id, id));
    CREATE TABLE rights (
        tenant_id text COLLATE "C", id int, left_id int, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, left_id) REFERENCES lefts ON DELETE RESTRICT);
    CREATE TABLE events (tenant_id text COLLATE "C", day date, id int, PRIMARY KEY (tenant_id, day, id)) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
    CREATE TABLE animals (tenant_id text COLLATE "C", name text);
    CREATE TABLE dogs (barks int) INHERITS (animals);
    INSERT INTO clients SELECT t, n, 'client ' || n FROM unnest('{t1,t2}'::text[]) t, generate_series(1, 30) n;
    INSERT INTO jobs SELECT t, n, n, 'job' FROM unnest('{t1,t2}'::text[]) t, generate_series(1, 30) n;
    INSERT INTO folders SELECT t, n, nullif(n - 1, 0) FROM unnest('{t1,t2}'::text[]) t, generate_series(1, 30) n;
    INSERT INTO lefts SELECT t, n, n FROM unnest('{t1,t2}'::text[]) t, generate_series(1, 5) n;
    INSERT INTO rights SELECT t, n, n FROM unnest('{t1,t2}'::text[]) t, generate_series(1, 5) n;
    ALTER TABLE lefts ADD FOREIGN KEY (tenant_id, right_id) REFERENCES rights DEFERRABLE INITIALLY DEFERRED;
    INSERT INTO events SELECT t, '2024-01-01'::date + n, n FROM unnest('{t1,t2}'::text[]) t, generate_series(0, 50) n;
    INSERT INTO animals VALUES ('t1', 'cat'), ('t2', 'cow');
    INSERT INTO dogs VALUES ('t1', 'rex', 7), ('t2', 'lassie', 8);
"""
TABLES = "clients", "jobs", "folders", "lefts", "rights", "events", "animals"
# How many rows of each tenant are in each.
ROWS = {"clients": 30, "jobs": 30, "folders": 30, "lefts": 5, "rights": 5, "events": 51, "animals": 1, "dogs": 1}


@pytest.fixture
def db(fresh_db):
    with fresh_db.connect("amp_ops") as ops:
        for tenant in ("t1", "t2"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    people(fresh_db, ann=("t1", "admin"), vic=("t1", "viewer"), bob=("t2", "admin"))
    people(fresh_db, vic=("t2", "viewer"))
    with fresh_db.connect("amp_owner") as owner:
        owner.execute(SCHEMA)
        for table in TABLES:
            owner.execute(f"SELECT amp.protect('{table}', fix => true)")
        owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO amp_svc")
    return fresh_db


def as_tenant(db, tenant="t1", user=None, login="amp_svc"):
    connection = db.connect(login)
    connection.execute("SELECT set_config('amp.tenant_id', %s, false)", [tenant])
    if user:
        connection.execute("SELECT set_config('amp.user_id', %s, false)", [user])
    return connection


def export(connection, *args):
    place = "%s" if args else ""
    return [json.loads(row[0]) for row in connection.execute(f"SELECT amp.export_tenant({place})", args or None)]


def left(db, tenant):
    """How many rows of a tenant each table of the application has."""
    with db.connect() as admin:
        return {
            table: admin.execute(f"SELECT count(*) FROM ONLY {table} WHERE tenant_id = %s", [tenant]).fetchone()[0]
            if table != "events"
            else admin.execute("SELECT count(*) FROM events WHERE tenant_id = %s", [tenant]).fetchone()[0]
            for table in ROWS
        }


def purge(db, tenant="t1", batch=7, login="amp_ops"):
    with db.connect(login) as ops:
        return ops.execute(f"CALL amp.purge_tenant('{tenant}', {batch}, '20 s')").fetchone()[0]


# ---- export: who, and what


def test_an_export_is_all_of_the_tenant_and_nothing_of_another(db):
    with as_tenant(db) as service:
        header, *lines = export(service)
    tables = header["amp_export"]["tables"]
    assert header["amp_export"]["tenant_id"] == "t1"
    counts = {name: sum(line["table"] == f"public.{name}" for line in lines) for name in ROWS}
    assert counts == ROWS
    assert all(line["row"]["tenant_id"] == "t1" for line in lines if line["table"].startswith("public."))
    assert tables.index("public.clients") < tables.index("public.jobs")
    assert header["amp_export"]["circles"] == [["public.folders"], ["public.lefts", "public.rights"]]
    assert [line["row"]["barks"] for line in lines if line["table"] == "public.dogs"] == [7]
    assert {line["row"]["id"] for line in lines if line["table"] == "amp.app_users"} == {"ann", "vic"}
    assert "t2" not in json.dumps(lines) and "bob" not in json.dumps(lines)


def test_columns_with_the_names_of_the_querys_own_aliases(db):
    with as_tenant(db) as service:
        row = next(line["row"] for line in export(service) if line.get("table") == "public.clients")
    assert row == {"tenant_id": "t1", "id": 1, "name": "client 1", "c": None, "t": None, "r": None}


def test_keys_are_not_exported(db):
    with db.connect("amp_ops") as ops:
        key = ops.execute("SELECT amp.create_api_key('ann', 't1', 'k')").fetchone()[0]
    with db.connect() as admin:
        text = "\n".join(row[0] for row in admin.execute("SELECT amp.export_tenant('t1')"))
        hashed = admin.execute("SELECT encode(hash, 'hex') FROM amp.stored_api_keys").fetchone()[0]
    assert key["key"] not in text and hashed not in text and "amp.stored_api_keys" not in text


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_member_without_users_manage_does_not_export(db, role):
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.set_user_role('vic', %s, 't1')", [role])
    with as_tenant(db, user="vic") as vic:
        with raises("TN004", "users.manage"):
            export(vic)
        with raises("TN004", "users.manage"):
            vic.execute("SELECT amp.own_rows_for_caller('t1')")
    with as_tenant(db, user="ann") as ann:
        assert len(export(ann)) > 100


def test_another_tenant_is_not_exported(db):
    for user in (None, "ann"):
        with as_tenant(db, user=user) as session:
            for call in ("amp.export_tenant('t2')", "amp.export_tenant('nowhere')", "amp.own_rows_for_caller('t2')"):
                with raises("TN003"):
                    session.execute(f"SELECT {call}")
    with db.connect("amp_svc") as service, raises("TN001"):
        export(service)
    with db.connect("amp_client") as client, raises("TN001"):
        export(client)


def test_an_operator_exports_nothing(db):
    with db.connect("amp_ops") as ops:
        for call in ("amp.export_tenant('t1')", "amp.export_tenant()"):
            with raises("TN004", "operator"):
                ops.execute(f"SELECT {call}")
        with raises("TN004", "operator"):
            ops.execute("SELECT amp.mark_caller(), amp.own_rows_for_caller('t1')")


def test_a_superuser_names_the_tenant(db):
    with db.connect() as admin:
        assert sum(line.get("table") == "public.jobs" for line in export(admin, "t2")) == 30
        with raises("22004"):
            export(admin)
        with raises("TN002"):
            export(admin, "nowhere")


def test_whoever_may_not_read_a_table_exports_nothing_at_all(db):
    with db.connect("amp_owner") as owner:
        owner.execute("REVOKE SELECT ON dogs FROM amp_svc")
        with as_tenant(db) as service, raises("42501", "public.dogs"):
            export(service)
        owner.execute("GRANT SELECT (tenant_id) ON dogs TO amp_svc")
        with as_tenant(db) as service, raises("42501", "public.dogs"):
            export(service)
        owner.execute("GRANT SELECT ON dogs TO amp_svc")
        owner.execute("CREATE POLICY few ON jobs AS RESTRICTIVE FOR SELECT TO amp_svc USING (id < 3)")
        with as_tenant(db) as service, raises("42501", "few"):
            export(service)
        owner.execute("DROP POLICY few ON jobs")
        with db.connect("amp_ops") as ops:
            ops.execute("SELECT amp.register_permission('payroll.view', 'Payroll', '{}')")
        owner.execute("SELECT amp.protect('clients', read => 'integrations.manage')")
    with as_tenant(db) as service, raises("TN004", "integrations.manage"):
        export(service)


def test_an_owner_without_forced_policies_exports_his_tenant_alone(db):
    with db.connect() as admin:
        db.open_hole("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY")
        admin.execute("ALTER ROLE amp_owner LOGIN; GRANT amp_service TO amp_owner")
    try:
        with as_tenant(db, login="amp_owner") as owner:
            assert sum(line.get("table") == "public.jobs" for line in export(owner)) == 30
    finally:
        with db.connect() as admin:
            admin.execute("REVOKE amp_service FROM amp_owner")


def test_types_come_back_equal_whatever_the_settings(db):
    with db.connect() as admin:
        admin.execute("CREATE EXTENSION hstore")
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TYPE mood AS ENUM ('fine', 'it''s "so, so"');
            CREATE TYPE pair AS (a int, b text);
            CREATE DOMAIN positive AS int CHECK (VALUE > 0);
            CREATE DOMAIN document AS jsonb;
            CREATE DOMAIN numbers AS int[];
            CREATE TABLE odd (
                tenant_id text, id int, "We""ird, name" text, at timestamptz, plain timestamp, day date, clock timetz, span interval,
                bytes bytea, f8 float8, f4 float4, n numeric, cash money, doc jsonb, raw json, doc2 document, feeling mood,
                feelings mood[], two pair, twos pair[], p positive, ints int[], grid text[], nums numbers, docs jsonb[], store hstore,
                stores hstore[], range tstzrange, ranges int4multirange, bits bit(5), vec int2vector, reg regclass, ip inet,
                letter "char", padded char(4), where_ point, words tsvector, twice int GENERATED ALWAYS AS (id * 2) STORED);
        """)
        owner.execute("INSERT INTO odd (tenant_id, id) VALUES ('t1', 0)")
        owner.execute("""
            INSERT INTO odd VALUES ('t1', 1, e'a\\tb"\\\\ü', '2024-03-31 02:30:00.123456+02', '0044-03-15 01:02:03 BC', 'infinity',
                '24:00:00-03:30', '-1 year 2 mons -3 days 04:05:06.789', '\\x00ff', 0.1::float8 + 0.2, 'NaN', 1.500, '-$1,234.56',
                '{"a": [1.50, null]}', '{"a":1, "a":2}', '[1]', 'it''s "so, so"', ARRAY['fine', NULL]::mood[], (NULL, 'x,"y'), ARRAY[(1, NULL)::pair],
                5, '[0:2]={1,NULL,3}', '{{a,NULL},{"","c\\"d"}}', '[5:6]={1,2}', ARRAY['[1,2]', 'null', NULL]::jsonb[], 'a=>1, b=>NULL',
                ARRAY['k=>v'::hstore], '[2024-01-01 00:00+00,)', '{[1,3),[7,9)}', B'10110', '1 2 3', 'jobs', '10.0.0.1/8',
                'x', 'ab', '(0.1,-1e300)', 'a fat:2A cat'),
            ('t1', 2, '', '-infinity', 'infinity', '0001-01-01 BC', NULL, '1 day', '', '-Infinity', 3.4028235e38, 'NaN', 0, 'null',
                'null', 'null', NULL, '{}', (NULL, NULL), '{}', NULL, '{}', '{}', '{}', '{}', '', '{}', 'empty', '{}', B'00000', '', NULL, NULL,
                '', '', NULL, '')
        """)
        owner.execute("SELECT amp.protect('odd', fix => true); GRANT SELECT ON odd TO amp_svc")
    with as_tenant(db) as service:
        service.execute("""
            SET timezone = 'Asia/Kathmandu'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard';
            SET bytea_output = 'escape'; SET extra_float_digits = -10
        """)
        lines = [row[0] for row in service.execute("SELECT * FROM amp.export_tenant()")]
    with db.connect() as admin:
        admin.execute("SET lc_monetary = 'C'")
        for style in ("ISO, YMD", "German"):
            admin.execute(f"SET datestyle = '{style}'; SET intervalstyle = 'sql_standard'")
            found = 0
            for line in lines:
                document = json.loads(line)
                if document.get("table") != "public.odd":
                    continue
                found += 1
                row = admin.execute(
                    """SELECT string_agg(format('%%s: %%s', o.key, o.value), E'\\n')
                       FROM (SELECT i.* FROM jsonb_populate_record(NULL::odd, %s::jsonb -> 'row') i) i, odd t,
                            jsonb_each_text(to_jsonb(t)) o, jsonb_each_text(to_jsonb(i)) n
                       WHERE t.id = i.id AND o.key = n.key AND o.value IS DISTINCT FROM n.value""",
                    [line],
                ).fetchone()[0]
                nulls = set(document.get("json_nulls", []))
                # PostgreSQL's jsonb_populate_record() makes JSON's null SQL's; the line names those columns.
                assert {d.split(":")[0] for d in (row or "").split("\n") if d} <= nulls | {"raw"}, row
                # What records compare as; json has no equality.
                wrong = admin.execute(
                    """SELECT array_agg(c) FROM (
                       SELECT CASE WHEN t.two IS DISTINCT FROM i.two OR num_nulls(t.two) <> num_nulls(i.two) THEN 'two' END,
                              CASE WHEN t.ints IS DISTINCT FROM i.ints THEN 'ints' END, CASE WHEN t.nums IS DISTINCT FROM i.nums THEN 'nums' END,
                              CASE WHEN t.docs IS DISTINCT FROM i.docs THEN 'docs' END, CASE WHEN t.store IS DISTINCT FROM i.store THEN 'store' END,
                              CASE WHEN t.span IS DISTINCT FROM i.span THEN 'span' END, CASE WHEN t.at IS DISTINCT FROM i.at THEN 'at' END,
                              CASE WHEN t.f8 IS DISTINCT FROM i.f8 THEN 'f8' END, CASE WHEN t.cash IS DISTINCT FROM i.cash THEN 'cash' END
                       FROM odd t, jsonb_populate_record(NULL::odd, %s::jsonb -> 'row') i WHERE t.id = i.id) x,
                       unnest(ARRAY[x.*::text]) c WHERE c <> '(,,,,,,,,)'""",
                    [line],
                ).fetchone()[0]
                assert wrong is None, wrong
            assert found == 3


def test_a_superusers_export_runs_no_cast_of_a_tables_owner(db, marks):
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TYPE mood AS ENUM ('fine');
            CREATE TABLE moods (tenant_id text, feeling mood, feelings mood[]);
            CREATE FUNCTION to_json_of(mood) RETURNS json LANGUAGE plpgsql SECURITY INVOKER AS
                $$ BEGIN INSERT INTO marks VALUES (current_user, 'cast'); RETURN '1'; END $$;
            CREATE CAST (mood AS json) WITH FUNCTION to_json_of(mood);
            INSERT INTO moods VALUES ('t1', 'fine', '{fine}');
            SELECT amp.protect('moods');
        """)
    with db.connect() as admin:
        row = next(line["row"] for line in export(admin, "t1") if line.get("table") == "public.moods")
        assert row == {"tenant_id": "t1", "feeling": "fine", "feelings": "{fine}"}
        assert marks() == []


# ---- purge: complete, and only this tenant


def test_a_purge_deletes_every_row_and_no_other_tenants(db):
    before = left(db, "t2")
    with as_tenant(db) as service:
        service.execute("SELECT amp.record_usage('api_calls', 5, 'k')")
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_api_key('ann', 't1', 'k')")
    counts = purge(db)
    assert {name: counts.get(f"public.{name}") for name in ROWS if name != "events"} == {k: v for k, v in ROWS.items() if k != "events"}
    assert counts["public.events"] == 51
    assert counts["total"] == sum(v for k, v in counts.items() if k != "total")
    assert set(left(db, "t1").values()) == {0}
    assert left(db, "t2") == before == ROWS
    with db.connect() as admin:
        for table in ("tenant_configs", "members", "roles", "usage_counters", "usage_keys", "stored_api_keys", "revoked_api_keys", "tenant_locks"):
            assert admin.execute(f"SELECT count(*) FROM amp.{table} WHERE tenant_id = 't1'").fetchone() == (0,), table
        assert admin.execute("SELECT status, name, slug, purged_at IS NOT NULL FROM amp.tenants WHERE id = 't1'").fetchone() == (
            "deleted", "(purged)", "purged", True)  # fmt: skip
        # vic is in another tenant, too.
        assert column(admin, "SELECT id FROM amp.app_users") == ["bob", "vic"]
        assert admin.execute("SELECT detail -> 'purged' FROM amp.audit_log WHERE action = 'tenant.purged'").fetchone()[0] == counts
    with db.connect("amp_ops") as ops:
        with raises("23505"):
            ops.execute("SELECT amp.create_tenant('Again', 'again-1', id => 't1')")
        assert ops.execute("SELECT amp.create_tenant('Again', 'tenant-t1') ->> 'slug'").fetchone() == ("tenant-t1",)
    assert purge(db) == counts  # again is no error
    with db.connect("amp_ops") as ops:
        assert ops.execute("SELECT amp.delete_tenant('t1', true) -> 'purged'").fetchone()[0] == counts


def test_who_has_something_else_to_do_stays(db):
    people(db, **{name: ("t1", "viewer") for name in ("alone", "bound", "keyed", "owner_", "gone")})
    with db.connect() as admin, db.connect("amp_ops") as ops:
        admin.execute("INSERT INTO amp.accounts (id, kind, name) VALUES ('acc', 'agency', 'A')")
        admin.execute("INSERT INTO amp.account_members (account_id, user_id, role) VALUES ('acc', 'owner_', 'viewer')")
        ops.execute("SELECT amp.bind_role('amp_client', 'bound')")
        ops.execute("SELECT amp.create_api_key('keyed', name => 'all')")
        ops.execute("SELECT amp.create_api_key('alone', 't1', name => 'one')")
        ops.execute("SELECT amp.remove_user('gone', 't1')")
    purge(db)
    with db.connect() as admin:
        assert column(admin, "SELECT id FROM amp.app_users") == ["bob", "bound", "keyed", "owner_", "vic"]
        assert column(admin, "SELECT count(*) FROM amp.app_users WHERE default_tenant_id = 't1'") == [0]


@pytest.mark.parametrize("type, id", [("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), ("bigint", "-7"), ("varchar(40)", "t9")])
def test_tables_keyed_by_other_types(db, type, id):
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('K', 'keyed-k', id => %s)", [id])
    with db.connect("amp_owner") as owner:
        owner.execute(f"CREATE TABLE things (tenant_id {type}, id int, PRIMARY KEY (tenant_id, id))")
        owner.execute("INSERT INTO things SELECT %s, n FROM generate_series(1, 25) n", [id])
        owner.execute("SELECT amp.protect('things'); GRANT SELECT ON things TO amp_svc")
    with as_tenant(db, id) as service:
        assert sum(line.get("table") == "public.things" for line in export(service)) == 25
    with as_tenant(db, "t1") as service:
        assert sum(line.get("table") == "public.things" for line in export(service)) == 0
    purge(db, "t1")
    with db.connect() as admin:
        assert admin.execute("SELECT count(*) FROM things").fetchone() == (25,)
        assert purge(db, id)["public.things"] == 25
        assert admin.execute("SELECT count(*) FROM things").fetchone() == (0,)


def test_a_reference_from_an_unprotected_table_is_named(db):
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE outside (tenant_id text, client_id int, CONSTRAINT outside_client FOREIGN KEY (tenant_id, client_id) REFERENCES clients);
            INSERT INTO outside VALUES ('t1', 3)
        """)
    with raises("23503", 'violates foreign key constraint "outside_client" on table "outside"'):
        purge(db)
    with db.connect("amp_owner") as owner:
        owner.execute("DROP TABLE outside")
    purge(db)
    assert set(left(db, "t1").values()) == {0}


def test_not_before_the_deletion_is_committed(db):
    with db.connect("amp_ops") as ops:
        with raises("55000", "not deleted yet"):
            ops.execute("SELECT amp.delete_tenant('t1', true)")
        ops.execute("BEGIN")
        ops.execute("SAVEPOINT a")
        ops.execute("SELECT amp.delete_tenant('t1')")
        ops.execute("RELEASE a")
        with raises("55000", "not deleted yet"):
            ops.execute("SELECT amp.delete_tenant('t1', true)")
        ops.execute("ROLLBACK")
        with raises("TN002"):
            ops.execute("SELECT amp.delete_tenant('nowhere', true)")
        ops.execute("SELECT amp.delete_tenant('t1')")
        ops.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with raises("55000", "read committed"):
            ops.execute("SELECT amp.delete_tenant('t1', true)")
        ops.execute("ROLLBACK")
        assert ops.execute("SELECT amp.delete_tenant('t1', true) #>> '{purged,public.jobs}'").fetchone() == ("30",)
    assert set(left(db, "t1").values()) == {0}


def test_only_operators_purge(db):
    calls = (
        "CALL amp.purge_tenant('t2')", "SELECT amp.delete_tenant('t2', true)", "SELECT amp.purge_deleted_for_caller('t2')",
        "SELECT amp.begin_purge_for_caller('t2')", "SELECT amp.await_purge_for_caller('t2', true)", "SELECT amp.purge_batch_for_caller('t2', 1)",
        "SELECT amp.mark_caller(), amp.purge_batch_for_caller('t2', 1)",
    )  # fmt: skip
    for login in ("amp_client", "amp_owner", "amp_svc"):
        with db.connect(login) as session:
            for call in calls:
                with raises("TN004"):
                    session.execute(call)
            for call in ("amp.purge_rows('t2', 1)", "amp.run_as_owner('jobs', 'SELECT 1', 't2')", "amp.settle_purge('t2')",
                         "amp.finish_purge('t2')", "amp.purge_people('t2')", "amp.begin_purge('t2')",
                         "amp.delete_rows('jobs', 'true', 't2', 1)"):  # fmt: skip
                with raises("42501"):
                    session.execute(f"SELECT {call}")
    # An operator cannot leave out the waiting.
    with db.connect("amp_ops") as ops:
        for call in calls[4:]:
            with pytest.raises(psycopg.Error):
                ops.execute(call)
        ops.execute("SELECT amp.delete_tenant('t2')")
        with raises("55000"):
            ops.execute("SELECT amp.mark_caller(), amp.purge_batch_for_caller('t2', 1)")
    assert left(db, "t2") == ROWS


# ---- purge: the code of tables' owners


@pytest.fixture
def marks(db):
    """A table that strangers' code writes to; marks() is who it ran as, and as what."""
    with db.connect() as admin:
        admin.execute("CREATE TABLE marks (who text, what text); GRANT ALL ON marks TO PUBLIC")

    def marks():
        with db.connect() as admin:
            return sorted(set(admin.execute("SELECT * FROM marks").fetchall()))

    return marks


NOTE = """
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.marks VALUES (current_user, TG_ARGV[0]); RETURN OLD; END $$;
    CREATE TRIGGER before_row BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION note('before row');
    CREATE TRIGGER after_row AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION note('after row');
    CREATE TRIGGER statement AFTER DELETE ON jobs EXECUTE FUNCTION note('statement');
    CREATE TRIGGER parted BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION note('partition');
    CREATE CONSTRAINT TRIGGER late AFTER DELETE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note('late');
"""


def test_an_owners_triggers_run_as_himself(db, marks):
    with db.connect("amp_owner") as owner:
        owner.execute(NOTE)
    # What a DELETE of the extension's owner would do, so that it is known what is at stake.
    with db.connect() as admin:
        admin.execute("BEGIN; DELETE FROM jobs WHERE tenant_id = 't1'; SET CONSTRAINTS ALL IMMEDIATE")
        assert {who for who, _ in admin.execute("SELECT * FROM marks")} == {"postgres"}
        admin.execute("ROLLBACK")
    for login, tenant in (("amp_ops", "t1"), ("postgres", "t2")):
        purge(db, tenant, login=login)
        assert marks() == [("amp_owner", what) for what in ("after row", "before row", "late", "partition", "statement")]


@pytest.mark.parametrize("login", ["amp_ops", "postgres"])
@pytest.mark.parametrize("one_call", [False, True])
@pytest.mark.parametrize(
    "body, sqlstate",
    [
        ("SET CONSTRAINTS ALL DEFERRED; INSERT INTO public.later VALUES (1)", "42501"),  # would run at commit, as the operator
        ("SET LOCAL ROLE amp_ops", "42501"),
        ("RESET ROLE", "42501"),
        ("SET SESSION AUTHORIZATION DEFAULT", "42501"),
        ("CREATE TEMP TABLE t (a int)", "42501"),
        ("PERFORM amp.mark_caller(); PERFORM amp.set_tenant_status('t2', 'deleted')", "TN004"),
        ("PERFORM amp.suspend_tenant('t2')", "TN004"),
        ("PERFORM amp.delete_tenant('t2')", "TN004"),
        ("PERFORM amp.delete_tenant('t2', true)", "TN004"),
        ("PERFORM amp.run_as_owner('amp.tenants', 'DELETE FROM amp.tenants', 't1')", "42501"),
        ("EXECUTE 'DELETE FROM amp.tenants'", "42501"),
        ("EXECUTE 'SELECT key FROM amp.signing_keys'", "42501"),
    ],
)
def test_an_owners_trigger_gets_no_rights_of_the_caller(db, login, one_call, body, sqlstate):
    with db.connect("amp_owner") as owner:
        owner.execute(f"""
            CREATE TABLE later (a int);
            CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE FOR EACH ROW EXECUTE FUNCTION noop();
            CREATE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN OLD; END $$;
            CREATE TRIGGER attack BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION attack()
        """)
    with db.connect(login) as session:
        with raises(sqlstate):
            if one_call:
                session.execute("SELECT amp.delete_tenant('t1')")
                session.execute("SELECT amp.delete_tenant('t1', true)")
            else:
                session.execute("CALL amp.purge_tenant('t1', 1000)")
        assert session.execute("SELECT current_user::text").fetchone() == (login,)
        assert session.execute("SELECT status FROM amp.tenants WHERE id = 't2'").fetchone() == ("active",)
    # It is not lost: the owner takes the trigger away, and it goes on.
    with db.connect("amp_owner") as owner:
        owner.execute("DROP TRIGGER attack ON jobs")
    purge(db, login=login)
    assert set(left(db, "t1").values()) == {0} and left(db, "t2") == ROWS


@pytest.mark.parametrize("place", ["trigger", "rule"])
def test_an_owner_with_an_operators_key_does_not_lend_it_to_his_tables(db, place):
    """The role that the session chose is the one whose code runs, and the session has proved an operator: only the place tells them apart."""
    with db.connect("amp_ops") as ops:
        key = ops.execute("SELECT amp.create_operator_key('k') ->> 'key'").fetchone()[0]
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION attack() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                PERFORM amp.mark_caller(); PERFORM amp.set_tenant_status('t2', 'deleted'); RETURN 1; END $$;
            CREATE FUNCTION attacks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); RETURN OLD; END $$;
            CREATE TABLE log (a int)
        """)
        db.open_hole({"trigger": "CREATE TRIGGER attack BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION attacks()",
                       "rule": "CREATE RULE attack AS ON DELETE TO jobs DO ALSO INSERT INTO log SELECT attack()"}[place], "amp_owner")  # fmt: skip
        owner.execute("SELECT amp.authenticate(%s)", [key])
        with raises("TN004"):
            owner.execute("CALL amp.purge_tenant('t1')")
        owner.execute(f"DROP {place} attack ON jobs")
        owner.execute("CALL amp.purge_tenant('t1')")
    assert set(left(db, "t1").values()) == {0}
    with db.connect() as admin:
        assert admin.execute("SELECT status FROM amp.tenants WHERE id = 't2'").fetchone() == ("active",)


def test_settings_that_an_owners_trigger_leaves_behind_are_undone(db):
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM set_config('search_path', 'public', false), set_config('statement_timeout', '1', false); RETURN OLD; END $$;
            CREATE TRIGGER attack BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION attack()
        """)
    with db.connect("amp_ops") as ops:
        before = ops.execute("SELECT current_setting('search_path'), current_setting('statement_timeout')").fetchone()
        ops.execute("CALL amp.purge_tenant('t1', 10)")
        assert ops.execute("SELECT current_setting('search_path'), current_setting('statement_timeout')").fetchone() == before
        ops.execute("SELECT amp.delete_tenant('t2')")
        ops.execute("BEGIN")
        ops.execute("SELECT amp.delete_tenant('t2', true)")
        assert ops.execute("SELECT current_setting('search_path'), current_setting('statement_timeout')").fetchone() == before
        ops.execute("COMMIT")


def test_an_operator_does_not_steer_an_owners_trigger(db, marks):
    """Neither his search_path nor his temporary objects are what the trigger's unqualified names mean: it would run his code with the
    owner's rights, who sees every tenant's rows."""
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE gone (id int);
            CREATE FUNCTION attacked() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
                $$ BEGIN INSERT INTO gone VALUES (OLD.id); RETURN OLD; END $$;
            CREATE TRIGGER attacked BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION attacked();
            CREATE FUNCTION helper(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE FUNCTION steered() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM helper(1); RETURN OLD; EXCEPTION WHEN undefined_function THEN RETURN OLD; END $$;
            CREATE TRIGGER steered BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION steered();
        """)
    with db.connect() as admin:
        admin.execute("CREATE SCHEMA ops AUTHORIZATION amp_ops; GRANT USAGE ON SCHEMA ops TO PUBLIC")
    with db.connect("amp_ops") as ops:
        ops.execute("""
            CREATE FUNCTION ops.helper(int) RETURNS int LANGUAGE sql AS
                $$ INSERT INTO public.marks VALUES (current_user, 'search_path'); SELECT 1 $$;
            CREATE FUNCTION ops.steal() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.marks VALUES (current_user, 'temp'); RETURN NEW; END $$;
            CREATE TEMP TABLE gone (id int);
            CREATE TRIGGER steal BEFORE INSERT ON gone FOR EACH ROW EXECUTE FUNCTION ops.steal();
            GRANT ALL ON gone TO PUBLIC;
            SET search_path = ops, public;
        """)
        with raises("55000", "temporary objects"):
            ops.execute("CALL amp.purge_tenant('t1')")
        ops.execute("DISCARD TEMP")
        ops.execute("CREATE DOMAIN pg_temp.d AS int")
        with raises("55000", "temporary objects"):
            ops.execute("SELECT amp.delete_tenant('t1', true)")
        ops.execute("DISCARD TEMP")
        ops.execute("CALL amp.purge_tenant('t1')")
    assert marks() == []
    with db.connect() as admin:
        assert admin.execute("SELECT count(*) FROM gone").fetchone() == (30,)


@pytest.mark.parametrize("kind", ["trigger", "rule", "resurrect"])
def test_rows_that_are_kept_are_told(db, kind):
    db.open_hole({
        "trigger": """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                          $$ BEGIN IF OLD.id % 10 = 0 THEN RETURN NULL; END IF; RETURN OLD; END $$;
                      CREATE TRIGGER keep BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION keep();
                      ALTER TABLE jobs DROP CONSTRAINT jobs_tenant_id_client_id_fkey""",
        "rule": "CREATE RULE keep AS ON DELETE TO animals DO INSTEAD NOTHING",
        "resurrect": """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                          $$ BEGIN INSERT INTO public.jobs VALUES (OLD.tenant_id, OLD.id, NULL, 'again'); RETURN NULL; END $$;
                        CREATE TRIGGER keep AFTER DELETE ON clients FOR EACH ROW EXECUTE FUNCTION keep()""",
    }[kind], "amp_owner")  # fmt: skip
    left_in, most = {"trigger": ("public.jobs", 3), "rule": ("public.animals", 1), "resurrect": ("public.jobs", 30)}[kind]
    for login in ("amp_ops", "postgres"):
        if kind == "resurrect" and login == "postgres":
            break  # the first call has deleted what resurrects
        with raises("55000", f"{most} row.* left in table {left_in}"):
            purge(db, batch=1000, login=login)
    with db.connect() as admin:
        assert admin.execute("SELECT purged_at FROM amp.tenants WHERE id = 't1'").fetchone() == (None,)


@pytest.mark.parametrize("login", ["amp_ops", "postgres"])
def test_a_rule_runs_as_the_owner(db, marks, login):
    db.open_hole("""
            CREATE FUNCTION tell() RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN
                BEGIN PERFORM amp.mark_caller(); PERFORM amp.set_tenant_status('t2', 'deleted'); EXCEPTION WHEN OTHERS THEN NULL; END;
                RETURN current_user; END $$;
            CREATE RULE tell AS ON DELETE TO animals DO ALSO INSERT INTO marks VALUES (tell(), 'rule')
        """, "amp_owner")
    purge(db, login=login)
    assert marks() == [("amp_owner", "rule")]
    assert left(db, "t2") == ROWS
    with db.connect() as admin:
        assert admin.execute("SELECT status FROM amp.tenants WHERE id = 't2'").fetchone() == ("active",)


def test_a_partition_of_another_owner_runs_its_triggers_as_him(db, marks):
    with db.connect() as admin:
        admin.execute("ALTER TABLE events OWNER TO postgres; ALTER TABLE events_2 OWNER TO amp_owner")
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.marks VALUES (current_user, TG_ARGV[0]); RETURN OLD; END $$;
            CREATE TRIGGER mine BEFORE DELETE ON events_2 FOR EACH ROW EXECUTE FUNCTION note('partition')
        """)
    purge(db, login="postgres")
    assert marks() == [("amp_owner", "partition")]


@pytest.mark.parametrize("login", ["amp_ops", "postgres"])
def test_what_the_caller_deferred_runs_with_his_own_rights(db, marks, login):
    """SET CONSTRAINTS inside of a SECURITY DEFINER function would run it as a superuser."""
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE trap (a int); GRANT INSERT ON trap TO amp_ops;
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.marks VALUES (current_user, 'trap'); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()
        """)
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.delete_tenant('t1')")
        ops.execute("BEGIN")
        ops.execute("INSERT INTO trap VALUES (1)")
        ops.execute("SELECT amp.delete_tenant('t1', true)")
        ops.execute("COMMIT")
    assert marks() == [("amp_ops", "trap")]


@pytest.mark.parametrize("login", ["amp_ops", "postgres"])
def test_a_hostile_search_path(db, marks, login):
    with db.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC")
        for name, arguments, result, body in [
            ("clock_timestamp", "", "timestamptz", "now()"), ("set_config", "text, text, boolean", "text", "pg_catalog.set_config($1, $2, $3)"),
            ("pg_sleep", "double precision", "void", "null"), ("mark_caller", "", "void", "null"),
            ("lt", "integer, integer", "boolean", "false"), ("ltt", "timestamptz, timestamptz", "boolean", "false"),
            ("plus", "timestamptz, interval", "timestamptz", "now()"),
        ]:  # fmt: skip
            owner.execute(f"""CREATE FUNCTION evil.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.marks VALUES (current_user, '{name}'); {"RETURN" if result == "void" else "RETURN " + body}; END $$""")
        owner.execute("""
            CREATE OPERATOR evil.< (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.lt);
            CREATE OPERATOR evil.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.ltt);
            CREATE OPERATOR evil.+ (LEFTARG = timestamptz, RIGHTARG = interval, FUNCTION = evil.plus);
            CREATE FUNCTION evil.check_(text) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.marks VALUES (current_user, 'domain'); RETURN true; END $$;
            CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.check_(VALUE));
            CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (evil.check_('x'));
        """)
    with db.connect(login) as session, as_tenant(db, "t2", user="bob") as bob:
        session.execute("SET search_path = evil, pg_catalog")
        session.execute("CALL amp.purge_tenant('t1', 3)")
        session.execute("CALL amp.purge_tenant('t1', 3)")
        assert session.execute("SHOW search_path").fetchone() == ("evil, pg_catalog",)
        bob.execute("SET search_path = evil, pg_catalog")
        bob.execute("SELECT amp.export_tenant()")
    assert marks() == []
    assert set(left(db, "t1").values()) == {0}


def test_a_trigger_sees_no_more_of_others_than_its_owner_could(db):
    """It runs as the owner of the table, not as the owner of amp's tables or of another's."""
    with db.connect() as admin:
        admin.execute("CREATE TABLE theirs (tenant_id text, secret text)")
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM public.theirs; RETURN OLD; END $$;
            CREATE TRIGGER look BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION look()
        """)
    with raises("42501", "theirs"):
        purge(db)


def test_an_owner_who_may_not_delete_is_told(db):
    with db.connect("amp_owner") as owner:
        owner.execute("REVOKE DELETE ON jobs FROM amp_owner")
    with raises("42501", "jobs"):
        purge(db)
    assert left(db, "t1")["jobs"] == 30


@pytest.fixture
def stranger(db):
    """amp_client may make tables; he is no superuser, and is none afterwards."""
    with db.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_client; CREATE TABLE marks (who text); GRANT ALL ON marks TO PUBLIC")
    yield db.connect("amp_client")
    with db.connect() as admin:
        assert admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'amp_client'").fetchone() == (False,)
        assert column(admin, "SELECT who FROM marks WHERE who <> 'amp_client'") == []
        admin.execute("REVOKE ALL ON SCHEMA public FROM amp_client")


SPY = """
    CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.marks VALUES (current_user); RETURN OLD; END $$;"""


def test_P1_a_strangers_trigger_does_not_run_as_the_tables_owner(db, stranger):
    """On a table of a superuser's. Deleting by hand shows what it would do."""
    with db.connect() as admin:
        db.open_hole("ALTER TABLE animals OWNER TO postgres; GRANT TRIGGER ON animals TO amp_client")
        stranger.execute(SPY)
        spy = "CREATE TRIGGER spy BEFORE DELETE ON animals FOR EACH ROW EXECUTE FUNCTION spy()"
        with raises("TN008"):
            stranger.execute(spy)
        admin.execute(spy)  # it is there from before
        admin.execute("BEGIN; DELETE FROM animals WHERE tenant_id = 't1'")
        assert "postgres" in column(admin, "SELECT who FROM marks")
        admin.execute("ROLLBACK")
    with db.connect("amp_ops") as ops, raises("55000", match="trigger spy of table public.animals is code of amp_client"):
        ops.execute("CALL amp.purge_tenant('t1')")


PREYING_NOTE = """
    CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.marks VALUES (current_user); RETURN false; END $$;
    CREATE FUNCTION note(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.note(); END $$;
    CREATE FUNCTION note(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.note(); END $$;
    CREATE OPERATOR === (FUNCTION = note, LEFTARG = text, RIGHTARG = text);
    CREATE DOMAIN noted AS text CHECK (public.note() IS NOT NULL);
"""
CONDITIONS = {
    "a function": "note()",
    "an immutable one": "note(OLD.name)",
    "an operator": "OLD.name === 'x'",
    "one of a list": "OLD.name === ANY ('{x}')",
    "PostgreSQL's function, which runs a query":
        "ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery WHERE public.note()') IS NULL",
    "a domain": "OLD.name::noted = 'x'",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_P1_a_strangers_condition_of_a_trigger_does_not_run_as_the_tables_owner(db, stranger, condition):
    """The trigger's function is PostgreSQL's own, and harmless; what it is called WHEN is not. Deleting by hand shows what it would do."""
    with db.connect() as admin:
        db.open_hole("ALTER TABLE animals OWNER TO postgres; GRANT TRIGGER ON animals TO amp_client")
        stranger.execute(PREYING_NOTE)
        admin.execute(f"""
            CREATE TRIGGER spy BEFORE DELETE ON animals FOR EACH ROW WHEN ({CONDITIONS[condition]})
            EXECUTE FUNCTION suppress_redundant_updates_trigger()""")
        admin.execute("BEGIN; DELETE FROM animals WHERE tenant_id = 't1'")
        assert "postgres" in column(admin, "SELECT who FROM marks")
        admin.execute("ROLLBACK")
    with db.connect("amp_ops") as ops, raises("55000", match="trigger spy of table public.animals"):
        ops.execute("CALL amp.purge_tenant('t1')")


def test_an_owners_conditions_stand_in_nobodys_way(db):
    with db.connect("amp_owner") as owner:
        owner.execute("""
            CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
            CREATE TRIGGER kept BEFORE DELETE ON animals FOR EACH ROW
            WHEN (OLD.name IS DISTINCT FROM OLD.name OR (OLD.tenant_id, OLD.name) < ('a', lower('B')) OR OLD.name IN ('x', 'y'))
            EXECUTE FUNCTION kept()""")
    assert purge(db)["public.animals"] == 1


def test_P1_a_strangers_trigger_behind_a_cascade_does_not_run_as_the_tables_owner(db, stranger):
    """His own table refers to a superuser's: its AFTER triggers wait for the end of the whole statement, and run as who deletes."""
    with db.connect() as admin:
        db.open_hole("ALTER TABLE clients OWNER TO postgres; GRANT REFERENCES ON clients TO amp_client; DELETE FROM jobs")
        stranger.execute("CREATE TABLE lure (tenant_id text, id int)")
        key = "ALTER TABLE lure ADD FOREIGN KEY (tenant_id, id) REFERENCES clients ON DELETE CASCADE"
        with raises("TN008"):
            stranger.execute(key)
        db.open_hole(key)  # it is there from before
        stranger.execute("INSERT INTO lure VALUES ('t1', 3)")
        stranger.execute(SPY + "CREATE TRIGGER spy AFTER DELETE ON lure FOR EACH ROW EXECUTE FUNCTION spy()")
        admin.execute("BEGIN; DELETE FROM clients WHERE tenant_id = 't1'")
        # From 18 on, a trigger runs as who was the user when it was queued.
        shown = "postgres" if admin.info.server_version < 180000 else "amp_client"
        assert shown in column(admin, "SELECT who FROM marks")
        admin.execute("ROLLBACK")
        found = column(admin, "SELECT object FROM amp.doctor() WHERE code = 'foreign-key-acts-on-strangers'")
        assert found == ["foreign key lure_tenant_id_id_fkey of public.lure"]
    with db.connect("amp_ops") as ops, raises("55000", match="trigger spy of table public.lure is code of amp_client"):
        ops.execute("CALL amp.purge_tenant('t1')")
    stranger.execute("DROP TABLE lure")
    with db.connect("amp_ops") as ops:
        ops.execute("CALL amp.purge_tenant('t1')")


EVIL = """
    CREATE TABLE evil (tenant_id text, id int);
    SELECT amp.protect('evil'); GRANT SELECT ON evil TO PUBLIC;
    CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.marks VALUES (current_user); END $$;
    CREATE FUNCTION evil(int DEFAULT 0) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note(); RETURN true; END $$;
    CREATE FUNCTION evil_eq(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note(); RETURN true; END $$;
    CREATE OPERATOR === (FUNCTION = evil_eq, LEFTARG = int, RIGHTARG = int);
    TRUNCATE marks;
"""
PLACES = {
    "index predicate": "CREATE INDEX ON evil (id) WHERE evil()",
    "index expression": "CREATE INDEX ON evil (evil(1))",
    "statistics": "CREATE STATISTICS s ON (evil(1)), id FROM evil",
    "check": "ALTER TABLE evil ADD CHECK (evil(1))",
    "operator": "CREATE INDEX ON evil (id) WHERE 1 === 2",
    "policy": "CREATE POLICY evil ON evil USING (evil(id))",
    "policy without a function of his": "CREATE POLICY evil ON evil USING (ts_rewrite('a', 'SELECT ''a''::tsquery, ''b''::tsquery WHERE note()') IS NOT NULL)",
    "amp's policy, altered": "ALTER POLICY amp_allow ON evil USING (evil(id))",
    "amp's policy, altered without a function of his":
        "ALTER POLICY amp_tenant ON evil USING (ts_rewrite('a', 'SELECT ''a''::tsquery, ''b''::tsquery WHERE public.note()') IS NOT NULL)",
    "amp's policy, made anew": "DROP POLICY amp_tenant ON evil; CREATE POLICY amp_tenant ON evil AS RESTRICTIVE USING (evil(id))",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("login", ["superuser", "service"])
def test_P1_an_export_runs_no_strangers_code(db, stranger, place, login):
    """Whose table is read, like everybody's: with the exporter's rights, or in his tenant, where it could copy his rows."""
    stranger.execute(EVIL)
    if place.startswith("amp's policy"):
        db.open_hole(PLACES[place])
    else:
        stranger.execute(PLACES[place])
    stranger.execute("INSERT INTO marks SELECT; TRUNCATE marks")
    session = db.connect() if login == "superuser" else as_tenant(db, user="ann")
    with session, raises("42501", match="reading table public.evil would run code of somebody else's"):
        session.execute("SELECT amp.export_tenant('t1')")


@pytest.mark.parametrize("place", ["index predicate", "index expression", "operator"])
def test_reading_a_strangers_table_runs_his_code(db, stranger, place):
    """What PostgreSQL does by itself, and why an export does not read such a table."""
    stranger.execute(EVIL)
    stranger.execute(PLACES[place])
    with db.connect() as admin:
        admin.execute("BEGIN; TRUNCATE marks; SELECT * FROM evil WHERE tenant_id = 't1'")
        assert column(admin, "SELECT DISTINCT who FROM marks") == ["postgres"]
        admin.execute("ROLLBACK; TRUNCATE marks")


def test_an_export_runs_the_code_of_who_exports(db):
    """The application's own expressions do not stand in the way of the role that made them, nor an extension's."""
    with db.connect() as admin:
        admin.execute("CREATE EXTENSION pg_trgm; GRANT amp_owner TO amp_svc")
    with db.connect("amp_owner") as owner:
        owner.execute("CREATE FUNCTION tidy(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)'")
        owner.execute("CREATE INDEX ON clients (tenant_id, tidy(name)); CREATE INDEX ON clients USING gin (name gin_trgm_ops)")
    try:
        with as_tenant(db, user="ann") as session:
            assert sum(line.get("table") == "public.clients" for line in export(session)) == 30
    finally:
        with db.connect() as admin:
            admin.execute("REVOKE amp_owner FROM amp_svc")


def test_a_default_of_the_owners_does_not_stand_in_the_way_of_an_export(db):
    """Who writes runs it, not who reads."""
    with db.connect("amp_owner") as owner:
        owner.execute("CREATE FUNCTION next_number() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        owner.execute("ALTER TABLE clients ADD number int, ALTER number SET DEFAULT next_number()")
    with as_tenant(db, user="ann") as session:
        assert sum(line.get("table") == "public.clients" for line in export(session)) == 30


def test_only_who_may_export_locks_tables_by_it(db):
    with db.connect("amp_client") as client, pytest.raises(psycopg.Error) as refused:
        client.execute("SELECT amp.mark_caller(), amp.assert_reads_plainly('clients')")
    assert refused.value.sqlstate in ("TN001", "TN004")
    with as_tenant(db, user="vic") as viewer, raises("TN004"):
        viewer.execute("SELECT amp.mark_caller(), amp.assert_reads_plainly('clients')")


def test_a_renamed_tenant_column_is_an_error_and_not_nothing(db):
    """The registry follows a rename, unless a superuser has switched that off."""
    with db.connect() as admin:
        admin.execute("ALTER EVENT TRIGGER amp_follow_renames DISABLE")
    db.open_hole("ALTER TABLE animals RENAME tenant_id TO tid")
    with as_tenant(db, user="ann") as session, raises("55000", match="no column tenant_id any more"):
        export(session)
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.delete_tenant('t1')")
        with raises("55000", match="no column tenant_id any more"):
            ops.execute("CALL amp.purge_tenant('t1')")
    with db.connect() as admin:
        assert admin.execute("SELECT purged_at FROM amp.tenants WHERE id = 't1'").fetchone() == (None,)


def test_P7_who_only_manages_users_exports_nothing_that_he_cannot_read(db):
    people(db, mia=("t1", "viewer"))
    with as_tenant(db, user="ann") as admin:
        admin.execute("SELECT amp.define_role('hr', '{users.manage}'), amp.set_user_role('mia', 'hr')")
        admin.execute("SELECT amp.set_brand_context('{\"secret\": \"plan\"}')")
    with as_tenant(db, user="mia") as mia:
        for statement in ("SELECT amp.brand_context()", "SELECT amp.own_rows_for_caller(NULL)", "SELECT amp.export_tenant()"):
            with raises("TN004"):
                mia.execute(statement)
