"""The library's file is gone, as after a failed upgrade of the machine: an error for every query, rows for none (P2)."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import ROOT, Cluster, program, raises


@pytest.fixture(scope="module")
def db():
    """On a copy of the installation, whose library is then removed."""
    copy = tempfile.mkdtemp(prefix="amp.", dir="/tmp")
    os.chmod(copy, 0o755)
    installed = Path(program("pg_config"))
    prefix = next(folder for folder in installed.parents if (folder / "share").is_dir())
    shutil.copytree(prefix, copy, symlinks=True, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMP_PG_CONFIG", str(copy / installed.relative_to(prefix)))
        server = Cluster(shared_preload_libraries="")
        try:
            db = server.database()
            with db.connect() as admin:
                admin.execute((ROOT / "tests/two_tenants.sql").read_text())
            library = subprocess.check_output([program("pg_config"), "--pkglibdir"], text=True).strip()
            os.remove(f"{library}/amp_tenancy.so")
            yield db
        finally:
            server.remove()
            shutil.rmtree(copy)


@pytest.mark.parametrize("statement", [
    "SELECT * FROM app.missions",
    "SELECT count(*) FROM app.missions",
    "SELECT * FROM app.missions WHERE tenant_id = 'bee' AND id = 1",
    "SELECT FROM app.missions WHERE false OR id < 0",
    "TABLE app.missions FOR SHARE",
    "COPY app.missions TO STDOUT",
    "COPY (TABLE app.missions) TO STDOUT",
    "INSERT INTO app.missions VALUES ('bee', 9, 'new')",
    "INSERT INTO app.missions VALUES ('bee', 1, 'new') ON CONFLICT DO NOTHING",
    "UPDATE app.missions SET name = 'mine'",
    "UPDATE app.missions SET name = 'mine' WHERE tenant_id = 'bee' RETURNING *",
    "DELETE FROM app.missions",
    "MERGE INTO app.missions m USING (VALUES ('bee')) v(t) ON m.tenant_id = t WHEN MATCHED THEN DELETE",
    "SELECT amp.tenant_id()",
    "SELECT * FROM amp.members",
])  # fmt: skip
def test_every_statement_fails_and_names_the_library(db, statement):
    for user in ("amp_svc", "amp_owner"):
        with db.connect(user) as session:
            for tenant in ("", "ant"):
                session.execute(f"SET amp.tenant_id = '{tenant}'")
                with raises("58P01", "amp_tenancy"):
                    session.execute(statement)


def test_a_cached_plan_fails_too(db):
    with db.connect("amp_svc") as session:
        session.execute("SET plan_cache_mode = force_generic_plan")
        session.execute("PREPARE missions AS SELECT * FROM app.missions")
        for _ in range(2):
            with raises("58P01", "amp_tenancy"):
                session.execute("EXECUTE missions")
