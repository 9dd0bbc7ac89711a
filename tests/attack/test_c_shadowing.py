"""C5, C6. Objects of the attacker in front of amp's and PostgreSQL's own: pg_temp and a schema first in search_path."""

import pytest

from harness import raises
from world import MINE, THEIRS, column, notes

# Functions and operators that amp's SQL calls, in signatures that match better than PostgreSQL's own, and each a trap.
FUNCTIONS = [
    "lower(text)", "btrim(text)", "length(text)", 'left(text, int)', "quote_literal(text)", "quote_ident(text)", "quote_ident(name)",
    "format(text, text)", "format(text, name)", "format(text, text, text)", "format(text, name, name)", "format(text, regclass)", "now()",
    "random()", "to_char(timestamptz, text)", "to_char(timestamp, text)", "to_date(text, text)", "current_setting(text)",
    "current_setting(text, boolean)", "pg_has_role(name, oid, text)", "has_privs(text)", "jsonb_typeof(jsonb)", "round(numeric, int)",
    "array_position(text[], text)", "cardinality(text[])", "starts_with(text, text)", "pg_get_expr(pg_node_tree, oid)", "concat(text, text)",
    "tenant_id()", "user_id()", "is_operator()", "assert_operator()", "caller()", "require_permission(text)", "has_permission(text)",
    "managed_tenant(text)", "readable_tenant(text)", "assert_owner(regclass)", "tenant_document(text)", "role_permissions(text, text)",
]
OPERATORS = {"=": ["text", "name", "oid", "regclass", "integer", "date", '"char"', "bigint"], "<>": ["text", "name", '"char"'],
             "~": ["text"], "!~": ["text"], "||": ["text", "jsonb"], "+": ["bigint", "date"], "@>": ["text[]"], "<@": ["text[]"],
             "->>": [], ">=": ["date"], "<": ["date"]}


def shadow(session, schema):
    """Puts a trap in front of everything that an unqualified name could mean."""
    session.execute(f"CREATE FUNCTION {schema}.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped' USING ERRCODE = 'XX999'; END $$")
    for function in FUNCTIONS:
        session.execute(f"CREATE FUNCTION {schema}.{function} RETURNS text LANGUAGE sql AS 'SELECT {schema}.trap()::text'")
    for operator, types in OPERATORS.items():
        for number, type_ in enumerate(types):
            name = f'{schema}."op{ord(operator[0])}{len(operator)}{number}"'
            session.execute(f"CREATE FUNCTION {name}({type_}, {type_}) RETURNS boolean LANGUAGE sql AS 'SELECT {schema}.trap()::text IS NULL'")
            session.execute(f"CREATE OPERATOR {schema}.{operator} (FUNCTION = {name}, LEFTARG = {type_}, RIGHTARG = {type_})")
    for relation in column(session, "SELECT relname::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')"):
        session.execute(f"CREATE TEMP TABLE {relation} (decoy int)")
    for relation in "tenants", "members", "roles", "permissions", "protected_tables", "shared_tables", "usage_counters", "usage_keys", "meters":
        session.execute(f"CREATE TEMP TABLE {relation} (LIKE amp.{relation})")
    session.execute("CREATE TEMP TABLE app_users (id text, email text, default_tenant_id text); CREATE TEMP TABLE inserted (tenant_id text)")


@pytest.fixture
def trapped(amp):
    """trapped(role): a session whose search_path begins with pg_temp and a schema full of traps."""
    sessions = []

    def connect(role):
        with amp.connect() as admin:
            admin.execute(f"CREATE SCHEMA evil_{role} AUTHORIZATION {role}")
        session = amp.connect(role)
        sessions.append(session)
        shadow(session, f"evil_{role}")
        session.execute(f"SET search_path = pg_temp, evil_{role}, public, pg_catalog")
        with raises("XX999"):
            session.execute("SELECT lower('trapped'::text)")
        return session

    yield connect
    for session in sessions:
        session.close()


def test_C5_policy_functions_own_tables(plain):
    """Plain: the policy's function reads a table, and a temporary one of that name comes before it."""
    with plain.connect("amp_owner") as owner:
        owner.execute("""
            CREATE TABLE sess (tenant text); GRANT SELECT ON sess TO amp_svc; INSERT INTO sess VALUES ('t1');
            CREATE FUNCTION tenant() RETURNS text STABLE LANGUAGE sql SET search_path = public AS 'SELECT tenant FROM sess';
            DROP POLICY tenant ON orders; CREATE POLICY tenant ON orders USING (tenant_id = tenant())""")
    with plain.connect("amp_svc") as svc:
        assert notes(svc) == MINE
        svc.execute("CREATE TEMP TABLE sess AS SELECT 't2' AS tenant; GRANT SELECT ON sess TO PUBLIC")
        assert notes(svc) == THEIRS


def test_C5_context_and_policies(trapped, amp):
    """Context, policies and the role check, in a session full of traps."""
    with amp.connect("amp_ops") as ops:
        viewer = ops.execute("SELECT amp.invite_user('v@example.com', 'viewer', 't1') ->> 'id'").fetchone()[0]
    svc = trapped("amp_svc")
    svc.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{viewer}'")
    assert notes(svc) == MINE
    assert svc.execute("SELECT amp.tenant_id(), amp.role(), amp.has_permission('content.view')").fetchone() == ("t1", "viewer", True)
    with raises("TN004"):
        svc.execute("INSERT INTO orders VALUES (99, 't1', 'x')")
    svc.execute("INSERT INTO tenants SELECT 't9', 'active', 'T', 'ttt', pg_catalog.now(), pg_catalog.now()")
    svc.execute("INSERT INTO members SELECT 't2', pg_catalog.current_setting('amp.user_id'), 'admin', pg_catalog.now()")
    for attack, sqlstate in ("SET amp.tenant_id = 't9'", "TN003"), ("SET amp.tenant_id = 't2'", "TN003"):
        with raises(sqlstate):
            svc.execute(attack)


def test_C5_operators_functions(trapped, amp):
    """Everything an operator calls."""
    ops = trapped("amp_ops")
    assert ops.execute("SELECT amp.create_tenant('Third', 'third', id => 't3') #>> '{status}'").fetchone() == ("active",)
    for verb, status in ("suspend", "suspended"), ("activate", "active"), ("delete", "deleted"):
        assert ops.execute(f"SELECT amp.{verb}_tenant('t3') #>> '{{status}}'").fetchone() == (status,)
    ops.execute("SELECT amp.register_permission('invoices.view', 'See invoices', '{admin}')")
    user = ops.execute("SELECT amp.invite_user('A@example.com', 'viewer', 't1') #>> '{id}'").fetchone()[0]
    ops.execute("SELECT amp.set_user_role(%s, 'admin', 't1')", [user])
    assert ops.execute("SELECT amp.users('t1') #>> '{data,0,role}'").fetchone() == ("admin",)
    assert ops.execute("SELECT amp.usage('t1') #>> '{usage,api_calls}'").fetchone() == ("0",)
    ops.execute("SELECT amp.invite_user('b@example.com', 'admin', 't1')")
    ops.execute("SELECT amp.remove_user(%s, 't1')", [user])
    with amp.connect() as admin:
        assert column(admin, "SELECT count(*) FROM amp.members") == [1]


def test_C5_members_functions(trapped, amp):
    """Everything an admin of a tenant calls, through a service; and a viewer, who may not."""
    with amp.connect("amp_ops") as ops:
        boss, viewer = (ops.execute(f"SELECT amp.invite_user('{r}@example.com', '{r}', 't1') ->> 'id'").fetchone()[0] for r in ("admin", "viewer"))
    svc = trapped("amp_svc")
    svc.execute(f"SET amp.tenant_id = 't1'; SET amp.user_id = '{boss}'")
    for call in ("amp.define_role('writer', '{content.view,missions.create}')", "amp.invite_user('w@example.com', 'writer')",
                 f"amp.set_user_role('{viewer}', 'writer')", f"amp.set_user_role('{viewer}', 'viewer')", "amp.users()", "amp.my_tenants()",
                 "amp.set_default_tenant('t1')", "amp.record_usage('api_calls', 3, 'key')", "amp.usage()", "amp.context()", "amp.required_user()",
                 "amp.require_permission('users.manage')"):
        svc.execute(f"SELECT {call}")
    svc.execute("SELECT amp.define_role('spare', '{}'); SELECT amp.drop_role('spare')")
    svc.execute(f"SET amp.user_id = '{viewer}'")
    for call in "amp.define_role('boss', '{users.manage}')", "amp.invite_user('x@example.com', 'admin')", f"amp.remove_user('{boss}')":
        with raises("TN004"):
            svc.execute(f"SELECT {call}")
    for call in "amp.users('t2')", "amp.usage('t2')", "amp.set_default_tenant('t2')":
        with raises("TN003"):
            svc.execute(f"SELECT {call}")
    client = trapped("amp_client")
    for call in ("amp.users('t2')", "amp.usage('t2')", "amp.record_usage('api_calls')", "amp.invite_user('x@example.com', 'admin', 't1')",
                 "amp.define_role('x', '{}')", "amp.tenant_id()", "amp.role()", "amp.has_permission('content.view')"):
        with raises("TN001"):
            client.execute(f"SELECT {call}")
    for call in "amp.set_default_tenant('t2')", "amp.my_tenants()":
        with raises("TN003"):
            client.execute(f"SELECT {call}")
    with raises("TN004"):
        client.execute("SELECT amp.suspend_tenant('t1')")


def test_C5_owners_functions(trapped, amp):
    """protect(), meter() and their opposites, in the session of the table's owner; and by somebody who owns nothing."""
    owner = trapped("amp_owner")
    owner.execute("""
        CREATE TABLE public.a (id int PRIMARY KEY, tenant_id text COLLATE "C");
        CREATE TABLE public.b (id int PRIMARY KEY, tenant_id text COLLATE "C", a int REFERENCES public.a, body text UNIQUE);
        CREATE TABLE public.s (id int)""")
    owner.execute("SELECT amp.protect('public.a', fix => true); SELECT amp.protect('public.b', fix => true); SELECT amp.share_table('public.s')")
    owner.execute("SELECT amp.meter('public.b', 'rows'); GRANT SELECT, INSERT, UPDATE, DELETE ON public.a, public.b TO amp_svc")
    owner.execute("CREATE TABLE public.part () INHERITS (public.a)")
    with amp.connect() as admin:
        assert column(admin, "SELECT relation::text FROM amp.protected_tables") == ["a", "b", "orders", "parents", "part"]
        policies = [column(admin, f"SELECT polname::text FROM pg_policy WHERE polrelid = '{table}'::regclass") for table in ("a", "part")]
        assert policies[0] == policies[1] != []
    svc = trapped("amp_svc")
    svc.execute("SET amp.tenant_id = 't1'")
    svc.execute("INSERT INTO public.a (id) VALUES (1); INSERT INTO public.b (id, a) VALUES (1, 1)")
    with raises("TN004"):
        svc.execute("TRUNCATE public.b")
    for call in ("amp.protect('public.s')", "amp.unprotect('public.a')", "amp.share_table('public.orders')", "amp.meter('public.a', 'x')",
                 "amp.forget_table('public.a')", "amp.register_protection('public.s', 'id', NULL, NULL, NULL, NULL, false)",
                 "amp.register_shared('public.a')", "amp.register_meter('public.a', 'x')", "amp.protect_schema('public')"):
        with raises("42501"):
            svc.execute(f"SELECT {call}")
    owner.execute("SELECT amp.unprotect('public.b'); SELECT amp.unprotect('public.a'); DROP TABLE public.a CASCADE")
    with amp.connect() as admin:
        assert column(admin, "SELECT relation::text FROM amp.protected_tables") == ["orders", "parents"]
        assert column(admin, "SELECT amount FROM amp.usage_counters") == [1]


def test_C5_every_function_of_amp_pins_its_search_path(amp):
    """What runs SQL has a search_path of its own, with pg_temp last; the rest is C."""
    with amp.connect() as admin:
        assert column(admin, """
            SELECT p.proname::text FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            WHERE p.pronamespace = 'amp'::regnamespace AND l.lanname <> 'c'
              AND ('search_path=pg_catalog, pg_temp' = ANY (p.proconfig)) IS NOT TRUE ORDER BY 1""") == ["compact_usage", "purge_tenant"]  # they commit
        # A procedure that commits can have none of its own: it sets one first thing in each transaction (test_lifecycle.py).


def test_C6_operator_in_front_of_the_policys(amp):
    """The policy's text is stored parsed: an operator of one's own does not get into it."""
    with amp.connect("amp_svc") as svc:
        svc.execute("""
            CREATE FUNCTION pg_temp.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
            CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.yes, LEFTARG = text, RIGHTARG = text);
            SET amp.tenant_id = 't1'""")
        assert notes(svc) == MINE
        assert column(svc, "SELECT note FROM orders WHERE tenant_id OPERATOR(pg_temp.=) 't2'") == MINE
