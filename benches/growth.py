"""The same transaction with 10 tenants and with a million, with one protected table and with a thousand: a database each."""

import counter
import workload
from workload import AMP, HAND, Job

SIZES = [(10, 1), (1_000, 1), (100_000, 1), (1_000_000, 1), (10, 1_000)]  # tenants, protected tables

EXTENSION = """
    CREATE EXTENSION amp_tenancy;
    GRANT amp_service TO bench_service, bench_pool;
    ALTER ROLE bench_pool SET amp.context_scope = 'transaction';
"""


def _database(size):
    return "tenants_{}_tables_{}".format(*size)


def load(server, size, rows):
    """The table that is read is the same for all: a row for each of many tenants, whether amp knows them or not."""
    database, (tenants, tables) = _database(size), size
    server.sql(f"CREATE DATABASE {database}")
    server.sql(EXTENSION, database)
    server.sql(f"""
        CREATE EXTENSION pg_prewarm;
        INSERT INTO amp.tenants (id, name, slug)
        SELECT 'tnt_' || (1000000000000000 + n), 'tenant ' || n, 'tenant-' || n FROM generate_series(1, {tenants}) n;
        VACUUM ANALYZE amp.tenants;""", database)
    for variant in (HAND, AMP):
        server.sql(f"""
            CREATE SCHEMA {variant.schema};
            CREATE TABLE {variant.schema}.item
                (tenant_id text COLLATE "C" NOT NULL, id bigint NOT NULL, body text NOT NULL, PRIMARY KEY (tenant_id, id));
            INSERT INTO {variant.schema}.item
            SELECT 'tnt_' || (1000000000000000 + n), 1, md5(n::text) FROM generate_series(1, {rows}) n;
            VACUUM (ANALYZE, FREEZE) {variant.schema}.item;
            GRANT USAGE ON SCHEMA {variant.schema} TO bench_service, bench_pool;
            GRANT SELECT ON {variant.schema}.item TO bench_service, bench_pool;""", database)
        server.sql(variant.protection.format(table=f"{variant.schema}.item"), database)
    server.sql(f"""
        CREATE SCHEMA more;
        SELECT format('CREATE TABLE more.t%1$s (tenant_id text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id))', n),
               format('SELECT count(*) FROM amp.protect(%L)', 'more.t' || n)
        FROM generate_series(2, {tables}) n \\gexec""", database)


def _job(variant, size, new_tenant):
    """A pooled transaction on one connection: of one tenant again and again, or of a new tenant each time."""
    tenants = size[0]
    step = f"\\set n (:n + 7919) % {tenants}" if new_tenant else "\\set n 3"
    read = workload.text(workload.POINT.replace(":id", "1"), variant, "'tnt_:tenant'")
    script = f"{step}\n\\set tenant 1000000000000001 + :n\nBEGIN;\nSET LOCAL {variant.setting} = 'tnt_:tenant';\n{read}\nCOMMIT;\n"
    return Job(script, "bench_pool", _database(size), prepared=False, executions=(2, 9) if tenants == 10 else (20, 220))


def measure(server, sizes):
    """{size: {case: instructions per transaction}}"""
    result = {}
    for size in sizes:
        server.sql("""
            SELECT sum(pg_prewarm(oid)) FROM pg_class
            WHERE relnamespace IN ('amp'::regnamespace, 'hand'::regnamespace, 'checked'::regnamespace) AND relkind IN ('r', 'i')""",
            _database(size))
        result[size] = {(variant, new): counter.instructions(server, _job(variant, size, new))
                        for variant in (HAND, AMP) for new in (False, True)}
    return result
