"""L. Usage: counting for, and reading of, another tenant; having it uncounted."""

import time
from contextlib import suppress

import psycopg
import pytest

from harness import raises
from world import column, isolate_plainly


def immediately_counted(amp, wanted):
    with amp.connect() as admin:
        for _ in range(500):
            counted = column(admin, "SELECT amount FROM amp.usage_counters WHERE tenant_id = 't1' AND metric = 'api_calls'")
            if counted == [wanted]:
                break
            time.sleep(0.02)
        assert counted == [wanted]


@pytest.mark.parametrize("begin, end", [("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT"), ("BEGIN", "SELECT 1 / 0")])
def test_L1_a_rollback_erases_usage(amp, begin, end):
    """A session calls, and rolls back what was counted."""
    with amp.connect("amp_svc") as svc:
        svc.execute(f"SET amp.tenant_id = 't1'; {begin}")
        svc.execute("SELECT amp.record_usage('api_calls'), amp.record_usage('api_calls', 10, durability => 'immediate')")
        with suppress(psycopg.errors.DivisionByZero):
            svc.execute(end)
        svc.execute("ROLLBACK")
    immediately_counted(amp, 10)


def test_L2_a_read_only_transaction_evades_counting(amp):
    """A session calls in a transaction that cannot write."""
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'; BEGIN READ ONLY")
        svc.execute("SELECT amp.record_usage('api_calls', 10, durability => 'immediate')")
        with raises("25006"):
            svc.execute("SELECT amp.record_usage('api_calls')")
        svc.execute("ROLLBACK")
    immediately_counted(amp, 10)


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
        with raises("TN008"):
            client.execute("ALTER TABLE own DISABLE ROW LEVEL SECURITY")
        amp.open_hole("ALTER TABLE own DISABLE ROW LEVEL SECURITY")
        with raises("42501", match="add_usage"):
            client.execute("INSERT INTO own SELECT 't2' FROM generate_series(1, 1000)")
    with amp.connect() as admin:
        assert column(admin, "SELECT amount FROM amp.usage_counters") == []


def test_L1_a_rollback_erases_usage_plain(plain):
    """Plain: a counter in a table is what the transaction makes of it, and a read-only one counts nothing (L2)."""
    with plain.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE counters (calls int); INSERT INTO counters VALUES (0); GRANT SELECT, UPDATE ON counters TO amp_svc")
    with plain.connect("amp_svc") as svc:
        svc.execute("BEGIN; UPDATE counters SET calls = calls + 1; ROLLBACK")
        svc.execute("BEGIN READ ONLY; SELECT FROM orders")
        with raises("25006"):
            svc.execute("UPDATE counters SET calls = calls + 1")
        svc.execute("ROLLBACK")
        assert column(svc, "SELECT calls FROM counters") == [0]


def test_L3_other_tenants_counters_plain(plain):
    """Plain: counters under a policy on a setting are whose the setting says."""
    with plain.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE counters (tenant_id text, calls int); INSERT INTO counters VALUES ('t2', 7); GRANT ALL ON counters TO amp_svc")
        isolate_plainly(owner, "counters")
    with plain.connect("amp_svc") as svc:
        svc.execute("SET app.tenant = 't1'; SET app.tenant = 't2'; UPDATE counters SET calls = calls + 1000")
        assert column(svc, "SELECT calls FROM counters") == [1007]


@pytest.mark.still_open("any")
def test_L5_settings_that_cost(everywhere):
    """A client raises what his statements may take: memory, time, workers."""
    with everywhere.open() as session:
        for setting, value in ("work_mem", "1GB"), ("statement_timeout", "0"), ("max_parallel_workers_per_gather", "64"):
            session.execute(f"SET {setting} = '{value}'")
            assert column(session, f"SHOW {setting}") == [value]
