"""An allocation of Rust's that fails ends the whole server, where PostgreSQL's own is an error of one statement. So no client decides how long
one is: on a server whose processes are limited, the way a container or strict overcommit limits them, it stays up."""

import json
import resource

import pytest

from harness import Cluster, raises

LIMIT = 2 << 30
READ = "SELECT amp.brand_context() -> 'context'"


@pytest.fixture(scope="module")
def server():
    """Its processes have this much address space each: what they inherit from who starts them."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, before[1]))
    try:
        server = Cluster()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    yield server
    server.remove()


@pytest.fixture
def db(server):
    """Tenant corp is in an account, of which ann is an admin; prod is, too, and pia is its admin. It ends as the server that it began as."""
    db = server.database()
    with db.connect("amp_ops") as ops, db.connect() as admin:
        admin.execute("INSERT INTO amp.app_users VALUES ('ann', 'ann@example.com'), ('pia', 'pia@example.com')")
        ops.execute("SELECT amp.create_account('One', 'enterprise', 'one'), amp.add_account_member('one', 'ann@example.com', 'admin')")
        for tenant in ("corp", "prod"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s, account_id => 'one')", [tenant, f"tenant-{tenant}", tenant])
        ops.execute("SELECT amp.invite_user('pia@example.com', 'admin', 'prod')")
        started = admin.execute("SELECT pg_backend_pid()").fetchone()
        yield db
        assert admin.execute("SELECT pg_backend_pid()").fetchone() == started  # a crash would have ended this session
    db.drop()


def enter(db, tenant, user):
    session = db.connect("amp_svc")
    session.execute("SELECT set_config('amp.tenant_id', %s, false), set_config('amp.user_id', %s, false)", [tenant, user])
    return session


def one(session, sql, *args):
    return session.execute(sql, args or None).fetchone()[0]


def nested(keys, value):
    """{"a": {"a": ... value}}"""
    return nested(keys - 1, {"a": value}) if keys else value


def test_what_others_share(db):
    """An admin of an account makes as many tenants as he likes, and shares of each a document that takes thirty times its length when it is
    unpacked, eight times over."""
    document = json.dumps(nested(8, [{"a": 0}] * 100_000), separators=(",", ":"))
    elements = [".".join("a" * keys) for keys in range(1, 9)]
    for number in range(6):
        with enter(db, "corp", "ann") as corp:
            source = one(corp, "SELECT amp.create_tenant('More', %s) ->> 'id'", f"more-{number}")
        with enter(db, source, "ann") as session:
            session.execute("SELECT amp.set_brand_context(%s)", [document])
            session.execute("SELECT amp.share_brand(%s, 'prod', %s)", [source, elements])
    with enter(db, "prod", "pia") as prod:
        with raises("54000", match="more is shared with this tenant than can be read"):
            prod.execute(READ)
        # He can do something about it.
        for share in one(prod, "SELECT amp.brand_shares() -> 'data'"):
            if share["source_tenant"] != source:
                prod.execute("SELECT amp.unshare_brand(%s, 'prod', %s)", [share["source_tenant"], [share["element"]]])
            elif share["element"] != "a.a":
                prod.execute("SELECT amp.unshare_brand(%s, 'prod', %s)", [source, [share["element"]]])
        assert list(one(prod, READ)["a"]["a"]) == ["a"]


def test_a_patch_of_brand_context(db):
    """The longest that is looked at, as PostgreSQL stores it, with as many objects as go in."""
    with enter(db, "corp", "ann") as corp, raises("TN010", match="brand context is not valid"):
        corp.execute("SELECT amp.set_brand_context(jsonb_build_object('a', (SELECT jsonb_agg('{\"a\": 0}'::jsonb) FROM generate_series(1, 550000))))")


def test_a_patch_of_the_configuration(db):
    with enter(db, "corp", "ann") as corp, raises("TN010", match="at most 256 KiB"):
        corp.execute("""SELECT amp.update_config(jsonb_build_object('preferences', jsonb_build_object('a',
                        (SELECT jsonb_agg('{"a": 0}'::jsonb) FROM generate_series(1, 140000)))))""")


@pytest.mark.parametrize(
    "call",
    [
        "amp.set_brand_context(jsonb_build_object('a', repeat('x', 100000000)))",
        "amp.update_config(jsonb_build_object('preferences', jsonb_build_object('a', repeat('x', 100000000))))",
        "amp.share_brand('corp', 'prod', ARRAY[repeat('x', 100000000)])",
        "amp.share_brand(jsonb_build_object('source_tenant', 'corp', 'target_tenant', repeat('x', 100000000), 'elements', '[]'::jsonb))",
        "amp.invite_user(jsonb_build_object('email', repeat('x', 100000000), 'role', 'viewer'))",
        "amp.request_approval('a', 'b', to_jsonb(repeat('x', 100000000)))",
        "amp.providers(repeat('x', 100000000))",
        "amp.secret(repeat('x', 100000000))",
        "amp.account(repeat('x', 100000000))",
        "amp.authenticate(repeat('x', 100000000))",
    ],
)
def test_arguments_of_any_length_are_refused(db, call):
    with enter(db, "corp", "ann") as corp, pytest.raises(Exception) as refused:
        corp.execute(f"SELECT {call}")
    assert refused.value.sqlstate in ("TN003", "TN010", "22023", "42704")
