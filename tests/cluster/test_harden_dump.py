"""A hardened database, dumped and restored: it is hardened again, by the restore itself, and can be undone there."""

import pytest

from harness import raises
from test_dump import dump, restore, run

ACLS = """
    SELECT 'function', oid::regprocedure::text, proacl::text FROM pg_proc UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace
    UNION ALL SELECT 'database', '', datacl::text FROM pg_database WHERE datname = current_database()"""


@pytest.fixture
def source(cluster):
    """Hardened, with a privilege of its own on one of the functions, and a large object."""
    db = cluster.database(hardened=True)
    with db.connect() as admin:
        admin.execute("GRANT EXECUTE ON FUNCTION pg_stat_get_activity(integer) TO amp_ops; SELECT lo_from_bytea(0, 'x')")
    yield db
    db.drop()


@pytest.fixture
def copy(cluster):
    db = cluster.database(extension=False)
    yield db
    db.drop()


def acls(db):
    with db.connect(options="-c search_path=pg_catalog") as admin:
        return {tuple(row[:2]): row[2] for row in admin.execute(ACLS)}


def hardening(db):
    with db.connect() as admin:
        return admin.execute("SELECT kind, identity, privilege, revoked, keeper FROM amp.hardening ORDER BY 1, 2").fetchall()


def check_closed(db):
    with db.connect() as admin:
        assert admin.execute("SELECT * FROM amp.hardening_gaps()").fetchall() == []
    with db.connect("amp_svc") as service:
        for statement in ("SELECT query FROM pg_stat_activity", "CREATE TEMP TABLE t ()", "SELECT pg_advisory_lock(1)", "SELECT lo_create(0)"):
            with raises("42501"):
                service.execute(statement)


@pytest.mark.parametrize("options", [["dump.sql"], ["dump", "-Fc"], ["dump", "-Fd", "-j2"]], ids=["plain", "custom", "directory"])
@pytest.mark.parametrize("privileges", [True, False])
def test_a_restored_database_is_hardened(source, copy, tmp_path, options, privileges):
    """With what the dump says of privileges, and without: pg_dump says nothing of those of the database."""
    before = acls(copy)
    file = dump(source, tmp_path / options[0], *options[1:], *([] if privileges else ["--no-privileges"]))
    restore(file, copy, *(["-j2"] if "-Fd" in options else []))
    assert hardening(copy) == hardening(source)
    check_closed(copy)
    with copy.connect() as admin:
        left = admin.execute("SELECT object FROM amp.unharden() WHERE status = 'left'").fetchall()
        assert left == ([("function pg_catalog.pg_stat_get_activity(integer)",)] if privileges else [])
        if privileges:
            admin.execute("REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(integer) FROM amp_ops")
    after = acls(copy)
    changed = {name for name, acl in before.items() if after[name] != acl}
    # What GRANT has written once is an access list for good, though it says what the default says.
    assert changed == ({("function", "pg_stat_get_activity(integer)")} if privileges else set())


INITIAL = "SELECT count(*) FROM pg_init_privs WHERE objoid IN (SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message')"


def test_what_another_version_has_with_other_arguments_is_not_in_the_dump(source, copy, tmp_path):
    """PostgreSQL 17 gave pg_logical_emit_message() another argument: a dump of 15 that revokes it would stop there. The restore closes it all the same."""
    file = dump(source, tmp_path / "dump.sql")
    changes = [line for line in file.read_text().splitlines() if line.startswith(("REVOKE", "GRANT"))]
    assert any("pg_stat_get_activity" in line for line in changes) and not any("pg_logical_emit_message" in line for line in changes)
    restore(file, copy)
    with copy.connect("amp_svc") as service, raises("42501"):
        service.execute("SELECT pg_logical_emit_message(true, '', ''::text)")
    for db in source, copy:
        with db.connect() as admin:
            assert admin.execute(INITIAL).fetchone() == (2,)
            admin.execute("SELECT FROM amp.unharden()")
            assert admin.execute(INITIAL).fetchone() == (0,)


def test_data_restored_after_the_schema(source, copy, tmp_path, monkeypatch):
    """As a replica, too, the trigger fires."""
    restore(dump(source, tmp_path / "schema", "-Fc", "--schema-only", "--no-privileges"), copy)
    with copy.connect() as admin:
        assert admin.execute("SELECT count(*) FROM amp.hardening_gaps()").fetchone() > (100,)
    monkeypatch.setenv("PGOPTIONS", "-c session_replication_role=replica")
    restore(dump(source, tmp_path / "data", "-Fc", "--data-only"), copy)
    monkeypatch.undo()
    check_closed(copy)


def test_a_restored_copy_can_be_dumped_again(source, copy, cluster, tmp_path):
    restore(dump(source, tmp_path / "first", "-Fc"), copy)
    second = cluster.database(extension=False)
    restore(dump(copy, tmp_path / "second", "-Fc"), second)
    assert hardening(second) == hardening(source)
    check_closed(second)
    second.drop()


def test_a_copy_by_template_is_hardened_but_for_the_database(source, cluster):
    """CREATE DATABASE does not copy the privileges of the database itself: a gap, which harden() closes."""
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE copied TEMPLATE {source.name}")
    try:
        with cluster.connect("copied") as admin:
            assert admin.execute("SELECT object FROM amp.hardening_gaps()").fetchall() == [("database copied",)]
            assert admin.execute("SELECT object FROM amp.harden() WHERE status = 'done'").fetchall() == [("database copied",)]
            assert admin.execute("SELECT * FROM amp.hardening_gaps()").fetchall() == []
    finally:
        with cluster.connect() as admin:
            admin.execute("DROP DATABASE copied WITH (FORCE)")


def test_a_backup_role_dumps_a_hardened_database(source, cluster, tmp_path):
    """Who bypasses row security and may read everything dumps it as before."""
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE backup LOGIN BYPASSRLS IN ROLE pg_read_all_data")
    with source.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE public.notes (tenant_id text, id int); INSERT INTO public.notes VALUES ('t1', 1)")
        owner.execute("SELECT amp.protect('public.notes')")
    to = ["-h", cluster.host, "-U", "backup", "-d", source.name]
    try:
        run("pg_dump", *to, "-f", tmp_path / "dump.sql", "-n", "public")
        assert "t1\t1" in (tmp_path / "dump.sql").read_text()
    finally:
        with source.connect() as admin:
            admin.execute("DROP OWNED BY backup")
        with cluster.connect() as admin:
            admin.execute("DROP ROLE backup")


def test_psql_lists_and_describes(source, cluster):
    """What an ordinary role asks of psql is answered, but for sizes."""
    with source.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA app; CREATE TABLE app.notes (id int PRIMARY KEY); GRANT USAGE ON SCHEMA app TO PUBLIC")

    def psql(command):
        return run("psql", "-h", cluster.host, "-U", "amp_svc", "-d", source.name, "-X", "-v", "ON_ERROR_STOP=1", "-c", command, ok=False)

    for command in (r"\d", r"\dt *.*", r"\d app.notes", r"\d+ app.notes", r"\l", r"\du", r"\du+", r"\dn+", r"\df amp.*", r"\dp", r"\dx",
                    r"\dx+ amp_tenancy", r"\dT", r"\drds", r"\conninfo", r"\dconfig", r"\lo_list", r"\sf amp.protect"):  # fmt: skip
        done = psql(command)
        assert done.returncode == 0 and "ERROR" not in done.stderr, (command, done.stderr)
    for command in (r"\dt+ app.*", r"\l+"):
        assert "permission denied for function pg_" in psql(command).stderr
