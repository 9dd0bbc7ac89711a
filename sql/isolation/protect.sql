-- amp.protect() and its opposite. They run with the caller's rights, so that only a table's owner can use them.

CREATE FUNCTION amp.assert_table(relation regclass, role oid DEFAULT current_user::regrole) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class record;
    foreign_child regclass;
BEGIN
    PERFORM amp.assert_owner(relation, role);
    SELECT c.relkind, c.relpersistence, n.nspname INTO STRICT class
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = '42809',
            MESSAGE = format('%s is %s, not a table', relation, CASE class.relkind
                WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
                WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index'
                WHEN 'c' THEN 'a composite type' WHEN 't' THEN 'a TOAST table' ELSE 'something else' END),
            DETAIL = 'PostgreSQL has row security for ordinary and partitioned tables only.',
            HINT = CASE class.relkind
                WHEN 'v' THEN 'Protect the tables below it, and give the view (security_invoker = true).'
                WHEN 'm' THEN 'Use a view with (security_invoker = true), or an ordinary table that you refresh and protect.'
                WHEN 'f' THEN 'Protect the table on the server where it lives.'
                ELSE 'Name a table.' END;
    END IF;
    IF class.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = format('%s is a temporary table', relation),
            HINT = 'It belongs to one session and is gone with it: name a permanent table.';
    END IF;
    IF class.nspname IN ('pg_catalog', 'information_schema', 'pg_toast', 'amp') THEN
        RAISE EXCEPTION USING ERRCODE = '42809',
            MESSAGE = format('%s belongs to %s', relation, CASE class.nspname WHEN 'amp' THEN 'amp_tenancy' ELSE 'PostgreSQL' END),
            HINT = 'Name a table of your application.';
    END IF;
    SELECT d.relation INTO foreign_child
    FROM amp.descendants(assert_table.relation) d JOIN pg_class c ON c.oid = d.relation WHERE c.relkind = 'f' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = format('%s, a part of %s, is a foreign table', foreign_child, relation),
            DETAIL = 'PostgreSQL has no row security for foreign tables: its rows could be read directly.',
            HINT = 'Detach it first.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_table(regclass, oid) IS 'Internal: raises unless this is a permanent table of the role''s that row security can hold for.';

CREATE FUNCTION amp.protect(
        "table" regclass, tenant_column name DEFAULT 'tenant_id',
        read text DEFAULT 'content.view', write text DEFAULT 'missions.create',
        "insert" text DEFAULT NULL, "update" text DEFAULT NULL, "delete" text DEFAULT NULL,
        spend boolean DEFAULT false, fix boolean DEFAULT false)
    RETURNS TABLE (status text, object text, what text, remedy text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    relation CONSTANT regclass := $1;
    named text;
    tenant_function text;
    present record;
    before jsonb;
    policy record;
    foreign_key record;
    foreign_keys jsonb[] := '{}';
    child regclass;
    parent regclass;
    parent_column name;
    nulls bigint;
BEGIN
    PERFORM amp.assert_table(relation);
    named := amp.qualified(relation);
    "insert" := coalesce("insert", write);
    "update" := coalesce("update", write);
    "delete" := coalesce("delete", write);
    PERFORM amp.assert_permissions(ARRAY[read, "insert", "update", "delete"]);
    -- Before anything is looked at: whoever writes to the table now is waited for, and whoever comes later finds it protected.
    -- So is whoever protects a table at the other end of a foreign key: each has to see the other's protection.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', named);
    IF named IS DISTINCT FROM amp.qualified(relation) THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = format('table %s was renamed or dropped meanwhile', named),
            HINT = 'Run it again.';
    END IF;
    PERFORM amp.mark_caller();
    PERFORM amp.await_related(relation);
    SELECT p.relation, p.tenant_column INTO parent, parent_column
    FROM pg_inherits i JOIN amp.protected_tables p ON p.relation = i.inhparent
    WHERE i.inhrelid = $1 AND p.tenant_column <> $2 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42P16',
            MESSAGE = format('table %s belongs to %s, which is protected by column %I', relation, parent, parent_column),
            DETAIL = 'Through its parent its rows are compared by that column, not by this one: two tenants could share them.',
            HINT = 'Use the same tenant column for parents and children.';
    END IF;
    tenant_function := amp.tenant_function(relation, tenant_column);

    -- Each part can be named directly, and then has only its own policies.
    FOR child IN SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = relation ORDER BY i.inhrelid LOOP
        RETURN QUERY SELECT p.* FROM amp.protect(child, tenant_column, read, NULL, "insert", "update", "delete", spend, fix) p;
    END LOOP;
    -- Noted before it is altered, or the event trigger would take a part for a new one.
    PERFORM amp.mark_caller();
    PERFORM amp.register_protection(relation, tenant_column, read, "insert", "update", "delete", spend);

    SELECT a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS default_expression, c.relrowsecurity, c.relforcerowsecurity, c.relispartition
    INTO STRICT present
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = tenant_column
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.oid = relation;

    object := format('column %I of %s', tenant_column, relation);
    IF present.attnotnull THEN
        status := 'kept'; what := 'NOT NULL'; RETURN NEXT;
    ELSE
        -- Where it was protected before, policies hide rows from the owner, and PostgreSQL's own error says that there are some.
        IF NOT row_security_active(relation) THEN
            EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL', named, tenant_column) INTO nulls;
        END IF;
        IF nulls > 0 THEN
            RAISE EXCEPTION USING ERRCODE = '23502',
                MESSAGE = format('%s row(s) of table %s have no tenant', nulls, relation),
                HINT = format('UPDATE %s SET %I = ''...'' WHERE %I IS NULL', relation, tenant_column, tenant_column);
        END IF;
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', named, tenant_column);
        status := 'done'; what := 'NOT NULL'; RETURN NEXT;
    END IF;
    what := format('DEFAULT amp.%s()', tenant_function);
    IF present.default_expression = format('amp.%s()', tenant_function) THEN
        status := 'kept'; RETURN NEXT;
    ELSE
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT amp.%I()', named, tenant_column, tenant_function);
        status := 'done';
        what := concat(what, ', in place of ' || present.default_expression);
        RETURN NEXT;
    END IF;

    FOR foreign_key IN SELECT f.* FROM amp.plain_foreign_keys(relation) f ORDER BY f.child, f.constraint_name LOOP
        object := format('foreign key %I of %s', foreign_key.constraint_name, foreign_key.child);
        IF foreign_key.problem IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = '0A000',
                MESSAGE = format('%s cannot be made to include the tenant: %s', object, foreign_key.problem),
                HINT = 'Change or drop the foreign key, then protect the table.';
        END IF;
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', amp.qualified(foreign_key.child), foreign_key.constraint_name);
        foreign_keys := foreign_keys || to_jsonb(foreign_key);
    END LOOP;

    RETURN QUERY SELECT r.* FROM amp.rebuild_indexes(relation, tenant_column, fix) r;
    -- Now that these foreign keys are off, the keys on their other end can be rebuilt, too.
    IF fix THEN
        FOR parent IN
            SELECT DISTINCT (u.document ->> 'parent')::regclass FROM unnest(foreign_keys) u(document)
            WHERE (u.document ->> 'parent')::regclass <> relation
        LOOP
            RETURN QUERY SELECT r.* FROM amp.protected_tables p, amp.rebuild_indexes(parent, p.tenant_column, true) r
                         WHERE p.relation = parent AND r.status = 'done';
        END LOOP;
    END IF;

    FOR foreign_key IN
        SELECT r.* FROM unnest(foreign_keys) AS u(document), jsonb_to_record(u.document) AS r(
            constraint_name name, child regclass, parent regclass, child_tenant name, parent_tenant name,
            child_columns name[], parent_columns name[], definition_tail text, match_full boolean)
    LOOP
        PERFORM amp.compose_foreign_key(
            foreign_key.constraint_name, foreign_key.child, foreign_key.parent, foreign_key.child_tenant, foreign_key.parent_tenant,
            foreign_key.child_columns, foreign_key.parent_columns, foreign_key.definition_tail, foreign_key.match_full);
        status := 'done'; object := format('foreign key %I of %s', foreign_key.constraint_name, foreign_key.child);
        what := 'includes the tenant'; RETURN NEXT;
    END LOOP;

    object := format('table %s', relation);
    IF amp.has_tenant_index(relation, tenant_column) THEN
        status := 'kept'; what := 'index led by the tenant'; RETURN NEXT;
    ELSIF NOT present.relispartition THEN -- a partition gets its parent's
        EXECUTE format('CREATE INDEX ON %s (%I)', named, tenant_column);
        status := 'done'; what := 'index led by the tenant'; RETURN NEXT;
    END IF;

    IF present.relrowsecurity AND present.relforcerowsecurity THEN
        status := 'kept';
    ELSE
        status := 'done';
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', named);
    what := 'row security enabled and forced'; RETURN NEXT;

    SELECT coalesce(jsonb_object_agg(p.policyname, to_jsonb(p)), '{}') INTO before
    FROM pg_policies p WHERE format('%I.%I', p.schemaname, p.tablename) = named;
    FOR policy IN SELECT p.* FROM amp.policies(relation, tenant_column, tenant_function, read, "insert", "update", "delete", spend) p LOOP
        IF EXISTS (
            SELECT FROM amp.expected_policies w JOIN pg_policy o ON o.polrelid = w.relation AND o.polname = w.name
            WHERE w.relation = $1 AND w.name = policy.name
              AND (o.polpermissive, o.polcmd, o.polroles, pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
                  IS NOT DISTINCT FROM (w.permissive, w.command::"char", '{0}'::oid[], w.using_text, w.check_text))
        THEN
            status := 'kept';
        ELSE
            IF before ? policy.name THEN
                EXECUTE format('DROP POLICY %I ON %s', policy.name, named);
            END IF;
            EXECUTE format('CREATE POLICY %I ON %s %s', policy.name, named, policy.definition);
            status := 'done';
        END IF;
        object := format('policy %I on %s', policy.name, relation);
        what := policy.definition;
        RETURN NEXT;
    END LOOP;
    IF NOT spend AND before ? 'amp_spend' THEN
        EXECUTE format('DROP POLICY amp_spend ON %s', named);
        status := 'done'; object := format('policy amp_spend on %s', relation); what := 'dropped'; RETURN NEXT;
    END IF;
    FOR policy IN
        SELECT key AS name FROM jsonb_each(before) b
        WHERE b.value ->> 'permissive' = 'PERMISSIVE' AND key <> 'amp_allow' ORDER BY key
    LOOP
        status := 'left'; object := format('policy %I on %s', policy.name, relation);
        what := 'permissive: beside amp_allow it neither allows nor forbids anything inside the tenant';
        remedy := 'If it is there to narrow, recreate it AS RESTRICTIVE; else drop it.';
        RETURN NEXT;
    END LOOP;
    remedy := NULL;

    object := format('trigger amp_truncate on %s', relation); what := 'TRUNCATE only by the owner, outside of a tenant';
    IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = 'amp_truncate'
                 AND t.tgfoid = 'amp.refuse_truncate()'::regprocedure AND t.tgenabled = 'A') THEN
        status := 'kept';
    ELSE
        EXECUTE format('CREATE OR REPLACE TRIGGER amp_truncate BEFORE TRUNCATE ON %s EXECUTE FUNCTION amp.refuse_truncate()', named);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER amp_truncate', named);
        status := 'done';
    END IF;
    RETURN NEXT;

    FOR parent IN
        SELECT i.inhparent::regclass FROM pg_inherits i
        WHERE i.inhrelid = relation AND NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = i.inhparent) ORDER BY 1
    LOOP
        status := 'left'; object := format('table %s', relation);
        what := format('its rows can be read through its parent %s, which is not protected', parent);
        remedy := format('SELECT * FROM amp.protect(%L)', amp.qualified(parent));
        RETURN NEXT;
    END LOOP;
    FOR foreign_key IN
        SELECT c.conname, c.conrelid::regclass AS child, c.confrelid::regclass AS parent,
               CASE WHEN c.conrelid = relation THEN c.confrelid ELSE c.conrelid END::regclass AS other
        FROM pg_constraint c
        WHERE c.contype = 'f' AND c.conparentid = 0 AND relation IN (c.conrelid, c.confrelid)
          AND NOT EXISTS (SELECT FROM amp.shared_tables s WHERE s.relation IN (c.conrelid, c.confrelid))
        ORDER BY 1, 2
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = foreign_key.other);
        status := 'left'; object := format('foreign key %I of %s', foreign_key.conname, foreign_key.child);
        what := format('reaches the unprotected table %s', foreign_key.other);
        remedy := format('SELECT * FROM amp.protect(%L), or amp.share_table(%L) if its rows belong to no tenant',
                         amp.qualified(foreign_key.other), amp.qualified(foreign_key.other));
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.protect(regclass, name, text, text, text, text, text, boolean, boolean) IS
'Table owner: puts a table, with its partitions and children, under amp''s policies, in one transaction; idempotent. read, write (or insert, update, delete) are the permissions asked for; NULL asks for none. fix => true rebuilds keys and indexes with the tenant in front. Returns what was done, kept, or left for a person, with the remedy. Errors: 42501 not the owner, 42809 no table that can be protected, 42703, 42804, 42P22 the tenant column, 23502 rows without a tenant, 23503 rows point across tenants, 42704 unknown permission, 0A000 a foreign key that cannot be rewritten.';

CREATE FUNCTION amp.unprotect("table" regclass) RETURNS TABLE (status text, object text, what text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass;
    tenant_column name;
    own record;
BEGIN
    PERFORM amp.assert_owner("table");
    IF NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is not protected', "table"),
            HINT = 'See amp.protected_tables.';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits i JOIN amp.protected_tables p ON p.relation = i.inhparent WHERE i.inhrelid = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is a part of a protected table', "table"),
            HINT = 'Unprotect the parent, or detach this one first.';
    END IF;
    FOR relation, tenant_column IN
        SELECT d.relation, p.tenant_column FROM amp.descendants("table") d JOIN amp.protected_tables p ON p.relation = d.relation
    LOOP
        status := 'done';
        -- First, or the guard of schema changes would refuse what follows.
        PERFORM amp.mark_caller();
        PERFORM amp.forget_table(relation);
        FOR own IN SELECT p.polname FROM pg_policy p WHERE p.polrelid = relation
                   AND p.polname IN ('amp_allow', 'amp_tenant', 'amp_insert', 'amp_update', 'amp_delete', 'amp_spend') ORDER BY 1 LOOP
            EXECUTE format('DROP POLICY %I ON %s', own.polname, amp.qualified(relation));
            object := format('policy %I on %s', own.polname, relation); what := 'dropped'; RETURN NEXT;
        END LOOP;
        FOR own IN SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = relation AND NOT t.tgisinternal
                   AND t.tgfoid IN ('amp.refuse_truncate()'::regprocedure, 'amp.count_inserted()'::regprocedure,
                                    'amp.gate_approval()'::regprocedure) ORDER BY 1 LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', own.tgname, amp.qualified(relation));
            object := format('trigger %I on %s', own.tgname, relation); what := 'dropped'; RETURN NEXT;
        END LOOP;
        IF EXISTS (SELECT FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                   WHERE a.attrelid = relation AND a.attname = tenant_column
                     AND pg_get_expr(d.adbin, d.adrelid) IN ('amp.tenant_id()', 'amp.tenant_uuid()', 'amp.tenant_bigint()')) THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', amp.qualified(relation), tenant_column);
            object := format('column %I of %s', tenant_column, relation); what := 'default dropped'; RETURN NEXT;
        END IF;
        object := format('table %s', relation);
        IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = relation) THEN
            status := 'left'; what := 'row security stays on for the policies that are not amp''s';
        ELSE
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', amp.qualified(relation));
            what := 'row security disabled';
        END IF;
        RETURN NEXT;
    END LOOP;
    status := 'left'; object := format('table %s', "table");
    what := 'NOT NULL, indexes, unique keys and composite foreign keys'; RETURN NEXT;
END
$$;
COMMENT ON FUNCTION amp.unprotect(regclass) IS
'Table owner: takes a table and its parts out of amp''s policies; every row is visible to everybody who has privileges. Keys and indexes stay. Errors: 42501 not the owner, 55000 not protected, or a part of a protected table.';
