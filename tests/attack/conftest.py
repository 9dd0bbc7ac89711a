import pytest

from attackers import UNDER_AMP, attacker
from neighbours import PLAIN, TRUSTED, Neighbours
from proofs import CHOOSES, KINDS, TOKEN, Proved
from world import TABLES, isolate_plainly, under_amp


@pytest.fixture
def plain(plain_db):
    """Plain PostgreSQL: policies on app.tenant, forced; amp_svc and amp_client are neither owner nor superuser."""
    with plain_db.connect("amp_owner") as owner:
        owner.execute(TABLES)
        isolate_plainly(owner, "parents", "orders")
    return plain_db


@pytest.fixture
def amp(cluster):
    """The same under amp_tenancy, with tenants t1 and t2."""
    database = cluster.database(world=under_amp)
    yield database
    database.drop()


@pytest.fixture(params=KINDS)
def proved(amp, request):
    """Sessions under amp_tenancy that have proved who they are and can enter t1 alone, by each kind of proof."""
    return Proved(amp, request.param)


@pytest.fixture(params=[PLAIN, *UNDER_AMP])
def everywhere(request):
    """An attacker who is in t1: on plain PostgreSQL first, then under amp by each kind of session."""
    return attacker(request.getfixturevalue("plain" if request.param == PLAIN else "amp"), request.param)


@pytest.fixture(params=UNDER_AMP)
def under(amp, request):
    """An attacker who is in t1, under amp, by each kind of session."""
    return attacker(amp, request.param)


@pytest.fixture
def plain_neighbours(plain):
    """Two tenants' sessions by one database role, on plain PostgreSQL."""
    return Neighbours(plain, PLAIN)


@pytest.fixture(params=[TRUSTED, TOKEN])
def open_neighbours(cluster, request):
    """Two tenants' sessions by one database role, under amp_tenancy in a database that is not hardened."""
    database = cluster.database(hardened=False, world=under_amp)
    yield Neighbours(database, request.param)
    database.drop()


@pytest.fixture(params=[TRUSTED, TOKEN])
def neighbours(cluster, request):
    """Two tenants' sessions by one database role, under amp_tenancy in a hardened database."""
    database = cluster.database(hardened=True, world=under_amp)
    yield Neighbours(database, request.param)
    database.drop()


@pytest.fixture
def choosing(amp):
    """Sessions of a client who is in t1 now, and may choose t2."""
    return Proved(amp, CHOOSES)


@pytest.fixture
def bits(record_property):
    """bits(got, of): how many bits of a hidden value an attack has recovered, for tests/attacks."""
    return lambda got, of: record_property("bits", [round(got, 1), round(of, 1)])


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
