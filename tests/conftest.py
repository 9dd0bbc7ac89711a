import pytest

from harness import Cluster


def pytest_configure(config):
    config.addinivalue_line("markers", "still_open(when): shows that an attack works under amp: in any database, or in one that is not hardened")


@pytest.fixture(scope="session")
def cluster():
    """One server for the whole run, amp_tenancy preloaded."""
    server = Cluster()
    yield server
    server.remove()


@pytest.fixture
def make_cluster():
    """make_cluster(primary=None, **settings): servers for one test, with settings of their own."""
    servers = []

    def make(*args, **settings):
        servers.append(Cluster(*args, **settings))
        return servers[-1]

    yield make
    for server in reversed(servers):
        server.remove()


@pytest.fixture
def fresh_db(cluster):
    """A new database with the extension."""
    db = cluster.database()
    yield db
    db.drop()


@pytest.fixture
def plain_db(cluster):
    """A new database without the extension, to show what plain PostgreSQL does."""
    db = cluster.database(extension=False)
    yield db
    db.drop()
