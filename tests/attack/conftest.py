import pytest

from world import TABLES, isolate_plainly


@pytest.fixture
def plain(plain_db):
    """Plain PostgreSQL: policies on app.tenant, forced; amp_svc and amp_client are neither owner nor superuser."""
    with plain_db.connect("amp_owner") as owner:
        owner.execute(TABLES)
        isolate_plainly(owner, "parents", "orders")
    return plain_db


@pytest.fixture
def amp(fresh_db):
    """The same under amp_tenancy, with tenants t1 and t2."""
    with fresh_db.connect("amp_ops") as ops:
        for tenant in ("t1", "t2"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
    with fresh_db.connect("amp_owner") as owner:
        owner.execute(TABLES)
        for table in ("parents", "orders"):
            owner.execute(f"SELECT amp.protect('{table}', fix => true)")
    return fresh_db


@pytest.fixture
def new_role(cluster):
    """new_role("LOGIN IN ROLE amp_svc"): a role for one test, with the privileges that it inherits."""
    names = []

    def make(attributes):
        names.append(f"attack_role_{len(names)}")
        with cluster.connect() as admin:
            admin.execute(f"CREATE ROLE {names[-1]} {attributes}")
        return names[-1]

    yield make
    with cluster.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = ANY (%s)", [names])
        for name in names:
            admin.execute(f"DROP ROLE {name}")
