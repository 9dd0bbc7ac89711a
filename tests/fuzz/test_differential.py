"""P1: to a tenant, a shared database under amp_tenancy is like one of its own. The same random statements of three tenants, on one database
with amp and on a plain one for each, give the same rows, tags and errors, and leave the same rows behind."""

import random
import re

import pytest

from grammar import Grammar
from harness import Database
from lockstep import Session, Sheet, Statement
from psycopg import pq
from worlds import AMP, OPTIONS, PLAIN, PROTECTED, TENANT_TYPES, VALUES, World

TENANTS = {
    "text": ("t1", "t2", "t3"),
    "uuid": tuple(f"00000000-0000-4000-8000-{n:012}" for n in (1, 2, 3)),
    "bigint": ("1", "2", "3"),
}
KINDS = {
    *("insert", "unique", "foreign key", "cascade", "exclusion", "on conflict", "merge", "write", "select", "transaction", "savepoint"),
    *("cursor", "copy", "prepared", "block", "locking"),
}

# PostgreSQL leaves row values out of errors about tables with row security; where in a query an error is, and in whose plan, may differ.
COMPARED = ("SEVERITY:", "SQLSTATE:", "MESSAGE_PRIMARY:", "SCHEMA_NAME:", "TABLE_NAME:", "COLUMN_NAME:", "CONSTRAINT_NAME:")


# Not sent: plans are refused or differ; COPY of a partitioned table is a query under row security, and an error without; whether a cursor
# that says neither SCROLL nor NO SCROLL can go backwards is the plan's affair.
DIFFERENT = re.compile(r"EXPLAIN|COPY items TO|DECLARE \w+ CURSOR")


class Tenancy(World):
    """What the grammar has to know of the databases: for one tenant, whose statements must not depend on the order in which conditions
    are evaluated."""

    ordered = False

    def __init__(self, servers, seed, tenant_type, own):
        super().__init__(servers, AMP, seed, VALUES)
        self.tenant_type, self.tenants = tenant_type, (own, next(other for other in TENANTS[tenant_type] if other != own))

    def alone(self):
        """The tables of a tenant with a database of its own, keys as amp.protect(fix => true) makes them."""
        tenant = f"tenant_id {TENANT_TYPES[self.tenant_type]} NOT NULL DEFAULT '{self.tenants[0]}'"
        gone = f"{self.on_delete} (account_id)" if self.on_delete == "SET NULL" else self.on_delete
        keys = {
            "accounts": f"""(id {self.key_type}, {tenant}, code text, name text, amount int CHECK (amount < 1000),
                PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, code))""",
            "orders": f"""(id int, {tenant}, ref text, qty int, note text, data jsonb, account_id {self.key_type},
                PRIMARY KEY (tenant_id, id), CONSTRAINT orders_ref_key UNIQUE (tenant_id, ref),
                CONSTRAINT orders_account_id_fkey FOREIGN KEY (tenant_id, account_id) REFERENCES accounts (tenant_id, id)
                    ON DELETE {gone} ON UPDATE {self.on_update} {self.deferrable})""",
            "items": f"(id int, {tenant}, kind int, label text, PRIMARY KEY (tenant_id, id, kind)) PARTITION BY {self.partitioning} (kind)",
            "rooms": f"""(id int, {tenant}, during int4range, PRIMARY KEY (tenant_id, id),
                CONSTRAINT rooms_during_excl EXCLUDE USING gist (tenant_id WITH =, during WITH &&))""",
            "tickets": f"(id int DEFAULT nextval('ticket_numbers'), {tenant}, title text, PRIMARY KEY (tenant_id, id))",
        }
        shared = self.tables()
        made = shared[shared.index("CREATE VIEW") :]
        partitions = shared[shared.index("CREATE TABLE items_0") : shared.index("CREATE TABLE rooms")]
        constraint = "ALTER TABLE accounts RENAME CONSTRAINT accounts_tenant_id_code_key TO accounts_code_key;"
        return (
            "CREATE SEQUENCE ticket_numbers;"
            + "".join(f"CREATE TABLE {name} {definition};" for name, definition in keys.items())
            + constraint
            + partitions
            + made
        )


class Both:
    """One tenant's sessions: in the shared database, and in its own."""

    def __init__(self, servers, seed, tenant_type, tenant, number):
        self.world = Tenancy(servers, seed, tenant_type, tenant)
        self.tenant, self.cluster, self.random = tenant, servers.clusters[0], random.Random(seed + number)
        with self.cluster.connect() as admin:
            admin.execute(f"CREATE DATABASE alone_{number} TEMPLATE {PLAIN}_template")
        self.own = Database(self.cluster, f"alone_{number}")
        with self.own.connect("amp_owner") as owner:
            owner.execute(self.world.alone())
        self.grammar = Grammar(seed * 10 + number, self.world, KINDS)
        self.grammar.queue = [Statement("insert", sql) for sql in self.world.rows(range(1, 13))]

    def open(self, shared):
        address = self.cluster.host, self.cluster.port
        self.sessions = [Session(*address, database.name, "amp_svc", OPTIONS) for database in (shared, self.own)]
        self.send(self.sessions[:1], Statement("entrance", self.world.set_tenant(self.tenant)))

    @staticmethod
    def send(sessions, statement):
        """What each answers, as far as it has to be equal."""
        for session in sessions:
            session.send(statement)
        return [plainly(session.receive(statement)) for session in sessions]

    def step(self):
        """One transaction, or one statement outside: every statement with both answers."""
        while True:
            statement = next(self.grammar)
            if DIFFERENT.match(statement.sql):
                continue
            yield statement, *self.send(self.sessions, statement)
            self.grammar.hear(self.sessions[0].status)
            if self.sessions[0].status == pq.TransactionStatus.IDLE:
                return

    def rows(self, shared):
        """What is in all tables, in the shared database and in its own."""
        found = []
        for database in (shared, self.own):
            with database.connect() as admin:
                query = "SELECT t::text FROM {} t WHERE tenant_id::text = %s ORDER BY 1"
                found.append({table: admin.execute(query.format(table), [self.tenant]).fetchall() for table in PROTECTED})
        return found

    def close(self):
        for session in self.sessions:
            session.close()
        self.own.drop()


def plainly(sheets):
    """An answer without types' oids, the order of rows, and what COMPARED leaves out."""
    kept = []
    for sheet in sheets:
        if sheet.title.startswith("error"):
            kept.append(Sheet(sheet.title, [tuple(field for field in row if field.startswith(COMPARED)) for row in sheet.rows]))
        else:
            kept.append(Sheet(sheet.title, sorted(sheet.rows)))
    return kept


def differences(servers, seed, tenant_type, statements, before=lambda admin: None):
    """What differs: the first statement that does, or the rows at the end. `before` is what a superuser does to the shared database."""
    tenants = [Both(servers, seed, tenant_type, tenant, number) for number, tenant in enumerate(TENANTS[tenant_type])]
    with tenants[0].cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE shared TEMPLATE {AMP}_template")
    shared = Database(tenants[0].cluster, "shared")
    with shared.connect("amp_ops") as ops, shared.connect("amp_owner") as owner, shared.connect() as admin:
        for number, tenant in enumerate(TENANTS[tenant_type]):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [f"Tenant {number}", f"tenant-{number}", tenant])
        owner.execute(tenants[0].world.tables())
        for table in PROTECTED:
            owner.execute(f"SELECT amp.protect('{table}', fix => true)")
        before(admin)
    choice, sent, good = random.Random(seed), 0, 0
    try:
        for both in tenants:
            both.open(shared)
        while sent < statements:
            for statement, here, there in choice.choice(tenants).step():
                sent += 1
                good += not any(sheet.title.startswith("error") for sheet in there)
                if here != there:
                    return [f"{statement.sql}\n  shared: {here}\n  alone: {there}"]
        assert good > sent / 2, f"only {good} of {sent} statements succeeded"
        return [
            f"{table} of {both.tenant}: {sorted(set(shared_rows[table]) ^ set(own_rows[table]))[:6]}"
            for both in tenants
            for shared_rows, own_rows in [both.rows(shared)]
            for table in PROTECTED
            if shared_rows[table] != own_rows[table]
        ]
    finally:
        for both in tenants:
            both.close()
        shared.drop()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("tenant_type", TENANT_TYPES)
def test_a_shared_database_is_like_one_of_ones_own(servers, tenant_type, seed):
    found = differences(servers, seed, tenant_type, 600)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("table", ["accounts", "items"])
def test_it_notices_policies_that_let_everything_through(servers, table):
    def open_up(admin):
        with admin.transaction():
            admin.execute("SET LOCAL amp.allow_unsafe_ddl = on")
            admin.execute(f"DROP POLICY amp_tenant ON {table}; ALTER POLICY amp_allow ON {table} USING (true)")

    assert differences(servers, 1, "text", 600, open_up)
