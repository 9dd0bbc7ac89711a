"""L. Usage: counting for, and reading of, another tenant. Waiting: L1, L2 (usage that survives a rollback)."""

import pytest

from harness import raises
from world import column


def test_L3_other_tenants_counters(amp):
    """A session reads, writes or bills another tenant's counters."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't2'; SELECT amp.record_usage('api_calls', 7, 'key')")
        svc.execute("SET amp.tenant_id = 't1'")
        assert column(svc, "SELECT amount FROM amp.usage_counters") == column(svc, "SELECT amount FROM amp.usage_keys") == []
        with raises("TN003"):
            svc.execute("SELECT amp.usage('t2')")
        assert column(svc, "SELECT amp.record_usage('api_calls', 1, 'key')") == [True]
        for attack in ("UPDATE amp.usage_counters SET amount = 0", "DELETE FROM amp.usage_keys", "SELECT amp.add_usage('t2', 'cost_cents', 1)",
                       "INSERT INTO amp.usage_counters VALUES ('t2', 'x', now(), 0, 0)", "TRUNCATE amp.usage_counters"):
            with raises("42501"):
                svc.execute(attack)
    for role in "amp_client", "amp_owner":
        with amp.connect(role) as session, raises("TN001"):
            session.execute("SELECT amp.record_usage('api_calls')")
    with amp.connect() as admin:
        assert admin.execute("SELECT tenant_id, amount FROM amp.usage_counters ORDER BY 1").fetchall() == [("t1", 1), ("t2", 7)]


def test_L3_meter_on_a_table_of_ones_own(amp):
    """A client protects and meters his own table, takes row security off and bills anybody."""
    with amp.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_client")
    with amp.connect("amp_client") as client:
        client.execute("CREATE TABLE own (tenant_id text COLLATE \"C\"); SELECT amp.protect('own'); SELECT amp.meter('own', 'rows')")
        client.execute("ALTER TABLE own DISABLE ROW LEVEL SECURITY")
        with raises("42501", match="add_usage"):
            client.execute("INSERT INTO own SELECT 't2' FROM generate_series(1, 1000)")
    with amp.connect() as admin:
        assert column(admin, "SELECT amount FROM amp.usage_counters") == []
