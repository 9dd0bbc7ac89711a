"""G. Oracles beside the loops of test_g_recovery.py: what an answer, a message or a number tells of another tenant's rows."""

import psycopg
import pytest

from attackers import PLAIN
from harness import raises
from test_g_recovery import ENTRIES, HIDDEN
from world import column, isolate_plainly

BOOKINGS = """
    CREATE TABLE bookings (id int, tenant_id text COLLATE "C" NOT NULL, during int4range, PRIMARY KEY (tenant_id, id),
        EXCLUDE USING gist (during WITH &&));
    INSERT INTO bookings VALUES (1, 't2', '[10,20)');
    GRANT SELECT, INSERT ON bookings TO amp_svc, amp_client;
"""


def isolated(attacker, sql, table):
    with attacker.database.connect() as admin:
        admin.execute("CREATE EXTENSION btree_gist")
    with attacker.database.connect("amp_owner") as owner:
        owner.execute(sql)
        isolate_plainly(owner, table) if attacker.kind == PLAIN else owner.execute(f"SELECT amp.protect('{table}', fix => true)")


def test_G6_exclusion_constraint(everywhere):
    """A booking that overlaps a hidden one is refused, one that does not is not."""
    isolated(everywhere, BOOKINGS, "bookings")
    with everywhere.open() as session:
        session.execute("INSERT INTO bookings VALUES (2, 't1', '[30,40)')")
        if everywhere.kind == PLAIN:
            with raises("23P01"):
                session.execute("INSERT INTO bookings VALUES (3, 't1', '[15,16)')")
        else:
            session.execute("INSERT INTO bookings VALUES (3, 't1', '[15,16)')")
        with raises("23P01"):
            session.execute("INSERT INTO bookings VALUES (4, 't1', '[35,36)')")


OPERATOR = """
    CREATE FUNCTION {0}.leak(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;
    CREATE OPERATOR {0}.<<< (FUNCTION = {0}.leak, LEFTARG = text, RIGHTARG = text, RESTRICT = scalarltsel);
"""


def test_G8_operator_that_the_planner_calls(everywhere):
    """An operator of the attacker's own with a selectivity estimator: the planner would call it with values of everybody's statistics."""
    isolated(everywhere, ENTRIES, "entries")
    heard = []
    with everywhere.database.connect() as admin:
        admin.execute("ANALYZE entries; CREATE SCHEMA own; GRANT ALL ON SCHEMA own TO PUBLIC")
    with everywhere.open() as session:
        session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        session.execute(OPERATOR.format("own"))
        for table in "entries", "ONLY entries", "(SELECT * FROM entries) s":
            session.execute(f"SELECT iban FROM {table} WHERE iban OPERATOR(own.<<<) 'x'")
    assert heard and set(heard) == {"----------------"}  # the rows of his own
    with everywhere.database.connect() as admin:  # the values are there for who may see them
        heard.clear()
        admin.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        admin.execute("SELECT iban FROM entries WHERE iban OPERATOR(own.<<<) 'x'")
    assert HIDDEN in heard


def test_G9_statistics_views(everywhere):
    """pg_stats, pg_stats_ext and pg_statistic: nothing of a table with row security."""
    isolated(everywhere, ENTRIES, "entries")
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute("CREATE STATISTICS both_of (mcv) ON tenant_id, iban FROM entries")
    with everywhere.database.connect() as admin:
        admin.execute("ANALYZE entries")
        assert HIDDEN in str(admin.execute("SELECT most_common_vals FROM pg_stats WHERE tablename = 'entries'").fetchall())
        assert HIDDEN in str(admin.execute("SELECT most_common_vals FROM pg_stats_ext WHERE tablename = 'entries'").fetchall())
    with everywhere.open() as session:
        for view in "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs":
            assert session.execute(f"SELECT FROM {view} WHERE tablename = 'entries'").fetchall() == []
        for table in "pg_statistic", "pg_statistic_ext_data":
            with raises("42501"):
                session.execute(f"SELECT * FROM {table}")


@pytest.mark.still_open("any")
def test_G12_sequence(everywhere):
    """Numbers from one sequence: the gap between two of one's own says how many rows the others have made."""
    counted = """
        CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY, tenant_id text COLLATE "C" NOT NULL, PRIMARY KEY (tenant_id, id));
        GRANT SELECT, INSERT ON counted TO amp_svc, amp_client"""
    isolated(everywhere, counted, "counted")
    with everywhere.open() as session:
        before = column(session, "INSERT INTO counted (tenant_id) VALUES ('t1') RETURNING id")[0]
        with everywhere.database.connect() as admin:
            admin.execute("INSERT INTO counted (tenant_id) SELECT 't2' FROM generate_series(1, 37)")
        assert column(session, "INSERT INTO counted (tenant_id) VALUES ('t1') RETURNING id") == [before + 38]


GUARDED = """
    CREATE TABLE guarded (id int, tenant_id text COLLATE "C" NOT NULL, note text NOT NULL CHECK (note <> 'bad'), at int,
        PRIMARY KEY (tenant_id, id, at)) PARTITION BY RANGE (at);
    CREATE TABLE guarded_1 PARTITION OF guarded FOR VALUES FROM (0) TO (100);
    CREATE TABLE guarded_2 PARTITION OF guarded FOR VALUES FROM (100) TO (200);
    INSERT INTO guarded VALUES (1, 't1', 'mine', 1), (1, 't2', 'secret', 1);
    GRANT SELECT, INSERT, UPDATE ON guarded, guarded_1, guarded_2 TO amp_svc, amp_client;
"""


def test_G14_error_texts(everywhere):
    """Errors of keys, checks and partitions, in the attacker's rows and where he aims at hidden ones: no hidden value in any field."""
    isolated(everywhere, GUARDED, "guarded")
    if everywhere.kind == PLAIN:
        with everywhere.database.connect("amp_owner") as owner:
            isolate_plainly(owner, "guarded_1", "guarded_2")
    said = []
    with everywhere.open() as session:
        for attack in ("INSERT INTO guarded VALUES (1, 't2', 'x', 1)", "INSERT INTO guarded VALUES (1, 't1', 'x', 1)",
                       "INSERT INTO guarded VALUES (1, 't2', 'x', 1) ON CONFLICT (tenant_id, id, at) DO UPDATE SET note = guarded.note || 'bad'",
                       "UPDATE guarded SET note = 'bad'", "UPDATE guarded SET note = NULL", "UPDATE guarded SET tenant_id = 't2'",
                       "UPDATE guarded_1 SET at = 150", "UPDATE guarded SET at = 1500", "INSERT INTO guarded_1 VALUES (3, 't1', 'x', 150)",
                       "INSERT INTO orders VALUES (99, 't1', 'x', 1, 777)", "INSERT INTO orders VALUES (21, 't2', 'x')"):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(attack)
            diagnosis = caught.value.diag
            said.append(f"{diagnosis.message_primary} {diagnosis.message_detail} {diagnosis.message_hint} {diagnosis.context}")
    assert "violates check constraint" in "".join(said) and not any("secret" in text for text in said)


def test_G15_what_catalogs_say(plain, amp):
    """Everybody reads policies, functions and settings of roles in the catalogs: they must name no tenant."""
    with plain.connect() as admin:
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {plain.name} SET app.tenant = 'tenant-2'")
    with plain.connect("amp_client") as client:
        assert "tenant-2" in str(column(client, "SELECT setconfig FROM pg_db_role_setting"))
    with amp.connect("amp_client") as client:
        texts = column(client, "SELECT qual FROM pg_policies WHERE tablename = 'orders' AND qual IS NOT NULL")
        assert any("amp.tenant_id(" in text for text in texts) and not any("t1" in text or "t2" in text for text in texts)
        source = "SELECT coalesce(prosrc, '') FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'amp'"
        assert not any("amp_sk_" in text and "t2" in text for text in column(client, source))
    with amp.connect() as admin, raises("TN006"):
        admin.execute(f"ALTER ROLE amp_svc IN DATABASE {amp.name} SET amp.tenant_id = 't2'")
