"""Read-only transactions: reading under a tenant works in them, however they came to be read-only."""

import pytest

from harness import ROOT, raises


@pytest.fixture
def db(fresh_db):
    with fresh_db.connect() as admin:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
    return fresh_db


@pytest.mark.parametrize("begin", ["BEGIN READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"])
def test_a_read_only_transaction_reads_its_tenant(db, begin):
    with db.connect("amp_svc") as service:
        service.execute(begin)
        service.execute("SET LOCAL amp.tenant_id = 'bee'")
        assert service.execute("SELECT DISTINCT tenant_id, count(*) OVER () FROM app.missions").fetchall() == [("bee", 5)]
        assert service.execute("SELECT amp.has_permission('missions.create')").fetchone() == (True,)
        with raises("25006"):
            service.execute("SELECT amp.record_usage('api_calls')")


def test_read_only_by_default(db):
    with db.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {db.name} SET default_transaction_read_only = on")
    with db.connect("amp_svc") as service:
        with raises("TN001"):
            service.execute("SELECT * FROM app.missions")
        service.execute("SET amp.tenant_id = 'ant'")
        service.execute("SET amp.user_id = 'ada'")
        assert service.execute("SELECT amp.role(), count(*) FROM app.missions").fetchone() == ("admin", 3)
        assert service.execute("SELECT amp.my_tenants()").fetchone()[0]["data"][1]["id"] == "bee"
        with raises("25006"):
            service.execute("SELECT amp.invite_user('new@example.com', 'viewer')")
        with raises("25006"):
            service.execute("DELETE FROM app.missions")
