"""Throwaway clusters and databases for the tests, which connect as ordinary roles.

The roles that every cluster has: amp_svc (an application service, in amp_service), amp_ops (the platform team, in
amp_operator), amp_client (neither), amp_owner (owns the application's tables).

AMP_HARDENED=1 hardens every database with the extension that does not say otherwise. There, who connects may make temporary objects all
the same: many attacks begin with one, and what stops them behind that has to be seen.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parent.parent
HARDENED = os.environ.get("AMP_HARDENED") == "1"
ROLES = {"amp_svc": "amp_service", "amp_ops": "amp_operator", "amp_client": None, "amp_owner": None}

# In memory where there is enough of it: a database is made and dropped for nearly every test.
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 8 << 30 else "/tmp"


def dev_cluster(*args):
    subprocess.run([ROOT / "dev/cluster", *args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def program(name):
    """The path of one of the server's programs, such as pg_dump."""
    bindir = subprocess.run([os.environ["AMP_PG_CONFIG"], "--bindir"], check=True, capture_output=True, text=True)
    return f"{bindir.stdout.strip()}/{name}"


class Cluster:
    """A running server; `settings` are lines of postgresql.conf. With `primary` it is a streaming standby of that cluster."""

    def __init__(self, primary=None, **settings):
        self.dir = tempfile.mkdtemp(prefix="amp.", dir=PLACE)
        os.chmod(self.dir, 0o755)
        self.host, self.log = f"{self.dir}/socket", f"{self.dir}/log"
        self.numbers, self.port, self.templates = count(1), settings.get("port", 5432), {}
        lines = [f"{key}={value}" for key, value in settings.items()]
        try:
            if primary:
                dev_cluster("standby", self.dir, primary.dir, *lines)
            else:
                dev_cluster("start", self.dir, *lines)
                with self.connect() as admin:
                    for role in ROLES:
                        admin.execute(f"CREATE ROLE {role} LOGIN")
        except BaseException:
            self.remove()
            raise

    def connect(self, dbname="postgres", user="postgres", autocommit=True, **kw):
        to = {"host": self.host, "port": self.port, **kw}
        return psycopg.connect(dbname=dbname, user=user, autocommit=autocommit, **to)

    def template(self, hardened=False, world=None):
        """The name of a database with the extension, whose roles are in their groups, that can be hardened, and filled by `world`: to copy it
        takes a fraction of the time of making another one.
        """
        if (hardened, world) not in self.templates:
            base = self.template() if hardened or world else None
            db = Database(self, f"template_{len(self.templates)}")
            with self.connect() as admin:
                admin.execute(f"CREATE DATABASE {db.name} TEMPLATE {base or 'template1'}")
                admin.execute(f"GRANT CREATE ON DATABASE {db.name} TO amp_owner")
            with db.connect() as admin:
                if not base:
                    admin.execute("GRANT CREATE ON SCHEMA public TO amp_owner; CREATE EXTENSION amp_tenancy")
                    for role, group in ROLES.items():
                        if group:
                            admin.execute(f"GRANT {group} TO {role}")
                if hardened:
                    admin.execute("SELECT FROM amp.harden()")
            if world:
                world(db)
            with self.connect() as admin:
                admin.execute(f"ALTER DATABASE {db.name} ALLOW_CONNECTIONS false")
            self.templates[hardened, world] = db.name
        return self.templates[hardened, world]

    def database(self, extension=True, hardened=None, world=None):
        """A new database; with the extension its roles are in their groups, and it can be hardened, and filled by `world`."""
        db = Database(self, f"test_{next(self.numbers)}", extension)
        by_default = hardened is None and HARDENED
        hardened = bool(hardened or by_default)
        with self.connect() as admin:
            admin.execute(f"CREATE DATABASE {db.name} TEMPLATE {self.template(hardened, world) if extension else 'template1'}")
            admin.execute(f"GRANT CREATE ON DATABASE {db.name} TO amp_owner")
            # A copy has all but the privileges on the database itself.
            if extension and hardened:
                admin.execute(f"REVOKE TEMPORARY ON DATABASE {db.name} FROM PUBLIC")
            if extension and by_default:
                admin.execute(f"GRANT TEMPORARY ON DATABASE {db.name} TO {', '.join(ROLES)}")
        if not extension:
            with db.connect() as admin:
                admin.execute("GRANT CREATE ON SCHEMA public TO amp_owner")
        return db

    def start(self):
        dev_cluster("start", self.dir)

    def restart(self):
        dev_cluster("restart", self.dir)

    def promote(self):
        dev_cluster("promote", self.dir)

    def stop(self, mode="fast"):
        dev_cluster("stop", self.dir, mode)

    def remove(self):
        if os.path.exists(f"{self.dir}/data/postmaster.pid"):
            with suppress(subprocess.CalledProcessError):  # a test may have killed it
                self.stop("immediate")
        shutil.rmtree(self.dir)


class Database:
    def __init__(self, cluster, name, extension=True):
        self.cluster, self.name, self.extension = cluster, name, extension

    def connect(self, user="postgres", **kw):
        return self.cluster.connect(self.name, user, **kw)

    def open_hole(self, sql, role="postgres"):
        """Runs schema changes that the DDL guard refuses, as a superuser lets them pass, in this role."""
        with self.connect() as admin, admin.transaction():
            admin.execute(f"SET LOCAL amp.allow_unsafe_ddl = on; SET LOCAL ROLE {role}")
            admin.execute(sql)

    def drop(self):
        with self.cluster.connect() as admin:
            admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@contextmanager
def raises(sqlstate, match=None):
    """The block must fail with this SQLSTATE (and a message that `match` finds)."""
    with pytest.raises(psycopg.Error, match=match) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate, f"{caught.value.sqlstate}: {caught.value}"
