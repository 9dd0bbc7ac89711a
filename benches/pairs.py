"""The second opinion: transactions per second on a normal server, the hand-written variant and amp in turn."""

import re
import statistics

import workload

STATEMENTS = ["point", "range", "join", "pooled", "insert"]
ROUNDS = 5


def measure(server, variant, seconds):
    """The median of the rounds' ratios, as time per transaction against the hand-written variant's."""

    def tps(statement, variant):
        done = server.pgbench(workload.job(statement, variant), "-T", str(seconds))
        return float(re.search(r"tps = ([\d.]+)", done)[1])

    result = {}
    for statement in workload.STATEMENTS:
        if statement.name in STATEMENTS:
            tps(statement, workload.HAND), tps(statement, variant)  # both in memory
            rounds = [(tps(statement, workload.HAND), tps(statement, variant)) for _ in range(ROUNDS)]
            hand, other = (statistics.median(side) for side in zip(*rounds))
            result[statement] = (hand, other, statistics.median(a / b for a, b in rounds))
    return result
