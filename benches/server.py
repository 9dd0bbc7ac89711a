"""A throwaway PostgreSQL cluster, in turn a normal server and one whose every backend runs under callgrind."""

import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

from workload import TENANT

CLUSTER = pathlib.Path(__file__).parent.parent / "dev/cluster"

# The same for every variant. What runs at its own times (autovacuum, checkpoints, compilation, parallel workers) would
# only blur the counts.
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


class Server:
    def __init__(self, pg_config, preload):
        self.env = {**os.environ, "AMP_PG_CONFIG": pg_config}
        self.bin = pathlib.Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
        self.version = subprocess.check_output([pg_config, "--version"], text=True).strip()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="amp-bench.", dir="/tmp"))
        self.dir.chmod(0o755)
        self.counts = self.dir / "counts"
        self.runs = 0
        self.settings = [f"{k}={v}" for k, v in {**SETTINGS, "shared_preload_libraries": preload}.items()]

    def cluster(self, verb, *settings):
        subprocess.run([CLUSTER, verb, self.dir, *settings], env=self.env, check=True)

    @contextmanager
    def running(self):
        self.cluster("start", *self.settings)
        self.settings = []  # they are in postgresql.conf now
        try:
            yield
        finally:
            self.cluster("stop")

    @contextmanager
    def counting(self):
        """Runs the server under callgrind: each backend leaves its instructions below PostgresMain in counts/PID."""
        owner = pwd.getpwuid((self.dir / "data").stat().st_uid)
        self.counts.mkdir(exist_ok=True)
        shutil.chown(self.counts, owner.pw_name)
        command = ["valgrind", "--tool=callgrind", "--quiet", "--toggle-collect=PostgresMain",
                   f"--callgrind-out-file={self.counts}/%p", self.bin / "postgres", "-D", self.dir / "data"]
        identity = dict(user=owner.pw_uid, group=owner.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}
        with open(self.dir / "callgrind.log", "w") as log:
            postmaster = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.dir, **identity)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([self.bin / "pg_isready", "-q", "-h", self.dir / "socket"]).returncode:
                if postmaster.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"no server under callgrind:\n{(self.dir / 'callgrind.log').read_text()}")
                time.sleep(0.5)
            yield
        finally:
            postmaster.terminate()
            try:
                postmaster.wait(60)
            except subprocess.TimeoutExpired:
                postmaster.kill()

    def sql(self, text, database="bench", user="postgres", **variables):
        """Runs SQL and returns its rows as text."""
        variables = [f"--set={name}={value}" for name, value in variables.items()]
        psql = [self.bin / "psql", "-h", self.dir / "socket", "-U", user, "-d", database, "-XqAt", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run([*psql, *variables], input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nin:\n{text}")
        return done.stdout.strip()

    def pgbench(self, job, *options):
        """Runs a job's script; its variables tell the tenant, the first round and this run's own ids."""
        self.runs += 1
        path = self.dir / "script.sql"
        path.write_text(job.script + "\n\\set first 0\n")
        command = [self.bin / "pgbench", "-h", self.dir / "socket", "-U", job.user, "-n", "-f", path, "--random-seed=1",
                   "-M", "prepared" if job.prepared else "simple", "-Dfirst=1", "-Dn=0", f"-Dbase={self.runs}000000", f"-Dtenant={TENANT}",
                   *options, job.database]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode or "ERROR" in done.stderr:
            raise SystemExit(f"{done.stderr}\nin:\n{job.script}")
        return done.stdout

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)
