"""The worlds that the fuzzer compares: databases on three servers that are made by the same steps, oids and transaction ids included,
and differ in the rows of tenant B. Tenant A, who sends the statements, has the same rows in all.

A seed decides on types, keys and foreign keys. `PLAIN` is what everybody does: forced row security on a setting, ordinary keys. `AMP` is
amp.protect(fix => true) and amp.harden().
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from credentials import KEYS, add_signing_key, claims, token
from harness import Cluster, Database
from lockstep import Statement
from world import people

PLAIN, AMP = "plain", "amp"

# In what tenant B's rows differ on the third server.
VALUES = "values"  # as many rows of the same size, other keys and values: even what lies where is equal
COUNTS = "counts"  # more rows
NONE = "none"  # no rows at all
GIANT = "giant"  # a hundred times as many
OPEN = "open"  # other values in what a transaction of B has written that stays open
VARIANTS = (VALUES, COUNTS, NONE, GIANT, OPEN)

# Keys that B may have, and that A tries: these, and none that A has.
HOT = range(100, 164)
MINE = range(1, 13)
OPEN_KEYS = {False: 160, True: 163}  # in the same partition

TENANTS = {
    "text": ("t1", "t2"),
    "uuid": ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"),
    "bigint": ("1", "2"),
}
TENANT_TYPES = {"text": 'text COLLATE "C"', "uuid": "uuid", "bigint": "bigint"}
PROTECTED = ("accounts", "orders", "items", "rooms", "tickets")

SETTINGS = dict(
    autovacuum="off",  # it comes when it likes
    max_connections=30,
    shared_buffers="32MB",
    checkpoint_timeout="1h",
    max_prepared_transactions=5,
    track_functions="all",
    jit="off",
)
OPTIONS = "-c statement_timeout=5s -c lock_timeout=200ms"


class Servers:
    """Three servers with the same history: base, control, other."""

    def __init__(self):
        with ThreadPoolExecutor() as threads:
            starting = [threads.submit(Cluster, **SETTINGS) for _ in range(3)]
        self.clusters = [start.result() for start in starting]
        self.each(lambda _, cluster: self.templates(cluster))
        with self.clusters[0].connect() as admin:
            self.version = admin.info.server_version // 10000

    @staticmethod
    def templates(cluster):
        for name in (PLAIN, AMP):
            database = cluster.database(extension=name == AMP)
            with database.connect() as admin:
                admin.execute("CREATE EXTENSION btree_gist")
            with cluster.connect() as admin:
                admin.execute(f"ALTER DATABASE {database.name} RENAME TO {name}_template")

    def each(self, work):
        """work(number, cluster) on all three at the same time; the results in their order."""
        with ThreadPoolExecutor() as threads:
            return list(threads.map(work, range(3), self.clusters))

    def align(self):
        """Lets the servers that lag use up oids and transaction ids until all three come to the same ones."""
        for sql in (
            "SELECT oid FROM (SELECT lo_create(0) AS oid OFFSET 0) made WHERE lo_unlink(oid) = 1",
            "SELECT pg_current_xact_id()::text",
        ):

            def take(_, cluster):
                with cluster.connect() as admin:
                    return int(admin.execute(sql).fetchone()[0])

            def catch_up(number, cluster):
                with cluster.connect() as admin:
                    for _ in range(furthest - taken[number]):
                        admin.execute(sql)

            taken = self.each(take)
            furthest = max(taken)
            self.each(catch_up)

    def remove(self):
        self.each(lambda _, cluster: cluster.remove())


class World:
    """One database on each server."""

    def __init__(self, servers, system, seed, variant, client=False, scope="session", analyzed=False):
        self.servers, self.system, self.seed, self.variant = servers, system, seed, variant
        self.client, self.scope, self.analyzed = client and system == AMP, scope if system == AMP else "session", analyzed
        choice = random.Random(seed)
        self.tenant_type = choice.choice(list(TENANTS))
        self.tenants = TENANTS[self.tenant_type]
        self.key_type = choice.choice(["int", "bigint", "text", "uuid"])
        self.on_delete = choice.choice(["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"])
        self.on_update = choice.choice(["CASCADE", "NO ACTION"])
        self.deferrable = choice.choice(["", "DEFERRABLE INITIALLY DEFERRED"])
        self.partitioning = choice.choice(["LIST", "RANGE", "HASH"])
        self.temporary = choice.choice([True, False])
        self.user = "amp_client" if self.client else "amp_svc"
        self.token = token(claims("ann", exp=int(time.time()) + 86400), KEYS["HS256"], "HS256", "HS256")

    def __str__(self):
        who = "client by credential" if self.client else "service"
        return (
            f"{self.system}, seed {self.seed}, B's rows: {self.variant}, {who}, scope {self.scope}{', analyzed' if self.analyzed else ''}"
            f" (tenants {self.tenant_type}, keys {self.key_type}, ON DELETE {self.on_delete} ON UPDATE {self.on_update}"
            f" {self.deferrable}, partitions by {self.partitioning}{', TEMPORARY granted' if self.temporary else ''})"
        )

    @property
    def ordered(self):
        """Do rows lie at the same places on all servers, and are plans the same? Not if sizes differ, or statistics do."""
        return self.variant in (VALUES, OPEN) and not self.analyzed

    @property
    def raising(self):
        """May conditions that are combined raise errors and notices? Which of A's rows they are asked about is the plan's affair."""
        return self.ordered

    def key(self, number):
        """A key of accounts as an SQL literal; the order of keys is that of numbers, and so are their sizes."""
        return {
            "int": f"{number}",
            "bigint": f"{number}",
            "text": f"'k{number:05}'",
            "uuid": f"'10000000-0000-4000-8000-{number:012}'",
        }[self.key_type]

    def set_tenant(self, tenant, local=False):
        setting = "amp.tenant_id" if self.system == AMP else "app.tenant"
        return f"SET {'LOCAL ' if local else ''}{setting} = '{tenant}'"

    def entrance(self):
        """A's first statements."""
        statements = []
        if self.client:
            statements.append(f"SELECT amp.authenticate('{self.token}')")
        if self.scope == "session":
            statements.append(self.set_tenant(self.tenants[0]))
        return [Statement("entrance", sql) for sql in statements]

    # The rows of one tenant as a list of statements: accounts and orders with these numbers.
    def rows(self, numbers, captives=()):
        key, statements = self.key, []
        for n in numbers:
            statements.append(f"INSERT INTO accounts (id, code, name, amount) VALUES ({key(n)}, 'c{n:05}', 'name-{n:05}', {n % 7})")
        for n in numbers:
            statements.append(
                f"INSERT INTO orders (id, account_id, ref, qty, note, data) VALUES ({n}, {key(n)}, 'r{n:05}', {n % 5},"
                f""" 'note {n:05}', '{{"n": {n % 3}}}')"""
            )
            statements.append(f"INSERT INTO items (id, kind, label) VALUES ({n}, {n % 3}, 'item {n:05}')")
        for n in list(numbers)[:60]:
            statements.append(f"INSERT INTO rooms (id, during) VALUES ({n}, int4range({10 * n}, {10 * n + 6}))")
        for n in list(numbers)[:60]:
            number = "DEFAULT" if self.system == PLAIN else n
            statements.append(f"INSERT INTO tickets (id, title) VALUES ({number}, 'ticket {n:05}')")
        # Orders that refer to accounts of A's numbers: in the plain world that are A's accounts themselves.
        for n, account in enumerate(captives, 90):
            if self.system == AMP:
                statements.append(
                    f"INSERT INTO accounts (id, code, name, amount) VALUES ({key(account)}, 'c{account:05}', 'name-{account:05}', 1)"
                )
            statements.append(
                f"INSERT INTO orders (id, account_id, ref, qty, note) VALUES ({n}, {key(account)}, 'captive {n}', 1, 'captive')"
            )
        return statements

    def others_rows(self, different):
        """B's rows: on the base and control servers, or (`different`) on the third."""
        if different and self.variant == NONE:
            return []
        numbers, captives = list(HOT[:60:2]), (3, 5)
        if different:
            if self.variant == VALUES:
                numbers, captives = list(HOT[1:60:2]), (4, 6)
            elif self.variant == COUNTS:
                numbers, captives = numbers + list(HOT[1:36:2]), (3, 4, 5, 6)
            elif self.variant == GIANT:
                numbers = numbers + list(range(10000, 12000))
        return self.rows(numbers, captives)

    def tables(self):
        tenant = f"tenant_id {TENANT_TYPES[self.tenant_type]} NOT NULL"
        if self.system == PLAIN:
            tenant += f" DEFAULT current_setting('app.tenant')::{self.tenant_type}"
        parts = {
            "LIST": "FOR VALUES IN ({n})",
            "RANGE": "FOR VALUES FROM ({n}) TO ({n} + 1)",
            "HASH": "FOR VALUES WITH (MODULUS 3, REMAINDER {n})",
        }[self.partitioning]
        partitions = "".join(f"CREATE TABLE items_{n} PARTITION OF items {parts.format(n=n)};" for n in range(3))
        return f"""
            CREATE TABLE accounts (
                id {self.key_type} PRIMARY KEY, {tenant}, code text UNIQUE, name text, amount int CHECK (amount < 1000));
            CREATE INDEX ON accounts (name);
            CREATE TABLE orders (
                id int PRIMARY KEY, {tenant}, ref text UNIQUE, qty int, note text, data jsonb,
                account_id {self.key_type} REFERENCES accounts
                    ON DELETE {self.on_delete} ON UPDATE {self.on_update} {self.deferrable});
            CREATE INDEX ON orders (qty);
            CREATE TABLE items (id int, {tenant}, kind int, label text, PRIMARY KEY (id, kind)) PARTITION BY {self.partitioning} (kind);
            {partitions}
            CREATE TABLE rooms (id int PRIMARY KEY, {tenant}, during int4range, EXCLUDE USING gist (during WITH &&));
            CREATE SEQUENCE ticket_numbers;
            CREATE TABLE tickets (id int PRIMARY KEY DEFAULT nextval('ticket_numbers'), {tenant}, title text);
            CREATE VIEW order_list WITH (security_invoker = true) AS
                SELECT o.id, o.ref, o.qty, a.name FROM orders o JOIN accounts a ON a.id = o.account_id;
            CREATE FUNCTION leak(value anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
                $$ BEGIN RAISE NOTICE 'seen %', value; RETURN true; END $$;
            CREATE FUNCTION total(at_least int) RETURNS bigint LANGUAGE sql STABLE AS
                'SELECT sum(qty) FROM orders WHERE qty >= at_least';
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO amp_svc, amp_client;
            GRANT USAGE ON SEQUENCE ticket_numbers TO amp_svc, amp_client;
        """

    def build(self, cluster, name, different):
        """The world's database on one server."""
        with cluster.connect() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {self.system}_template STRATEGY wal_log")
        database = Database(cluster, name)
        if self.system == AMP:
            with database.connect("amp_ops") as ops:
                for number, tenant in enumerate(self.tenants):
                    ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [f"Tenant {number}", f"tenant-{number}", tenant])
                add_signing_key(ops, algorithm="HS256")
            people(database, ann=(self.tenants[0], "operator"), bob=(self.tenants[1], "admin"))
        with database.connect("amp_owner") as owner:
            owner.execute(self.tables())
            for table in PROTECTED:
                if self.system == AMP:
                    owner.execute(f"SELECT amp.protect('{table}', fix => true)")
            if self.system == PLAIN:
                for table in (*PROTECTED, "items_0", "items_1", "items_2"):
                    owner.execute(f"""
                        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                        CREATE POLICY tenant ON {table} USING (tenant_id = current_setting('app.tenant')::{self.tenant_type});
                    """)
        with database.connect() as admin:
            if self.system == AMP:
                admin.execute("SELECT amp.harden()")
                if self.temporary:  # back to those who ask for it
                    admin.execute(f"GRANT TEMPORARY ON DATABASE {name} TO amp_svc, amp_client")
                if self.scope == "transaction":
                    admin.execute(f"ALTER DATABASE {name} SET amp.context_scope = 'transaction'")
        for tenant, rows in zip(self.tenants, (self.rows(MINE), self.others_rows(different))):
            with database.connect("amp_svc", autocommit=False) as service:
                service.execute(self.set_tenant(tenant, local=True))
                service.execute(";".join(rows))
                if self.system == AMP:  # usage, too, is a tenant's own
                    calls = 7 if different and tenant == self.tenants[1] and self.variant != NONE else 3
                    service.execute(f"SELECT amp.record_usage('api_calls', {calls}, NULL)")
        if self.analyzed:
            with database.connect() as admin:
                admin.execute("ANALYZE")
        return database

    def hold_open(self, database, different):
        """B's transaction that stays open while A works. Returns its session."""
        service = database.connect("amp_svc", autocommit=False)
        service.execute(self.set_tenant(self.tenants[1], local=True))
        service.execute(";".join(self.rows([OPEN_KEYS[different]])))
        return service

    @contextmanager
    def databases(self):
        """The three databases, new; gone afterwards."""
        name = f"{self.system}_world"
        self.servers.align()
        made = self.servers.each(lambda number, cluster: self.build(cluster, name, different=number == 2))
        try:
            self.servers.align()
            with ExitStack() as opened:
                if self.variant == OPEN:
                    for number, database in enumerate(made):
                        opened.callback(self.hold_open(database, different=number == 2).close)
                yield made
        finally:
            self.servers.each(lambda number, _: self.drop(made[number]))

    @staticmethod
    def drop(database):
        with database.connect() as admin:
            for (gid,) in admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
                admin.execute(f"ROLLBACK PREPARED '{gid}'")
        database.drop()

    def contents(self, database):
        """What each tenant has, as a superuser sees it: {tenant: rows}."""
        found = {tenant: [] for tenant in self.tenants}
        with database.connect() as admin:
            for table in PROTECTED:
                for tenant, row in admin.execute(f"SELECT tenant_id::text, {table}::text FROM {table} ORDER BY 1, 2"):
                    found.setdefault(tenant, []).append((table, row))
        return found
