"""The tables, on the terminal and in docs/performance.md."""

import datetime
import re

from workload import HAND

BEGIN, END = "<!-- written by benches/run: begin -->", "<!-- written by benches/run: end -->"


def _number(count):
    return f"{count / 1000:.1f} k" if count >= 10_000 else f"{count:,.0f}"


def _table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mark(ratio, target):
    return "" if target is None else "pass" if ratio <= target else f"**miss** by {ratio - target:.3f}"


def _cpu():
    with open("/proc/cpuinfo") as cpuinfo:
        return re.search(r"model name\s*: (.*)", cpuinfo.read())[1]


def tables(server, rows, variants, counted, timed, grown):
    last = variants[-1]
    parts = [f"`benches/run`, {datetime.date.today()}, {server.version}, {_cpu()}, {rows:,} rows, {rows // 2000:,} tenants."]

    parts.append("Instructions per execution:\n\n" + _table(
        ["statement"] + [v.title for v in variants] + ["ratio", "target", ""],
        [[s.title] + [_number(cost[v]) if v in cost else "" for v in variants]
         + [f"{cost[last] / cost[HAND]:.3f}", f"{s.target:.2f}" if s.target else "", _mark(cost[last] / cost[HAND], s.target)]
         for s, cost in counted.items()]))

    parts.append("Transactions per second, in turn, medians:\n\n" + _table(
        ["statement", HAND.title, last.title, "time, ratio"],
        [[s.title, f"{hand:,.0f}", f"{other:,.0f}", f"{ratio:.3f}"] for s, (hand, other, ratio) in timed.items()]))

    if grown:
        first = next(iter(grown.values()))
        parts.append("Instructions per pooled transaction, by the number of tenants and of protected tables:\n\n" + _table(
            ["tenants", "tables"] + [f"{v.title}, {'a new tenant each time' if new else 'one tenant'}" for v, new in first],
            [[f"{number:,}" for number in size] + [_number(cost) for cost in costs.values()] for size, costs in grown.items()]))
    return "\n\n".join(parts)


def verdict(counted, variant):
    missed = [f"{s.title}: {cost[variant] / cost[HAND]:.3f}, {_mark(cost[variant] / cost[HAND], s.target)}"
              for s, cost in counted.items() if s.target and cost[variant] / cost[HAND] > s.target]
    return "every target is met" if not missed else "\n".join(["targets missed:", *missed])


def profile(costs):
    """Functions by what the last variant adds to the first."""
    first, *_, last = costs.values()
    print("".join(f"{v.schema:>12}" for v in costs), "      added  function, with what it calls")
    for name in sorted(first.keys() | last.keys(), key=lambda n: first.get(n, 0) - last.get(n, 0)):
        added = last.get(name, 0) - first.get(name, 0)
        if abs(added) >= 20:
            print("".join(f"{cost.get(name, 0):>12,.0f}" for cost in costs.values()), f"{added:>11,.0f}  {name}")


def publish(text, path):
    page = path.read_text()
    path.write_text(page[:page.index(BEGIN) + len(BEGIN)] + "\n\n" + text + "\n\n" + page[page.index(END):])
