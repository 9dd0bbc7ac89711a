"""Brand context: who gets at another tenant's document, or keeps what was taken back. Tenants corp, prod and emea are of one account, far of
another one; corp shares voice.personality with prod, and nothing else."""

import json
import time

import psycopg
import pytest

from harness import raises
from world import people

DOCUMENT = {"voice": {"personality": "warm", "tone": "SECRET"}, "plans": {"launch": "SECRET"}}
SHARED = {"voice": {"personality": "warm"}}
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
READ = "SELECT amp.brand_context() -> 'context'"


@pytest.fixture
def brand(fresh_db):
    with fresh_db.connect("amp_ops") as ops, fresh_db.connect() as admin:
        for tenant in ("corp", "prod", "emea", "far"):
            ops.execute("SELECT amp.create_tenant(%s, %s, id => %s)", [tenant, f"tenant-{tenant}", tenant])
        admin.execute("INSERT INTO amp.accounts (id, kind, name) VALUES ('one', 'enterprise', '1'), ('two', 'agency', '2')")
        admin.execute("UPDATE amp.tenants SET account_id = CASE id WHEN 'far' THEN 'two' ELSE 'one' END")
    people(fresh_db, ann=("corp", "admin"), pia=("prod", "admin"), eve=("emea", "admin"), fay=("far", "admin"), vic=("prod", "viewer"))
    with enter(fresh_db, "corp", "ann") as corp:
        corp.execute("SELECT amp.set_brand_context(%s)", [json.dumps(DOCUMENT)])
        corp.execute("SELECT amp.share_brand('corp', 'prod', '{voice.personality}')")
    return fresh_db


def enter(database, tenant, user=None, role="amp_svc", **kw):
    session = database.connect(role, **kw)
    session.execute("SELECT set_config('amp.tenant_id', %s, false), set_config('amp.user_id', %s, false)", [tenant, user or ""])
    session.commit()
    return session


def one(session, sql, *args):
    return session.execute(sql, args or None).fetchone()[0]


def blocks(session, sql):
    """How many blocks a query looks at, in tables and indexes, once it has been run before. For who may see statistics."""
    one(session, sql)
    plan = one(session, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def test_a_large_document_is_read_once(brand, new_role):
    """A megabyte that does not compress: the merged document looks at no more blocks than its row, but for a few."""
    with enter(brand, "prod", "pia", new_role("LOGIN IN ROLE amp_svc, pg_read_all_stats")) as prod:
        prod.execute("""SELECT amp.set_brand_context(jsonb_build_object('big', jsonb_object_agg('k' || n, md5(n::text) || md5(n::text || 'x'))))
                        FROM generate_series(1, 12000) n""")
        row = blocks(prod, "SELECT length(document::text) FROM amp.brand_contexts")
        merged = blocks(prod, "SELECT length(amp.brand_context()::text)")
        assert one(prod, "SELECT length(amp.brand_context()::text)") > 900_000
        assert row > 100 and merged < row + 60
        assert one(prod, READ)["voice"] == {"personality": "warm"}
        prod.execute("SELECT amp.unshare_brand('corp', 'prod')")
        assert blocks(prod, "SELECT length(amp.brand_context()::text)") < row + 60


ENDS = {
    "taken back by the source": lambda db: enter(db, "corp", "ann").execute("SELECT amp.unshare_brand('corp', 'prod')"),
    "taken back by the target": lambda db: enter(db, "prod", "pia").execute("SELECT amp.unshare_brand('corp', 'prod')"),
    "suspended": lambda db: db.connect("amp_ops").execute("SELECT amp.suspend_tenant('corp')"),
    "deleted": lambda db: db.connect("amp_ops").execute("SELECT amp.delete_tenant('corp')"),
    "the source moved": lambda db: db.connect().execute("UPDATE amp.tenants SET account_id = 'two' WHERE id = 'corp'"),
    "the target moved": lambda db: db.connect().execute("UPDATE amp.tenants SET account_id = 'two' WHERE id = 'prod'"),
    "the source left": lambda db: db.connect().execute("UPDATE amp.tenants SET account_id = NULL WHERE id = 'corp'"),
    "both moved": lambda db: db.connect().execute("UPDATE amp.tenants SET account_id = 'two'"),
    "all left": lambda db: db.connect().execute("UPDATE amp.tenants SET account_id = NULL"),
    "the element is gone": lambda db: enter(db, "corp", "ann").execute("SELECT amp.set_brand_context('{\"voice\": {\"personality\": null}}')"),
    "expired": lambda db: time.sleep(1.2),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_share_bites_at_the_next_statement(brand, end, level):
    """In an open transaction with a snapshot, by a prepared statement, a cursor, PL/pgSQL and the lists."""
    if end == "expired":
        enter(brand, "corp", "ann").execute("SELECT amp.share_brand('corp', 'prod', '{voice.personality}', now() + interval '1 second')")
    with enter(brand, "prod", "pia", autocommit=False) as session:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert one(session, READ) == SHARED
        session.execute(f"PREPARE q AS {READ}; DECLARE c CURSOR FOR SELECT amp.brand_context() -> 'context' FROM generate_series(1, 3)")
        assert one(session, "EXECUTE q") == one(session, "FETCH c") == SHARED
        ENDS[end](brand)
        assert [one(session, sql) for sql in (READ, "EXECUTE q", "FETCH c")] == [{}, {}, {}]
        session.execute("DO $$ BEGIN ASSERT amp.brand_context() -> 'context' = '{}'; ASSERT amp.brand_context() -> 'shared' = '[]'; END $$")
        assert one(session, "SELECT amp.set_brand_context('{}') -> 'context'") == {}


@pytest.mark.parametrize("level", LEVELS)
def test_an_older_snapshot_shows_nothing_of_before_the_sharing(brand, level):
    """A secret that was taken out of an element before it was shared is in the snapshot of a target that began earlier."""
    with enter(brand, "corp", "ann") as corp, enter(brand, "emea", "eve", autocommit=False) as emea:
        emea.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert one(emea, READ) == {}
        corp.execute("SELECT amp.set_brand_context('{\"voice\": {\"tone\": \"harmless\"}}')")
        corp.execute("SELECT amp.share_brand('corp', 'emea', '{voice.tone}')")
        assert one(emea, READ) == {"voice": {"tone": "harmless"}}


def test_who_was_removed_cannot_commit_a_share_that_was_taken_back(brand):
    """He keeps the transaction open, or prepared; taking everything back ends what he has not committed yet, and waits for him in nothing."""
    people(brand, mal=("corp", "admin"))
    with enter(brand, "corp", "mal", autocommit=False) as mal, enter(brand, "corp", "ann") as ann, brand.connect("amp_ops") as ops:
        mal.execute("SELECT amp.share_brand('corp', 'emea', '{plans}'), amp.share_brand('corp', 'prod', '{plans}')")
        ops.execute("SELECT amp.remove_user('mal', 'corp')")
        ann.execute("SET lock_timeout = '1s'")
        for target in ("emea", "prod"):
            ann.execute("SELECT amp.unshare_brand('corp', %s)", [target])
        mal.commit()
        assert one(ann, "SELECT amp.brand_shares()") == {"data": []}
    assert one(enter(brand, "emea"), READ) == one(enter(brand, "prod"), READ) == {}
    with enter(brand, "corp", "ann") as ann:  # and it can be shared again
        ann.execute("SELECT amp.share_brand('corp', 'prod', '{voice.personality}')")
    assert one(enter(brand, "prod"), READ) == SHARED


def test_taking_back_waits_for_nobody(brand):
    """Whoever shares, patches or takes back in an open transaction, on either side."""
    holders = [("corp", "ann", "SELECT amp.share_brand('corp', 'prod', '{voice.personality}')"),
               ("corp", "ann", "SELECT amp.set_brand_context('{\"voice\": {\"personality\": \"held\"}}')"),
               ("prod", "pia", "SELECT amp.unshare_brand('corp', 'prod')"), ("corp", "ann", "SELECT amp.unshare_brand('corp', 'prod')"),
               ("prod", "pia", "SELECT amp.set_brand_context('{\"voice\": {\"tone\": 1}}')")]
    for tenant, user, held in holders:
        for level in LEVELS:
            with enter(brand, tenant, user, autocommit=False) as holder, enter(brand, "corp", "ann") as ann:
                holder.execute(held)
                ann.execute(f"SET lock_timeout = '1s'; SET default_transaction_isolation = '{level}'")
                assert one(ann, "SELECT amp.unshare_brand('corp', 'prod') -> 'elements'") == ["voice.personality"], held
                holder.rollback()
                assert one(enter(brand, "prod"), READ) == {}
                ann.execute("SET default_transaction_isolation = 'read committed'")
                ann.execute("SELECT amp.share_brand('corp', 'prod', '{voice.personality}')")


def test_nothing_else_of_the_source_is_read(brand):
    """By tables, views, other functions, arguments; errors tell nothing of it either."""
    with enter(brand, "prod", "pia") as prod:
        assert one(prod, READ) == SHARED
        for function in ("brand_context()", "brand_shares()", "context()", "tenant()"):
            assert "SECRET" not in str(one(prod, f"SELECT amp.{function}"))
        assert prod.execute("SELECT * FROM amp.brand_contexts").fetchall() == []
        for table in ("stored_brand_shares", "ended_brand_shares", "brand_elements", "open_brand_shares"):
            with raises("42501"):
                prod.execute(f"SELECT * FROM amp.{table}")
        for verb in ("INSERT INTO amp.brand_contexts VALUES ('prod', '{\"context\": {}}')", "UPDATE amp.brand_contexts SET document = '{}'",
                     "DELETE FROM amp.brand_contexts", "TRUNCATE amp.brand_contexts", "SELECT 1 FROM amp.brand_contexts FOR UPDATE",
                     "INSERT INTO amp.stored_brand_shares VALUES ('prod', 'corp', 'plans', 'one')", "DELETE FROM amp.ended_brand_shares",
                     "UPDATE amp.brand_elements SET element = 'x'"):
            with raises("42501"):
                prod.execute(verb)
        for call in ("merged_brand('corp', '{\"context\": {}}')", "merged_brand('prod', '{\"context\": {}}')", "common_account('corp', 'far')",
                     "own_brand_elements('corp', '{}', '{plans}')", "brand_document('corp')", "brand_element('{}', 'a')",
                     "patched_brand('{}', '{}')", "log_brand('brand.shared', 'prod', 'prod', 'far', '[]', NULL)"):
            with raises("42501"):
                prod.execute(f"SELECT amp.{call}")
        for sql in ("SELECT amp.brand_context('corp')", "SELECT amp.set_brand_context('{}', 'corp')",
                    "SELECT amp.share_brand('corp', 'prod', '{plans}')", "SELECT amp.share_brand('corp', 'emea', '{plans}')",
                    "SELECT amp.share_brand('{\"source_tenant\": \"corp\", \"target_tenant\": \"prod\", \"elements\": [\"plans\"]}')",
                    "SELECT amp.unshare_brand('corp', 'emea')"):
            with raises("TN003") as refused:
                prod.execute(sql)
            assert "SECRET" not in str(refused.value.diag.message_primary) + str(refused.value.diag.message_hint)
        # What corp has, and has not, gets the same words; only what it shares is known.
        words = set()
        for element in ("plans", "plans.launch", "voice.tone", "nothing"):
            with raises("42704") as refused:
                prod.execute("SELECT amp.share_brand('prod', 'emea', ARRAY[%s])", [element])
            diag = refused.value.diag
            words.add((diag.message_primary.replace(element, "?"), diag.message_detail, diag.message_hint))
        assert len(words) == 1
        with raises("42704") as refused:
            prod.execute("SELECT amp.share_brand('prod', 'emea', '{voice.personalty}')")
        assert "personality" not in str(refused.value.diag.message_hint)


def test_another_account_is_nobody(brand):
    """A tenant of another account, a suspended one, one that never was: the same answer, and the same for taking back."""
    with brand.connect("amp_ops") as ops:
        ops.execute("SELECT amp.suspend_tenant('emea')")
    with enter(brand, "corp", "ann") as corp, brand.connect() as admin:
        words = set()
        for target in ("far", "emea", "nobody", "corp", "", "x" * 200, "prod'; --"):
            with raises("TN002") as refused:
                corp.execute("SELECT amp.share_brand('corp', %s, '{plans}')", [target])
            diag = refused.value.diag
            words.add((diag.message_primary.replace(target[:64], "?") if target else "tenant \"?\" is not another one of the account's",
                       diag.message_detail, diag.message_hint))
        assert len(words) == 1, words
        before = one(admin, "SELECT count(*) FROM amp.audit_log WHERE tenant_id <> 'corp' OR tenant_id IS NULL")
        with enter(brand, "corp", "ann", autocommit=False) as asking:
            for target in ("far", "nobody"):  # nor by what a transaction wrote
                asking.execute("SELECT amp.unshare_brand('corp', %s)", [target])
                assert one(asking, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
                asking.rollback()
        for target in ("far", "nobody"):
            assert one(corp, "SELECT amp.unshare_brand('corp', %s) -> 'elements'", target) == []
            assert one(corp, "SELECT amp.unshare_brand(%s, 'corp') -> 'elements'", target) == []
            with raises("42704"):
                corp.execute("SELECT amp.unshare_brand('corp', %s, '{plans}')", [target])
        assert one(admin, "SELECT count(*) FROM amp.audit_log WHERE tenant_id <> 'corp' OR tenant_id IS NULL") == before
        assert one(corp, "SELECT jsonb_array_length(amp.brand_shares() -> 'data')") == 1
    with enter(brand, "far", "fay") as far:
        assert one(far, "SELECT amp.brand_shares()") == {"data": []} and one(far, READ) == {}
        with raises("TN003"):
            far.execute("SELECT amp.unshare_brand('corp', 'prod')")


def test_taking_back_again_and_again_leaves_nothing(brand):
    with enter(brand, "corp", "ann") as corp, brand.connect() as admin:
        for _ in range(50):
            corp.execute("SELECT amp.unshare_brand('corp', 'prod'), amp.unshare_brand('corp', 'far'), amp.unshare_brand('far', 'corp')")
        assert one(admin, "SELECT count(*) FROM amp.ended_brand_shares") == 3
        for _ in range(10):
            corp.execute("SELECT amp.share_brand('corp', 'prod', '{plans}')")
            corp.execute("SELECT amp.unshare_brand('corp', 'prod', '{plans}')")
        corp.execute("SELECT amp.share_brand('corp', 'prod', '{voice}')")
        assert [one(admin, f"SELECT count(*) FROM amp.{t}") for t in ("stored_brand_shares", "ended_brand_shares", "brand_elements")] == [1, 1, 1]


def test_what_is_shared_is_not_shared_on(brand):
    """Neither by its name nor with a section around it, nor after the own value is gone."""
    with enter(brand, "prod", "pia") as prod, enter(brand, "emea", "eve") as emea:
        with raises("42704", match="of its own"):
            prod.execute("SELECT amp.share_brand('prod', 'emea', '{voice.personality}')")
        prod.execute("SELECT amp.set_brand_context('{\"voice\": {\"own\": 1}}')")
        prod.execute("SELECT amp.share_brand('prod', 'emea', '{voice}')")
        assert one(emea, READ) == {"voice": {"own": 1}}
        prod.execute("SELECT amp.set_brand_context('{\"voice\": null}')")
        assert one(emea, READ) == {} and one(prod, READ) == SHARED
        # A circle: each reads the other's own, once.
        prod.execute("SELECT amp.set_brand_context('{\"voice\": {\"own\": 1}}')")
        emea.execute("SELECT amp.set_brand_context('{\"voice\": {\"theirs\": 2}}')")
        emea.execute("SELECT amp.share_brand('emea', 'prod', '{voice}')")
        assert one(emea, READ) == {"voice": {"own": 1, "theirs": 2}}
        assert one(prod, READ) == {"voice": {"own": 1, "theirs": 2, "personality": "warm"}}


def test_reading_writes_nothing(brand):
    """In a read-only transaction, at every level, also where the server likes parallel workers."""
    for level in LEVELS:
        with enter(brand, "prod", "vic", autocommit=False) as vic:
            vic.execute(f"SET TRANSACTION ISOLATION LEVEL {level} READ ONLY; SET LOCAL force_parallel_mode = on"
                        if vic.info.server_version < 160000 else
                        f"SET TRANSACTION ISOLATION LEVEL {level} READ ONLY; SET LOCAL debug_parallel_query = on")
            assert one(vic, READ) == SHARED
            assert one(vic, "SELECT pg_current_xact_id_if_assigned()") is None


def test_roles(brand):
    """A viewer and a service without a user read; neither manages. No content.view, no document, whatever else is held."""
    manage = ["SELECT amp.set_brand_context('{\"a\": 1}')", "SELECT amp.set_brand_context('{}')", "SELECT amp.share_brand('prod', 'emea', '{a}')",
              "SELECT amp.share_brand('{\"target_tenant\": \"emea\", \"elements\": [\"a\"]}')", "SELECT amp.unshare_brand('corp', 'prod')",
              "SELECT amp.brand_shares()"]
    for user in ("vic", None):
        with enter(brand, "prod", user) as session:
            assert one(session, READ) == SHARED
            for sql in manage:
                with raises("TN004"):
                    session.execute(sql)
    with enter(brand, "prod", "pia") as prod:
        prod.execute("SELECT amp.define_role('plumber', '{integrations.manage}'), amp.set_brand_context('{\"mine\": \"SECRET\"}')")
        prod.execute("SELECT amp.set_user_role('vic', 'plumber')")
    with enter(brand, "prod", "vic") as plumber:
        for sql in (READ, "SELECT amp.set_brand_context('{}')", "SELECT amp.share_brand('prod', 'emea', '{mine}')"):
            with raises("TN004"):
                plumber.execute(sql)
        assert plumber.execute("SELECT * FROM amp.brand_contexts").fetchall() == []
    for role, sqlstate in (("amp_ops", "TN001"), ("amp_client", "TN001"), ("postgres", "TN001")):
        with brand.connect(role) as session:
            for sql in (READ, "SELECT amp.brand_context('corp')", "SELECT amp.set_brand_context('{\"a\": 1}', 'corp')",
                        "SELECT amp.unshare_brand('corp', 'prod')"):
                with pytest.raises(psycopg.Error) as refused:
                    session.execute(sql)
                assert refused.value.sqlstate.startswith("TN"), refused.value


def test_the_other_side_s_log_says_what_and_not_who(brand):
    with brand.connect() as admin:
        rows = admin.execute("SELECT tenant_id, user_id, login_role, detail FROM amp.audit_log WHERE action = 'brand.shared' ORDER BY 1").fetchall()
    detail = {"source_tenant": "corp", "target_tenant": "prod", "elements": ["voice.personality"]}
    assert rows == [("corp", "ann", "amp_svc", detail), ("prod", None, "(another tenant's)", {**detail, "by_tenant": "corp"})]


def test_shadowing_changes_nothing(brand):
    """Objects of the caller's in front of everything that the functions name: never called."""
    with enter(brand, "prod", "pia") as prod, brand.connect() as admin:
        admin.execute("CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO amp_svc")
        prod.execute("""
            CREATE FUNCTION trap.caught() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught as %', current_user; END $$;
            CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT trap.caught(); SELECT true $$;
            CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.eq);
            CREATE OPERATOR trap.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.eq);
            CREATE FUNCTION trap.field(jsonb, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT trap.caught(); SELECT '{}'::jsonb $$;
            CREATE OPERATOR trap.-> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = trap.field);
            CREATE FUNCTION trap.jsonb_build_object(VARIADIC "any") RETURNS jsonb LANGUAGE internal AS 'jsonb_build_object';
            CREATE FUNCTION trap.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT trap.caught(); SELECT 'object' $$;
            CREATE FUNCTION trap.to_jsonb(text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT trap.caught(); SELECT '[]'::jsonb $$;
            CREATE TEMP TABLE brand_contexts (tenant_id text, document jsonb);
            CREATE TEMP TABLE open_brand_shares (target_tenant text);
            SET search_path = trap, pg_temp, amp, pg_catalog;
        """ .replace("LANGUAGE internal AS 'jsonb_build_object'", "LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.caught(); END $$")
            .replace("VARIADIC \"any\"", "VARIADIC text[]"))
        assert one(prod, "SELECT amp.set_brand_context('{\"mine\": 1}') OPERATOR(pg_catalog.->) 'context'") == {**SHARED, "mine": 1}
        prod.execute("SELECT amp.share_brand('prod', 'emea', '{mine}'), amp.brand_shares(), amp.unshare_brand('prod', 'emea')")
        prod.execute("SELECT amp.share_brand('{\"target_tenant\": \"emea\", \"elements\": [\"mine\"], \"expires_at\": \"2100-01-01T00:00Z\"}')")
        prod.execute("SELECT amp.unshare_brand('corp', 'prod')")


HOSTILE = [
    {"": 1}, {"a.b": {"c": 1}}, {"__proto__": {"admin": True}, "constructor": {"prototype": 1}}, {"\u202e\U0001f600\ufeff": "x"}, {"'; DROP TABLE x; --": 1},
    {"voice": []}, {"voice": [None, {"personality": 1}]}, {"voice": "x"}, {"voice": {"personality": {"deep": {"er": 1}}}}, {"voice": {}},
    {"$ref": "#/plans", "shared": [1], "context": {"plans": 1}, "tenant_id": "corp"}, {"k" * 70000: 1}, {"a": [[[[[1]]]]]}, {"n": [0, 1.5, 1e-300, 9007199254740993]},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda document: str(document)[:40])
def test_any_document_is_merged_as_it_is(brand, hostile):
    """On both sides: own keys are kept, another's are reached by no trick of theirs."""
    with enter(brand, "prod", "pia") as prod:
        prod.execute("SELECT amp.set_brand_context(%s)", [json.dumps(hostile)])
        merged = one(prod, "SELECT amp.brand_context()")
        assert "SECRET" not in str(merged) and merged["tenant_id"] == "prod" and len(merged["shared"]) == 1
        own = hostile.get("voice", {})
        expected = own if not isinstance(own, dict) else {"personality": "warm", **own}
        assert merged["context"] == {**hostile, "voice": expected}
    with enter(brand, "corp", "ann") as corp:
        corp.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"voice": {"personality": hostile}})])
        shared = one(corp, "SELECT amp.brand_context() #> '{context,voice,personality}'")
    with enter(brand, "emea", "eve") as emea:
        enter(brand, "corp", "ann").execute("SELECT amp.share_brand('corp', 'emea', '{voice.personality}')")
        assert one(emea, READ) == {"voice": {"personality": shared}}


def test_huge_and_deep_documents(brand):
    deep = {}
    for _ in range(120):
        deep = {"k": deep}
    with enter(brand, "prod", "pia") as prod, enter(brand, "corp", "ann") as corp:
        corp.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"voice": {"personality": deep}})])
        prod.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"voice": {"personality": {"k": {"own": 1}}}})])
        assert one(prod, "SELECT amp.brand_context() #>> '{context,voice,personality,k,k}'") == json.dumps(deep["k"]["k"])
        many = {f"key{n}": "x" * 60 for n in range(20000)}
        corp.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"voice": {"personality": many}})])
        prod.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"voice": {"personality": many}})])
        merged = one(prod, "SELECT amp.brand_context()")
        assert len(merged["context"]["voice"]["personality"]) == 20001 and len(merged["shared"][0]["overridden"]) == 100
        for attack in ("[" * 200 + "]" * 200, '{"k":' * 5000 + "1" + "}" * 5000, '"' + "x" * (3 << 20) + '"'):
            with raises("TN010"):
                prod.execute("SELECT amp.set_brand_context(%s)", [f'{{"a": {attack}}}'])
        with raises("TN010"):
            prod.execute("SELECT amp.set_brand_context(jsonb_build_object('a', (SELECT jsonb_agg(1) FROM generate_series(1, 3000000))))")
        with raises("22023"):
            prod.execute("SELECT amp.share_brand('prod', 'emea', (SELECT array_agg('voice'::text) FROM generate_series(1, 1000000)))")
        with raises("22023"):
            prod.execute("SELECT amp.share_brand('prod', 'emea', ARRAY[repeat('x', 100000000)])")
        with raises("TN010"):
            prod.execute("SELECT amp.share_brand(jsonb_build_object('elements', repeat('x', 100000000)))")


def test_a_patch_waits_and_a_suspension_does_not(brand):
    with enter(brand, "prod", "pia", autocommit=False) as holder, brand.connect("amp_ops") as ops:
        holder.execute("SELECT amp.set_brand_context('{\"a\": 1}'), amp.unshare_brand('corp', 'prod')")
        ops.execute("SET lock_timeout = '1s'")
        ops.execute("SELECT amp.suspend_tenant('prod'), amp.suspend_tenant('corp')")
        with raises("TN002"):
            holder.execute("SELECT amp.brand_context()")


def test_a_merged_document_is_one_that_the_server_reads(brand):
    """It is put together from stored parts: every key is found in it, and what is read is what the same text says."""
    values = [None, True, False, 0, -1.5, 12345678901234567, "", "x", "\u00fc" * 3, [], {}, [1, "a", [2]], {"k": {"l": 1}}, ["", None]]
    with enter(brand, "prod", "pia") as prod, enter(brand, "corp", "ann") as corp:
        for count in (0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 200):
            own = {f"{'k' * (n % 5)}{n}": [values[n % len(values)]] if n % 3 else values[n % len(values)] for n in range(1, count + 1)}
            own = {key: value for key, value in own.items() if value is not None}
            prod.execute("SELECT amp.set_brand_context((SELECT jsonb_object_agg(k, NULL) FROM jsonb_object_keys(amp.brand_context() -> 'context') k))")
            prod.execute("SELECT amp.set_brand_context(%s)", [json.dumps(own)])
            for value in values[1:]:
                corp.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"z": value, "voice": {"personality": value}})])
                corp.execute("SELECT amp.share_brand('corp', 'prod', '{z}')")
                merged = {**own, "z": value, "voice": {"personality": value}}
                assert one(prod, READ) == merged, (count, value)
                assert one(prod, """
                    SELECT m = m::text::jsonb AND m::text = m::text::jsonb::text AND pg_column_size(m) = pg_column_size(m::text::jsonb)
                       AND jsonb_hash(m) = jsonb_hash(m::text::jsonb)
                       AND bool_and(m -> 'context' -> k = m::text::jsonb -> 'context' -> k AND m -> 'context' ? k)
                    FROM (SELECT amp.brand_context() m) d, jsonb_object_keys(d.m -> 'context') k GROUP BY m"""), (count, value)
                corp.execute("SELECT amp.set_brand_context('{\"z\": null}')")


def test_doubles_are_kept(brand):
    numbers = [0.9247360963010065, 0.1, 5e-324, 123456789.123456789, -0.30000000000000004]
    with enter(brand, "prod", "pia") as prod:
        prod.execute("SELECT amp.set_brand_context(%s)", [json.dumps({"numbers": numbers})])
        assert one(prod, "SELECT amp.brand_context() #> '{context,numbers}'") == numbers
