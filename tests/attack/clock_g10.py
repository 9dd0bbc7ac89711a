"""G10 by the clock, for `tests/attacks --timing`: what the time of a range scan tells, on this machine, now. No assertion: clocks are not repeatable.

test_g_recovery.py has the structural test: which rows and pages such a scan touches.
"""

import time

from test_g_recovery import EACH, HIDDEN, RANGE, accounts, by_index, recover  # noqa: F401

REPEATED = 41


def fastest(session, low, high):
    """The shortest time of a range scan, and of one that finds nothing, taken by turns: others on the machine only add to it."""
    hit, empty = [], []
    for _ in range(REPEATED):
        for times, bounds in (hit, (low, high)), (empty, ("z", "zz")):
            started = time.perf_counter_ns()
            session.execute(RANGE.format(*bounds))
            times.append(time.perf_counter_ns() - started)
    return min(hit), min(empty)


def test_G10_by_the_clock(accounts):  # noqa: F811
    with accounts.open() as session:
        by_index(session)

        def asked(low, high):
            hit, empty = fastest(session, low, high)
            return hit > 1.12 * empty

        known = recover(asked)
        hit, empty = fastest(session, HIDDEN, HIDDEN + "~")
    right = next((n for n, (got, real) in enumerate(zip(known, HIDDEN)) if got != real), len(known))
    print(f"\n{accounts.kind}: a range with 200 hidden rows {hit / 1000:.0f} µs, without {empty / 1000:.0f} µs; "
          f"recovered {right * EACH:.1f} of {len(HIDDEN) * EACH:.1f} bits")
