"""The tables, on the terminal and in docs/performance.md."""

import datetime
import re

import credentials
import doctor
import growth
import meters
from workload import AMP, HAND, SETTING

BEGIN, END = "<!-- written by benches/run: begin -->", "<!-- written by benches/run: end -->"


def _number(count):
    return f"{count / 1000:.1f} k" if count >= 10_000 else f"{count:,.0f}"


def _table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mark(figure, target, digits=3):
    return "" if target is None else "pass" if figure <= target else f"**miss** by {figure - target:.{digits}f}"


def _cpu():
    with open("/proc/cpuinfo") as cpuinfo:
        return re.search(r"model name\s*: (.*)", cpuinfo.read())[1]


def _growth(grown, cases):
    return _table(["tenants", "tables"] + [case.title for case in cases],
                  [[f"{number:,}" for number in size] + [_number(costs[case]) for case in cases] for size, costs in grown.items()])


def proofs(calls, cpu, pooled, counted):
    """What proving who one is costs, alone and in the pooled transaction."""
    alone = _table(["`SELECT amp.authenticate($1)`", "instructions", "CPU, µs", "target, µs", ""],
                   [[kind.title, _number(cost), f"{cpu[kind]:.1f}", f"{kind.target or ''}", _mark(cpu[kind], kind.target, 1)]
                    for kind, cost in calls.items()])
    ways = [(f"`SET LOCAL app.tenant`, {HAND.title}", HAND), (f"`SET LOCAL app.tenant`, {SETTING.title}", SETTING),
            ("`SET LOCAL amp.tenant_id`", AMP), *((kind.title, kind) for kind in credentials.ALL if kind.pooled)]
    costs = {statement: {**counted[statement], **pooled[statement]} for statement in pooled}
    transactions = _table(["who it is for"] + [head for statement in pooled for head in (statement.title, "ratio")],
                          [[title] + [cell for cost in costs.values() for cell in (_number(cost[way]), f"{cost[way] / cost[HAND]:.3f}")]
                           for title, way in ways])
    return (f"One call of `amp.authenticate`:\n\n{alone}\n\n"
            f"Instructions per transaction of one point read, by what says who it is for:\n\n{transactions}")


def statistics(counted):
    """What amp.stat_tenants adds; the target is the most that it may."""
    return "Instructions per execution of amp, by `amp.stat_tenants`:\n\n" + _table(
        ["statement", "off", "on", "added", "ratio", "target", ""],
        [[s.title, *(_number(cost[setting]) for setting in ("off", "on")), _number(cost["on"] - cost["off"]),
          f"{cost['on'] / cost['off']:.3f}", "1.02", _mark(cost["on"] / cost["off"], 1.02)] for s, cost in counted.items()])


def tables(server, rows, variants, counted, timed, proved, grown, others):
    last = variants[-1]
    parts = [f"`benches/run`, {datetime.date.today()}, {server.version}, {_cpu()}, {rows:,} rows, {rows // 2000:,} tenants."]

    parts.append("Instructions per execution:\n\n" + _table(
        ["statement"] + [v.title for v in variants] + ["ratio", "target", ""],
        [[s.title] + [_number(cost[v]) if v in cost else "" for v in variants]
         + [f"{cost[last] / cost[HAND]:.3f}", f"{s.target:.2f}" if s.target else "", _mark(cost[last] / cost[HAND], s.target)]
         for s, cost in counted.items()]))


    if timed:
        parts.append("Transactions per second, in turn, medians:\n\n" + _table(
            ["statement", HAND.title, last.title, "time, ratio"],
            [[s.title, f"{hand:,.0f}", f"{other:,.0f}", f"{ratio:.3f}"] for s, (hand, other, ratio) in timed.items()]))

    if proved:
        parts.append(proofs(*proved, counted))

    parts += filter(None, others)

    if grown:
        parts.append("Instructions per pooled transaction, by the number of tenants and of protected tables:\n\n"
                     + _growth(grown, growth.SETTINGS))
        parts.append("The same with a credential; there are as many users and API keys as tenants:\n\n"
                     + _growth(grown, [*growth.KEYS, growth.TOKEN]))
    return "\n\n".join(parts)


def loads(lots, rows):
    table = _table(["bulk load", "without a meter", "a meter for inserts", "ratio", "for a state", "ratio", "target", ""],
                   [[load.title, _number(cost[meters.WITHOUT]),
                     *(text for meter in (meters.INSERTED, meters.ENTERED)
                       for text in (_number(cost[meter]), f"{cost[meter] / cost[meters.WITHOUT]:.3f}")),
                     f"{meters.TARGET:.2f}", _mark(max(cost.values()) / cost[meters.WITHOUT], meters.TARGET)]
                    for load, cost in lots.items()])
    return f"Instructions per row of a load of {rows:,} rows into a protected table with a primary key:\n\n{table}"


def usage(counted, waited):
    """What counting costs beside the UPDATE of one row, alone and with sixteen sessions."""
    costs = {statement.name: cost for statement, cost in counted.items()}
    tps = {statement.name: figure for statement, figure in waited.items()}
    alone = [[s.title, _number(cost), f"{cost / costs['update']:.2f}", str(s.target or ""), _mark(cost / costs["update"], s.target, 2) if s.target else ""]
             for s, cost in counted.items()]
    together = [[s.title, f"{figure:,.0f}", f"{figure / tps['update']:.1f}", "" if s.name == "update" else "at least 10"] for s, figure in waited.items()]
    return ("Counting and charging, instructions per execution, prepared, alone:\n\n" + _table(["statement", "instructions", "ratio", "target", ""], alone)
            + "\n\nTransactions per second of 16 sessions of one tenant that hold each transaction for 10 ms:\n\n"
            + _table(["statement", "per second", "ratio", "target"], together))


def looks(taken, changes):
    """How long amp.doctor() looks, in milliseconds (the target is of the whole), and what the guard adds to schema changes."""
    return f"Milliseconds, the least of three runs, {doctor.TABLES:,} protected tables:\n\n" + _table(
        ["asked", "ms", "target", ""],
        [[what, f"{ms:,.1f}", *((f"{doctor.TARGET:,}", _mark(ms, doctor.TARGET, 0)) if what == doctor.WHOLE else ("", ""))]
         for what, ms in taken.items()]) + "\n\n" + _table(
        ["schema change", doctor.UNGUARDED, doctor.FIRST, doctor.NEXT],
        [[title, *(f"{ms[how]:,.1f}" for how in (doctor.UNGUARDED, doctor.FIRST, doctor.NEXT))] for title, ms in changes.items()])


def verdict(counted, variant, cpu, lots):
    missed = [f"{s.title}: {cost[variant] / cost[HAND]:.3f}, {_mark(cost[variant] / cost[HAND], s.target)}"
              for s, cost in counted.items() if s.target and cost[variant] / cost[HAND] > s.target]
    missed += [f"{kind.title}: {cost:.1f} µs, {_mark(cost, kind.target, 1)}"
               for kind, cost in cpu.items() if kind.target and cost > kind.target]
    missed += [f"{load.title}, metered: {ratio:.3f}, {_mark(ratio, meters.TARGET)}" for load, cost in lots.items()
               if (ratio := max(cost.values()) / cost[meters.WITHOUT]) > meters.TARGET]
    return "every target is met" if not missed else "\n".join(["targets missed:", *missed])


def profile(costs):
    """Functions by what the last job adds to the first."""
    first, *_, last = costs.values()
    print("".join(f"{name:>12}" for name in costs), "      added  function, with what it calls")
    for name in sorted(first.keys() | last.keys(), key=lambda n: first.get(n, 0) - last.get(n, 0)):
        added = last.get(name, 0) - first.get(name, 0)
        if abs(added) >= 20:
            print("".join(f"{cost.get(name, 0):>12,.0f}" for cost in costs.values()), f"{added:>11,.0f}  {name}")


def publish(text, path):
    page = path.read_text()
    path.write_text(page[:page.index(BEGIN) + len(BEGIN)] + "\n\n" + text + "\n\n" + page[page.index(END):])
