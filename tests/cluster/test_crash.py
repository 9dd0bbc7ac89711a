"""kill -9 of the whole server in the middle of everything: what committed is back, what did not is gone (P12)."""

import os
import signal
import time
from contextlib import suppress

from harness import ROOT, raises


def test_a_crash_loses_nothing_that_committed(make_cluster):
    server = make_cluster()
    db = server.database()
    with db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        admin.execute("CREATE TABLE app.late (tenant_id text NOT NULL); ALTER TABLE app.late OWNER TO amp_owner")
        admin.execute("GRANT SELECT ON app.late TO amp_svc; INSERT INTO app.late VALUES ('bee')")
        admin.execute("SELECT amp.meter('app.missions', 'missions_created')")
        admin.execute("SELECT amp.create_tenant('Cat', 'cat', id => 'cat'), amp.suspend_tenant('cat')")

    committed, open_ones = db.connect("amp_svc"), [db.connect("amp_svc") for _ in range(3)]
    operator, owner = db.connect("amp_ops"), db.connect("amp_owner")
    committed.execute("SET amp.tenant_id = 'ant'")
    committed.execute("SELECT amp.record_usage('api_calls', 10, 'kept')")
    committed.execute("INSERT INTO app.missions VALUES ('ant', 10, 'kept')")
    for number, session in enumerate(open_ones):
        session.execute("SET amp.tenant_id = 'ant'")
        session.execute("BEGIN")
        session.execute("SELECT amp.record_usage('api_calls', 1000, %s)", [f"lost {number}"])
        session.execute("INSERT INTO app.missions VALUES ('ant', %s, 'lost')", [20 + number])
        if number == 0:  # committed while the others are open
            session.execute("COMMIT")
    operator.execute("BEGIN")
    operator.execute("SELECT amp.suspend_tenant('ant'), amp.remove_user('vic', 'ant')")
    owner.execute("BEGIN")
    owner.execute("SELECT * FROM amp.protect('app.late')")

    with server.connect() as admin:
        processes = [pid for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity")]
        with open(f"{server.dir}/data/postmaster.pid") as postmaster:
            processes.insert(0, int(postmaster.readline()))
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for _ in range(1000):  # until init has reaped them: pg_ctl takes a zombie for alive
        if not any(os.path.exists(f"/proc/{pid}") for pid in processes):
            break
        time.sleep(0.01)
    server.start()

    with db.connect() as admin:
        status = admin.execute("SELECT id, status FROM amp.tenants ORDER BY id").fetchall()
        assert status == [("ant", "active"), ("bee", "active"), ("cat", "suspended")]
        keys = admin.execute("SELECT idempotency_key FROM amp.usage_keys ORDER BY 1").fetchall()
        assert keys == [("kept",), ("lost 0",)]
        assert admin.execute("SELECT relation::text FROM amp.protected_tables").fetchall() == [("app.missions",)]
    with db.connect("amp_svc") as service:
        assert service.execute("SELECT * FROM app.late").fetchall() == [("bee",)]
        with raises("TN001"):
            service.execute("SELECT * FROM app.missions")
        with raises("TN002"):
            service.execute("SET amp.tenant_id = 'cat'")
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("SET amp.user_id = 'vic'")
        assert service.execute("SELECT array_agg(id ORDER BY id) FROM app.missions").fetchone() == ([1, 2, 3, 10, 20],)
        usage = service.execute("SELECT amp.usage()").fetchone()[0]["usage"]
        assert (usage["api_calls"], usage["missions_created"]) == (1010, 2)
        assert service.execute("SELECT amp.record_usage('api_calls', 10, 'kept')").fetchone() == (False,)
        assert service.execute("SELECT amp.record_usage('api_calls', 1000, 'lost 1')").fetchone() == (True,)
        service.execute("SET amp.tenant_id = 'ant'")
    with db.connect("amp_owner") as owner:
        kept = owner.execute("SELECT DISTINCT status FROM amp.protect('app.missions')").fetchall()
        assert kept == [("kept",)]
