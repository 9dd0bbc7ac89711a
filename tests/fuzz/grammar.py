"""Statements of tenant A, at random from a seed: what a client may send that sqlsmith does not.

A state machine (transaction, savepoints, cursors, prepared statements, temporary tables, keys of its own) keeps most of them
succeeding. Each has a kind: the class of leak that it tries for. The keys and values of B are known to the grammar: it aims at them.
"""

import random

from lockstep import Statement
from psycopg import pq
from worlds import AMP, HOT, MINE, PROTECTED

IDLE, IN_TRANSACTION, FAILED = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR

PRODUCTIONS = []


def makes(kind, weight=1, when=lambda grammar: True):
    """A method that makes a statement of this kind (or several: a list), chosen by its weight, when it makes sense."""

    def register(method):
        PRODUCTIONS.append((kind, weight, when, method))
        return method

    return register


def outside(grammar):
    return grammar.status == IDLE


def inside(grammar):
    return grammar.status == IN_TRANSACTION


class Grammar:
    """An endless stream; `kinds` narrows it. `hear` is told how the session stands after each statement."""

    def __init__(self, seed, world, kinds=None):
        self.random, self.world, self.version = random.Random(seed), world, world.servers.version
        self.kinds, self.status, self.queue = kinds, IDLE, world.entrance()
        self.fresh = iter(range(1000, 10**6))
        self.ids, self.savepoints, self.cursors, self.prepared, self.temporary = list(MINE), [], [], [], []
        self.names = iter(range(1, 10**6))

    def hear(self, status):
        if status == IDLE:
            self.savepoints, self.cursors = [], [name for name in self.cursors if name.startswith("held")]
        self.status = status

    def __iter__(self):
        return self

    def __next__(self):
        if not self.queue:
            self.queue = self.recover() if self.status == FAILED else self.produce()
        return self.queue.pop(0)

    def recover(self):
        if self.savepoints and self.one_in(2):
            return [Statement("savepoint", f"ROLLBACK TO SAVEPOINT {self.savepoints[-1]}")]
        if self.one_in(8):
            return [Statement("transaction", "ROLLBACK AND CHAIN"), *self.context()]
        return [Statement("transaction", "ROLLBACK")]

    def produce(self):
        if self.world.scope == "transaction" and self.status == IDLE and not self.one_in(20):
            return self.begin()
        choices = [entry for entry in PRODUCTIONS if (not self.kinds or entry[0] in self.kinds) and entry[2](self)]
        kind, _, _, method = self.random.choices(choices, [entry[1] for entry in choices])[0]
        made = method(self)
        return [each if isinstance(each, Statement) else Statement(kind, each) for each in (made if isinstance(made, list) else [made])]

    # Choices.

    def one_in(self, n):
        return self.random.randrange(n) == 0

    def pick(self, *choices):
        return self.random.choice(choices)

    def number(self):
        """A key: mostly A's own, else one that B may have."""
        return self.pick(*self.ids[-30:]) if self.random.random() < 0.6 else self.pick(*HOT)

    def new(self):
        """A key that A does not have: a fresh one, or one that B may have."""
        made = next(self.fresh) if self.one_in(2) else self.pick(*HOT)
        self.ids.append(made)
        return made

    def key(self, number=None):
        return self.world.key(self.number() if number is None else number)

    def name(self, prefix):
        return f"{prefix}{next(self.names)}"

    # Expressions over a table's columns.

    COLUMNS = {
        "accounts": (["amount", "length(name)", "length(code)"], ["name", "code", "id::text"]),
        "orders": (["qty", "id", "length(note)"], ["note", "ref", "account_id::text", "data::text"]),
        "items": (["id", "kind"], ["label"]),
        "rooms": (["id", "lower(during)", "upper(during)"], ["during::text"]),
        "tickets": (["id"], ["title"]),
        "order_list": (["id", "qty"], ["ref", "name"]),
    }

    def table(self):
        return self.pick(*self.COLUMNS)

    def int_of(self, table, depth=2):
        numbers, texts = self.COLUMNS[table]
        if depth == 0 or self.one_in(3):
            return self.pick(*numbers, str(self.random.randrange(-2, 8)), str(self.number()))
        a, b = self.int_of(table, depth - 1), self.int_of(table, depth - 1)
        forms = [
            f"({a} + {b})",
            f"({a} % 1000 * ({b} % 1000))",  # never out of range
            f"({a} % nullif({b}, 0))",
            f"abs({a})",
            f"coalesce(nullif({a}, {b}), 0)",
            f"CASE WHEN {self.condition(table, depth - 1)} THEN {a} ELSE {b} END",
            f"length({self.pick(*texts)})",
            f"ascii({self.pick(*texts)})",
            f"greatest({a}, {b})",
        ]
        if self.world.raising:
            forms.append(f"({a} / {b})")
        if self.world.ordered:  # such an error names a value: whose comes first is a matter of where rows lie
            forms += [f"(substr({self.pick(*texts)}, {self.random.randrange(1, 7)}))::int"]
        return self.pick(*forms)

    def text_of(self, table):
        texts = self.COLUMNS[table][1]
        return self.pick(*texts, f"upper({self.pick(*texts)})", f"{self.pick(*texts)} || '!'", f"md5({self.pick(*texts)})")

    def value_of(self, n=None):
        """A text that a row of key n has."""
        n = self.number() if n is None else n
        return self.pick(f"'name-{n:05}'", f"'c{n:05}'", f"'r{n:05}'", f"'note {n:05}'", f"'ticket {n:05}'", f"'item {n:05}'")

    def condition(self, table, depth=2):
        numbers, texts = self.COLUMNS[table]
        column, n = self.pick(*texts), self.number()
        forms = [
            f"{self.pick(*numbers)} {self.pick('=', '<', '>', '<>')} {self.random.randrange(0, 8)}",
            f"{self.pick(*numbers)} = {n}",
            f"{column} = {self.value_of(n)}",
            f"{column} >= {self.value_of(n)} AND {column} < {self.value_of(n + 2)}",
            f"{column} LIKE '%{n % 100:02}%'",
            f"{column} IS NOT NULL",
            f"{column} ~ '{n % 10}$'",
            f"{self.pick(*numbers)} BETWEEN {n} AND {n + 9}",
            f"{column} IN ({self.value_of()}, {self.value_of()})",
            f"EXISTS (SELECT FROM accounts x WHERE x.name = {self.value_of(n)})",
            "tenant_id IS NOT NULL" if table != "order_list" else "true",
        ]
        if self.world.raising:
            forms += self.telling(table)
        if depth > 0:
            a, b = self.condition(table, depth - 1), self.condition(table, depth - 1)
            forms += [f"({a} AND {b})", f"({a} OR {b})", f"NOT ({a})"]
            forms += [f"{self.int_of(table, depth - 1)} {self.pick('=', '<', '>=')} {self.int_of(table, depth - 1)}"]
        return self.pick(*forms)

    def telling(self, table):
        """Conditions that tell which rows they are asked about, by an error or a notice."""
        numbers, texts = self.COLUMNS[table]
        column, n = self.pick(*texts), self.number()
        return [
            f"leak({column})",
            f"1 / ({self.pick(*numbers)} - {self.pick(n, 1, 2, 3)}) IS NOT NULL",
            f"CASE WHEN {column} = {self.value_of(n)} THEN (SELECT 1 / 0) = 1 ELSE true END",
            f"CASE WHEN {column} = {self.value_of(n)} THEN leak('it is there'::text) ELSE true END",
        ]

    def select(self):
        """A query with a fixed order of rows, or one row."""
        table = self.table()
        where = self.condition(table)
        number, words = self.int_of(table), self.text_of(table)
        forms = [
            f"SELECT {number}, {words} FROM {table} WHERE {where} ORDER BY 1, 2",
            f"SELECT * FROM {table} WHERE {where} ORDER BY id",
            f"SELECT count(*), min({number}), max({words}) FROM {table} WHERE {where}",
            f"SELECT {words}, count(*), sum({number}) FROM {table} GROUP BY 1 HAVING count(*) > {self.pick(0, 1)} ORDER BY 1, 3",
            f"SELECT id, sum({number}) OVER (PARTITION BY {words} ORDER BY id) FROM {table} WHERE {where} ORDER BY id",
            f"SELECT id, rank() OVER (ORDER BY {words}), lag({words}) OVER (ORDER BY id, {words}) FROM {table} ORDER BY id",
            f"SELECT string_agg({words}, ',' ORDER BY id, {words}) FROM {table} WHERE {where}",
            f"SELECT jsonb_agg(to_jsonb(t) ORDER BY id, t::text) FROM {table} t WHERE {where}",
            f"SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT {self.pick(1, 3)} OFFSET {self.pick(0, 1)}",
            "SELECT a.id, a.name, count(o.id), sum(o.qty) FROM accounts a LEFT JOIN orders o ON o.account_id = a.id"
            f" WHERE {self.pick(f'a.id = {self.key()}', f'a.name = {self.value_of()}', 'true')} GROUP BY a.id, a.name ORDER BY a.id",
            f"SELECT o.id, i.label FROM orders o FULL JOIN items i ON i.id = o.id AND i.kind = {self.pick(0, 1, 2)}"
            " ORDER BY o.id, i.label",
            f"SELECT a.id FROM accounts a WHERE NOT EXISTS (SELECT FROM orders o WHERE o.account_id = a.id AND o.qty > {self.pick(0, 3)})"
            " ORDER BY a.id",
            "WITH RECURSIVE up AS (SELECT id, qty, 1 AS depth FROM orders WHERE qty = 1 UNION ALL SELECT o.id, o.qty, depth + 1"
            " FROM orders o JOIN up ON o.id = up.id + 1 WHERE depth < 4) SELECT * FROM up ORDER BY id, depth",
            f"SELECT id FROM orders {self.pick('UNION', 'EXCEPT', 'INTERSECT', 'UNION ALL')} SELECT id FROM items ORDER BY 1",
            f"SELECT total({self.pick(0, 1, 2)})",
            f"SELECT x.id, x.data -> 'n', x.data @> '{{\"n\": {self.pick(0, 1)}}}' FROM orders x ORDER BY x.id",
            f"SELECT id FROM rooms WHERE during && int4range({10 * self.number()}, {10 * self.number() + 5000}, '[]') ORDER BY id",
            f"SELECT count(*) FROM items_{self.pick(0, 1, 2)}",
            "SELECT kind, count(*), grouping(kind) FROM items GROUP BY ROLLUP (kind) ORDER BY kind",
            f"SELECT a.id, l.ref FROM accounts a, LATERAL (SELECT ref FROM orders o WHERE o.account_id = a.id ORDER BY id"
            f" LIMIT {self.pick(1, 2)}) l ORDER BY 1, 2",
            f"TABLE {table}",
        ]
        return self.pick(*forms)

    def write(self):
        """One statement that writes, to run or to explain."""
        n = self.number()
        forms = [
            f"UPDATE accounts SET amount = amount + 1 WHERE id = {self.key(n)}",
            f"UPDATE accounts SET name = name || '+' WHERE name = {self.value_of(n)}",
            f"UPDATE orders SET qty = {self.int_of('orders', 1)} WHERE {self.condition('orders', 1)}",
            f"UPDATE orders o SET note = a.name FROM accounts a WHERE a.id = o.account_id AND a.id = {self.key(n)}",
            f"UPDATE items SET kind = {self.pick(0, 1, 2)} WHERE id = {n}",
            f"DELETE FROM orders WHERE {self.condition('orders', 1)} AND id % 5 = {self.pick(0, 1, 2, 3, 4)}",
            f"DELETE FROM items USING orders WHERE orders.id = items.id AND items.id = {n}",
            f"DELETE FROM tickets WHERE id = {n}",
            f"INSERT INTO items SELECT * FROM items WHERE {self.condition('items', 1)}",
            f"WITH gone AS (DELETE FROM tickets WHERE id = {n} RETURNING *) SELECT count(*) FROM gone",
            f"UPDATE rooms SET during = int4range({10 * self.new()}, {10 * n + 20000}) WHERE id = {n}",
        ]
        return self.pick(*forms)

    # Transactions.

    def context(self):
        """What a new transaction has to say first where contexts are a transaction's."""
        if self.world.scope != "transaction":
            return []
        return [Statement("transaction", self.world.set_tenant(self.world.tenants[0], local=True))]

    def begin(self):
        level = self.pick("", "", " ISOLATION LEVEL REPEATABLE READ", " ISOLATION LEVEL SERIALIZABLE", " READ ONLY")
        return [Statement("transaction", f"BEGIN{level}"), *self.context()]

    @makes("transaction", 3, outside)
    def _(self):
        return self.begin()

    @makes("transaction", 4, inside)
    def _(self):
        end = self.pick("COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN")
        return [Statement("transaction", end), *(self.context() if end.endswith("CHAIN") else [])]

    @makes("transaction", 0.3, inside)
    def _(self):
        return self.pick("PREPARE TRANSACTION 'fuzz'", "SET CONSTRAINTS ALL IMMEDIATE", "SET CONSTRAINTS ALL DEFERRED")

    @makes("transaction", 0.3, outside)
    def _(self):
        return self.pick("COMMIT PREPARED 'fuzz'", "ROLLBACK PREPARED 'fuzz'", "SELECT gid, owner FROM pg_prepared_xacts")

    @makes("savepoint", 2, inside)
    def _(self):
        if self.savepoints and not self.one_in(2):
            return f"{self.pick('ROLLBACK TO', 'RELEASE')} SAVEPOINT {self.pick(*self.savepoints)}"
        self.savepoints.append(self.name("s"))
        return f"SAVEPOINT {self.savepoints[-1]}"

    # Writing.

    @makes("insert", 4)
    def _(self):
        n = next(self.fresh)
        self.ids.append(n)
        return self.pick(
            f"INSERT INTO accounts (id, code, name, amount) VALUES ({self.key(n)}, 'c{n:05}', 'name-{n:05}', {n % 7}) RETURNING *",
            f"INSERT INTO orders (id, account_id, ref, qty, note) VALUES ({n}, NULL, 'r{n:05}', 1, 'note') RETURNING id, tenant_id",
            f"INSERT INTO items SELECT g, '{self.world.tenants[0]}', g % 3, 'item ' || g FROM generate_series({n * 100}, {n * 100 + 3}) g",
            f"INSERT INTO accounts (id, amount) VALUES ({self.key(n)}, {self.pick(1, 2000)})",
            f"INSERT INTO rooms (id, during) VALUES ({n}, int4range({n * 100}, {n * 100 + 7}))",
        )

    @makes("other tenant")
    def _(self):
        """Rows for B, and for nobody."""
        n = self.new()
        tenant = self.pick(f"'{self.world.tenants[1]}'", "NULL", "'0'", "DEFAULT")
        return f"INSERT INTO accounts (id, tenant_id, code) VALUES ({self.key(n)}, {tenant}, 'c{n:05}')"

    @makes("unique", 4)
    def _(self):
        n, m = self.new(), next(self.fresh)
        return self.pick(
            f"INSERT INTO accounts (id, code, name, amount) VALUES ({self.key(n)}, 'new {m}', 'name-{n:05}', 1)",
            f"INSERT INTO accounts (id, code) VALUES ({self.key(m)}, 'c{n:05}')",
            f"INSERT INTO orders (id, ref) VALUES ({n}, 'r{m:05}') RETURNING *",
            f"INSERT INTO orders (id, ref) VALUES ({m}, 'r{n:05}')",
            f"INSERT INTO items (id, kind) VALUES ({n}, {self.pick(0, 1, 2)})",
            f"UPDATE accounts SET code = 'c{n:05}' WHERE id = {self.key(self.pick(*MINE))}",
            f"UPDATE orders SET id = {n} WHERE id = {self.pick(*MINE)}",
            f"UPDATE accounts SET id = {self.key(n)} WHERE id = {self.key(self.pick(*MINE))}",
        )

    @makes("exclusion", 2)
    def _(self):
        n, m = self.pick(*HOT), next(self.fresh)
        return f"INSERT INTO rooms (id, during) VALUES ({m}, int4range({10 * n}, {10 * n + self.pick(1, 7)}))"

    @makes("foreign key", 4)
    def _(self):
        n, m = self.number(), next(self.fresh)
        return self.pick(
            f"INSERT INTO orders (id, account_id, ref) VALUES ({m}, {self.key(n)}, 'r{m:05}')",
            f"INSERT INTO orders (id, account_id, ref) VALUES ({m}, {self.key(self.pick(*HOT))}, 'r{m:05}') RETURNING account_id",
            f"UPDATE orders SET account_id = {self.key(n)} WHERE id = {self.pick(*MINE)}",
            f"UPDATE orders SET account_id = {self.key(self.pick(*HOT))} WHERE id = {self.pick(*MINE)}",
        )

    @makes("cascade", 2)
    def _(self):
        n = self.pick(*MINE)
        return self.pick(
            f"DELETE FROM accounts WHERE id = {self.key(n)}",
            f"UPDATE accounts SET id = {self.key(next(self.fresh))} WHERE id = {self.key(n)}",
            f"DELETE FROM accounts WHERE id = {self.key(n)} RETURNING *",
        )

    @makes("derived", 3, lambda grammar: grammar.world.raising)
    def _(self):
        """An equation that fails for a hidden row, beside others from which PostgreSQL derives conditions; and a key that fails."""
        table = self.pick("accounts", "orders", "items", "tickets")
        numbers, texts = self.COLUMNS[table]
        own, type_ = f"'{self.world.tenants[0]}'::{self.world.tenant_type}", self.world.tenant_type
        collation = ' COLLATE "C"' if type_ == "text" else ""
        n = self.pick(*HOT)
        hidden = self.pick(*(f"{column} = {self.value_of(n)}" for column in texts), *(f"{number} = {n}" for number in numbers))
        fails = self.pick("(SELECT (1 / (random() * 0)::int)::text)", "(SELECT NULL WHERE leak('it is there'::text))") + f"::{type_}"
        told = f"CASE WHEN {hidden} THEN {fails} ELSE {own} END{collation}"
        column = {"text": self.pick(*texts), "bigint": "id" if table != "accounts" or self.world.key_type == "bigint" else "amount", "uuid": "tenant_id"}[type_]
        forms = [
            f"{told} = {column}{collation} AND {column}{collation} = tenant_id",
            f"{told} = tenant_id",
            f"tenant_id = {told} AND {column}{collation} = {own}",
            f"{told} = o.x",
        ]
        where = self.pick(*forms)
        if where == forms[3]:
            source = f"(VALUES (100.0::real, {own}), (100.0::real, {own})) o(p, x), LATERAL (SELECT * FROM {table} TABLESAMPLE bernoulli(o.p)) t"
        else:
            source = self.pick(table, f"{table} JOIN accounts a USING (tenant_id)") if column == "tenant_id" else table
        statement = f"SELECT count(*) FROM {source} WHERE {where}"
        if source == table and self.one_in(3):
            statement = self.pick(
                f"UPDATE {table} SET id = id WHERE {where}",
                f"SELECT count(*) FROM {table} WHERE {self.pick(*texts)} = {self.value_of(n)} AND id::text = (SELECT (1 / (random() * 0)::int)::text)",
            )
        settings = [f"SET {setting}" for setting in ("cpu_operator_cost = 0", "enable_indexscan = off", "enable_bitmapscan = off", "enable_indexonlyscan = off")]
        settings = [setting for setting in settings if self.one_in(2)]
        resets = [f"RESET {setting.split()[1]}" for setting in settings]
        return [Statement("derived", sql) for sql in (*settings, statement, *resets)]

    @makes("switched", 1, lambda grammar: grammar.world.ordered)
    def _(self):
        """Compares the tenant's column with a setting that is A when the statement starts, and B afterwards."""
        table = self.pick("accounts", "orders", "items", "tickets")
        mine, theirs = self.world.tenants
        value = f"current_setting('my.x')::{self.world.tenant_type}" + (' COLLATE "C"' if self.world.tenant_type == "text" else "")
        switch = f"set_config('my.x', '{theirs}', false)"
        where = self.pick(f"tenant_id = {value}", f"tenant_id IN ({value})", f"(tenant_id, true) = ({value}, true)")
        statement = self.pick(
            f"SELECT {switch}, t.* FROM {table} t WHERE {where}",
            f"SELECT {switch}, t.* FROM (VALUES ({value}), ('{theirs}')) v(k) JOIN {table} t ON v.k = t.tenant_id WHERE v.k = {value}",
            f"DELETE FROM {table} WHERE {where} AND id::text <> '' RETURNING {switch}, *",
            f"UPDATE {table} SET id = id WHERE {where} RETURNING {switch}, *",
        )
        return [Statement("switched", sql) for sql in (f"SET my.x = '{mine}'", statement)]

    @makes("on conflict", 4)
    def _(self):
        n, m = self.new(), next(self.fresh)
        account = f"INSERT INTO accounts AS a (id, code, name) VALUES ({self.key(n)}, 'c{self.pick(n, m):05}', 'name-{n:05}')"
        target = "(tenant_id, id)" if self.world.system == AMP else "(id)"
        code = "(tenant_id, code)" if self.world.system == AMP else "(code)"
        return self.pick(
            f"{account} ON CONFLICT DO NOTHING",
            f"{account} ON CONFLICT {target} DO NOTHING RETURNING id",
            f"{account} ON CONFLICT {target} DO UPDATE SET amount = 3 RETURNING *",
            f"{account} ON CONFLICT {code} DO UPDATE SET name = excluded.name WHERE a.amount > 2",
            f"{account} ON CONFLICT ON CONSTRAINT accounts_pkey DO UPDATE SET name = a.name || '?' WHERE false",
            f"INSERT INTO items VALUES ({n}, DEFAULT, 1, 'x') ON CONFLICT DO NOTHING",
            f"INSERT INTO rooms (id, during) VALUES ({m}, int4range({10 * n}, {10 * n + 3})) ON CONFLICT DO NOTHING",
        )

    @makes("merge", 3)
    def _(self):
        n = self.number()
        returning = " RETURNING merge_action(), a.*" if self.version >= 17 and self.one_in(2) else ""
        return self.pick(
            f"MERGE INTO accounts a USING (VALUES ({self.key(n)}, 'c{n:05}')) v (id, code) ON a.id = v.id"
            " WHEN MATCHED THEN UPDATE SET amount = a.amount + 1"
            f" WHEN NOT MATCHED THEN INSERT (id, code) VALUES (v.id, v.code){returning}",
            f"MERGE INTO accounts a USING orders o ON a.id = o.account_id AND o.id = {n}"
            f" WHEN MATCHED AND o.qty > 2 THEN UPDATE SET amount = o.qty WHEN MATCHED THEN DO NOTHING{returning}",
            f"MERGE INTO tickets a USING orders o ON a.id = o.id WHEN MATCHED AND o.qty = {self.pick(0, 1, 2)} THEN DELETE"
            f" WHEN NOT MATCHED AND o.id < 10 THEN INSERT (id, title) VALUES (o.id, o.note){returning}",
        )

    @makes("write", 3)
    def _(self):
        return self.write() + (self.pick("", " RETURNING *") if not self.one_in(3) else "")

    @makes("system columns", 2)
    def _(self):
        n = self.pick(*MINE)
        return self.pick(
            "SELECT id, xmin, cmin, tableoid::regclass FROM orders ORDER BY id",
            f"DELETE FROM tickets WHERE ctid = (SELECT ctid FROM tickets WHERE id = {n})",
            f"UPDATE orders SET qty = 9 WHERE ctid = (SELECT ctid FROM orders WHERE id = {n}) RETURNING id, xmax",
            "SELECT tableoid::regclass, kind, count(*) FROM items GROUP BY 1, 2 ORDER BY 1, 2",
            f"SELECT id FROM orders WHERE xmin::text::bigint > {self.pick(0, 10**6)} ORDER BY id",
        )

    @makes("positions", 2, lambda grammar: grammar.world.ordered)
    def _(self):
        """Where rows lie may be compared only where as much lies before them."""
        return self.pick(
            "SELECT ctid, id FROM orders ORDER BY id",
            f"SELECT id FROM orders WHERE ctid = '(0,{self.pick(1, 5, 20, 40)})'",
            f"SELECT id FROM items TABLESAMPLE {self.pick('SYSTEM', 'BERNOULLI')} (50) REPEATABLE ({self.pick(1, 2)}) ORDER BY id",
            f"SELECT id FROM accounts LIMIT {self.pick(1, 5)}",
            f"SELECT id FROM orders WHERE ctid BETWEEN '(0,1)' AND '(0,{self.pick(9, 99)})'",
            "SELECT relname, relpages, reltuples FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
            f"SELECT pg_relation_size('{self.pick(*PROTECTED)}'), pg_total_relation_size('{self.pick(*PROTECTED)}')",
            f"SELECT pg_table_size('{self.pick(*PROTECTED)}'), pg_indexes_size('{self.pick(*PROTECTED)}')",
        )

    # Reading.

    @makes("select", 8)
    def _(self):
        return self.select()

    @makes("telling", 3)
    def _(self):
        """Each by itself: it is asked about every row that A sees, whatever the plan."""
        table = self.table()
        return f"SELECT count(*) FROM {table} WHERE {self.pick(*self.telling(table))}"

    @makes("locking", 2)
    def _(self):
        clause = f"FOR {self.pick('UPDATE', 'SHARE', 'NO KEY UPDATE', 'KEY SHARE')}{self.pick('', ' SKIP LOCKED', ' NOWAIT')}"
        return f"SELECT id FROM accounts WHERE id = {self.key()} {clause}"

    @makes("table lock", 0.5, inside)
    def _(self):
        mode = self.pick("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
        return f"LOCK TABLE {self.pick(*PROTECTED)} IN {mode} MODE NOWAIT"

    @makes("truncate", 0.3)
    def _(self):
        return f"TRUNCATE {self.pick(*PROTECTED)}{self.pick('', ' CASCADE', ' RESTART IDENTITY')}"

    @makes("explain analyze", 4)
    def _(self):
        n = self.pick(*HOT)
        options = "ANALYZE, TIMING OFF, SUMMARY OFF, COSTS " + self.pick("OFF", "ON")
        query = self.pick(
            f"SELECT 1 FROM accounts WHERE name >= 'name-{n:05}' AND name < 'name-{n + 1:05}'",
            f"SELECT 1 FROM accounts WHERE code = 'c{n:05}'",
            f"SELECT 1 FROM orders WHERE ref = 'r{n:05}'",
            f"SELECT 1 FROM items WHERE id = {n}",
            self.select(),
            self.write(),
        )
        setting = f"SET LOCAL enable_seqscan = {self.pick('on', 'off')}; " if self.status == IN_TRANSACTION else ""
        return f"{setting}EXPLAIN ({options}{self.pick('', ', BUFFERS', ', WAL', ', VERBOSE')}) {query}"

    @makes("estimates", 4)
    def _(self):
        n = self.pick(*HOT)
        query = self.pick(
            f"SELECT * FROM accounts WHERE name = 'name-{n:05}'",
            f"SELECT * FROM accounts WHERE name >= 'name-{n:05}'",
            f"SELECT * FROM orders WHERE qty = {self.pick(0, 1, 2, 3, 4)}",
            f"SELECT * FROM orders WHERE id < {n}",
            self.select(),
            self.write(),
        )
        if self.version >= 16 and self.one_in(5):
            return "EXPLAIN (GENERIC_PLAN) SELECT * FROM orders WHERE id < $1"
        return f"EXPLAIN {self.pick('', '(VERBOSE, SETTINGS) ', '(FORMAT JSON) ', '(FORMAT YAML, COSTS OFF) ')}{query}"

    @makes("explain", 1)
    def _(self):
        """By way of other statements."""
        if self.one_in(3):
            return f"DO $$ DECLARE line text; BEGIN EXECUTE 'EXPLAIN {self.select_plain()}' INTO line; RAISE NOTICE '%', line; END $$"
        if self.one_in(2):
            return f"EXPLAIN ANALYZE CREATE TEMP TABLE {self.name('made')} AS {self.select()}"
        return f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) DECLARE c CURSOR FOR {self.select()}"

    def select_plain(self):
        return f"SELECT 1 FROM orders WHERE id < {self.number()}"

    @makes("print plans", 0.5, inside)
    def _(self):
        return [
            "SET LOCAL client_min_messages = log",
            f"SET LOCAL {self.pick('debug_print_plan', 'debug_print_parse', 'debug_print_rewritten')} = on",
            self.select(),
            "SET LOCAL debug_print_plan = off; SET LOCAL debug_print_parse = off; SET LOCAL debug_print_rewritten = off",
            "SET LOCAL client_min_messages = notice",
        ]

    # Statistics, and what else the server tells about itself.

    @makes("statistics of the transaction", 4)
    def _(self):
        n = self.pick(*HOT)
        probe = self.pick(
            f"SELECT 1 FROM accounts WHERE name >= 'name-{n:05}' AND name < 'name-{n + 1:05}'",
            f"SELECT 1 FROM accounts WHERE code = 'c{n:05}'",
            f"SELECT count(*) FROM orders WHERE qty = {self.pick(0, 1, 2, 3, 4)}",
            self.select(),
        )
        counters = self.pick(
            "SELECT relname, seq_scan, seq_tup_read, idx_scan, idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del"
            " FROM pg_stat_xact_user_tables ORDER BY 1",
            "SELECT relname, pg_stat_get_xact_tuples_returned(oid), pg_stat_get_xact_tuples_fetched(oid),"
            " pg_stat_get_xact_tuples_deleted(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
            "SELECT * FROM pg_stat_xact_user_functions ORDER BY funcname",
        )
        if self.status == IN_TRANSACTION:
            return [probe, counters]
        return [Statement("transaction", "BEGIN"), *self.context(), probe, counters, Statement("transaction", "COMMIT")]

    STATISTICS = (
        "pg_stat_user_tables pg_stat_all_tables pg_statio_user_tables pg_stat_user_indexes pg_statio_user_indexes pg_statio_user_sequences"
        " pg_stats pg_stats_ext pg_statistic pg_stat_database pg_stat_activity pg_locks pg_stat_user_functions pg_prepared_xacts"
        " pg_prepared_statements pg_cursors pg_stat_archiver pg_stat_bgwriter pg_stat_wal pg_stat_slru pg_stat_ssl pg_stat_replication"
        " pg_stat_progress_copy pg_stat_progress_analyze pg_stat_database_conflicts pg_sequences pg_policies pg_rules pg_shadow"
        " pg_roles pg_settings pg_tables pg_indexes pg_db_role_setting pg_hba_file_rules pg_backend_memory_contexts"
        " pg_shmem_allocations pg_largeobject pg_largeobject_metadata information_schema.tables information_schema.columns"
        " information_schema.sequences information_schema.role_table_grants"
    ).split()

    @makes("statistics", 4)
    def _(self):
        table = self.pick(*PROTECTED)
        functions = (
            "numscans tuples_returned tuples_fetched tuples_inserted tuples_updated tuples_deleted tuples_hot_updated live_tuples"
            " dead_tuples mod_since_analyze ins_since_vacuum blocks_fetched blocks_hit"
        ).split()
        views = [*self.STATISTICS, *(["pg_stat_io"] if self.version >= 16 else []), *(["pg_wait_events"] if self.version >= 17 else [])]
        return self.pick(
            f"SELECT * FROM {self.pick(*views)}",
            "SELECT pg_stat_force_next_flush()",
            "SELECT relname, seq_scan, seq_tup_read, idx_scan, idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup, n_dead_tup"
            " FROM pg_stat_user_tables ORDER BY 1",
            "SELECT indexrelname, idx_scan, idx_tup_read, idx_tup_fetch FROM pg_stat_user_indexes ORDER BY 1",
            "SELECT tablename, attname, n_distinct, most_common_vals::text, histogram_bounds::text FROM pg_stats"
            " WHERE schemaname = 'public' ORDER BY 1, 2",
            f"SELECT pg_stat_get_{self.pick(*functions)}('{table}'::regclass)",
            f"SELECT pg_stat_get_{self.pick(*functions)}('{table}_pkey'::regclass)",
            "SELECT locktype, mode, granted, relation::regclass FROM pg_locks WHERE locktype = 'relation' ORDER BY 1, 2, 4",
            "SELECT query, state, usename FROM pg_stat_activity WHERE datname = current_database() ORDER BY 1, 2",
        )

    @makes("sizes", 2)
    def _(self):
        """Without the sizes themselves: what depends on them all the same."""
        return self.pick(
            f"SELECT pg_column_size(t) FROM {self.pick(*PROTECTED)} t WHERE id::text = '{self.number()}' ORDER BY 1",
            f"SELECT relname, relkind, relnatts, relhasindex FROM pg_class WHERE relname LIKE '{self.pick(*PROTECTED)}%' ORDER BY 1",
            f"SELECT pg_relation_filenode('{self.pick(*PROTECTED)}') > 0",
        )

    @makes("privileges")
    def _(self):
        table = self.pick(*PROTECTED, "order_list")
        return self.pick(
            f"SELECT has_table_privilege('{table}', '{self.pick('SELECT', 'TRUNCATE', 'REFERENCES', 'TRIGGER')}')",
            f"SELECT row_security_active('{table}')",
            f"SELECT * FROM information_schema.table_privileges WHERE table_name = '{table}' ORDER BY grantee, privilege_type",
            f"SELECT has_column_privilege('{self.pick(*PROTECTED)}', 'tenant_id', 'UPDATE')",
            "SELECT current_user, session_user, current_setting('role')",
        )

    # Sequences, cursors, copying, prepared statements, and the rest of a session.

    @makes("sequence", 3)
    def _(self):
        return self.pick(
            "SELECT nextval('ticket_numbers')",
            f"INSERT INTO tickets (title) VALUES ('ticket {self.number():05}') RETURNING id",
            "SELECT last_value, is_called FROM ticket_numbers",
            "SELECT currval('ticket_numbers')",
            "SELECT lastval()",
            "SELECT pg_sequence_last_value('ticket_numbers')",
            f"SELECT setval('ticket_numbers', {self.number()})",
        )

    @makes("cursor", 2)
    def _(self):
        hold = self.status == IDLE or self.one_in(3)
        name = self.name("held" if hold else "cursor")
        self.cursors.append(name)
        table = self.table()
        lock = " FOR UPDATE" if not hold and table != "order_list" and self.one_in(2) else ""
        # With neither the plan decides.
        scroll = self.pick("SCROLL ", "NO SCROLL ", *([""] if self.world.ordered else [])) if not lock else ""
        return (
            f"DECLARE {name} {scroll}CURSOR {'WITH HOLD ' if hold else ''}FOR"
            f" SELECT * FROM {table} WHERE {self.condition(table, 1)} ORDER BY id, {table}::text{lock}"
        )

    @makes("cursor", 4, lambda grammar: grammar.cursors)
    def _(self):
        name = self.pick(*self.cursors)
        if self.one_in(8):
            self.cursors.remove(name)
            return f"CLOSE {name}"
        return self.pick(
            f"FETCH {self.pick('NEXT', '3', 'ALL', 'PRIOR', 'LAST', 'ABSOLUTE 2', 'RELATIVE -1', 'BACKWARD 2')} FROM {name}",
            f"MOVE {self.pick('NEXT', 'ALL', '2', 'FIRST')} IN {name}",
            f"UPDATE {self.pick('orders', 'items', 'tickets')} SET id = id WHERE CURRENT OF {name}",
            "SELECT name, statement, is_holdable, is_scrollable FROM pg_cursors ORDER BY name",
        )

    @makes("copy", 2)
    def _(self):
        n = self.number()
        return self.pick(
            f"COPY {self.pick(*PROTECTED)} TO STDOUT",
            f"COPY ({self.select()}) TO STDOUT WITH (FORMAT csv, HEADER)",
            f"COPY (UPDATE orders SET qty = 1 WHERE id = {n} RETURNING *) TO STDOUT",
        )

    @makes("copy in", 1)
    def _(self):
        n = self.new()
        return self.pick(
            Statement("copy in", "COPY accounts (id, code, name) FROM STDIN", f"{n}\tc{n:05}\tname\n"),
            Statement("copy in", "COPY items (id, kind, label) FROM STDIN WITH (FORMAT csv)", f"{n},1,copied\nnonsense,2,x\n"),
        )

    @makes("prepared", 2)
    def _(self):
        self.prepared.append(self.name("p"))
        table = self.table()
        return (
            f"PREPARE {self.prepared[-1]} (int) AS SELECT id, {self.text_of(table)} FROM {table}"
            f" WHERE {self.pick(*self.COLUMNS[table][0])} < $1 AND {self.condition(table, 1)} ORDER BY id, 2"
        )

    @makes("prepared", 3, lambda grammar: grammar.prepared)
    def _(self):
        name = self.pick(*self.prepared)
        if self.one_in(10):
            self.prepared.remove(name)
            return f"DEALLOCATE {name}"
        explain = self.pick("", "", "", "EXPLAIN ", "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) ")
        return f"{explain}EXECUTE {name} ({self.number()})"

    @makes("advisory lock")
    def _(self):
        function = self.pick("pg_try_advisory_lock", "pg_advisory_unlock", "pg_try_advisory_xact_lock", "pg_try_advisory_lock_shared")
        if self.world.system == AMP and self.one_in(3):
            function = "amp.try_advisory_xact_lock"
        return f"SELECT {function}({self.number()})"

    @makes("notification")
    def _(self):
        channel = self.pick("news", self.world.tenants[0], f"{self.world.tenants[0]}:news", f"{self.world.tenants[1]}:news")
        return self.pick(
            f'LISTEN "{channel}"',
            f"NOTIFY \"{channel}\", 'payload {self.number()}'",
            f"SELECT pg_notify('{channel}', 'by function')",
            "SELECT pg_listening_channels() ORDER BY 1",
            "UNLISTEN *",
            "SELECT pg_notification_queue_usage()",
        )

    @makes("temporary", 2)
    def _(self):
        name = self.name("made")
        self.temporary.append(name)
        return f"CREATE TEMP TABLE {name} AS {self.select()}"

    @makes("temporary", 1, lambda grammar: grammar.temporary)
    def _(self):
        name = self.pick(*self.temporary)
        return self.pick(
            f"SELECT count(*) FROM pg_temp.{name}",
            f"DROP TABLE pg_temp.{name}",
            f"CREATE INDEX ON pg_temp.{name} ((1))",
            f"ANALYZE pg_temp.{name}",
        )

    @makes("functions", 1)
    def _(self):
        """Functions, operators and views of the client's own, cheaper than the policies."""
        name, table = self.name("own"), self.pick(*PROTECTED)
        column = self.pick(*self.COLUMNS[table][1])
        body = f"BEGIN RAISE NOTICE 'own %', value; RETURN value = {self.value_of()}; END"
        function = f"CREATE FUNCTION pg_temp.{name}(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ {body} $$"
        return self.pick(
            [function, f"SELECT id FROM {table} WHERE pg_temp.{name}({column}) ORDER BY id"],
            [
                f"CREATE FUNCTION pg_temp.{name}(a text, b text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS"
                " $$ BEGIN RAISE NOTICE 'compared %', a; RETURN a < b; END $$",
                f"CREATE OPERATOR pg_temp.<<< (FUNCTION = pg_temp.{name}, LEFTARG = text, RIGHTARG = text, RESTRICT = scalarltsel)",
                f"SELECT id FROM {table} WHERE {column} OPERATOR(pg_temp.<<<) {self.value_of()} ORDER BY id",
                "DROP OPERATOR pg_temp.<<< (text, text)",
            ],
            [
                f"CREATE TEMP VIEW {name} AS SELECT id, {column} AS what FROM {table}",
                f"SELECT * FROM {name} WHERE leak(what) ORDER BY id",
                f"DROP VIEW {name}",
            ],
            f"CREATE FUNCTION pg_temp.{name}(value text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'",
        )

    @makes("block", 2)
    def _(self):
        query = f"SELECT id FROM {self.pick(*PROTECTED)} ORDER BY id"
        return self.pick(
            f"DO $$ DECLARE r record; BEGIN FOR r IN {query} LOOP RAISE NOTICE '%', r.id; END LOOP; END $$",
            f"DO $$ BEGIN {self.write()}; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '% %', SQLSTATE, SQLERRM; END $$"
            if not self.world.ordered
            else f"DO $$ DECLARE n int; BEGIN UPDATE orders SET qty = qty WHERE {self.condition('orders', 0)};"
            " GET DIAGNOSTICS n = ROW_COUNT; RAISE NOTICE 'rows %', n; END $$",
            f"DO $$ BEGIN PERFORM 1 FROM accounts WHERE name = {self.value_of()}; RAISE NOTICE 'found %', FOUND; END $$",
            "DO $$ BEGIN COMMIT; END $$",
        )

    SETTINGS = (
        "enable_seqscan enable_indexscan enable_bitmapscan enable_indexonlyscan enable_hashjoin enable_mergejoin enable_nestloop"
        " enable_sort enable_hashagg enable_material enable_partition_pruning enable_partitionwise_join"
    ).split()

    @makes("setting", 2)
    def _(self):
        return self.pick(
            f"SET {self.pick(*self.SETTINGS)} = {self.pick('on', 'off')}",
            f"SET plan_cache_mode = {self.pick('auto', 'force_generic_plan', 'force_custom_plan')}",
            f"SET work_mem = '{self.pick('64kB', '4MB')}'",
            f"SELECT set_config('{self.pick(*self.SETTINGS)}', '{self.pick('on', 'off')}', {self.pick('true', 'false')})",
            f"SET track_counts = {self.pick('on', 'off')}",
            f"SET log_statement_stats = {self.pick('on', 'off')}",
            ["SET row_security = off", self.select(), "SET row_security = on"],
            f"SELECT current_setting('{'amp.tenant_id' if self.world.system == AMP else 'app.tenant'}')",
            "DISCARD PLANS",
        )

    @makes("setting", 0.5, outside)
    def _(self):
        """Everything of the session, and in again."""
        self.cursors, self.prepared, self.temporary = [], [], []
        return ["DISCARD ALL", *self.world.entrance()]

    @makes("other tenant", 1)
    def _(self):
        """What is refused: the fuzzer is A."""
        if self.world.system != AMP or not self.world.client:
            return "SELECT current_setting('amp.nothing', true)"
        return self.pick(
            self.world.set_tenant(self.world.tenants[1]), "SET amp.user_id = 'bob'", f"SELECT amp.tenant('{self.world.tenants[1]}')"
        )

    @makes("large object")
    def _(self):
        return self.pick("SELECT lo_create(424242)", "SELECT lo_unlink(424242)", "SELECT lo_put(424242, 0, 'x')", "SELECT lo_get(424242)")

    @makes("position of the log", 1)
    def _(self):
        return self.pick("SELECT pg_current_xact_id()", "SELECT pg_current_snapshot()", "SELECT txid_current_if_assigned()")

    @makes("amp", 3, lambda grammar: grammar.world.system == AMP)
    def _(self):
        return self.pick(
            "SELECT amp.context()",
            "SELECT amp.tenant_id(), amp.user_id(), amp.role()",
            "SELECT amp.tenant()",
            "SELECT amp.usage()",
            f"SELECT amp.record_usage('api_calls', {self.pick(1, 2)}, {self.pick('NULL', f'{chr(39)}key {self.pick(*HOT)}{chr(39)}')})",
            f"SELECT amp.charge({self.pick(0, 1, 5)})",
            "SELECT amp.generation_allowed()",
            "SELECT amp.my_tenants()",
            f"SELECT amp.has_permission('{self.pick('content.view', 'users.manage')}')",
            "SELECT severity, code, object, finding FROM amp.doctor() ORDER BY 1, 2, 3, 4",
            "SELECT amp.brand_context()",
            "SELECT * FROM amp.approvals()",
        )
