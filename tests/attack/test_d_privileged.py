"""D. Ways round row security that need a privilege, an owner or a superuser: what amp refuses, and what only the doctor sees.

D4, D5 and D12 are in test_a_roles.py. Some of these are open under amp as on plain PostgreSQL, because whoever has such a right is past any
extension: those tests assert that it is so, are marked, and assert that amp.doctor() names who has it.
"""

import psycopg
import pytest

from attackers import PLAIN
from harness import HARDENED, raises
from world import MINE, THEIRS, column, notes, snapshot


def statement(database, sql, sqlstate="TN008", user="postgres"):
    """A superuser's (or somebody's) DDL: what plain PostgreSQL lets through, amp refuses."""
    with database.connect(user) as session:
        if database.extension:
            with raises(sqlstate):
                session.execute(sql)
        else:
            session.execute(sql)


def reported(database, object_like):
    """Whether the doctor names it."""
    with database.connect() as admin:
        return bool(admin.execute("SELECT FROM amp.doctor() WHERE object LIKE %s OR finding LIKE %s", [f"%{object_like}%"] * 2).fetchall())


def granted(attacker, privilege, role="amp_svc, amp_client"):
    """The owner has granted a privilege on orders, before he protected it."""
    with attacker.database.connect("amp_owner") as owner:
        if attacker.kind == PLAIN:
            owner.execute(f"GRANT {privilege} ON orders TO {role}")
        else:
            owner.execute(f"""
                SELECT amp.unprotect('orders'); SELECT amp.unprotect('parents'); GRANT {privilege} ON orders TO {role};
                SELECT amp.protect('orders', fix => true); SELECT amp.protect('parents', fix => true)""")
    with attacker.database.connect() as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO amp_svc, amp_client")


def test_D1_view_of_a_superuser(everywhere):
    """A view without security_invoker reads with its owner's rights: a superuser's shows every row."""
    view = "CREATE VIEW everything AS SELECT note FROM public.orders"
    statement(everywhere.database, view)
    if everywhere.kind != PLAIN:
        with everywhere.database.connect() as admin:
            admin.execute(view.replace(" AS", " WITH (security_invoker) AS"))
            with raises("TN008"):
                admin.execute("ALTER VIEW everything RESET (security_invoker)")
    with everywhere.database.connect() as admin:
        admin.execute("GRANT SELECT ON everything TO amp_svc, amp_client")
    with everywhere.open() as session:
        assert column(session, "SELECT note FROM everything") == (MINE + THEIRS if everywhere.kind == PLAIN else MINE)


def test_D2_materialized_view(everywhere):
    """A materialized view keeps rows, and can have no policies."""
    statement(everywhere.database, "CREATE MATERIALIZED VIEW kept AS SELECT note FROM public.orders")
    with everywhere.database.connect() as admin:
        if everywhere.kind != PLAIN:
            assert column(admin, "SELECT to_regclass('kept') IS NULL") == [True]
            return
        admin.execute("GRANT SELECT ON kept TO amp_svc")
    with everywhere.open() as session:
        assert column(session, "SELECT note FROM kept") == MINE + THEIRS


# What a SECURITY DEFINER function of a superuser may be, and the statement that makes it read or write.
DEFINERS = {
    "dynamic": """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER SET search_path = pg_catalog LANGUAGE plpgsql AS
                  $$ BEGIN RETURN QUERY EXECUTE 'SELECT note FROM public.' || 'orders'; END $$""",
    "static": """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER STABLE SET search_path = pg_catalog LANGUAGE plpgsql AS
                 $$ BEGIN RETURN QUERY SELECT note FROM public.orders; END $$""",
    "sql": """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER STABLE LANGUAGE sql AS 'SELECT note FROM public.orders'""",
    "joined": """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS
                 $$ WITH o AS (SELECT * FROM public.orders) SELECT (SELECT o.note FROM o WHERE o.id = n) FROM (VALUES (11), (12), (21), (22), (23)) v(n) $$""",
    "nested": """CREATE FUNCTION within() RETURNS SETOF text LANGUAGE sql AS 'SELECT note FROM public.orders';
                 CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS 'SELECT public.within()'""",
    "writing": """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS
                  'UPDATE public.orders SET amount = amount RETURNING note'""",
    "cursor": """CREATE FUNCTION opened() RETURNS refcursor SECURITY DEFINER LANGUAGE plpgsql AS
                 $$ DECLARE c refcursor := 'c'; BEGIN OPEN c FOR SELECT note FROM public.orders; RETURN c; END $$;
                 CREATE FUNCTION everything() RETURNS SETOF text LANGUAGE plpgsql AS
                 $$ DECLARE c refcursor := opened(); n text; BEGIN LOOP FETCH c INTO n; EXIT WHEN NOT FOUND; RETURN NEXT n; END LOOP; END $$""",
}  # fmt: skip
BY_COPY = """CREATE FUNCTION everything() RETURNS SETOF text SECURITY DEFINER LANGUAGE plpgsql AS
             $$ BEGIN COPY public.orders (note) TO '/dev/null'; RETURN NEXT 'copied'; END $$"""


@pytest.mark.parametrize("function", DEFINERS)
def test_D3_function_of_a_superuser(everywhere, function):
    """A SECURITY DEFINER function of a superuser runs past row security: on plain PostgreSQL it has every row."""
    with everywhere.database.connect() as admin:
        admin.execute(DEFINERS[function])
    with everywhere.open() as session:
        if everywhere.kind == PLAIN:
            assert column(session, "SELECT everything()") == MINE + THEIRS
            return
        with raises("TN009", "cannot be reached with the rights of \"postgres\""):
            session.execute("SELECT everything()")
    assert reported(everywhere.database, "everything") or function == "cursor" and reported(everywhere.database, "opened")


def test_D3_function_of_a_superuser_that_copies(everywhere):
    """COPY asks no planner: the table goes out as it is."""
    with everywhere.database.connect() as admin:
        admin.execute(BY_COPY)
    with everywhere.open() as session:
        if everywhere.kind == PLAIN:
            assert column(session, "SELECT everything()") == ["copied"]
            return
        with raises("TN009"):
            session.execute("SELECT everything()")


@pytest.mark.parametrize("owner", ["postgres", "amp_owner"])
def test_D3_function_that_truncates(amp, owner):
    """TRUNCATE is for the table's owner, who has no tenant; not for whoever may call a function of his."""
    before = snapshot(amp)
    with amp.connect() as admin:
        admin.execute(f"""
            CREATE FUNCTION emptied() RETURNS void SECURITY DEFINER LANGUAGE sql AS 'TRUNCATE public.orders';
            ALTER FUNCTION emptied() OWNER TO {owner}""")
    for context in "RESET amp.tenant_id", "SET amp.tenant_id = 't1'":
        with amp.connect("amp_svc") as session:
            session.execute(context)
            with raises("TN004"):
                session.execute("SELECT emptied()")
    assert snapshot(amp) == before
    with amp.connect("amp_owner") as owner:
        owner.execute("SELECT emptied()")
    assert snapshot(amp)[1] == []


def test_D3_trigger_function_of_a_superuser(everywhere):
    """On a table that is no tenant's: whoever writes there has the function write in protected ones."""
    before = snapshot(everywhere.database)
    with everywhere.database.connect() as admin:
        admin.execute("""
            CREATE TABLE visits (n int); GRANT INSERT ON visits TO amp_svc, amp_client;
            CREATE FUNCTION visited() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS
                $$ BEGIN DELETE FROM public.orders WHERE id = NEW.n; RETURN NEW; END $$;
            CREATE TRIGGER visited AFTER INSERT ON visits FOR EACH ROW EXECUTE FUNCTION visited()""")
    with everywhere.open() as session:
        if everywhere.kind == PLAIN:
            session.execute("INSERT INTO visits VALUES (21)")
        else:
            with raises("TN009"):
                session.execute("INSERT INTO visits VALUES (21)")
    assert (snapshot(everywhere.database) == before) == (everywhere.kind != PLAIN)


def test_D3_view_of_a_superuser_from_before(amp):
    """A view without security_invoker that is there all the same: made with amp.allow_unsafe_ddl, or before the extension."""
    amp.open_hole("CREATE VIEW everything AS SELECT note FROM public.orders; GRANT SELECT, DELETE ON everything TO amp_svc")
    with amp.connect("amp_svc") as session:
        session.execute("SET amp.tenant_id = 't1'")
        for statement in "SELECT note FROM everything", "DELETE FROM everything", "COPY (SELECT * FROM everything) TO STDOUT":
            with raises("TN009", "cannot be reached"):
                session.execute(statement)


def test_D3_without_a_context(amp):
    """Before a tenant is known, and for who runs the platform, too: no row of any tenant."""
    with amp.connect() as admin:
        admin.execute(DEFINERS["dynamic"])
    for role in "amp_svc", "amp_client", "amp_ops", "amp_owner":
        with amp.connect(role) as session, raises("TN009"):
            session.execute("SELECT everything()")
    with amp.connect() as admin:
        assert column(admin, "SELECT everything()") == MINE + THEIRS


def test_D3_a_kept_plan_is_asked_each_time(amp, new_role):
    """The function's plan was made, and used, while the session was its administrator's."""
    administrator = new_role("SUPERUSER")
    login = new_role(f"LOGIN IN ROLE {administrator}")
    with amp.connect() as admin:
        admin.execute(DEFINERS["static"])
    with amp.connect(login) as session:
        session.execute("SET plan_cache_mode = force_generic_plan")
        for _ in range(3):
            session.execute(f"SET ROLE {administrator}")
            assert column(session, "SELECT everything()") == MINE + THEIRS
            session.execute("RESET ROLE")
            with raises("TN009"):
                session.execute("SELECT everything()")


def test_D3_a_superuser_says_that_it_is_meant(amp, new_role):
    """amp.allow_bypass is the function's own; nobody else's statement has it."""
    with amp.connect() as admin:
        admin.execute(DEFINERS["dynamic"] + "; ALTER FUNCTION everything() SET amp.allow_bypass = on")
        admin.execute(DEFINERS["sql"].replace("everything", "other"))
        assert column(admin, "SELECT object FROM amp.doctor() WHERE finding LIKE '%(amp.allow_bypass)%'") == ["public.everything()"]
    with amp.connect("amp_svc") as session:
        session.execute("SET amp.tenant_id = 't1'")
        assert column(session, "SELECT everything()") == MINE + THEIRS
        assert notes(session) == MINE
        with raises("TN009"):
            session.execute("SELECT other()")
        assert column(session, "SHOW amp.allow_bypass") == ["off"]


def test_D3_nobody_else_can_say_it(amp, new_role):
    """Neither a client nor the owner, in no way; and not for a role or a database."""
    bypassing = new_role("LOGIN BYPASSRLS")
    with amp.connect() as admin:
        admin.execute(f"GRANT CREATE ON SCHEMA public TO amp_svc, {bypassing}")
        admin.execute(f"GRANT SELECT ON orders TO {bypassing}")
        admin.execute(DEFINERS["dynamic"] + f"; ALTER FUNCTION everything() OWNER TO {bypassing}")
    for role in "amp_svc", "amp_owner", bypassing:
        with amp.connect(role) as session:
            for way in ("SET amp.allow_bypass = on", "SET LOCAL amp.allow_bypass = on", "SELECT set_config('amp.allow_bypass', 'on', true)",
                        f"ALTER ROLE {role} SET amp.allow_bypass = on",
                        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql SET amp.allow_bypass = on AS 'SELECT 1'",
                        "ALTER FUNCTION everything() SET amp.allow_bypass = on"):  # fmt: skip
                with raises("TN004" if (role == "amp_svc" or HARDENED and role == "amp_owner") and way.startswith("ALTER ROLE") else "42501"):
                    session.execute(way)
    with pytest.raises(psycopg.OperationalError, match="permission denied to set parameter"):
        amp.connect("amp_svc", options="-c amp.allow_bypass=on")
    with amp.connect() as admin:
        with raises("55P02"):
            admin.execute("ALTER SYSTEM SET amp.allow_bypass = on")
        admin.execute(f"ALTER ROLE amp_svc SET amp.allow_bypass = on; ALTER DATABASE {amp.name} SET amp.allow_bypass = on")
    try:
        with amp.connect("amp_svc") as session:
            assert column(session, "SHOW amp.allow_bypass") == ["off"]
            with raises("TN009", f'rights of "{bypassing}"'):
                session.execute("SELECT everything()")
    finally:
        with amp.connect() as admin:
            admin.execute(f"ALTER ROLE amp_svc RESET amp.allow_bypass; DROP OWNED BY {bypassing}")


def test_D3_other_tables_are_their_owners(amp):
    """A function of a superuser reads what amp does not protect: with row security by hand, or none."""
    with amp.connect() as admin:
        admin.execute("""
            CREATE TABLE logins (name text); INSERT INTO logins VALUES ('ann'); ALTER TABLE logins ENABLE ROW LEVEL SECURITY;
            CREATE FUNCTION known(text) RETURNS boolean SECURITY DEFINER LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.logins WHERE name = $1)'""")
    with amp.connect("amp_svc") as session:
        assert column(session, "SELECT known('ann')") == [True]


def test_D3_foreign_keys_of_a_superusers_tables(amp):
    """A key's own check and cascade act as the table's owner, a superuser here: they go on, within the tenant."""
    with amp.connect() as admin:
        admin.execute("ALTER TABLE parents OWNER TO postgres; ALTER TABLE orders OWNER TO postgres")
    with amp.connect("amp_svc") as session:
        session.execute("SET amp.tenant_id = 't1'")
        session.execute("INSERT INTO orders (id, note, parent_id) VALUES (13, 'mine, three', 1)")
        with raises("23503"):
            session.execute("INSERT INTO orders (id, note, parent_id) VALUES (14, 'lost', 2)")
        session.execute("UPDATE parents SET id = 7 WHERE id = 1")
        assert column(session, "SELECT DISTINCT parent_id FROM orders") == [7]
        session.execute("DELETE FROM parents WHERE id = 7")
        assert notes(session) == []
    assert [row[0] for row in snapshot(amp)[1]] == [21, 22, 23]


def test_D6_a_role_that_creates_roles(everywhere, new_role, cluster):
    """On PostgreSQL 15 a CREATEROLE role grants itself the owner's role, and switches row security off."""
    role = new_role("LOGIN CREATEROLE IN ROLE amp_svc")
    with everywhere.database.connect(role) as session:
        if session.info.server_version >= 160000:
            with raises("42501"):
                session.execute(f"GRANT amp_owner TO {role}")
            return
        session.execute(f"GRANT amp_owner TO {role}; SET ROLE amp_owner")
        off = ("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY")
        if everywhere.kind == PLAIN:
            session.execute(off[0])
            assert notes(session) == MINE + THEIRS
            return
        for attack in (*off, "DROP POLICY amp_tenant ON orders"):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(attack)
            assert caught.value.sqlstate in ("TN008", "42704")
        with raises("TN001"):
            notes(session)
    assert reported(everywhere.database, role)


def test_D7_who_reads_all_data(plain, amp, new_role):
    """A member of pg_read_all_data has the privilege to read every table, and is under row security all the same."""
    role = new_role("LOGIN IN ROLE amp_svc, pg_read_all_data, pg_write_all_data")
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        if database is amp:
            with amp.connect() as admin:
                admin.execute(f"GRANT amp_service TO {role}")
        with database.connect(role) as session:
            session.execute(f"SET {setting} = 't1'")
            assert notes(session) == MINE
            assert session.execute("DELETE FROM orders WHERE id > 20").rowcount == 0


@pytest.mark.still_open("any")
def test_D8_who_reads_the_servers_files(plain, amp, new_role):
    """A member of pg_read_server_files reads the table's file: no extension sees that. The doctor names him."""
    role = new_role("LOGIN IN ROLE amp_svc, pg_read_server_files")
    for database in plain, amp:
        with database.connect() as admin:
            [path] = column(admin, "SELECT pg_relation_filepath('orders')")
            admin.execute("CHECKPOINT; GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO pg_read_server_files")
        with database.connect(role) as session:
            assert b"secret, too" in column(session, "SELECT pg_read_binary_file(%s)", path)[0]
    assert reported(amp, role)


def test_D9_rule_that_copies(everywhere):
    """A rule of the table's owner writes what anybody inserts into a table that is under no policy."""
    with everywhere.database.connect("amp_owner") as owner:
        owner.execute("CREATE TABLE copies (note text); GRANT SELECT ON copies TO amp_svc, amp_client")
    statement(everywhere.database, "CREATE RULE copy AS ON INSERT TO orders DO ALSO INSERT INTO copies VALUES (NEW.note)", user="amp_owner")
    other = "app.tenant" if everywhere.kind == PLAIN else "amp.tenant_id"
    if everywhere.kind in (PLAIN, "service"):
        with everywhere.database.connect("amp_svc") as session:
            session.execute(f"SET {other} = 't2'; INSERT INTO orders VALUES (99, 't2', 'private')")
    with everywhere.open() as session:
        assert column(session, "SELECT note FROM copies") == (["private"] if everywhere.kind == PLAIN else [])


def test_D10_trigger_of_a_stranger(everywhere):
    """Whoever has TRIGGER makes one that copies what others insert into his own table."""
    granted(everywhere, "TRIGGER")
    with everywhere.open() as session:
        session.execute("""
            CREATE TABLE loot (note text); GRANT INSERT ON loot TO PUBLIC;
            CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (NEW.note); RETURN NEW; END $$""")
        trigger = "CREATE TRIGGER take BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION take()"
        if everywhere.kind != PLAIN:
            with raises("TN008"):
                session.execute(trigger)
            return
        session.execute(trigger)
        with everywhere.database.connect("amp_client") as victim:
            victim.execute("SET app.tenant = 't2'; INSERT INTO orders VALUES (99, 't2', 'private')")
        assert column(session, "SELECT note FROM loot") == ["private"]


def test_D11_foreign_key_of_a_stranger(everywhere):
    """Whoever has REFERENCES makes a table whose foreign key tells which keys there are."""
    granted(everywhere, "REFERENCES")
    with everywhere.open() as session:
        if everywhere.kind != PLAIN:
            for key in ("FOREIGN KEY (tenant, id) REFERENCES orders (tenant_id, id)", "FOREIGN KEY (tenant, id) REFERENCES orders"):
                with raises("TN008"):
                    session.execute(f"CREATE TABLE probe (tenant text COLLATE \"C\", id int, {key})")
            session.execute("CREATE TABLE probe (tenant text COLLATE \"C\", id int)")
            with raises("TN008"):
                session.execute("ALTER TABLE probe ADD FOREIGN KEY (tenant, id) REFERENCES orders (tenant_id, id)")
            return
        session.execute("CREATE TABLE probe (id int REFERENCES orders); INSERT INTO probe VALUES (21)")
        with raises("23503", "violates foreign key"):
            session.execute("INSERT INTO probe VALUES (999)")


LOCKS = ["ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE ROW EXCLUSIVE", "SHARE"]


@pytest.mark.parametrize("mode", LOCKS)
def test_D13_lock_table(everywhere, mode):
    """Whoever may change rows may lock the table: every tenant waits."""
    with everywhere.open(autocommit=False) as session:
        if everywhere.kind != PLAIN:
            with raises("TN004"):
                session.execute(f"LOCK TABLE orders IN {mode} MODE")
            return
        session.execute(f"LOCK TABLE orders IN {mode} MODE")
        with everywhere.database.connect("amp_client") as victim, raises("55P03"):
            victim.execute("SET app.tenant = 't2'; SET lock_timeout = 100; UPDATE orders SET note = note")


def test_D14_grant_all(everywhere):
    """GRANT ALL gives TRUNCATE, REFERENCES and TRIGGER as well: one client empties the table."""
    database = everywhere.database
    statement(database, "GRANT ALL ON orders TO amp_svc, amp_client", user="amp_owner")
    before = snapshot(database)[1]
    with everywhere.open() as session:
        if everywhere.kind == PLAIN:
            session.execute("TRUNCATE orders")
            assert snapshot(database)[1] == []
            return
        with pytest.raises(psycopg.Error) as caught:
            session.execute("TRUNCATE orders")
        assert caught.value.sqlstate in ("42501", "TN004")
    assert snapshot(database)[1] == before


def test_D15_drop_owned(plain, amp, new_role):
    """A role drops what it owns, and so itself from policies; or hands it on: the policies stay, PostgreSQL sees to that."""
    role = new_role("LOGIN IN ROLE amp_svc")
    with plain.connect("amp_owner") as owner:
        owner.execute("CREATE POLICY more ON orders AS RESTRICTIVE TO amp_svc USING (tenant_id = current_setting('app.tenant', true))")
    with amp.connect() as admin:
        admin.execute(f"GRANT amp_service TO {role}")
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        policies = "SELECT polname || coalesce(pg_get_expr(polqual, polrelid), '') FROM pg_policy WHERE polrelid = 'orders'::regclass"
        with database.connect(role) as session, database.connect("amp_owner") as owner:
            before = column(owner, policies)
            if database is amp:  # a service's session gives up no privileges
                with raises("TN004"):
                    session.execute(f"DROP OWNED BY {role}")
                with database.connect() as admin:
                    admin.execute(f"SET ROLE {role}; DROP OWNED BY {role}")
            else:
                session.execute(f"DROP OWNED BY {role}")
            with raises("42501"):
                session.execute(f"REASSIGN OWNED BY amp_owner TO {role}")
            assert column(owner, policies) == before
            session.execute(f"SET {setting} = 't1'")
            assert notes(session) == MINE


@pytest.mark.still_open("any")
def test_D16_loopback(plain, amp):
    """A server of postgres_fdw that leads back as another role is another session, under other policies: the doctor names it."""
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute(f"""
                CREATE EXTENSION postgres_fdw;
                CREATE SERVER back FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{database.cluster.host}', dbname '{database.name}');
                CREATE USER MAPPING FOR amp_svc SERVER back OPTIONS (user 'postgres', password_required 'false');
                GRANT USAGE ON FOREIGN SERVER back TO amp_svc; GRANT CREATE ON SCHEMA public TO amp_svc""")
        with database.connect("amp_svc") as session:
            session.execute("CREATE FOREIGN TABLE far (note text) SERVER back OPTIONS (table_name 'orders')")
            assert column(session, "SELECT note FROM far") == MINE + THEIRS
    assert reported(amp, "back")
    with amp.connect("amp_svc") as session, raises("42809"):
        session.execute("SELECT amp.protect('far')")


def test_D16_dblink(plain, amp):
    """dblink to the own server without a password: PostgreSQL refuses it to everybody but superusers."""
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute("CREATE EXTENSION dblink")
        with database.connect("amp_svc") as session, raises("2F003"):
            session.execute("SELECT dblink_connect(%s)", [f"host={database.cluster.host} dbname={database.name} user=postgres"])


def test_D17_raw_pages(plain, amp):
    """pageinspect shows every page; only superusers may call it."""
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute("CREATE EXTENSION pageinspect; CREATE EXTENSION pg_visibility; CREATE EXTENSION pgstattuple")
        with database.connect("amp_svc") as session:
            for attack in "SELECT get_raw_page('orders', 0)", "SELECT pg_visibility('orders', 0)", "SELECT * FROM pgstattuple('orders')":
                with raises("42501"):
                    session.execute(attack)


@pytest.mark.still_open("any")
def test_D17_row_locks(plain, amp):
    """pgrowlocks asks for no more than SELECT, and lists the locked rows of everybody: that they are, not what is in them."""
    for database, setting in (plain, "app.tenant"), (amp, "amp.tenant_id"):
        with database.connect() as admin:
            admin.execute("CREATE EXTENSION pgrowlocks")
        with database.connect("amp_svc", autocommit=False) as other, database.connect("amp_svc") as session:
            other.execute(f"SET {setting} = 't2'; SELECT FROM orders WHERE id = 21 FOR UPDATE")
            session.execute(f"SET {setting} = 't1'")
            assert len(session.execute("SELECT * FROM pgrowlocks('orders')").fetchall()) == 1
    assert reported(amp, "pgrowlocks")


def test_D17_raw_pages_granted(plain, amp):
    """Somebody grants it: pageinspect itself asks for a superuser."""
    for database in plain, amp:
        with database.connect() as admin:
            admin.execute("CREATE EXTENSION pageinspect; GRANT EXECUTE ON FUNCTION get_raw_page(text, bigint) TO amp_svc")
        with database.connect("amp_svc") as session, raises("42501", "superuser"):
            session.execute("SELECT get_raw_page('orders', 0)")
