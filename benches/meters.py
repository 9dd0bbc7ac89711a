"""What a meter adds to a bulk load: the same rows into the same protected tables without one, with one for inserts, and with one for
rows that enter a state."""

from dataclasses import dataclass

import counter
from workload import TENANT, Job

TARGET = 1.03
WITHOUT, INSERTED, ENTERED = "unmetered", "inserted", "entered"
METERS = {WITHOUT: "", INSERTED: "SELECT amp.meter('{table}', 'rows');",
          ENTERED: "SELECT amp.meter('{table}', 'states', 'state', '{{published}}');"}
TABLES = {"plain": "", "parted": "PARTITION BY HASH (id)"}


@dataclass(frozen=True)
class Load:
    title: str
    table: str
    sql: str
    user: str = "bench_service"


INSERT = """INSERT INTO {table} (id, state, body) SELECT (:base + :n)::bigint * {rows} + id, state, body FROM loads.rows;"""
COPY = "BEGIN;\nTRUNCATE {table};\nCOPY {table} FROM '{file}';\nCOMMIT;"
LOADS = [
    Load("`INSERT … SELECT`, under the policies", "plain", INSERT),
    Load("`INSERT … SELECT`, partitioned", "parted", INSERT),
    Load("`COPY` by a superuser", "plain", COPY, "postgres"),
    Load("`COPY`, partitioned", "parted", COPY, "postgres"),
]


def load(server, rows):
    """The rows, half of them published, as a table and as a file; a table of each kind without a meter, and with each."""
    server.sql(f"""
        CREATE SCHEMA loads;
        CREATE TABLE loads.rows AS
        SELECT '{TENANT}' AS tenant_id, id::bigint, CASE id % 2 WHEN 0 THEN 'published' ELSE 'draft' END AS state, md5(id::text) AS body
        FROM generate_series(1, {rows}) id;
        COPY loads.rows TO '{_file(server)}';""")
    for schema, meter in METERS.items():
        server.sql(f"CREATE SCHEMA {schema}")
        for name, partitioned in TABLES.items():
            table = f"{schema}.{name}"
            parts = [f"CREATE TABLE {table}_{n} PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER {n});"
                     for n in range(2) if partitioned]
            server.sql(f"""
                CREATE TABLE {table} (tenant_id text COLLATE "C" NOT NULL, id bigint NOT NULL, state text NOT NULL, body text NOT NULL,
                                      PRIMARY KEY (tenant_id, id)) {partitioned};
                {"".join(parts)}
                SELECT count(*) FROM amp.protect('{table}');
                {meter.format(table=table)}""")
    for schema in ["loads", *METERS]:
        server.sql(f"GRANT USAGE ON SCHEMA {schema} TO bench_service; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO bench_service")


def _file(server):
    return server.dir / "data/rows"


def measure(server, rows):
    """{load: {meter: instructions per row}}"""

    def job(load, schema):
        context = "" if load.user == "postgres" else f"\\if :first\nSET amp.tenant_id = '{TENANT}';\n\\endif\n"
        sql = load.sql.format(table=f"{schema}.{load.table}", rows=rows, file=_file(server))
        return Job(f"{context}\\set n :n + 1\n{sql}\n", load.user, prepared=False, executions=(1, 2), per=rows)

    return {load: {schema: counter.instructions(server, job(load, schema)) for schema in METERS} for load in LOADS}
