"""Migration tools on protected tables, as the tables' owner: what is safe passes, a table that is forgotten stops its migration.

The schema is under amp.protect_schema() from the beginning, and the tool's history table is shared once, as docs/ddl.md says.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import program, raises

HISTORY = {
    "alembic": "CREATE TABLE app.alembic_version (version_num varchar(32) PRIMARY KEY)",
    "django": "CREATE TABLE app.django_migrations (id serial PRIMARY KEY, app varchar(255) NOT NULL, name varchar(255) NOT NULL, applied timestamptz NOT NULL)",
    "plain": "CREATE TABLE app.flyway_schema_history (version text PRIMARY KEY, installed_on timestamptz DEFAULT now())",
}


@pytest.fixture
def db(fresh_db):
    with fresh_db.connect("amp_ops") as ops:
        for tenant in "t1", "t2":
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    with fresh_db.connect("amp_owner") as owner:
        owner.execute("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO amp_svc; SELECT amp.protect_schema('app')")
        owner.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO amp_svc")
    return fresh_db


def history(db, tool):
    table = HISTORY[tool].split()[2]
    with db.connect("amp_owner") as owner, owner.transaction():
        owner.execute(HISTORY[tool])
        owner.execute("SELECT amp.share_table(%s::regclass)", [table])


def column(connection, sql):
    return sorted(row[0] for row in connection.execute(sql))


def errors(db):
    with db.connect() as admin:
        return admin.execute("SELECT code, object FROM amp.doctor() WHERE severity = 'error' ORDER BY 1, 2").fetchall()


def tables(db):
    with db.connect() as admin:
        return column(admin, "SELECT relname::text FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'p')")


def run(*command, cwd, ok=True, **environment):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def fill(db, table, **values):
    """A row of each tenant, by the service."""
    with db.connect("amp_svc") as svc:
        for tenant in "t1", "t2":
            svc.execute("SELECT set_config('amp.tenant_id', %s, false)", [tenant])
            svc.execute(f"INSERT INTO app.{table} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})", list(values.values()))


# Alembic: one transaction for each migration, and none for what is made concurrently.
ENV = """
from alembic import context
import os, sqlalchemy
with sqlalchemy.create_engine(os.environ["OWNER"]).connect() as connection:
    context.configure(connection=connection, version_table_schema="app", transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC = {
    "1": ("""
    for table in "brands", "missions":
        op.create_table(table, sa.Column("tenant_id", sa.Text(collation="C"), nullable=False), sa.Column("id", sa.Integer, nullable=False),
                        sa.Column("name", sa.Text), sa.PrimaryKeyConstraint("tenant_id", "id"), schema="app")
        op.execute(f"SELECT amp.protect('app.{table}')")
    """, """
    op.drop_table("missions", schema="app")
    op.drop_table("brands", schema="app")
    """),
    "2": ("""
    op.add_column("missions", sa.Column("state", sa.Text, nullable=False, server_default="draft"), schema="app")
    op.add_column("missions", sa.Column("brand_id", sa.Integer), schema="app")
    op.create_foreign_key("missions_brand_fk", "missions", "brands", ["tenant_id", "brand_id"], ["tenant_id", "id"],
                          source_schema="app", referent_schema="app")
    op.create_unique_constraint("brands_name_key", "brands", ["tenant_id", "name"], schema="app")
    op.create_check_constraint("state_check", "missions", "state <> ''", schema="app")
    with op.get_context().autocommit_block():
        op.create_index("missions_state_idx", "missions", ["tenant_id", "state"], schema="app", postgresql_concurrently=True)
    """, """
    op.drop_index("missions_state_idx", schema="app", table_name="missions")
    op.drop_constraint("brands_name_key", "brands", schema="app")
    op.drop_column("missions", "brand_id", schema="app")
    op.drop_column("missions", "state", schema="app")
    """),
    "3": ("""
    service = sa.create_engine(os.environ["SERVICE"])
    for tenant in "t1", "t2":
        with service.begin() as connection:
            connection.execute(sa.text("SELECT set_config('amp.tenant_id', :tenant, true)"), {"tenant": tenant})
            connection.execute(sa.text("UPDATE app.missions SET state = 'of ' || tenant_id"))
    """, "    pass"),
    "4": ("""
    op.rename_table("missions", "tasks", schema="app")
    op.alter_column("tasks", "name", new_column_name="title", schema="app")
    op.alter_column("tasks", "tenant_id", new_column_name="org_id", schema="app")
    op.alter_column("tasks", "title", type_=sa.String(200), nullable=True, schema="app")
    op.create_table("labels", sa.Column("code", sa.Text, primary_key=True), schema="app")
    op.execute("SELECT amp.share_table('app.labels')")
    """, """
    op.drop_table("labels", schema="app")
    op.alter_column("tasks", "org_id", new_column_name="tenant_id", schema="app")
    op.alter_column("tasks", "title", new_column_name="name", schema="app")
    op.rename_table("tasks", "missions", schema="app")
    """),
    "5": ("""
    op.create_table("forgotten", sa.Column("tenant_id", sa.Text), schema="app")
    """, "    pass"),
    "5b": ("""
    op.create_unique_constraint("brand_key", "tasks", ["brand_id"], schema="app")
    """, "    pass"),
}  # fmt: skip


def test_alembic(db, tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = .\n")

    def add(revision, before):
        upgrade, downgrade = ALEMBIC[revision]
        (tmp_path / f"versions/{revision}.py").write_text(
            f"import os\nimport sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = {revision!r}, {before!r}\n"
            f"def upgrade():\n{upgrade}\ndef downgrade():\n{downgrade}\n")

    def alembic(*arguments, ok=True):
        url = f"postgresql+psycopg2://%s@/{db.name}?host={db.cluster.host}&port={db.cluster.port}"
        return run(sys.executable, "-m", "alembic", *arguments, cwd=tmp_path, ok=ok, OWNER=url % "amp_owner", SERVICE=url % "amp_svc")

    for revision, before in ("1", None), ("2", "1"), ("3", "2"), ("4", "3"):
        add(revision, before)
    history(db, "alembic")
    alembic("upgrade", "2")
    fill(db, "missions", id=1, name="one")
    alembic("upgrade", "4")
    assert errors(db) == [] and tables(db) == ["alembic_version", "brands", "labels", "tasks"]
    with db.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert svc.execute("SELECT org_id, title, state FROM app.tasks").fetchall() == [("t1", "one", "of t1")]
    add("5", "4")
    assert "forgotten" in alembic("upgrade", "5", ok=False)
    (tmp_path / "versions/5.py").unlink()
    add("5b", "4")
    assert "key-without-tenant" in alembic("upgrade", "5b", ok=False)
    (tmp_path / "versions/5b.py").unlink()
    assert errors(db) == [] and "forgotten" not in tables(db)
    alembic("downgrade", "base")
    assert errors(db) == [] and tables(db) == ["alembic_version"]
    alembic("upgrade", "head")
    assert errors(db) == [] and "tasks" in tables(db)


# Django: its keys are of one column, so protect(fix => true) rebuilds them; a foreign key with the tenant is SQL.
SETTINGS = """
import os
SECRET_KEY, USE_TZ, DEFAULT_AUTO_FIELD = "test", True, "django.db.models.AutoField"
INSTALLED_APPS = ["content"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["NAME"], "USER": "amp_owner", "HOST": os.environ["HOST"],
                         "PORT": os.environ["PORT"], "OPTIONS": {"options": "-c search_path=app"}}}
"""
DJANGO = {
    "0001_initial": """
    initial = True
    operations = [
        migrations.CreateModel("Brand", [("id", models.AutoField(primary_key=True)), ("tenant_id", models.TextField(db_collation="C")), ("name", models.TextField())]),
        migrations.CreateModel("Mission", [("id", models.AutoField(primary_key=True)), ("tenant_id", models.TextField(db_collation="C")),
                                           ("brand", models.ForeignKey("content.Brand", models.CASCADE, null=True, db_constraint=False))]),
        migrations.RunSQL("SELECT amp.protect('content_brand', fix => true), amp.protect('content_mission', fix => true)", migrations.RunSQL.noop),
    ]""",
    "0002_more": """
    operations = [
        migrations.AddField("mission", "state", models.CharField(max_length=20, default="draft")),
        migrations.AddConstraint("brand", models.UniqueConstraint(fields=["tenant_id", "name"], name="brand_name_key")),
        migrations.AddIndex("mission", models.Index(fields=["tenant_id", "state"], name="mission_state_idx")),
        migrations.RunSQL("ALTER TABLE content_mission ADD CONSTRAINT mission_brand_fk FOREIGN KEY (tenant_id, brand_id) REFERENCES content_brand (tenant_id, id)",
                          "ALTER TABLE content_mission DROP CONSTRAINT mission_brand_fk"),
    ]""",
    "0003_concurrently": """
    atomic = False
    operations = [AddIndexConcurrently("mission", models.Index(fields=["tenant_id", "brand"], name="mission_brand_idx"))]""",
    "0004_names": """
    operations = [
        migrations.RenameField("mission", "state", "status"),
        migrations.AlterField("mission", "status", models.CharField(max_length=40, default="new")),
        migrations.RenameField("mission", "tenant_id", "org_id"),
        migrations.RenameModel("Mission", "Task"),
        migrations.CreateModel("Label", [("code", models.CharField(max_length=9, primary_key=True))]),
        migrations.RunSQL("SELECT amp.share_table('content_label')", migrations.RunSQL.noop),
    ]""",
    "0005_forgotten": """
    operations = [migrations.CreateModel("Forgotten", [("id", models.AutoField(primary_key=True)), ("tenant_id", models.TextField())])]""",
}  # fmt: skip


def test_django(db, tmp_path):
    folder = tmp_path / "content/migrations"
    folder.mkdir(parents=True)
    for file in "content/__init__.py", "content/migrations/__init__.py":
        (tmp_path / file).touch()
    (tmp_path / "settings.py").write_text(SETTINGS)

    def add(name, before):
        (folder / f"{name}.py").write_text(
            "from django.db import migrations, models\nfrom django.contrib.postgres.operations import AddIndexConcurrently\n"
            f"class Migration(migrations.Migration):\n    dependencies = {[('content', before)] if before else []}\n{DJANGO[name]}\n")

    def migrate(*arguments, ok=True):
        return run(sys.executable, "-m", "django", "migrate", "content", *arguments, cwd=tmp_path, ok=ok, DJANGO_SETTINGS_MODULE="settings",
                   PYTHONPATH=str(tmp_path), NAME=db.name, HOST=db.cluster.host, PORT=str(db.cluster.port))

    names = list(DJANGO)
    for name, before in zip(names[:4], [None, *names]):
        add(name, before)
    history(db, "django")
    migrate("0002")
    with db.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'; INSERT INTO app.content_mission (id, state) VALUES (1, 'draft')")
    migrate()
    assert errors(db) == [] and "content_task" in tables(db)
    with db.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert svc.execute("SELECT org_id, status FROM app.content_task").fetchall() == [("t1", "draft")]
    add("0005_forgotten", "0004_names")
    assert "table-unprotected" in migrate(ok=False)
    (folder / "0005_forgotten.py").unlink()
    migrate("zero")
    assert errors(db) == [] and tables(db) == ["django_migrations"]
    migrate()
    assert errors(db) == [] and "content_task" in tables(db)


# Flyway's way: numbered files of SQL, each in a transaction with its entry in the history.
PLAIN = {
    "V1__tables": """
        CREATE TABLE app.missions (tenant_id text COLLATE "C", id int, name text, PRIMARY KEY (tenant_id, id));
        CREATE INDEX ON app.missions (tenant_id, name);
        SELECT FROM amp.protect_schema('app');""",
    "V2__more": """
        ALTER TABLE app.missions ADD COLUMN state text NOT NULL DEFAULT 'draft', ADD UNIQUE (tenant_id, name);
        CREATE VIEW app.drafts WITH (security_invoker) AS SELECT * FROM app.missions WHERE state = 'draft';
        GRANT SELECT ON app.drafts TO amp_svc;""",
    "V3__parts": """
        CREATE TABLE app.events (tenant_id text COLLATE "C", at date) PARTITION BY RANGE (at);
        SELECT FROM amp.protect('app.events');
        CREATE TABLE app.events_2025 PARTITION OF app.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        ALTER TABLE app.events DETACH PARTITION app.events_2025;""",
    "V4__clean": "DROP VIEW app.drafts; DROP TABLE app.events_2025; ALTER TABLE app.missions RENAME TO tasks;",
}


def test_plain_files_of_sql(db, tmp_path):
    history(db, "plain")

    def apply(name, sql, ok=True):
        file = Path(tmp_path, f"{name}.sql")
        file.write_text(f"{sql}\nINSERT INTO app.flyway_schema_history VALUES ('{name}');")
        connection = ["-h", db.cluster.host, "-p", str(db.cluster.port), "-U", "amp_owner", "-d", db.name]
        return run(program("psql"), *connection, "-qX1", "-v", "ON_ERROR_STOP=1", "-f", str(file), cwd=tmp_path, ok=ok)

    for name, sql in PLAIN.items():
        apply(name, sql)
    assert errors(db) == [] and tables(db) == ["events", "flyway_schema_history", "tasks"]
    for sql, code in (
        ("CREATE TABLE app.more (tenant_id text);", "table-unprotected"), ("CREATE UNIQUE INDEX ON app.tasks (name);", "key-without-tenant"),
        ("ALTER TABLE app.tasks DISABLE ROW LEVEL SECURITY;", "row-security-off"), ("GRANT ALL ON app.tasks TO amp_svc;", "grant-"),
    ):  # fmt: skip
        assert code in apply("V5__bad", sql, ok=False)
    with db.connect("amp_owner") as owner:
        assert column(owner, "SELECT version FROM app.flyway_schema_history") == list(PLAIN)
        with raises("TN001"):
            owner.execute("SELECT * FROM app.tasks")
