"""I. Channels beside tables: notifications and replication. Locks and large objects are in test_i_channels.py."""

import pytest

from harness import Cluster, raises
from world import TABLES, isolate_plainly, under_amp


def hardened(database):
    with database.connect() as admin:
        return database.extension and admin.execute("SELECT EXISTS (SELECT FROM amp.hardening)").fetchone()[0]



@pytest.mark.still_open("unhardened")
def test_I1_listen_to_another_tenants_channel(everywhere):
    """LISTEN asks nobody: who knows or guesses a channel's name gets its payloads."""
    closed = hardened(everywhere.database)
    with everywhere.open() as session:
        if closed:
            for channel in "orders_t2", "t2", '"t2:orders"', '"t2.orders"', '"t1x"':
                with raises("TN004"):
                    session.execute(f"LISTEN {channel}")
            session.execute("LISTEN \"t1:orders\"")
        else:
            session.execute("LISTEN orders_t2")
        with everywhere.database.connect("amp_ops") as other:
            other.execute("SELECT pg_notify('orders_t2', 'secret'), pg_notify('t1:orders', 'mine')")
        assert next(session.notifies()).payload == ("mine" if closed else "secret")


def test_I1_listen_in_transaction_scope(under):
    """In transaction scope, LISTEN would outlive the transaction."""
    with under.database.connect() as admin:
        admin.execute(f"ALTER ROLE {under.role} IN DATABASE {under.database.name} SET amp.context_scope = 'transaction'")
    with under.open(autocommit=False) as session, raises("TN004"):
        session.execute("LISTEN orders_t2")


@pytest.fixture(scope="module")
def logical():
    server = Cluster(wal_level="logical")
    with server.connect() as admin:
        admin.execute("CREATE ROLE replicator LOGIN REPLICATION")
    yield server
    server.remove()


@pytest.mark.still_open("any")
@pytest.mark.parametrize("kind", ["plain", "amp"])
def test_I4_logical_decoding(logical, kind):
    """Whoever may replicate reads every change in the database: no row filter and no policy is asked. The doctor names publications."""
    database = logical.database(extension=kind == "amp")
    if kind == "amp":
        under_amp(database)
    else:
        with database.connect("amp_owner") as owner:
            owner.execute(TABLES)
            isolate_plainly(owner, "parents", "orders")
    with database.connect("replicator") as replicator, database.connect() as admin:
        admin.execute("CREATE PUBLICATION narrow FOR TABLE orders WHERE (tenant_id = 't1')")
        replicator.execute("SELECT pg_create_logical_replication_slot('attack', 'test_decoding')")
        try:
            admin.execute("INSERT INTO orders (id, tenant_id, note) VALUES (99, 't2', 'private')")
            changes = replicator.execute("SELECT data FROM pg_logical_slot_get_changes('attack', NULL, NULL)").fetchall()
        finally:
            replicator.execute("SELECT pg_drop_replication_slot('attack')")
        assert "private" in str(changes)
        if kind == "amp":
            assert admin.execute("SELECT FROM amp.doctor() WHERE code = 'publication' AND object LIKE '%narrow%'").fetchall()
    database.drop()
