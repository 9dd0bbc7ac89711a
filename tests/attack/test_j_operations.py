"""J. What operators do: dumps that hold too little, restores that are open for a while, event triggers that are off, old servers.

Dumps and restores of a whole database, standbys, and a library that is missing are in tests/cluster.
"""

import subprocess

import psycopg
import pytest

from harness import program, raises
from world import MINE, THEIRS, column, notes


def dumped(database, user, *options):
    return subprocess.run([program("pg_dump"), "-h", database.cluster.host, "-U", user, "-d", database.name, *options],
                          capture_output=True, text=True)


def restored(database, dump, cluster):
    copy = cluster.database(extension=False)
    subprocess.run([program("psql"), "-qX", "-h", cluster.host, "-U", "postgres", "-d", copy.name], input=dump, capture_output=True, text=True, check=True)
    copy.extension = database.extension
    return copy


def test_J1_restore_window(plain, amp, cluster):
    """A dump brings policies after the data: until it is done, and if only that much is restored, every row is there without any."""
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        whole, half = dumped(database, "postgres"), dumped(database, "postgres", "--section=pre-data", "--section=data")
        copy = restored(database, half.stdout, cluster)
        for role in "amp_svc", "amp_client":
            with copy.connect(role) as session:
                if database is plain:
                    assert notes(session) == MINE + THEIRS
                    continue
                for attack in ("SELECT note FROM orders", "COPY orders TO STDOUT", "UPDATE orders SET amount = 0", "DELETE FROM orders",
                               "INSERT INTO orders VALUES (1, 't2')", "SELECT count(*) FROM parents JOIN orders USING (tenant_id)"):  # fmt: skip
                    with raises("55000", "is forced and not enabled"):
                        session.execute(attack)
        if database is amp:
            with copy.connect() as admin:
                assert column(admin, "SELECT count(*) > 0 FROM amp.doctor() WHERE code = 'row-security-off'") == [True]
                assert notes(admin) == MINE + THEIRS
                admin.execute("CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS 'SELECT note FROM public.orders'")
            with copy.connect("amp_svc") as session, raises("55000"):
                session.execute("SELECT everything()")
            with copy.connect("amp_owner") as owner:
                assert notes(owner) == MINE + THEIRS  # who restores
        copy.drop()
        copy = restored(database, whole.stdout, cluster)
        with copy.connect() as admin:
            if database is amp:
                admin.execute("GRANT amp_service TO amp_svc")
        with copy.connect("amp_svc") as session:
            session.execute(f"SET {setting} = 't1'")
            assert notes(session) == MINE
        copy.drop()


def test_J2_dump_by_the_owner(plain, amp):
    """The owner dumps with --enable-row-security: no row, and success. Under amp an error."""
    options = ["--enable-row-security", "--data-only", "-t", "orders"]
    empty = dumped(plain, "amp_owner", *options)
    assert empty.returncode == 0 and "secret" not in empty.stdout and "mine" not in empty.stdout
    refused = dumped(amp, "amp_owner", *options)
    assert refused.returncode != 0 and "no tenant" in refused.stderr.lower() or "TN001" in refused.stderr, refused.stderr
    with amp.connect("amp_owner") as owner, raises("TN001"):
        owner.execute("SELECT * FROM orders")


def test_J7_event_triggers_are_off(amp):
    """A superuser switches amp's event triggers off: nobody else can, the floor stands without them, and the doctor tells."""
    names = """SELECT evtname FROM pg_event_trigger e JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid
               JOIN pg_extension x ON x.oid = d.refobjid WHERE extname = 'amp_tenancy'"""
    with amp.connect() as admin, amp.connect("amp_owner") as owner:
        for name in column(admin, names):
            with pytest.raises(psycopg.Error) as caught:
                owner.execute(f"ALTER EVENT TRIGGER {name} DISABLE")
            assert caught.value.sqlstate == "42501"
            admin.execute(f"ALTER EVENT TRIGGER {name} DISABLE")
            assert admin.execute("SELECT FROM amp.doctor() WHERE object LIKE %s", [f"%{name}%"]).fetchall(), name
        if admin.info.server_version >= 170000:
            with pytest.raises(psycopg.Error) as caught:
                owner.execute("SET event_triggers = off")
            assert caught.value.sqlstate == "42501"
    with amp.connect("amp_svc") as svc:
        svc.execute("SET amp.tenant_id = 't1'")
        assert notes(svc) == MINE


# The minor releases that closed the last known holes in row security.
PATCHED = {15: 150020, 16: 160016, 17: 170012, 18: 180007}


def test_J9_unpatched_server(amp):
    """The doctor warns of a server without the fixes."""
    with amp.connect() as admin:
        old = admin.info.server_version < PATCHED[admin.info.server_version // 10000]
        assert column(admin, "SELECT count(*) FROM amp.doctor() WHERE code = 'old-minor'") == [int(old)]
