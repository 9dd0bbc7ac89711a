-- What is left open, as far as the catalogs show it. A finding has a severity (error: a hole; warning: a hole for somebody whom you may trust, or
-- a way to one; info), a stable code, the object, one sentence, and what closes it. Each function looks at one kind of object.

CREATE VIEW amp.expected_policies WITH (security_invoker) AS
    SELECT p.relation, w.*
    FROM amp.protected_tables p
    JOIN pg_catalog.pg_attribute a ON a.attrelid = p.relation AND a.attname = p.tenant_column AND NOT a.attisdropped,
        LATERAL (SELECT pg_catalog.format(
                            CASE WHEN a.atttypid = 'varchar'::pg_catalog.regtype THEN '(%I)::text = amp.%I(' ELSE '%I = amp.%I(' END, p.tenant_column,
                            CASE a.atttypid WHEN 'uuid'::pg_catalog.regtype THEN 'tenant_uuid' WHEN 'bigint'::pg_catalog.regtype THEN 'tenant_bigint'
                            ELSE 'tenant_id' END),
                        coalesce(pg_catalog.quote_literal(p.read_permission) || '::text', ''),
                        'amp.require_permission(' || pg_catalog.quote_literal(p.insert_permission) || '::text)',
                        'amp.require_permission(' || pg_catalog.quote_literal(p.update_permission) || '::text)',
                        'amp.require_permission(' || pg_catalog.quote_literal(p.delete_permission) || '::text)') t(compared, read, inserts, updates, deletes),
        LATERAL (VALUES
            ('amp_allow', true, '*', '(' || compared || read || '))', 'true'),
            ('amp_tenant', false, '*', '(' || compared || read || '))', '(' || compared || '))'),
            ('amp_insert', false, 'a', NULL, coalesce(inserts, 'true')),
            ('amp_update', false, 'w', coalesce(updates, 'amp.context_holds()'), coalesce(updates, 'amp.context_holds()')),
            ('amp_delete', false, 'd', coalesce(deletes, 'amp.context_holds()'), NULL),
            (CASE WHEN p.spend THEN 'amp_spend' END, false, 'a', NULL, 'amp.require_spending()')
        ) w(name, permissive, command, using_text, check_text)
    WHERE w.name IS NOT NULL;
COMMENT ON VIEW amp.expected_policies IS
'Internal: the policies that amp.policies() makes of every protected table, as PostgreSQL shows them where amp is not in the search_path.';
GRANT SELECT ON amp.expected_policies TO PUBLIC;

CREATE FUNCTION amp.table_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH protected AS (
        SELECT p.*, c.relrowsecurity, c.relforcerowsecurity, a.attnum, a.attnotnull, amp.qualified(p.relation) AS named,
               format('SELECT * FROM amp.protect(%L, %L, %L, NULL, %L, %L, %L%s)', amp.qualified(p.relation), p.tenant_column,
                      p.read_permission, p.insert_permission, p.update_permission, p.delete_permission,
                      CASE WHEN p.spend THEN ', true' END) AS again
        FROM amp.protected_tables p
        JOIN pg_class c ON c.oid = p.relation
        LEFT JOIN pg_attribute a ON a.attrelid = p.relation AND a.attname = p.tenant_column AND NOT a.attisdropped
    ), referring AS MATERIALIZED (
        -- What is looked at table by table is looked at only where there is something.
        SELECT p.relation FROM protected p
        WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = p.relation)
    ), indexed AS MATERIALIZED (
        SELECT p.relation, p.tenant_column, p.named FROM protected p
        WHERE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = p.relation AND (x.indisexclusion OR x.indkey[0] <> p.attnum))
    )
    SELECT 'error', 'row-security-off', p.named, 'Row security is not enabled and forced: every row is visible.', p.again
    FROM protected p WHERE NOT (p.relrowsecurity AND p.relforcerowsecurity)
    UNION ALL
    SELECT 'error', 'tenant-column-missing', p.named, format('There is no column %I any more, by which it was protected.', p.tenant_column),
           format('SELECT * FROM amp.protect(%L, tenant_column => ''...'')', p.named)
    FROM protected p WHERE p.attnum IS NULL
    UNION ALL
    SELECT 'error', 'tenant-column-nullable', p.named, format('Column %I may be null: such a row belongs to nobody.', p.tenant_column), p.again
    FROM protected p WHERE NOT p.attnotnull
    UNION ALL
    SELECT 'error', 'policy-changed', format('policy %I on %s', w.name, p.named),
           CASE WHEN o.oid IS NULL THEN 'The policy is missing.' ELSE 'The policy is not what amp.protect() made.' END, p.again
    FROM amp.expected_policies w JOIN protected p ON p.relation = w.relation
    LEFT JOIN pg_policy o ON o.polrelid = w.relation AND o.polname = w.name
    WHERE (o.polpermissive, o.polcmd, o.polroles, pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
          IS DISTINCT FROM (w.permissive, w.command::"char", '{0}'::oid[], w.using_text, w.check_text)
    UNION ALL
    SELECT 'warning', 'policy-permissive', format('policy %I on %s', o.polname, p.named),
           'A permissive policy beside amp''s neither allows nor forbids anything inside the tenant; after DROP EXTENSION it would open the table.',
           format('DROP POLICY %I ON %s', o.polname, p.named)
    FROM protected p JOIN pg_policy o ON o.polrelid = p.relation WHERE o.polpermissive AND o.polname <> 'amp_allow'
    UNION ALL
    SELECT 'error', 'truncate-unguarded', p.named, 'The trigger that refuses TRUNCATE is missing or does not always fire.', p.again
    FROM protected p
    WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = p.relation AND t.tgfoid = 'amp.refuse_truncate()'::regprocedure AND t.tgenabled = 'A')
    UNION ALL
    SELECT 'error', 'approval-ungated', amp.qualified(g.relation), 'It demands approval, but the trigger for that is missing or disabled.',
           format('SELECT amp.require_approval(%L, %L, %L, %L, %L)', amp.qualified(coalesce(g.parent, g.relation)), g.gated_column, g.states,
                  g.subject_type, g.content_columns)
    FROM amp.approval_gates g
    WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = g.relation AND t.tgfoid = 'amp.gate_approval()'::regprocedure AND t.tgenabled = 'A')
    UNION ALL
    SELECT 'warning', 'foreign-key-acts-on-strangers', format('foreign key %I of %s', k.conname, amp.qualified(k.conrelid)),
           format('Deleting from %s changes rows there, and its AFTER triggers, of another owner''s, run with the rights of who deletes.', p.named),
           format('ALTER TABLE %s DROP CONSTRAINT %I, or give both tables one owner', amp.qualified(k.conrelid), k.conname)
    FROM protected p JOIN pg_constraint k ON k.contype = 'f' AND k.confrelid = p.relation AND k.confdeltype IN ('c', 'n', 'd')
    JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class o ON o.oid = p.relation WHERE c.relowner <> o.relowner
    UNION ALL
    SELECT 'error', 'part-unprotected', amp.qualified(i.inhrelid), format('A part of protected table %s is not protected.', p.named), p.again
    FROM protected p JOIN pg_inherits i ON i.inhparent = p.relation
    WHERE NOT EXISTS (SELECT FROM amp.protected_tables o WHERE o.relation = i.inhrelid)
    UNION ALL
    SELECT 'error', 'parent-unprotected', amp.qualified(i.inhparent), format('The rows of protected table %s can be read through it.', p.named),
           format('SELECT * FROM amp.protect(%L)', amp.qualified(i.inhparent))
    FROM protected p JOIN pg_inherits i ON i.inhrelid = p.relation
    WHERE NOT EXISTS (SELECT FROM amp.protected_tables o WHERE o.relation = i.inhparent)
    UNION ALL
    SELECT 'error', 'table-unprotected', amp.qualified(c.oid), 'A table of a protected schema is neither protected nor shared.',
           format('SELECT * FROM amp.protect(%1$L, %2$L), or SELECT amp.share_table(%1$L) if its rows belong to no tenant', amp.qualified(c.oid), s.tenant_column)
    FROM amp.protected_schemas s JOIN pg_namespace n ON n.nspname = s.schema JOIN pg_class c ON c.relnamespace = n.oid
    WHERE c.relkind IN ('r', 'p', 'f') AND NOT EXISTS (SELECT FROM amp.protected_tables o WHERE o.relation = c.oid)
      AND NOT EXISTS (SELECT FROM amp.shared_tables o WHERE o.relation = c.oid)
    UNION ALL
    SELECT DISTINCT 'error', 'foreign-key-without-tenant', format('foreign key %I of %s', f.constraint_name, amp.qualified(f.child)),
           'It is checked and cascades without row security: across tenants.', format('SELECT * FROM amp.protect(%L)', amp.qualified(f.child))
    FROM referring p, amp.plain_foreign_keys(p.relation) f
    UNION ALL
    SELECT CASE WHEN f.what LIKE 'not led%' THEN 'warning' ELSE 'error' END,
           CASE WHEN f.what LIKE 'not led%' THEN 'index-without-tenant' ELSE 'key-without-tenant' END,
           format('index %s on %s', amp.qualified(f.index), p.named), upper(left(f.what, 1)) || substr(f.what, 2) || '.',
           coalesce(f.rebuild, 'Rebuild it by hand with the tenant column in front.')
    FROM indexed p, amp.foreign_indexes(p.relation, p.tenant_column) f
    UNION ALL
    SELECT 'error', 'rule', format('rule %I on %s', r.rulename, p.named), 'A rule rewrites what is done to the table, with its owner''s rights.',
           format('DROP RULE %I ON %s', r.rulename, p.named)
    FROM protected p JOIN pg_rewrite r ON r.ev_class = p.relation
    UNION ALL
    SELECT 'warning', 'publication', format('publication %I', o.pubname), format('It sends every tenant''s rows of %s to its subscribers.', p.named),
           format('ALTER PUBLICATION %I DROP TABLE %s', o.pubname, p.named)
    FROM protected p JOIN pg_publication_rel r ON r.prrelid = p.relation JOIN pg_publication o ON o.oid = r.prpubid
    UNION ALL
    SELECT CASE WHEN g.privilege_type IN ('TRIGGER', 'REFERENCES') THEN 'error' ELSE 'warning' END, 'grant-' || lower(g.privilege_type), p.named,
           CASE g.privilege_type
               WHEN 'TRIGGER' THEN 'Whoever makes a trigger runs his code in other tenants'' sessions.'
               WHEN 'REFERENCES' THEN 'Whoever makes a foreign key to it learns which keys exist, of every tenant.'
               ELSE 'Its trigger refuses TRUNCATE, but nobody needs the privilege.' END,
           format('REVOKE %s ON %s FROM %s', g.privilege_type, p.named, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
    FROM protected p JOIN pg_class c ON c.oid = p.relation, aclexplode(c.relacl) g
    WHERE g.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE') AND g.grantee <> c.relowner
$$;
COMMENT ON FUNCTION amp.table_findings() IS 'Internal: what doctor() finds in protected tables and schemas.';

CREATE FUNCTION amp.dependent_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE reached(relation) AS (
        SELECT p.relation::oid FROM amp.protected_tables p
        UNION
        SELECT r.ev_class
        FROM reached t
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.relation AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
        WHERE r.ev_class <> t.relation
    ), dependent AS (
        SELECT c.oid, c.relkind, amp.qualified(c.oid) AS named, o.rolname AS owner, o.rolsuper OR o.rolbypassrls AS bypasses,
               coalesce((SELECT bool_or(lower(split_part(option, '=', 2)) IN ('true', 'on', 'yes', '1', ''))
                         FROM unnest(c.reloptions) option WHERE option LIKE 'security_invoker%'), false) AS invoker
        FROM reached r JOIN pg_class c ON c.oid = r.relation JOIN pg_roles o ON o.oid = c.relowner
        WHERE c.relkind IN ('v', 'm')
    )
    SELECT 'error', 'materialized-view', d.named, 'It keeps rows of protected tables, of every tenant who refreshed it, for whoever may read it.',
           format('DROP MATERIALIZED VIEW %s', d.named)
    FROM dependent d WHERE d.relkind = 'm'
    UNION ALL
    SELECT CASE WHEN d.bypasses THEN 'error' ELSE 'warning' END, 'view-without-security-invoker', d.named,
           CASE WHEN d.bypasses THEN format('It reads protected tables as %I, who bypasses row security: every tenant''s rows.', d.owner)
                ELSE format('It reads protected tables with the privileges of %I, not of who asks.', d.owner) END,
           format('ALTER VIEW %s SET (security_invoker = true)', d.named)
    FROM dependent d WHERE d.relkind = 'v' AND NOT d.invoker
    UNION ALL
    SELECT 'warning', 'definer-function', p.oid::regprocedure::text,
           format('It runs as %I, who bypasses row security, for whoever may call it.', o.rolname),
           format('ALTER FUNCTION %s SECURITY INVOKER, or REVOKE EXECUTE, or ALTER FUNCTION ... OWNER TO an ordinary role', p.oid::regprocedure)
    FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.prosecdef AND (o.rolsuper OR o.rolbypassrls) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'amp')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
$$;
COMMENT ON FUNCTION amp.dependent_findings() IS 'Internal: what doctor() finds in views over protected tables, and in functions that bypass row security.';

CREATE FUNCTION amp.role_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH service AS (
        SELECT r.* FROM pg_roles r
        WHERE r.rolcanlogin AND EXISTS (
            WITH RECURSIVE above(role) AS (
                SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid
                UNION SELECT m.roleid FROM above a JOIN pg_auth_members m ON m.member = a.role
            ) SELECT FROM above WHERE role = 'amp_service'::regrole)
    )
    SELECT 'error', 'service-bypasses', format('role %I', s.rolname), 'A superuser or a role with BYPASSRLS sees every tenant''s rows.',
           format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', s.rolname)
    FROM service s WHERE s.rolsuper OR s.rolbypassrls
    UNION ALL
    SELECT 'warning', 'service-creates-roles', format('role %I', s.rolname), 'Whoever makes roles makes himself a member of others.',
           format('ALTER ROLE %I NOCREATEROLE', s.rolname)
    FROM service s WHERE s.rolcreaterole AND NOT s.rolsuper
    UNION ALL
    SELECT DISTINCT 'warning', 'service-owns-table', format('role %I', s.rolname),
           format('It has the rights of %I, who owns %s: the owner of a table can take its protection away.', c.relowner::regrole::text, amp.qualified(p.relation)),
           format('Give the table to a role of its own: ALTER TABLE %s OWNER TO ...', amp.qualified(p.relation))
    FROM service s, amp.protected_tables p JOIN pg_class c ON c.oid = p.relation
    WHERE NOT s.rolsuper AND pg_has_role(s.oid, c.relowner, 'MEMBER')
$$;
COMMENT ON FUNCTION amp.role_findings() IS 'Internal: what doctor() finds in the login roles of services.';

CREATE FUNCTION amp.is_preloaded() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'amp_is_preloaded';
COMMENT ON FUNCTION amp.is_preloaded() IS 'Internal: whether the library is in shared_preload_libraries.';

CREATE FUNCTION amp.server_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'warning', 'not-preloaded', 'shared_preload_libraries',
           'The first statement of a session is not checked before it starts, and refusals are in the server''s log alone.',
           'Add amp_tenancy to shared_preload_libraries and restart.'
    WHERE NOT amp.is_preloaded()
    UNION ALL
    SELECT 'warning', 'old-minor', format('PostgreSQL %s', current_setting('server_version')),
           'A later minor release closes holes in row security (CVE-2026-16237, CVE-2026-120154: ON CONFLICT).',
           format('Upgrade to %s.%s or later.', major, least)
    FROM (VALUES (15, 20), (16, 16), (17, 12), (18, 7)) v(major, least)
    WHERE current_setting('server_version_num')::integer BETWEEN major * 10000 AND major * 10000 + least - 1
$$;
COMMENT ON FUNCTION amp.server_findings() IS 'Internal: what doctor() finds in the server.';

CREATE FUNCTION amp.tenant_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'info', 'slug-not-descriptive', format('tenant %s', t.id), format('Slug "%s" does not say whose it is.', t.slug),
           'Choose a descriptive slug, such as acme-corp-2024.'
    FROM amp.tenants t
    WHERE t.status <> 'deleted'
      AND t.slug ~ '^(tnt|tenant|client|customer|company|corp|org|organization|account|agency|brand|user|team|group|test|demo|example|sample|new|temp|tmp|foo|bar|abc|xxx)?(-?[0-9]+)?$'
$$;
COMMENT ON FUNCTION amp.tenant_findings() IS 'Internal: what doctor() finds in tenants, for operators.';

CREATE FUNCTION amp.tenant_findings_for_caller() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF amp.called_by_operator() THEN
        RETURN QUERY SELECT f.* FROM amp.tenant_findings() f;
    END IF;
END
$$;
COMMENT ON FUNCTION amp.tenant_findings_for_caller() IS 'Internal: tenant_findings(), if an operator asks.';

CREATE FUNCTION amp.doctor() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    RETURN QUERY
        SELECT f.* FROM (
            SELECT t.* FROM amp.table_findings() t
            UNION ALL SELECT d.* FROM amp.dependent_findings() d
            UNION ALL SELECT r.* FROM amp.role_findings() r
            UNION ALL SELECT s.* FROM amp.server_findings() s
            UNION ALL SELECT o.* FROM amp.tenant_findings_for_caller() o
        ) f
        ORDER BY array_position(ARRAY['error', 'warning', 'info'], f.severity), f.code, f.object;
END
$$;
COMMENT ON FUNCTION amp.doctor() IS
'What is left open, as far as the catalogs show it: severity (error, warning, info), a stable code, the object, one sentence, and the SQL that closes it. An installation is done when there is no error. What it finds in tenants it tells operators only. docs/doctor.md explains each code.';
