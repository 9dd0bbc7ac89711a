"""The two worlds of the attacks: the same tables and rows under plain row security and under amp_tenancy."""

TABLES = """
    CREATE TABLE parents (id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL, name text);
    CREATE TABLE orders (
        id int PRIMARY KEY, tenant_id text COLLATE "C" NOT NULL, note text, amount int,
        parent_id int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
    INSERT INTO parents VALUES (1, 't1', 'one'), (2, 't2', 'two');
    INSERT INTO orders VALUES (11, 't1', 'mine', 10, 1), (12, 't1', 'mine, too', 20, 1),
                              (21, 't2', 'secret', 1, 2), (22, 't2', 'secret, too', 2, 2), (23, 't2', 'the last', 3, NULL);
    GRANT SELECT, INSERT, UPDATE, DELETE ON parents, orders TO amp_svc, amp_client, amp_ops;
"""

MINE = ["mine", "mine, too"]
THEIRS = ["secret", "secret, too", "the last"]


def isolate_plainly(connection, *tables):
    """What everybody does: row security enabled and forced, one policy on a setting."""
    for table in tables:
        connection.execute(f"""
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON {table} USING (tenant_id = current_setting('app.tenant', true));
        """)


def under_amp(database):
    """The same under amp_tenancy, with tenants t1 and t2."""
    with database.connect("amp_ops") as ops:
        for tenant in ("t1", "t2"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    with database.connect("amp_owner") as owner:
        owner.execute(TABLES)
        for table in ("parents", "orders"):
            owner.execute(f"SELECT amp.protect('{table}', fix => true)")
    return database


def people(database, **tenants):
    """people(database, ann=("t1", "admin")): users of readable ids, members of these tenants by these roles."""
    with database.connect() as admin, database.connect("amp_ops") as ops:
        for user, (tenant, role) in tenants.items():
            admin.execute("INSERT INTO amp.app_users VALUES (%s, %s) ON CONFLICT DO NOTHING", [user, f"{user}@example.com"])
            ops.execute("SELECT amp.invite_user(%s, %s, %s)", [f"{user}@example.com", role, tenant])


def column(connection, sql, *args):
    """The first column of a query's rows, sorted."""
    return sorted(row[0] for row in connection.execute(sql, args or None).fetchall())


def notes(connection):
    return column(connection, "SELECT note FROM orders")


def snapshot(database):
    """Every row of both tables, as a superuser sees them."""
    with database.connect() as admin:
        return [admin.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("parents", "orders")]
