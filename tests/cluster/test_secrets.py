"""Secrets: in the clear for whoever may read them, and nowhere else: not in tables, files, WAL, log or dump; and bound to tenant and path."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest

from harness import PLACE, ROOT, Cluster, Database, program, raises

TOKEN, SLACK = "t0p-s3cret-metricool", "xoxb-s3cret-slack"
PATHS = {"metricool.token": TOKEN, "integrations.slack.secret": SLACK}
STORE = {"metricool": {"token": TOKEN, "enabled": True}, "integrations": {"slack": {"secret": SLACK, "channel": "#ops"}}}


def new_key():
    return subprocess.run(["openssl", "rand", "-hex", "32"], check=True, capture_output=True, text=True).stdout.strip()


class Keys:
    """A file of keys, and the servers that read it. It belongs to the user that they run as."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="amp.", dir=PLACE)
        os.chmod(self.dir, 0o755)
        self.path = f"{self.dir}/keys"
        self.keys = [new_key()]
        self.owner = None

    def write(self, *keys, mode=0o600, owner=None):
        Path(self.path).write_text("# keys for secrets\n\n" + "".join(f"{key}\n" for key in keys or self.keys))
        os.chmod(self.path, mode)
        if owner := owner or self.owner:
            os.chown(self.path, *owner)


@pytest.fixture(scope="module")
def keys():
    keys = Keys()
    yield keys
    shutil.rmtree(keys.dir)


@pytest.fixture(scope="module")
def server(keys):
    server = Cluster(**{"amp.secret_key_file": keys.path})
    data = os.stat(f"{server.dir}/data")
    keys.owner = (data.st_uid, data.st_gid)
    yield server
    server.remove()


@pytest.fixture
def db(server, keys):
    """Tenants ant (ada is its admin, olga an operator in it) and bee, with a file of one key."""
    keys.write()
    db = server.database()
    with db.connect() as admin, db.connect("amp_ops") as ops:
        admin.execute((ROOT / "tests/two_tenants.sql").read_text())
        ops.execute("SELECT amp.invite_user('olga@example.com', 'operator', 'ant')")
        admin.execute("UPDATE amp.app_users SET id = 'olga' WHERE email = 'olga@example.com'")
        admin.execute("UPDATE amp.members SET user_id = 'olga' WHERE role = 'operator' AND tenant_id = 'ant'")
    yield db
    keys.write()
    db.drop()


def session(db, tenant="ant", user=None):
    service = db.connect("amp_svc")
    service.execute(f"SET amp.tenant_id = '{tenant}'")
    if user:
        service.execute(f"SET amp.user_id = '{user}'")
    return service


def store(db, patch=STORE, tenant="ant"):
    with db.connect("amp_ops") as ops:
        return ops.execute("SELECT amp.update_config(%s, %s)", [json.dumps(patch), tenant]).fetchone()[0]


def secret(connection, path="metricool.token"):
    return connection.execute("SELECT amp.secret(%s)", [path]).fetchone()[0]


def test_a_secret_is_shown_as_encrypted_and_read_by_its_path(db):
    document = store(db)["config"]
    assert document["metricool"] == {"token": "encrypted", "enabled": True}
    assert document["integrations"] == {"slack": {"secret": "encrypted", "channel": "#ops"}}
    for user in (None, "ada"):
        with session(db, user=user) as service:
            assert {path: secret(service, path) for path in PATHS} == PATHS
            with raises("42704", match="no secret is stored at 'metricool'"):
                secret(service, "metricool")
            with raises("42704"):
                secret(service, None)
    # Given back as it is shown, it stays; another is another; null removes it.
    store(db, {"metricool": {"token": "encrypted", "enabled": False}})
    with session(db) as service:
        assert secret(service) == TOKEN
        store(db, {"metricool": {"token": "another"}})
        assert secret(service) == "another"
        store(db, {"metricool": {"token": None}, "integrations": None})
        for path in PATHS:
            with raises("42704"):
                secret(service, path)
    with db.connect() as admin:
        assert admin.execute("SELECT count(*) FROM amp.secrets").fetchone() == (0,)


def test_a_tenant_may_come_with_its_secrets(db):
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Cat', 'cat-inc', %s, 'cat')", [json.dumps(STORE)])
    with session(db, "cat") as service:
        assert secret(service) == TOKEN


def test_P7_only_who_manages_integrations_reads_it(db):
    store(db)
    with session(db, user="olga") as service, raises("TN004", match="integrations.manage"):
        secret(service)
    with session(db, user="olga") as service, raises("TN004"):
        service.execute("SELECT amp.update_config('{\"metricool\": {\"token\": \"mine\"}}')")
    with db.connect("amp_ops") as ops, raises("TN001"):
        secret(ops)
    with db.connect("amp_client") as client, raises("TN001"):
        secret(client)
    for statement in (
        "SELECT * FROM amp.secrets",
        "SELECT amp.open_secret('ant', 'metricool.token', 'k', '\\x01')",
        "SELECT amp.reseal_secret('ant', 'metricool.token', 'k', '\\x01', 'k')",
        "SELECT amp.newest_secret_key()",
        "SHOW amp.secret_key_file",
        "SET amp.secret_key_file = '/tmp/mine'",
    ):
        for user in ("amp_svc", "amp_ops", "amp_client"):
            with db.connect(user) as client, pytest.raises(psycopg.Error) as refused:
                client.execute(statement)
            assert refused.value.sqlstate in ("42501", "55P02"), statement


def test_P1_another_tenant_reads_nothing_of_it(db):
    store(db)
    with session(db, "bee") as service, raises("42704"):
        secret(service)
    store(db, {"metricool": {"token": "bee's own"}}, "bee")
    with session(db, "bee") as service:
        assert secret(service) == "bee's own"
    with db.connect() as admin:
        # The same text is another ciphertext every time.
        sealed = admin.execute("SELECT sealed FROM amp.secrets WHERE tenant_id = 'ant' AND path = 'metricool.token'").fetchone()
        store(db, {"metricool": {"token": TOKEN}})
        again = admin.execute("SELECT sealed FROM amp.secrets WHERE tenant_id = 'ant' AND path = 'metricool.token'").fetchone()
        assert sealed != again


MOVES = {
    "to another tenant": "UPDATE amp.secrets s SET sealed = o.sealed FROM amp.secrets o"
    " WHERE s.tenant_id = 'bee' AND o.tenant_id = 'ant' AND o.path = s.path",
    "to another path": "UPDATE amp.secrets s SET sealed = o.sealed FROM amp.secrets o"
    " WHERE s.tenant_id = 'bee' AND o.tenant_id = 'bee' AND s.path = 'metricool.token' AND o.path <> s.path",
    "with a bit turned": "UPDATE amp.secrets SET sealed = set_bit(sealed, 300, 1 - get_bit(sealed, 300)) WHERE tenant_id = 'bee'",
    "cut": "UPDATE amp.secrets SET sealed = substr(sealed, 1, 20) WHERE tenant_id = 'bee'",
    "emptied": "UPDATE amp.secrets SET sealed = '' WHERE tenant_id = 'bee'",
}


@pytest.mark.parametrize("move", MOVES)
def test_a_ciphertext_that_was_changed_or_moved_does_not_open(db, move):
    store(db)
    store(db, STORE | {"metricool": {"token": "bee's"}}, "bee")
    with db.connect() as admin, session(db, "bee") as service:
        assert secret(service) == "bee's"
        assert admin.execute(MOVES[move]).rowcount > 0
        with raises("XX001", match="does not decrypt"):
            secret(service)


def everything_written(server):
    """The bytes of every file of the server: tables, WAL, log."""
    with server.connect() as admin:
        admin.execute("CHECKPOINT; SELECT pg_switch_wal()")
    for folder, _, files in os.walk(server.dir):
        for name in files:
            path = Path(folder, name)
            if path.is_file():
                yield path, path.read_bytes()


def test_the_clear_text_is_in_no_table_file_wal_log_or_dump(db, server):
    """Stored, refused by a mistake beside it, and read: as a parameter, and as a literal."""
    store(db)
    literal, marker = "s3cret-as-a-literal", "what-is-no-secret"
    store(db, {"metricool": {"blog_id": marker}})
    with session(db, user="ada") as service:
        service.execute(f"SELECT amp.update_config('{{\"metricool\": {{\"token\": \"{literal}\"}}}}')")
        for mistake in (
            {"metricool": {"token": literal}, "cost_limits": {"monthly_limit": 1}},
            {"metricool": {"token": literal, "tokn": literal}},
            {"metricool": {"token": [literal]}},
            {"metricool": literal},
            {"integrations": {"slack": {"secret": {"a b": literal}}}},
            {"integrations": {"Slack!": {"secret": literal}}},
        ):
            with raises("TN010") as refused:
                service.execute(f"SELECT amp.update_config('{json.dumps(mistake)}')")
            assert literal not in str(refused.value.diag.message_primary) + str(refused.value.diag.message_detail)
        assert secret(service) == literal
        with db.connect() as admin:
            activity = admin.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [service.info.backend_pid]).fetchone()
            assert literal not in activity[0]  # it shows the session's last statement
    texts = [text.encode() for text in (TOKEN, SLACK, literal)]
    written = list(everything_written(server))
    assert any(marker.encode() in data for _, data in written)  # it would be found
    assert [(str(path), text) for path, data in written for text in texts if text in data] == []
    dump = subprocess.run(
        [program("pg_dump"), "-h", server.host, "-U", "postgres", db.name], check=True, capture_output=True
    ).stdout
    assert marker.encode() in dump and not any(text in dump for text in texts)
    with db.connect("amp_ops") as ops:
        log = ops.execute("SELECT jsonb_agg(to_jsonb(a)) FROM amp.audit_log a").fetchone()[0]
        assert "metricool.token" in json.dumps(log) and not any(text.decode() in json.dumps(log) for text in texts)


def test_the_whole_document_of_the_products_description(db):
    """Every key of it; the description shows the token as encrypted, and so does this."""
    config = {
        "metricool": {"enabled": True, "token": "encrypted_token", "blog_id": "xxx"},
        "provider_routing": {"llm_preference": "claude", "image_preference": "openai", "fallback_enabled": True},
        "cost_limits": {"monthly_limit_cents": 500000, "alert_threshold_percent": 80},
        "approval": {"require_approval": True, "auto_approve_after_hours": 48, "approvers": ["ada", "olga"]},
    }
    usage = {"missions_created": 5, "content_generated": 234, "api_calls": 12456, "cost_cents": 23400}
    store(db, {"config": config})
    with db.connect() as admin:
        admin.execute("UPDATE amp.tenants SET name = 'Acme Corporation', slug = 'acme-corp', created_at = '2024-01-01Z' WHERE id = 'ant'")
        admin.execute("UPDATE amp.tenants SET updated_at = '2024-01-15 10:30Z'; UPDATE amp.tenant_configs SET updated_at = '2024-01-15 10:30Z'")
    with session(db) as service:
        service.execute("SET TimeZone = 'Asia/Tokyo'")
        for metric, amount in usage.items():
            service.execute("SELECT amp.record_usage(%s, %s)", [metric, amount])
        assert service.execute("SELECT amp.tenant()").fetchone()[0] == {
            "id": "ant",
            "name": "Acme Corporation",
            "slug": "acme-corp",
            "status": "active",
            "config": config | {"metricool": {"enabled": True, "token": "encrypted", "blog_id": "xxx"}},
            "usage": {"current_month": usage},
            "created_at": "2024-01-01T00:00:00Z",
            "updated_at": "2024-01-15T10:30:00Z",
        }
        assert secret(service) == "encrypted_token"


REFUSED = {
    "not permitted": ("olga", "SELECT amp.update_config('{config}')", "TN004"),
    "of another tenant": ("ada", "SELECT amp.update_config('{config}', 'bee')", "TN003"),
    "its slug is taken": (None, "SELECT amp.create_tenant('Three', 'bees', '{config}')", "23505"),
    "its slug is taken, by a body": (
        None, "SELECT amp.create_tenant('{{\"name\": \"Three\", \"slug\": \"bees\", \"config\": {config}}}'::jsonb)", "23505"),
    "by a time-out": ("ada", "SET statement_timeout = '1s'; SELECT amp.update_config('{config}'), pg_sleep(60)", "57014"),
    "by what comes after": ("ada", "SELECT amp.update_config('{config}'); SELECT 1 / 0", "22012"),
    "in a block": ("olga", "DO $$BEGIN EXECUTE 'SELECT amp.update_config(''{config}'')'; END$$", "TN004"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_statement_leaves_its_secret_out_of_the_log(db, server, why):
    """The server writes a statement that fails to its log, and the functions that it came through."""
    user, statement, error = REFUSED[why]
    with db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Bees', 'bees')")
    literal = "s3cret-in-a-refused-statement"
    statement = statement.format(config=json.dumps({"metricool": {"token": literal}}))
    before = len(Path(server.log).read_bytes())
    with session(db, user=user) if user else db.connect("amp_ops") as connection:
        with raises(error) as refused:
            connection.execute(statement)
        with raises("42P01"):
            connection.execute("SELECT 'the next one is shown' FROM nowhere")
    log = Path(server.log).read_bytes()[before:].decode()
    assert refused.value.diag.message_primary in log and literal not in log
    assert "the next one is shown" in log


def test_P12_a_restored_database_opens_its_secrets_with_the_same_file(db, server, keys):
    store(db)
    copy = Database(server, f"{db.name}_copy")
    to = ["-h", server.host, "-U", "postgres"]
    subprocess.run([program("createdb"), *to, copy.name], check=True)
    dump = subprocess.run([program("pg_dump"), *to, db.name], check=True, capture_output=True).stdout
    subprocess.run([program("psql"), *to, "-q", "-v", "ON_ERROR_STOP=1", copy.name], input=dump, check=True, stdout=subprocess.DEVNULL)
    with session(copy) as service:
        assert secret(service) == TOKEN
        keys.write(new_key())
        with raises("55000", match="is not in the file"):
            secret(service)
    copy.drop()


def test_rotation_leaves_the_old_key_unneeded(db, keys, server):
    store(db)
    store(db, {"metricool": {"token": "bee's"}}, "bee")
    second = new_key()
    with db.connect("amp_ops") as ops, session(db) as ant, session(db, "bee") as bee:
        unchanged = ops.execute("SELECT amp.rotate_secret_key()").fetchone()[0]
        assert unchanged["secrets"] == 0
        keys.write(second, *keys.keys)
        assert secret(ant) == TOKEN  # the old key still opens
        rotated = ops.execute("SELECT amp.rotate_secret_key()").fetchone()[0]
        assert rotated["secrets"] == 3 and rotated["key_id"] != unchanged["key_id"]
        keys.write(second)
        assert {path: secret(ant, path) for path in PATHS} == PATHS
        assert secret(bee) == "bee's"
        # What was encrypted under a key that is not there is left, and named.
        keys.write(new_key())
        left = ops.execute("SELECT amp.rotate_secret_key()").fetchone()[0]
        assert (left["secrets"], left["left"]) == (0, 3)
        assert left["left_of"][-1] == {"tenant_id": "bee", "path": "metricool.token", "key_id": rotated["key_id"]}
        keys.write(second)
        assert secret(bee) == "bee's"
        assert ops.execute("SELECT count(*) FROM amp.audit_log WHERE action = 'secrets.rotated'").fetchone() == (3,)
    for user in ("amp_svc", "amp_client"):
        with db.connect(user) as client, raises("TN004"):
            client.execute("SELECT amp.rotate_secret_key()")


def test_a_tenant_does_not_keep_the_others_from_rotation(db, keys):
    """Its open transaction is passed over, and so is what it commits under the old key afterwards."""
    store(db)
    store(db, {"metricool": {"token": "bee's"}}, "bee")
    second = new_key()
    with session(db, user="ada") as ant, db.connect("amp_ops") as ops:
        ant.execute("BEGIN")
        ant.execute("SELECT amp.update_config('{\"metricool\": {\"token\": \"held\"}, \"integrations\": {\"late\": {\"secret\": \"late\"}}}')")
        keys.write(second, *keys.keys)
        ops.execute("SET lock_timeout = '1s'")
        rotated = ops.execute("SELECT amp.rotate_secret_key()").fetchone()[0]
        assert (rotated["secrets"], [left["path"] for left in rotated["left_of"]]) == (2, ["metricool.token"])
        keys.write(second)  # too early
        ant.execute("COMMIT")
        with raises("55000"):
            secret(ant, "integrations.late.secret")
        rotated = ops.execute("SELECT amp.rotate_secret_key()").fetchone()[0]
        assert (rotated["secrets"], [left["path"] for left in rotated["left_of"]]) == (0, ["integrations.late.secret", "metricool.token"])
        with session(db, "bee") as bee:
            assert secret(bee) == "bee's"
        keys.write(second, *keys.keys)
        assert ops.execute("SELECT amp.rotate_secret_key() ->> 'left'").fetchone() == ("0",)
        keys.write(second)
        assert secret(ant, "integrations.late.secret") == "late" and secret(ant) == "held"


def test_what_needs_no_secret_works_beside_them(db):
    store(db, {"provider_routing": {"llm_preference": "claude", "llm_fallback": ["openai"]}})
    store(db)
    with session(db) as service:
        assert service.execute("SELECT amp.providers('llm')").fetchone() == (["claude", "openai"],)


def test_secrets_have_bounds(db):
    many = {"integrations": {f"n{n}": {"secret": "x"} for n in range(101)}}
    deep = {"integrations": {"x": {"secret": {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: {"k" * 60: "x"}}}}}}}}}}}}
    for wrong in (many, deep):
        with raises("TN010"):
            store(db, wrong)
    del many["integrations"]["n100"]
    store(db, many)
    with raises("TN010", match="integrations"):
        store(db, {"integrations": {"one_more": {"secret": "x"}}})


def test_a_secret_that_is_stored_while_the_key_is_rotated_is_not_lost(db, keys):
    store(db)
    keys.write(new_key(), *keys.keys)
    with db.connect("amp_ops", autocommit=False) as rotating, db.connect("amp_ops") as storing:
        rotating.execute("SELECT amp.rotate_secret_key()")
        waiting = threading.Thread(target=storing.execute, args=['SELECT amp.update_config(\'{"metricool": {"token": "newer"}}\', \'ant\')'])
        waiting.start()
        rotating.commit()
        waiting.join()
    with session(db) as service:
        assert secret(service) == "newer" and secret(service, "integrations.slack.secret") == SLACK


FILES = {
    "others can read it": lambda keys: keys.write(mode=0o604),
    "its group can read it": lambda keys: keys.write(mode=0o640),
    "its group can write it": lambda keys: keys.write(mode=0o620),
    "it is a folder": lambda keys: (os.remove(keys.path), os.mkdir(keys.path)),
    "it is a pipe": lambda keys: (os.remove(keys.path), os.mkfifo(keys.path)),
    "it is not there": lambda keys: os.remove(keys.path),
    "it is empty": lambda keys: keys.write(""),
    "a key is short": lambda keys: keys.write(keys.keys[0], keys.keys[0][:-2]),
    "a key is no number": lambda keys: keys.write("x" * 64),
    "it is huge": lambda keys: keys.write("#" * 70_000),
}


@pytest.mark.parametrize("reason", FILES)
def test_a_file_that_will_not_do_is_refused(db, keys, server, reason):
    """The client hears no path and nothing of the file; the server's log says why."""
    store(db)
    before = len(Path(server.log).read_bytes())
    FILES[reason](keys)
    try:
        with session(db) as service:
            with raises("55000") as refused:
                secret(service)
            assert keys.path not in f"{refused.value} {refused.value.diag.message_detail}"
        with raises("55000"):
            store(db, {"metricool": {"token": "new", "enabled": False}})
        with db.connect("amp_ops") as ops:  # nothing was changed, and what is no secret can be
            assert ops.execute("SELECT amp.tenant('ant') #> '{config,metricool,enabled}'").fetchone() == (True,)
            ops.execute("SELECT amp.update_config('{\"metricool\": {\"enabled\": false}}', 'ant')")
        log = Path(server.log).read_bytes()[before:].decode()
        assert keys.path in log and keys.keys[0][:60] not in log
    finally:
        if os.path.isdir(keys.path):
            os.rmdir(keys.path)
        elif os.path.exists(keys.path) and not os.path.isfile(keys.path):
            os.remove(keys.path)
        keys.write()
    with session(db) as service:
        assert secret(service) == TOKEN


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize(("owner", "mode", "allowed"), [(0, 0o640, True), (0, 0o644, False), (0, 0o660, False), (12345, 0o644, False)])
def test_a_file_of_roots_may_be_read_by_the_servers_group(db, keys, owner, mode, allowed):
    store(db)
    keys.write(mode=mode, owner=(owner, keys.owner[1]))
    with session(db) as service:
        if allowed:
            assert secret(service) == TOKEN
        else:
            with raises("55000"):
                secret(service)


def test_without_a_file_nothing_secret_is_stored_and_the_rest_is(fresh_db):
    with fresh_db.connect("amp_ops") as ops:
        ops.execute("SELECT amp.create_tenant('Ant', 'ant-inc', id => 'ant')")
        with raises("55000", match="no key to encrypt secrets with"):
            ops.execute("SELECT amp.update_config(%s, 'ant')", [json.dumps(STORE)])
        with raises("55000"):
            ops.execute("SELECT amp.create_tenant('Bee', 'bee-inc', %s, 'bee')", [json.dumps(STORE)])
        assert ops.execute("SELECT amp.tenant('ant') -> 'config'").fetchone() == ({},)
        ops.execute("SELECT amp.update_config('{\"metricool\": {\"blog_id\": \"1\"}}', 'ant')")
        with raises("55000"):
            ops.execute("SELECT amp.rotate_secret_key()")


def test_a_secret_is_read_on_a_read_only_transaction(db):
    store(db)
    with session(db) as service:
        service.execute("BEGIN READ ONLY")
        assert secret(service) == TOKEN


@pytest.mark.parametrize("text", ["x", "x" * 4096, "ünïcödé 🔑", "encrypted?", " ", "a\nb\tc"])
def test_any_text_comes_back_as_it_was(db, text):
    store(db, {"metricool": {"token": "t"}, "integrations": {"any": {"secret": {"part": text}}}})
    with session(db) as service:
        assert secret(service, "integrations.any.secret.part") == text


def test_who_names_an_integration_like_anothers_tenant_reads_his_own(db):
    """Paths are keys of the configuration, and no language: nothing in one reaches another tenant or path."""
    store(db)
    for path in ("../ant/metricool.token", "ant\x01metricool.token", "metricool.token' OR 'a'='a", "%", "metricool%", "METRICOOL.TOKEN"):
        with session(db, "bee") as service, raises("42704"):
            secret(service, path)
