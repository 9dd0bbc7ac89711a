"""What is compared (variants), doing what (statements), and the pgbench script of each pair."""

import re
from dataclasses import dataclass

TENANT = "tnt_1000000000000007"
TABLES = ["item", "note", "log", "own"]
SCAN_ROWS = 50_000


@dataclass(frozen=True)
class Variant:
    schema: str  # where its tables are
    title: str
    setting: str  # what names the tenant
    protection: str  # SQL for one table
    tenant: str | None = None  # as the statement itself names it; in a prepared one, pgbench makes a parameter of :tenant


def _policy(expression):
    return f"""
        ALTER TABLE {{table}} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY,
            ALTER tenant_id SET DEFAULT current_setting('app.tenant');
        CREATE POLICY tenant ON {{table}} USING (tenant_id = {expression}) WITH CHECK (tenant_id = {expression});"""


HAND = Variant("hand", "`WHERE tenant_id = '…'`", "app.tenant", "", f"'{TENANT}'")
PARAMETER = Variant("hand", "`WHERE tenant_id = $1`", "app.tenant", "", ":tenant")
SETTING = Variant("setting", "`current_setting`", "app.tenant", _policy("current_setting('app.tenant')"))
SUBSELECT = Variant("subselect", "`(SELECT current_setting)`", "app.tenant", _policy("(SELECT current_setting('app.tenant'))"))
UNCHECKED = Variant("unchecked", "amp, no role check", "amp.tenant_id", "SELECT amp.protect('{table}', read => NULL, write => NULL);")
AMP = Variant("checked", "**amp**", "amp.tenant_id", "SELECT amp.protect('{table}');")
PLAIN = [HAND, PARAMETER, SETTING, SUBSELECT]
EXTENSION = [UNCHECKED, AMP]


@dataclass(frozen=True)
class Statement:
    name: str
    title: str
    sql: str  # {s} the schema; [[…]] what only the hand-written variant adds
    target: float | None = None  # the most that amp may cost, against HAND
    variables: str = "\\set id random(1, 1800)\n\\set last :id + 99"
    settings: str = ""
    pooled: bool = False
    prepared: bool = True
    executions: tuple = (20, 220)
    per: int = 1  # what one execution is divided by


POINT = "SELECT body FROM {s}.item WHERE [[tenant_id = {tenant} AND ]]id = :id;"
SCAN = "SELECT sum(amount) FROM {s}.%s[[ WHERE tenant_id = {tenant}]];"
NO_INDEX = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;"

STATEMENTS = [
    Statement("point", "point read, prepared", POINT, 1.05),
    Statement("point-simple", "point read, simple protocol", POINT, 1.05, prepared=False),
    Statement("range", "index range, 100 rows",
              "SELECT sum(amount) FROM {s}.item WHERE [[tenant_id = {tenant} AND ]]id BETWEEN :id AND :last;", 1.05),
    Statement("join", "join of two tables, 100 rows with 50",
              "SELECT sum(item.amount * note.weight) FROM {s}.item JOIN {s}.note ON note.item_id = item.id"
              " WHERE [[item.tenant_id = {tenant} AND note.tenant_id = {tenant} AND ]]item.id BETWEEN :id AND :last;", 1.05),
    Statement("scan", "full scan of all tenants' rows, per row", SCAN % "log", 1.05, "", NO_INDEX, executions=(1, 4), per=SCAN_ROWS),
    Statement("scan-own", "full scan of own rows only, per row", SCAN % "own", 1.05, "", NO_INDEX, executions=(1, 4), per=SCAN_ROWS),
    Statement("pooled", "pooled transaction, prepared", POINT, 1.10, pooled=True),
    Statement("pooled-simple", "pooled transaction, simple protocol", POINT, 1.10, pooled=True, prepared=False),
    Statement("insert", "insert, prepared",
              "INSERT INTO {s}.item ([[tenant_id, ]]id, amount, body) VALUES ([[{tenant}, ]]:id, 1, 'one more row');",
              None, "\\set n :n + 1\n\\set id :base + :n", executions=(20, 420)),
]


@dataclass
class Job:
    """One script and how to run it."""

    script: str
    user: str = "bench_service"
    database: str = "bench"
    prepared: bool = True
    executions: tuple = (20, 220)
    per: int = 1


def text(sql, variant, tenant=None):
    """The statement as this variant's user writes it."""
    sql = re.sub(r"\[\[(.*?)\]\]", r"\1" if variant.tenant else "", sql)
    return sql.format(s=variant.schema, tenant=tenant or variant.tenant)


def job(statement, variant, context=None):
    """A script that, on its connection's first round, sets the context and reads the tenant's rows into memory. `context` is
    what a pooled transaction sets it by, if not the variant's setting."""
    sql = text(statement.sql, variant)
    warm = text("SELECT count(body) FROM {s}.item WHERE [[tenant_id = {tenant} AND ]]id <= 1900;", variant)
    if statement.pooled:
        context = context or f"SET LOCAL {variant.setting} = '{TENANT}';"
        begin, end = f"BEGIN;\n{context}\n", "\nCOMMIT;"
        first, sql = begin + warm + end, begin + sql + end
    else:
        first = f"SET {variant.setting} = '{TENANT}';\n{warm}\n" + statement.settings.replace("; ", ";\n")
    script = f"\\if :first\n{first}\n\\endif\n{statement.variables}\n{sql}\n"
    return Job(script, "bench_pool" if statement.pooled else "bench_service", "bench", statement.prepared,
               statement.executions, statement.per)
