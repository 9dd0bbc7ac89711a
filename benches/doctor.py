"""How long amp.doctor() looks at a database with many protected tables, and what is asked about one of them after a schema change."""

TABLES = 1_000
TARGET = 2_000  # milliseconds
WHOLE, AGAIN, ONE = "amp.doctor(), in a new session", "amp.doctor(), again", "what concerns one table, again"


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
    """{what: milliseconds}, the least of three runs."""
    one = """SELECT count(*) FROM amp.table_findings(ARRAY['app.t2'::regclass::oid]);
             SELECT count(*) FROM amp.grant_findings(ARRAY['app.t2'::regclass::oid]);
             SELECT count(*) FROM amp.dependent_findings(ARRAY['app.t2'::regclass::oid]);"""
    asked = {WHOLE: ("", "SELECT count(*) FROM amp.doctor();"), AGAIN: ("SELECT count(*) FROM amp.doctor();",) * 2, ONE: (one, one)}

    def run(before, sql):
        text = server.sql(f"{before} SELECT clock_timestamp() AS began \\gset\n{sql}\n"
                          "SELECT extract(epoch FROM clock_timestamp() - :'began'::timestamptz) * 1000;", "doctor")
        return float(text.splitlines()[-1])

    return {what: min(run(*sql) for _ in range(3)) for what, sql in asked.items()}
