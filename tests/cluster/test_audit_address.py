"""The audit log has the client's address, of what was done and of what was refused."""

import socket
import time

import psycopg
import pytest


def test_address_of_a_tcp_client(make_cluster):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = make_cluster(listen_addresses="127.0.0.1", port=port)
    db = cluster.database()
    for user, statement in ("amp_ops", "SELECT amp.create_tenant('T', 'ttt', id => 't')"), ("amp_client", "SET amp.tenant_id = 't'"):
        with db.connect(user, host="127.0.0.1") as session:
            if user == "amp_ops":
                session.execute(statement)
            else:
                with pytest.raises(psycopg.Error):
                    session.execute(statement)
    until = time.monotonic() + 30
    with db.connect() as admin:
        while time.monotonic() < until:
            found = admin.execute("SELECT action, host(client_address) FROM amp.audit_log ORDER BY action").fetchall()
            if len(found) == 2:
                break
            time.sleep(0.2)
    assert found == [("context.refused", "127.0.0.1"), ("tenant.created", "127.0.0.1")]
