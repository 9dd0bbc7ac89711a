"""Instructions per execution: two runs of the same script that differ in length only, and the difference."""

import re
import subprocess
import time
from dataclasses import replace


# On its first round, the client says which backend serves it.
INTRODUCTION = "\\if :first\nSELECT pg_backend_pid() AS pid \\gset\n\\shell echo backend :pid\n\\endif\n"


def _run(server, job, executions):
    """The instructions of the backend that ran the job, and its callgrind file."""
    output = server.pgbench(replace(job, script=INTRODUCTION + job.script), "-t", str(executions))
    path = server.counts / re.search(r"backend (\d+)", output)[1]
    for _ in range(600):  # a backend writes its file when it exits, a moment after pgbench
        if path.exists() and (total := re.search(r"^totals: (\d+)", path.read_text(), re.M)):
            return int(total[1]), path
        time.sleep(0.05)
    raise SystemExit(f"no callgrind file {path}")


def instructions(server, job):
    few, many = job.executions
    _run(server, job, few)  # the first one finds nothing in memory
    return (_run(server, job, many)[0] - _run(server, job, few)[0]) / (many - few) / job.per


def profile(server, job):
    """Inclusive instructions per execution, by function."""

    def by_function(executions):
        text = subprocess.check_output(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--show-percs=no", "--auto=no",
             _run(server, job, executions)[1]], text=True, stderr=subprocess.DEVNULL)
        lines = re.findall(r"^ *([\d,]+)  \S*?:(.+?)(?: \[.*\])?$", text, re.M)
        return {name: int(cost.replace(",", "")) for cost, name in reversed(lines)}

    few, many = job.executions
    _run(server, job, few)
    before, after = by_function(few), by_function(many)
    return {name: (cost - before.get(name, 0)) / (many - few) / job.per for name, cost in after.items()}
