"""Spending under concurrency (P8): whatever commits, rolls back, is killed or crashes, the counters are what committed, to the cent,
and no limit is passed. Every transaction notes what it spends in a plain table, too: what is in there has committed."""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import psycopg
import pytest

from harness import raises

LIMITS = '{"cost_limits": {"monthly_limit_cents": %d, "daily_limit_cents": %d, "alert_threshold_percent": 80, "hard_stop_at_limit": %s}}'


@pytest.fixture(scope="module")
def server():
    from harness import Cluster

    cluster = Cluster(max_connections=150, max_prepared_transactions=10, deadlock_timeout="100ms")
    yield cluster
    cluster.remove()


@pytest.fixture
def db(server):
    database = server.database()
    with database.connect() as admin:
        admin.execute("CREATE TABLE ledger (tenant text, cents bigint, calls bigint); GRANT SELECT, INSERT ON ledger TO PUBLIC")
    yield database
    database.drop()


def tenant(db, monthly, daily, hard=True, tenant_id="t1"):
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Spender', %s, %s, %s)",
                    [f"{tenant_id}-spender", LIMITS % (monthly, daily, str(hard).lower()), tenant_id])


def session(db, tenant_id="t1"):
    connection = db.connect("amp_svc")
    connection.execute(f"SET statement_timeout = '20s'; SET amp.tenant_id = '{tenant_id}'")
    return connection


class Spender(threading.Thread):
    """Charges at random until the budget is used up or its number of transactions is done."""

    def __init__(self, db, seed, transactions, most, disturbed):
        super().__init__()
        self.disturbed = disturbed  # it goes on until then at least
        self.db, self.chance, self.transactions, self.most = db, random.Random(seed), transactions, most
        self.refused, self.deadlocks, self.lost, self.failure, self.keys = 0, 0, 0, None, []

    def run(self):
        try:
            connection = None
            done = 0
            while done < self.transactions or not self.disturbed.is_set():
                done += 1
                try:
                    connection = connection or session(self.db)
                    self.transaction(connection)
                except psycopg.errors.DeadlockDetected:
                    self.deadlocks += 1
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    self.lost += 1
                    connection = None
                    time.sleep(0.05)
        except BaseException as failure:
            self.failure = failure

    def transaction(self, connection):
        with suppress(Rollback), connection.transaction():
            for _ in range(self.chance.choice([1, 1, 1, 2, 3])):
                cents, calls = self.chance.randint(1, self.most), self.chance.randint(1, 9)
                with suppress(Rollback), connection.transaction():  # a savepoint
                    try:
                        key = None
                        if self.chance.random() < 0.3:  # a new one, or one of before, which may have been counted or not
                            key, cents = self.chance.choice([*self.keys[-3:], (f"{self.ident}-{len(self.keys)}", cents)])
                            self.keys.append((key, cents))
                        counted = connection.execute("SELECT amp.charge(%s, %s)", [cents, key]).fetchone()[0]
                    except psycopg.Error as error:
                        if error.sqlstate == "TN005":
                            self.refused += 1
                            raise Rollback
                        raise
                    connection.execute("SELECT amp.record_usage('api_calls', %s)", [calls])
                    connection.execute("INSERT INTO ledger VALUES ('t1', %s, %s)", [cents if counted else 0, calls])
                    if self.chance.random() < 0.2:
                        raise Rollback
                if self.chance.random() < 0.1:
                    time.sleep(0.002)
            if self.chance.random() < 0.2:
                raise Rollback


class Rollback(Exception):
    pass


def watch(db, monthly, daily, done):
    """What is committed is never over a limit, at any moment."""
    seen = 0
    with db.connect("amp_ops") as ops:
        while not done.is_set():
            spent = ops.execute("SELECT coalesce(sum(amount), 0) FROM amp.usage_counters WHERE metric = 'cost_cents'").fetchone()[0]
            assert seen <= spent <= min(monthly, daily)
            seen = spent
            time.sleep(0.01)


def check(db, monthly, daily):
    """The counters are what committed; what is left can be spent, and not a cent more."""
    with db.connect() as admin:
        cents, calls = admin.execute("SELECT coalesce(sum(cents), 0)::bigint, coalesce(sum(calls), 0)::bigint FROM ledger").fetchone()
        counted = dict(admin.execute("SELECT metric, sum(amount) FROM amp.usage_counters GROUP BY metric").fetchall())
        assert counted.get("cost_cents", 0) == cents and counted.get("api_calls", 0) == calls
        assert admin.execute("SELECT coalesce(sum(amount), 0) FROM amp.monthly_usage WHERE metric = 'cost_cents'").fetchone()[0] == cents
        assert admin.execute("SELECT coalesce(sum(amount), 0) FROM amp.monthly_usage WHERE metric = 'api_calls'").fetchone()[0] == calls
    left = min(monthly, daily) - cents
    assert left >= 0
    with session(db) as spender:
        with raises("TN005", match="limit of tenant"):
            spender.execute("SELECT amp.charge(%s)", [left + 1])
        if left:
            spender.execute("SELECT amp.charge(%s)", [left])
        with raises("TN005"):
            spender.execute("SELECT amp.charge(1)")
        assert spender.execute("SELECT amp.generation_allowed()").fetchone() == (False,)
    with db.connect("amp_ops") as ops:
        alerts = ops.execute("SELECT period, threshold_percent, count(*) FROM amp.alerts GROUP BY 1, 2").fetchall()
        lower = {10: daily, 7: monthly}
        expected = {(length, percent) for length, limit in lower.items() for percent in (80, 100)
                    if min(monthly, daily) >= -(-limit * percent // 100)}
        assert {(len(period), percent) for period, percent, _ in alerts} == expected
        assert {count for *_, count in alerts} == {1}
    return cents


def spend(db, sessions, transactions, most, seed, disturb=None):
    disturbed = threading.Event()
    spenders = [Spender(db, f"{seed} {number}", transactions, most, disturbed) for number in range(sessions)]
    for spender in spenders:
        spender.start()
    try:
        if disturb:
            disturb()
    finally:
        disturbed.set()
    for spender in spenders:
        spender.join(120)
        assert not spender.is_alive(), "somebody waits forever"
        if spender.failure:
            raise spender.failure
    return spenders


@pytest.mark.parametrize("sessions, monthly, daily, most", [
    (1, 5_000, 4_000, 70), (1, 900, 100_000, 300), (4, 5_000, 4_000, 40), (4, 700, 600, 200), (16, 3_000, 3_300, 30), (16, 2_000, 1_999, 300),
    (64, 8_000, 30_000, 40), (64, 6_400, 6_399, 150)])
@pytest.mark.parametrize("seed", [1, 2])
def test_P8_the_sum_of_what_commits_is_the_counter_and_never_over_the_limit(db, sessions, monthly, daily, most, seed):
    tenant(db, monthly, daily)
    done, failed = threading.Event(), []

    def watcher():
        try:
            watch(db, monthly, daily, done)
        except BaseException as failure:
            failed.append(failure)

    thread = threading.Thread(target=watcher)
    thread.start()
    spenders = spend(db, sessions, 240 // sessions + 4, most, seed)
    done.set()
    thread.join()
    assert not failed, failed
    spent = check(db, monthly, daily)
    # It was about something: most of it was spent, and some were refused.
    assert spent > min(monthly, daily) * 0.5 and sum(spender.refused for spender in spenders)


def test_P8_alone_a_refusal_is_exact(db):
    tenant(db, 100_000, 1_000)
    chance, left = random.Random(7), 1_000
    with session(db) as spender:
        while left:
            cents = chance.randint(1, 120)
            if cents <= left:
                spender.execute("SELECT amp.charge(%s)", [cents])
                left -= cents
            else:
                with raises("TN005", match="daily"):
                    spender.execute("SELECT amp.charge(%s)", [cents])


@pytest.mark.parametrize("sessions", [4, 16])
def test_P8_killed_sessions_leave_nothing_behind(db, sessions):
    tenant(db, 6_000, 5_000)

    def kill():
        with db.connect() as admin:
            for _ in range(40):
                admin.execute("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                 WHERE datname = current_database() AND usename = 'amp_svc' ORDER BY random() LIMIT 1""")
                time.sleep(0.03)

    spenders = spend(db, sessions, 240 // sessions, 50, "kill", kill)
    assert sum(spender.lost for spender in spenders) > 3
    check(db, 6_000, 5_000)


def test_P8_a_crash_in_the_middle(server, db):
    """kill -9 of the postmaster and all of its children, while sixteen sessions spend."""
    tenant(db, 20_000, 15_000)

    def crash():
        time.sleep(0.3)
        with server.connect() as admin:
            processes = [pid for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity")]
        with open(f"{server.dir}/data/postmaster.pid") as postmaster:
            processes.insert(0, int(postmaster.readline()))
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in range(1000):
            if not any(os.path.exists(f"/proc/{pid}") for pid in processes):
                break
            time.sleep(0.01)
        server.start()

    spenders = spend(db, 16, 60, 40, "crash", crash)
    assert sum(spender.lost for spender in spenders) >= 16
    check(db, 20_000, 15_000)


def test_P8_nobody_waits_away_from_a_limit(db):
    """A hundred transactions of one tenant, all open, each has spent."""
    tenant(db, 1_000_000, 900_000, hard=False)
    sessions = [session(db) for _ in range(100)]
    for spender in sessions:
        spender.execute("SET statement_timeout = '5s'; BEGIN")
        spender.execute("SELECT amp.charge(7), amp.record_usage('api_calls', 2)")
    for number, spender in enumerate(sessions):
        spender.execute("COMMIT" if number % 2 else "ROLLBACK")
        spender.close()
    with session(db) as one:
        usage = one.execute("SELECT amp.usage() -> 'usage'").fetchone()[0]
        assert (usage["cost_cents"], usage["api_calls"]) == (350, 100)


def test_P8_sixty_four_open_transactions_under_a_hard_limit(db):
    tenant(db, 1_000_000, 900_000)
    sessions = [session(db) for _ in range(64)]
    for spender in sessions:
        spender.execute("SET statement_timeout = '5s'; BEGIN")
        spender.execute("SELECT amp.charge(7)")
    for spender in sessions:
        spender.execute("COMMIT")
        spender.close()
    with session(db) as one:
        assert one.execute("SELECT amp.usage() #> '{usage,cost_cents}'").fetchone() == (448,)


def test_P8_near_the_limit_the_last_cents_wait_for_who_may_give_them_back(db):
    tenant(db, 1_000, 1_000)
    with session(db) as first, session(db) as second:
        second.execute("SET statement_timeout = '10s'")
        first.execute("BEGIN; SELECT amp.charge(800)")
        second.execute("SELECT amp.charge(100)")  # there is room beside it
        waiting = threading.Thread(target=second.execute, args=["SELECT amp.charge(500)"])
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        first.execute("ROLLBACK")
        waiting.join()
    with session(db) as one:
        assert one.execute("SELECT amp.usage() #> '{usage,cost_cents}'").fetchone() == (600,)


def test_P8_who_waits_holds_nothing_that_others_need(db):
    """A newcomer waits for a transaction that goes on spending: that one is not held up."""
    tenant(db, 1_000, 1_000)
    with session(db) as first, session(db) as newcomer:
        first.execute("SET statement_timeout = '5s'; BEGIN; SELECT amp.charge(800)")
        refused = []

        def wait():
            with suppress(psycopg.Error):
                try:
                    newcomer.execute("SELECT amp.charge(300)")
                except psycopg.Error as error:
                    refused.append(error.sqlstate)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.2)
        first.execute("SELECT amp.charge(150)")
        first.execute("COMMIT")
        waiting.join()
        assert refused == ["TN005"]


def test_P8_two_that_need_what_the_other_holds_are_a_deadlock(db):
    tenant(db, 1_000, 1_000)
    with session(db) as one, session(db) as other:
        ended = []

        def more(spender):
            try:
                spender.execute("SELECT amp.charge(400)")
                spender.execute("COMMIT")
                ended.append("committed")
            except psycopg.Error as error:
                ended.append(error.sqlstate)
                spender.execute("ROLLBACK")

        for spender in one, other:
            spender.execute("BEGIN")
            spender.execute("SELECT amp.charge(400)")
        threads = [threading.Thread(target=more, args=[spender]) for spender in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(ended) == ["40P01", "committed"]
    with session(db) as spender:
        assert spender.execute("SELECT amp.usage() #> '{usage,cost_cents}'").fetchone() == (800,)


@pytest.mark.parametrize("hard", [True, False])
def test_one_alert_however_many_cross_together(db, hard):
    """Sixteen transactions that each stay below the threshold, and cross it together, whichever order they commit in."""
    tenant(db, 100_000, 1_600, hard)
    with db.connect("amp_ops") as listener:
        notified = []
        listener.add_notify_handler(notified.append)
        listener.execute("LISTEN amp_alerts")
        sessions = [session(db) for _ in range(16)]
        sessions[0].execute("SELECT amp.charge(1200)")
        for spender in sessions:
            spender.execute("SET statement_timeout = '5s'; BEGIN")
            spender.execute("SELECT amp.charge(6)")
        assert listener.execute("SELECT count(*) FROM amp.alerts").fetchone() == (0,)
        barrier = threading.Barrier(16)

        def commit(spender):
            barrier.wait()
            spender.execute("COMMIT")

        threads = [threading.Thread(target=commit, args=[spender]) for spender in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (alert,) = listener.execute("SELECT tenant_id, length(period), threshold_percent, threshold_cents, limit_cents, hard_stop FROM amp.alerts")
        assert alert == ("t1", 10, 80, 1_280, 1_600, hard)
        spent = listener.execute("SELECT spent_cents FROM amp.alerts").fetchone()[0]
        assert 1_280 <= spent <= 1_296
        (notice,) = notified
        assert notice.payload.startswith('{"period":"20') and '"threshold_percent":80' in notice.payload and "cents" not in notice.payload
        with session(db) as last:
            last.execute("SELECT amp.charge(304)")
        assert listener.execute("SELECT threshold_percent, spent_cents FROM amp.alerts ORDER BY 1 DESC").fetchall()[0] == (100, 1_600)
        for spender in sessions:
            spender.close()


def test_an_alert_of_a_transaction_that_rolls_back_was_none(db):
    tenant(db, 100_000, 1_000)
    with session(db) as one, db.connect("amp_ops") as ops:
        one.execute("BEGIN; SELECT amp.charge(900); ROLLBACK")
        assert ops.execute("SELECT count(*) FROM amp.alerts").fetchone() == (0,)
        one.execute("BEGIN; SAVEPOINT s; SELECT amp.charge(900); ROLLBACK TO s; SELECT amp.charge(1); COMMIT")
        assert ops.execute("SELECT count(*) FROM amp.alerts").fetchone() == (0,)
        one.execute("SELECT amp.charge(799)")
        assert ops.execute("SELECT spent_cents FROM amp.alerts").fetchall() == [(800,)]


def test_a_limit_that_changes_in_the_middle(db):
    """Lowered below what is spent: nothing more. Raised: at the next statement. In open transactions, too, and for who has it in mind."""
    tenant(db, 100_000, 10_000)
    with session(db) as one, session(db) as other, db.connect("amp_ops") as ops:
        def limit(cents):
            ops.execute("SELECT amp.update_config(%s, 't1')", ['{"cost_limits": {"daily_limit_cents": %d}}' % cents])

        one.execute("SELECT amp.charge(3000)")
        other.execute("SELECT amp.charge(3000)")
        limit(7_000)
        other.execute("SELECT amp.charge(500)")
        with raises("TN005", match="daily"):
            one.execute("SELECT amp.charge(501)")
        one.execute("SELECT amp.charge(500)")
        limit(5_000)
        for spender in one, other:
            with raises("TN005"):
                spender.execute("SELECT amp.charge(1)")
            assert spender.execute("SELECT amp.generation_allowed()").fetchone() == (False,)
        one.execute("SET default_transaction_isolation = 'repeatable read'")
        one.execute("BEGIN; SELECT count(*) FROM amp.usage_counters")
        limit(7_100)
        one.execute("SELECT amp.charge(60)")
        one.execute("COMMIT")
        other.execute("SELECT amp.charge(40)")
        with raises("TN005"):
            other.execute("SELECT amp.charge(1)")
        ops.execute("""SELECT amp.update_config('{"cost_limits": {"hard_stop_at_limit": false}}', 't1')""")
        one.execute("SELECT amp.charge(5000)")
        ops.execute("""SELECT amp.update_config('{"cost_limits": {"hard_stop_at_limit": true, "daily_limit_cents": 12200}}', 't1')""")
        with raises("TN005"):
            other.execute("SELECT amp.charge(101)")
        other.execute("SELECT amp.charge(100)")
        with raises("TN005"):
            one.execute("SELECT amp.charge(1)")
    with db.connect() as admin:
        assert admin.execute("SELECT sum(amount), (SELECT sum(amount) FROM amp.monthly_usage) FROM amp.usage_counters").fetchone() == (12_200, 12_200)


def test_a_limit_that_comes_while_others_spend(db):
    """What was spent without a limit, in transactions that are still open, is under it: whoever charges next waits for them."""
    tenant(db, 100_000, 100_000, hard=False)
    sessions = [session(db) for _ in range(80)]  # more than there are parts of a limit
    for spender in sessions:
        spender.execute("BEGIN")
        spender.execute("SELECT amp.charge(10)")
    with db.connect("amp_ops") as ops, session(db) as late:
        ops.execute("SELECT amp.update_config(%s, 't1')", [LIMITS % (100_000, 850, "true")])
        refused = []

        def charge():
            try:
                late.execute("SELECT amp.charge(51)")
            except psycopg.Error as error:
                refused.append(error.sqlstate)

        waiting = threading.Thread(target=charge)
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        for spender in sessions:
            spender.execute("COMMIT")
            spender.close()
        waiting.join(20)
        assert refused == ["TN005"]
        late.execute("SELECT amp.charge(50)")


def test_a_prepared_transaction_counts_when_it_is_committed(db):
    tenant(db, 100_000, 1_000)
    with session(db) as one, session(db) as other, db.connect() as admin:
        one.execute("BEGIN; SELECT amp.charge(850, 'two-phase')")
        one.execute("PREPARE TRANSACTION 'spent'")
        other.execute("SET statement_timeout = '300ms'")
        with raises("57014"):  # it waits for it
            other.execute("SELECT amp.charge(200)")
        other.execute("SET statement_timeout = '10s'")
        admin.execute("COMMIT PREPARED 'spent'")
        with raises("TN005"):
            other.execute("SELECT amp.charge(200)")
        other.execute("SELECT amp.charge(10)")
        assert admin.execute("SELECT threshold_percent, spent_cents FROM amp.alerts").fetchall() == [(80, 860)]
        assert other.execute("SELECT amp.charge(850, 'two-phase')").fetchone() == (False,)


def test_a_key_that_somebody_has_under_way_counts_once(db):
    tenant(db, 100_000, 10_000)
    with session(db) as one, session(db) as other:
        for ending, counted in ("COMMIT", False), ("ROLLBACK", True):
            one.execute("BEGIN")
            assert one.execute("SELECT amp.charge(10, %s)", [ending]).fetchone() == (True,)
            assert one.execute("SELECT amp.charge(10, %s)", [ending]).fetchone() == (False,)
            answers = []
            waiting = threading.Thread(target=lambda: answers.append(other.execute("SELECT amp.charge(10, %s)", [ending]).fetchone()))  # noqa: B023
            waiting.start()
            time.sleep(0.2)
            assert waiting.is_alive()
            one.execute(ending)
            waiting.join()
            assert answers == [(counted,)]
        assert other.execute("SELECT amp.usage() #> '{usage,cost_cents}'").fetchone() == (20,)
        # A savepoint that took the key and was rolled back frees it, while its transaction goes on.
        one.execute("BEGIN; SAVEPOINT s; SELECT amp.charge(5, 'saved'); ROLLBACK TO s")
        other.execute("SET statement_timeout = '5s'")
        assert other.execute("SELECT amp.charge(5, 'saved')").fetchone() == (True,)
        assert one.execute("SELECT amp.charge(5, 'saved')").fetchone() == (False,)
        one.execute("COMMIT")
        with raises("22023", match="'saved' was used for something else"):
            one.execute("SELECT amp.charge(6, 'saved')")
        with raises("22023"):
            one.execute("SELECT amp.record_usage('api_calls', 5, 'saved')")


def test_ten_thousand_keys_in_one_transaction_hold_no_locks(db):
    tenant(db, 1_000_000, 1_000_000)
    with session(db) as one:
        one.execute("BEGIN; SELECT count(amp.record_usage('api_calls', 1, 'key ' || n)) FROM generate_series(1, 10000) n")
        assert one.execute("SELECT count(*) < 20 FROM pg_locks WHERE pid = pg_backend_pid()").fetchone() == (True,)
        one.execute("COMMIT")
        assert one.execute("SELECT amp.usage() #> '{usage,api_calls}'").fetchone() == (10_000,)
