"""What it costs to count and to charge, beside the UPDATE of one row that an application would write by hand."""

import re
import statistics
from dataclasses import dataclass

import counter
import workload

SETUP = """
    CREATE TABLE counter (tenant_id text COLLATE "C", metric text COLLATE "C", day date, amount bigint, PRIMARY KEY (tenant_id, metric, day))
        WITH (fillfactor = 70);
    INSERT INTO counter SELECT 'tnt_' || n, 'cost_cents', date '2024-01-01', 0 FROM generate_series(1, 1000) n;
    GRANT ALL ON counter TO PUBLIC;
    SET SESSION AUTHORIZATION bench_ops;
    SELECT amp.create_tenant('Free', 'usage-free', id => 'free');
    SELECT amp.create_tenant('Far', 'usage-far', '{"cost_limits": {"monthly_limit_cents": 900000000000, "daily_limit_cents": 800000000000, "alert_threshold_percent": 80, "hard_stop_at_limit": true}}', 'far');
    SELECT amp.create_tenant('Near', 'usage-near', '{"cost_limits": {"monthly_limit_cents": 6400000, "daily_limit_cents": 6400000, "alert_threshold_percent": 80, "hard_stop_at_limit": true}}', 'near');
    SELECT amp.create_tenant('Full', 'usage-full', id => 'full');
    RESET SESSION AUTHORIZATION;
    INSERT INTO amp.usage_counters SELECT 'full', m, (date_trunc('month', now()) AT TIME ZONE 'UTC')::date + d, s, 7
    FROM unnest('{missions_created,content_generated,content_published,api_calls,llm_tokens_used,images_generated,cost_cents}'::text[]) m,
         generate_series(0, 30) d, generate_series(0, 63) s;
    INSERT INTO amp.monthly_usage SELECT tenant_id, date_trunc('month', day), metric, slot, sum(amount) FROM amp.usage_counters
    WHERE tenant_id = 'full' GROUP BY 1, 2, 3, 4;
    VACUUM ANALYZE amp.usage_counters; VACUUM ANALYZE amp.monthly_usage;"""
NEAR = "SET amp.tenant_id = 'near'; SELECT amp.charge(6300000);"


@dataclass(frozen=True)
class Statement:
    name: str
    title: str
    sql: str
    tenant: str = "free"
    target: float | None = None


UPDATE = Statement("update", "`UPDATE` of one row", "UPDATE counter SET amount = amount + 1 WHERE tenant_id = 'tnt_7' AND metric = 'cost_cents' AND day = '2024-01-01';")
STATEMENTS = [
    UPDATE,
    Statement("nothing", "`SELECT length('x')`", "SELECT length('x');"),
    Statement("record", "`amp.record_usage('api_calls')`", "SELECT amp.record_usage('api_calls');", target=2),
    Statement("key", "`amp.record_usage('api_calls', 1, key)`", "SELECT amp.record_usage('api_calls', 1, :base || ':' || :n);"),
    Statement("immediate", "`amp.record_usage('api_calls', durability => 'immediate')`", "SELECT amp.record_usage('api_calls', durability => 'immediate');"),
    Statement("charge", "`amp.charge(1)`, no limits", "SELECT amp.charge(1);", target=2),
    Statement("far", "`amp.charge(1)`, far from daily and monthly limit", "SELECT amp.charge(1);", "far", 2),
    Statement("near", "`amp.charge(1)`, at 98 % of both", "SELECT amp.charge(1);", "near"),
    Statement("document", "`amp.usage()`, 7 metrics, 31 days, 64 slots", "SELECT amp.usage();", "full"),
]


def load(server):
    server.sql("CREATE ROLE bench_ops LOGIN; GRANT amp_operator TO bench_ops;")
    server.sql(SETUP)
    server.sql(NEAR, user="bench_service")


def job(statement, **changes):
    script = f"\\if :first\nSET amp.tenant_id = '{statement.tenant}';\n\\endif\n\\set n :n + 1\n{statement.sql}\n"
    return workload.Job(script, **{"executions": (20, 220), **changes})


def count(server):
    """Instructions of each statement, prepared."""
    return {statement: counter.instructions(server, job(statement)) for statement in STATEMENTS}


def throughput(server, seconds):
    """Transactions a second of 16 sessions of one tenant that each hold their transaction for 10 ms."""
    def tps(statement):
        script = f"BEGIN;\n{statement.sql}\n\\sleep 10 ms\nCOMMIT;"
        one = Statement(statement.name, statement.title, script, statement.tenant)
        done = server.pgbench(job(one), "-c", "16", "-j", "2", "-T", str(seconds))
        return float(re.search(r"tps = ([\d.]+)", done)[1])

    return {statement: tps(statement) for statement in STATEMENTS if statement.name in ("update", "record", "charge", "far")}


def milliseconds(server, statement, executions=200):
    done = server.pgbench(job(statement), "-t", str(executions))
    return float(re.search(r"latency average = ([\d.]+) ms", done)[1])


def growth(server, sizes):
    """Instructions of a count and of a document, by the rows in amp.usage_counters: tenants x metrics x months."""
    result, previous = {}, 0
    for size in sizes:
        with server.running():
            server.sql(f"""
                INSERT INTO amp.usage_counters
                SELECT 'grown_' || n / 84, (ARRAY['api_calls','llm_tokens_used','cost_cents','images_generated','missions_created','content_generated','content_published'])[n % 7 + 1],
                       (date '2020-01-01' + ((n / 7) % 12) * interval '1 month')::date, 0, n
                FROM generate_series({previous}, {size - 1}) n;""")
            server.sql(f"""
                INSERT INTO amp.monthly_usage SELECT tenant_id, day, metric, slot, amount FROM amp.usage_counters
                WHERE tenant_id LIKE 'grown%' AND split_part(tenant_id, '_', 2)::bigint >= {previous // 84}
                ON CONFLICT DO NOTHING;""")
            server.sql("VACUUM ANALYZE amp.usage_counters; VACUUM ANALYZE amp.monthly_usage;")
            previous = size
        with server.counting():
            few = [s for s in STATEMENTS if s.name in ("record", "far", "document")]
            result[size] = {statement: counter.instructions(server, job(statement)) for statement in few}
    return result


def median_milliseconds(server, statement):
    return statistics.median(milliseconds(server, statement) for _ in range(3))
