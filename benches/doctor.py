"""How long amp.doctor() looks at a database with many protected tables, and what the guard of schema changes takes there."""

TABLES = 1_000
TARGET = 2_000  # milliseconds
WHOLE, AGAIN = "amp.doctor(), in a new session", "amp.doctor(), again"
# (title, statement), on one of the tables: without the guard, guarded in a new session, and guarded in one that has changed a table before.
CHANGES = [
    ("ALTER TABLE ... ADD COLUMN", "ALTER TABLE app.t2 ADD COLUMN note text;"),
    ("CREATE INDEX", "CREATE INDEX ON app.t2 (tenant_id, code, made);"),
    ("GRANT SELECT", "GRANT SELECT ON app.t2 TO amp_service;"),
    ("CREATE VIEW", "CREATE VIEW app.notes WITH (security_invoker) AS SELECT * FROM app.t2;"),
    ("CREATE TABLE in another schema", "CREATE TABLE public.notes (id int PRIMARY KEY);"),
]
UNGUARDED, FIRST, NEXT = "unguarded", "guarded, in a new session", "guarded, again"


def load(server, tables):
    """Each with two keys, an index, and a foreign key to one of the others; a view of every tenth."""
    server.sql("CREATE DATABASE doctor", "postgres")
    server.sql("CREATE EXTENSION amp_tenancy; CREATE SCHEMA app; SELECT amp.protect_schema('app')", "doctor")
    for first in range(1, tables + 1, 100):  # locks of one transaction are limited
        server.sql(f"""
            DO $$ BEGIN
                FOR n IN {first} .. {min(first + 99, tables)} LOOP
                    EXECUTE format('CREATE TABLE app.t%s (tenant_id text COLLATE "C", id bigint, parent_id bigint, code text, made timestamptz,
                                    PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, code))', n);
                    EXECUTE format('CREATE INDEX ON app.t%s (tenant_id, made)', n);
                    EXECUTE format('ALTER TABLE app.t%s ADD FOREIGN KEY (tenant_id, parent_id) REFERENCES app.t%s', n, greatest(n / 2, 1));
                    PERFORM amp.protect(format('app.t%s', n)::regclass);
                    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON app.t%s TO amp_service', n);
                    IF n % 10 = 0 THEN
                        EXECUTE format('CREATE VIEW app.v%s WITH (security_invoker) AS SELECT * FROM app.t%s', n, n);
                    END IF;
                END LOOP;
            END $$""", "doctor")
    server.sql("VACUUM ANALYZE", "doctor")


def measure(server):
    """({what: milliseconds} of the doctor, {statement: {how: milliseconds}} of the guard), the least of three runs each."""
    look, before = "SELECT count(*) FROM amp.doctor();", "BEGIN; ALTER TABLE app.t3 ADD COLUMN note text; ROLLBACK; BEGIN;"
    off = " ".join(f"ALTER EVENT TRIGGER {name} DISABLE;" for name in server.sql(
        "SELECT evtname FROM pg_event_trigger WHERE evtname LIKE 'amp%'", "doctor").split())

    def run(before, sql):
        text = server.sql(f"{before} SELECT clock_timestamp() AS began \\gset\n{sql}\n"
                          "SELECT extract(epoch FROM clock_timestamp() - :'began'::timestamptz) * 1000;", "doctor")
        return float(text.splitlines()[-1])

    looks = {what: min(run(*sql) for _ in range(3)) for what, sql in {WHOLE: ("", look), AGAIN: (look, look)}.items()}
    return looks, {title: {how: min(run(begin, change) for _ in range(3)) for how, begin in (
        (UNGUARDED, f"BEGIN; {off} SAVEPOINT s; ALTER TABLE app.t3 ADD COLUMN note text; ROLLBACK TO s;"), (FIRST, "BEGIN;"), (NEXT, before))}
        for title, change in CHANGES}
