"""G. Values of another tenant's rows, recovered character by character: real loops, which say how many bits they got.

T2 has an account whose number nobody else knows: sixteen characters, 82.7 bits. The attacker, in t1, asks an oracle whether it lies in a
range, and halves the range until he has it. On plain PostgreSQL he gets all of it; under amp no bit.
"""

import math
import re

import psycopg
import pytest

from attackers import PLAIN
from harness import raises
from world import column, isolate_plainly

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HIDDEN = "QM71Z4KX0B93TW5H"
EACH = math.log2(len(ALPHABET))
PEOPLE = ["amp_svc", "amp_client"]

# Two hundred entries of each tenant's account; the index on the number is what an application would make.
ENTRIES = f"""
    CREATE TABLE entries (id int, tenant_id text COLLATE "C" NOT NULL, iban text COLLATE "C" NOT NULL, PRIMARY KEY (id, tenant_id));
    CREATE INDEX ON entries (iban);
    INSERT INTO entries SELECT n, 't1', '----------------' FROM generate_series(1, 200) n;
    INSERT INTO entries SELECT n, 't2', '{HIDDEN}' FROM generate_series(201, 400) n;
    GRANT SELECT ON entries TO {", ".join(PEOPLE)};
"""


@pytest.fixture
def accounts(everywhere):
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(ENTRIES)
        if everywhere.kind == PLAIN:
            isolate_plainly(owner, "entries")
        else:
            owner.execute("SELECT amp.protect('entries', fix => true)")
        owner.execute("ANALYZE entries")
    return everywhere


def recover(asked):
    """Recovers the hidden value by `asked(low, high)`, a number that differs if somebody's value is in the range; as far as it goes."""
    silent, known = asked("z", "zz"), ""  # a range that nobody's value is in

    def hit(low, high):
        return asked(low, high) != silent

    while len(known) < len(HIDDEN) and hit(known + ALPHABET[0], known + "~"):
        candidates = ALPHABET
        while len(candidates) > 1:
            half = candidates[: len(candidates) // 2]
            candidates = half if hit(known + half[0], known + half[-1] + "~") else candidates[len(half) :]
        known += candidates
    return known


def judge(attacker, asked, bits, refusals=()):
    """Runs the loop. On plain PostgreSQL it must get the value, under amp nothing; `refusals` are the errors that may be why."""
    try:
        known = recover(asked)
    except psycopg.Error as error:
        assert attacker.kind != PLAIN and error.sqlstate in refusals, error
        known = ""
    right = next((n for n, (got, real) in enumerate(zip(known, HIDDEN)) if got != real), len(known))
    bits(right * EACH, len(HIDDEN) * EACH)
    assert known == (HIDDEN if attacker.kind == PLAIN else "")


RANGE = "SELECT 1 FROM entries WHERE iban >= '{}' AND iban < '{}'"


def by_index(session, sql="SET enable_seqscan = off; SET enable_bitmapscan = off"):
    session.execute(sql)
    return session


def numbers(session, sql, what):
    text = "\n".join(row[0] for row in session.execute(sql))
    return [int(number) for number in re.findall(what, text)]


def rows_removed(session):
    """EXPLAIN ANALYZE counts the rows that the policy has removed."""
    by_index(session)
    return lambda *bounds: sum(numbers(session, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + RANGE.format(*bounds), r"Removed by Filter: (\d+)"))


def rows_of_the_index(session):
    """EXPLAIN ANALYZE of a bitmap scan counts what the index gave, before any policy."""
    by_index(session, "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off")
    asks = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + RANGE
    return lambda *bounds: sum(numbers(session, asks.format(*bounds), r"Bitmap Index Scan.*?rows=(\d+)"))


def buffers_of_a_function(session):
    """EXPLAIN ANALYZE of a function that reads: its plan is not shown, its buffers are."""
    by_index(session)
    session.execute("""
        CREATE FUNCTION pg_temp.reads(low text, high text) RETURNS bigint LANGUAGE plpgsql AS $$
        BEGIN RETURN (SELECT count(*) FROM public.entries WHERE iban >= low AND iban < high); END $$""")
    session.execute("SET plan_cache_mode = force_generic_plan")

    def asked(*bounds):
        sql = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) SELECT pg_temp.reads('{bounds[0]}', '{bounds[1]}')"
        return min(sum(numbers(session, sql, r"Result.*\n *Buffers: shared hit=(\d+)")) for _ in range(3))  # the first also reads catalogs

    return asked


@pytest.mark.parametrize("oracle", [rows_removed, rows_of_the_index, buffers_of_a_function])
def test_G1_explain_analyze(accounts, bits, oracle):
    """EXPLAIN ANALYZE counts rows that the policy removes, and buffers that were read for them."""
    with accounts.open() as session:
        try:
            asked = oracle(session)
        except psycopg.Error as error:  # no temporary function, no oracle
            assert accounts.kind != PLAIN and oracle is buffers_of_a_function and error.sqlstate in ("TN004", "42501"), error
            return bits(0, len(HIDDEN) * EACH)
        judge(accounts, asked, bits, ["TN004"])


COUNTERS = {
    "tables": "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'entries'",
    "indexes": """SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid) + pg_stat_get_xact_tuples_fetched(indexrelid))
                  FROM pg_index WHERE indrelid = 'entries'::regclass""",
}


@pytest.mark.parametrize("counter", COUNTERS)
def test_G2_counters_of_the_own_transaction(accounts, bits, counter):
    """pg_stat_xact_user_tables before and after a plain SELECT: no EXPLAIN is needed."""
    with accounts.open(autocommit=False) as session:
        by_index(session)

        def asked(*bounds):
            before = session.execute(COUNTERS[counter]).fetchone()[0]
            session.execute(RANGE.format(*bounds))
            return session.execute(COUNTERS[counter]).fetchone()[0] - before

        judge(accounts, asked, bits, ["42501"])


@pytest.fixture
def badly_indexed(accounts):
    """The index on the number is what an application makes of it: the tenant does not lead it, and there is no other."""
    if accounts.kind != PLAIN:
        with accounts.database.connect() as admin:
            indexes = column(admin, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'entries'::regclass AND NOT indisprimary")
        accounts.database.open_hole(f"DROP INDEX {', '.join(indexes)}; CREATE INDEX entries_iban_idx ON entries (iban)")
    return accounts


def test_G2_blocks_of_the_own_statements(badly_indexed, bits):
    """A statement that returns nothing reads one more block where a hidden row is in the range. On plain PostgreSQL its own views tell; under amp,
    hardened or not, amp.stat_tenants does not, of the tenant's own statements either."""
    plain = badly_indexed.kind == PLAIN
    counter = ("SELECT heap_blks_hit + heap_blks_read FROM pg_statio_user_tables WHERE relname = 'entries'" if plain
               else "SELECT shared_blks_hit + shared_blks_read FROM amp.stat_tenants")
    with badly_indexed.open() as session:
        by_index(session).execute(RANGE.format("z", "zz"))

        def blocks():
            if plain:
                session.execute("SELECT pg_stat_force_next_flush()")
            return session.execute(counter).fetchone()[0]

        def asked(*bounds):
            before = blocks()
            for _ in range(3):
                session.execute(RANGE.format(*bounds))
            after = blocks()
            return after - before if plain else (before, after)

        judge(badly_indexed, asked, bits)
        if not plain:
            assert asked("z", "zz") == (None, None)
            with badly_indexed.database.connect() as admin:  # who may see all is told, so that there is something to tell
                told = []
                for bounds in ("z", "zz"), (HIDDEN, HIDDEN + "~"):
                    session.execute(RANGE.format(*bounds))
                    before = admin.execute(counter).fetchone()[0]
                    session.execute(RANGE.format(*bounds))
                    told.append(admin.execute(counter).fetchone()[0] - before)
                assert told[0] < told[1]


def test_G3_estimates(accounts, bits):
    """Plain EXPLAIN: the planner estimates with everybody's statistics, because the operators are leakproof."""
    with accounts.open() as session:
        judge(accounts, lambda *bounds: numbers(session, "EXPLAIN " + RANGE.format(*bounds), r"rows=(\d+)")[0], bits, ["TN004"])


def test_G4_plans_in_messages(accounts, bits):
    """debug_print_plan with client_min_messages = log: the client gets plans with their estimates, without EXPLAIN."""
    heard = []
    with accounts.open() as session:
        session.add_notice_handler(lambda notice: heard.append(notice.message_detail or ""))
        session.execute("SET client_min_messages = log")

        def asked(*bounds):
            heard.clear()
            session.execute("SET debug_print_plan = on")
            session.execute(RANGE.format(*bounds))
            session.execute("SET debug_print_plan = off")
            return re.findall(r"plan_rows (\d+)", "\n".join(heard))

        judge(accounts, asked, bits, ["TN004"])


PINS = """
    CREATE TABLE pins (tenant_id text COLLATE "C" NOT NULL, pin text PRIMARY KEY);
    INSERT INTO pins VALUES ('t2', '7305');
    GRANT SELECT, INSERT ON pins TO amp_svc, amp_client;
"""


def test_G5_unique_violation(everywhere, bits):
    """All 10,000 values are inserted: the one that conflicts is a hidden row's."""
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute(PINS)
        isolate_plainly(owner, "pins") if everywhere.kind == PLAIN else owner.execute("SELECT amp.protect('pins', fix => true)")
    every = "SELECT 't1', lpad(n::text, 4, '0') FROM generate_series(0, 9999) n"
    with everywhere.open(autocommit=False) as session:
        new = session.execute(f"INSERT INTO pins {every} ON CONFLICT DO NOTHING RETURNING pin").fetchall()
        session.rollback()
    missing = {f"{n:04}" for n in range(10000)} - {row[0] for row in new}
    bits(math.log2(10000 / len(missing)) if missing else 0, math.log2(10000))
    assert missing == ({"7305"} if everywhere.kind == PLAIN else set())
    with everywhere.open(autocommit=False) as session:
        told = []
        for pin in "7305", "7306":
            try:
                told.append(session.execute("INSERT INTO pins VALUES ('t1', %s)", [pin]).rowcount)
            except psycopg.Error as error:
                told.append(error.sqlstate)
                session.rollback()
                session = everywhere.open(autocommit=False)
        session.close()
    assert told == (["23505", 1] if everywhere.kind == PLAIN else [1, 1])


def touched(session, low, high):
    """What an index scan of a range reads, as one who may EXPLAIN sees it: rows removed after the index, and buffers."""
    [plan] = session.execute("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + RANGE.format(low, high)).fetchone()[0]
    return plan["Plan"].get("Rows Removed by Filter", 0), plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


def test_G10_range_that_holds_hidden_rows(accounts, new_role):
    """A range with hidden rows takes longer than one without. Under amp the scan touches no tuple of another tenant, in either."""
    reader = new_role(f"LOGIN IN ROLE {accounts.role}, pg_read_all_stats")
    if accounts.kind != PLAIN:
        with accounts.database.connect() as admin:
            admin.execute(f"GRANT amp_service TO {reader}")
    with accounts.database.connect(reader) as session:
        session.execute("SET {} = 't1'".format("app.tenant" if accounts.kind == PLAIN else "amp.tenant_id"))
        by_index(session)
        touched(session, "A", "B")  # warms the caches
        hidden, empty = touched(session, HIDDEN, HIDDEN + "~"), touched(session, "z", "zz")
    assert empty[0] == 0
    if accounts.kind == PLAIN:
        assert hidden[0] == 200 and hidden[1] > empty[1]
    else:
        assert hidden == empty
