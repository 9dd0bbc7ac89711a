"""The same transaction with 10 tenants and with a million, with one protected table and with a thousand: a database each."""

from dataclasses import dataclass

import counter
import credentials
import workload
from workload import AMP, HAND, Job

SIZES = [(10, 1), (1_000, 1), (100_000, 1), (1_000_000, 1), (10, 1_000)]  # tenants, protected tables

EXTENSION = """
    CREATE EXTENSION amp_tenancy;
    GRANT amp_service TO bench_service, bench_pool;
    ALTER ROLE bench_pool SET amp.context_scope = 'transaction';
    ALTER ROLE bench_client SET amp.context_scope = 'transaction';
"""
SECRET = "0" * 32  # of every API key


@dataclass(frozen=True)
class Case:
    title: str
    user: str
    variant: workload.Variant
    context: str  # how a transaction says who it is for: tenant :tenant, or the one of :token
    new_tenant: bool = False


def _cases(title, *how):
    return [Case(f"{title}, one tenant", *how), Case(f"{title}, a new tenant each time", *how, True)]


SETTINGS = [case for variant in (HAND, AMP)
            for case in _cases(variant.title, "bench_pool", variant, f"SET LOCAL {variant.setting} = 'tnt_:tenant';")]
KEYS = _cases(credentials.KEY.title, "bench_client", AMP, f"SELECT amp.authenticate('amp_sk_:tenant' || '{SECRET}');")
TOKEN = Case(f"{credentials.HS256.title}, one tenant", "bench_client", AMP, "SELECT amp.authenticate(':token');")


def _database(size):
    return "tenants_{}_tables_{}".format(*size)


def load(server, size, rows):
    """Tenants, each with a user and his API key; returns a token of one of them. The table that is read is the same for all: a row
    for each of many tenants, whether amp knows them or not."""
    database, (tenants, tables) = _database(size), size
    server.sql(f"CREATE DATABASE {database}")
    server.sql(EXTENSION, database)
    server.sql(f"""
        CREATE EXTENSION pg_prewarm;
        INSERT INTO amp.tenants (id, name, slug)
        SELECT 'tnt_' || (1000000000000000 + n), 'tenant ' || n, 'tenant-' || n FROM generate_series(1, {tenants}) n;
        INSERT INTO amp.app_users (id, email, default_tenant_id)
        SELECT 'user_' || (1000000000000000 + n), n || '@example.com', 'tnt_' || (1000000000000000 + n)
        FROM generate_series(1, {tenants}) n;
        INSERT INTO amp.members (tenant_id, user_id, role) SELECT default_tenant_id, id, 'operator' FROM amp.app_users;
        INSERT INTO amp.stored_api_keys (id, hash, user_id, tenant_id, name, created_by)
        SELECT 'key_' || right(id, 16), sha256(convert_to('amp_sk_' || right(id, 16) || '{SECRET}', 'UTF8')),
               id, default_tenant_id, 'bench', 'bench'
        FROM amp.app_users;
        VACUUM ANALYZE amp.tenants, amp.app_users, amp.members, amp.stored_api_keys;""", database)
    for variant in (HAND, AMP):
        server.sql(f"""
            CREATE SCHEMA {variant.schema};
            CREATE TABLE {variant.schema}.item
                (tenant_id text COLLATE "C" NOT NULL, id bigint NOT NULL, body text NOT NULL, PRIMARY KEY (tenant_id, id));
            INSERT INTO {variant.schema}.item
            SELECT 'tnt_' || (1000000000000000 + n), 1, md5(n::text) FROM generate_series(1, {rows}) n;
            VACUUM (ANALYZE, FREEZE) {variant.schema}.item;
            GRANT USAGE ON SCHEMA {variant.schema} TO bench_pool, bench_client;
            GRANT SELECT ON {variant.schema}.item TO bench_pool, bench_client;""", database)
        server.sql(variant.protection.format(table=f"{variant.schema}.item"), database)
    server.sql(f"""
        CREATE SCHEMA more;
        SELECT format('CREATE TABLE more.t%1$s (tenant_id text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id))', n),
               format('SELECT count(*) FROM amp.protect(%L)', 'more.t' || n)
        FROM generate_series(2, {tables}) n \\gexec""", database)
    return credentials.token(server, database, credentials.HS256.name, "user_1000000000000004", "tnt_1000000000000004")


def _job(case, size, token):
    """A pooled transaction on one connection: of one tenant again and again, or of a new tenant each time."""
    tenants = size[0]
    step = f"\\set n (:n + 7919) % {tenants}" if case.new_tenant else "\\set n 3"
    read = workload.text(workload.POINT.replace(":id", "1"), case.variant, "'tnt_:tenant'")
    script = f"{step}\n\\set tenant 1000000000000001 + :n\nBEGIN;\n{case.context.replace(':token', token)}\n{read}\nCOMMIT;\n"
    return Job(script, case.user, _database(size), prepared=False, executions=(2, 9) if case.new_tenant else (20, 220))


def measure(server, tokens):
    """{size: {case: instructions per transaction}}"""
    result = {}
    for size, token in tokens.items():
        server.sql("""
            SELECT sum(pg_prewarm(oid)) FROM pg_class
            WHERE relnamespace IN ('amp'::regnamespace, 'hand'::regnamespace, 'checked'::regnamespace) AND relkind IN ('r', 'i')""",
            _database(size))
        result[size] = {case: counter.instructions(server, _job(case, size, token)) for case in [*SETTINGS, *KEYS, TOKEN]}
    return result
