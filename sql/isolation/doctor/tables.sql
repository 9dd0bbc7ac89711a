-- What the doctor finds in protected tables, and in tables beside them.

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

CREATE FUNCTION amp.relatives(touched oid[]) RETURNS oid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        WITH RECURSIVE named AS (
            SELECT t.oid FROM unnest(touched) t(oid)
            UNION SELECT x.indrelid FROM unnest(touched) t(oid) JOIN pg_index x ON x.indexrelid = t.oid
        ), above AS (
            SELECT n.oid FROM named n UNION SELECT i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid
        ), below AS (
            SELECT n.oid FROM named n UNION SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
        )
        SELECT array_agg(r.oid) FROM (SELECT a.oid FROM above a UNION SELECT b.oid FROM below b) r);
END
$$;
COMMENT ON FUNCTION amp.relatives(oid[]) IS
'Internal: these relations, the tables of those that are indexes, and all that they are parts of or that are parts of them.';

-- Written so that it costs by what is looked at, not by what there is: it starts from an array, and every join is a look-up by an index. One plan
-- serves a session, because after every schema change the guard asks about a relation or two.
CREATE FUNCTION amp.table_findings(touched oid[] DEFAULT NULL, lockable oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    family oid[];
    own oid[];
    with_policies oid[];
BEGIN
    IF touched IS NULL THEN
        family := ARRAY(
            SELECT p.relation::oid FROM amp.protected_tables p
            UNION
            SELECT c.oid FROM pg_class c
            WHERE c.relkind IN ('r', 'p', 'f') AND c.relnamespace IN (
                SELECT n.oid FROM amp.protected_schemas s JOIN pg_namespace n ON n.nspname = s.schema
                UNION SELECT t.relnamespace FROM amp.protected_tables p JOIN pg_class t ON t.oid = p.relation));
        own := family;
        with_policies := ARRAY(SELECT DISTINCT o.polrelid FROM pg_policy o);
    ELSE
        family := amp.relatives(touched);
        own := ARRAY(SELECT t.oid FROM unnest(coalesce(lockable, touched)) t(oid)
                     UNION SELECT x.indrelid FROM pg_index x WHERE x.indexrelid = ANY (touched));
        with_policies := family;
    END IF;
    RETURN QUERY
    WITH protected AS MATERIALIZED (
        SELECT p.*, c.relrowsecurity, c.relforcerowsecurity, c.relowner, a.attnum, a.attnotnull, a.atttypid, a.attcollation, n.named,
               format('SELECT * FROM amp.protect(%L, %L, %L, NULL, %L, %L, %L%s)', n.named, p.tenant_column,
                      p.read_permission, p.insert_permission, p.update_permission, p.delete_permission,
                      CASE WHEN p.spend THEN ', true' END) AS again
        FROM unnest(family) f(oid)
        JOIN amp.protected_tables p ON p.relation = f.oid
        JOIN pg_class c ON c.oid = f.oid
        LEFT JOIN pg_attribute a ON a.attrelid = p.relation AND a.attname = p.tenant_column AND NOT a.attisdropped
        CROSS JOIN LATERAL (SELECT format('%I.%I', s.nspname, c.relname) FROM pg_namespace s WHERE s.oid = c.relnamespace) n(named)
    ), indexed AS MATERIALIZED (
        -- What is looked at table by table is looked at only where there is something.
        SELECT p.relation, p.tenant_column, p.named FROM protected p
        WHERE p.relation = ANY (own) AND EXISTS (
            SELECT FROM pg_index x
            WHERE x.indrelid = p.relation AND (
                x.indisexclusion OR x.indkey[0] <> p.attnum OR x.indisunique AND (x.indcollation[0] <> p.attcollation OR x.indclass[0] >= 16384)))
    ), policies AS MATERIALIZED (
        -- To show an expression PostgreSQL locks its table: at the end of a statement only what it has locked itself, before any join that could
        -- be turned round, or two that run side by side (pg_restore -j) would wait for each other. The same with indexes.
        SELECT o.oid, o.polrelid, o.polname, o.polpermissive, o.polcmd, o.polroles,
               pg_get_expr(o.polqual, o.polrelid) AS using_text, pg_get_expr(o.polwithcheck, o.polrelid) AS check_text
        FROM unnest(own) f(oid) JOIN pg_policy o ON o.polrelid = f.oid
    ), beside AS MATERIALIZED (
        -- Neither protected nor shared.
        SELECT c.oid, c.relkind, c.relispartition, c.relnamespace, n.nspname, format('%I.%I', n.nspname, c.relname) AS named
        FROM unnest(family) f(oid) JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
          AND NOT EXISTS (SELECT FROM amp.protected_tables o WHERE o.relation = c.oid)
          AND NOT EXISTS (SELECT FROM amp.shared_tables o WHERE o.relation = c.oid)
    ), neighbours AS MATERIALIZED (
        -- What the tenant is called in the schemas of those.
        SELECT DISTINCT p.tenant_column, c.relnamespace
        FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation WHERE EXISTS (SELECT FROM beside)
    ), foreign_keys AS MATERIALIZED (
        -- From and to them: pg_depend has an index on both ends, pg_constraint on one.
        SELECT DISTINCT k.oid, k.conname, k.conrelid, k.confrelid, k.confdeltype, k.confupdtype, k.conparentid,
               child.tenant_column AS child_tenant, parent.tenant_column AS parent_tenant, k.conkey, k.confkey, k.confdelsetcols
        FROM unnest(family) f(oid)
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = f.oid AND d.classid = 'pg_constraint'::regclass
        JOIN pg_constraint k ON k.oid = d.objid AND k.contype = 'f'
        LEFT JOIN amp.protected_tables child ON child.relation = k.conrelid
        LEFT JOIN amp.protected_tables parent ON parent.relation = k.confrelid
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
    SELECT 'error', 'tenant-column-type', p.named,
           CASE WHEN l.collisdeterministic = false THEN format('Column %I has a collation under which two tenants'' ids can be equal.', p.tenant_column)
                ELSE format('Column %I has a type by which nothing can be protected.', p.tenant_column) END,
           format('SELECT * FROM amp.unprotect(%L); ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT, ALTER COLUMN %I TYPE text COLLATE "C" USING %I::text; %s',
                  p.named, p.named, p.tenant_column, p.tenant_column, p.tenant_column, p.again)
    FROM protected p LEFT JOIN pg_collation l ON l.oid = p.attcollation
    WHERE l.collisdeterministic = false OR p.atttypid NOT IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'bigint'::regtype)
    UNION ALL
    SELECT 'info', 'tenant-default', p.named, format('Column %I has lost amp''s default: whoever leaves it out gets an error.', p.tenant_column), p.again
    FROM protected p
    WHERE p.attnum IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attrdef d
        JOIN pg_depend u ON u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid AND u.refclassid = 'pg_proc'::regclass
         AND u.refobjid IN ('amp.tenant_id()'::regprocedure, 'amp.tenant_uuid()'::regprocedure, 'amp.tenant_bigint()'::regprocedure)
        WHERE d.adrelid = p.relation AND d.adnum = p.attnum)
    UNION ALL
    SELECT 'error', 'policy-changed', format('policy %I on %s', w.name, p.named),
           CASE WHEN o.oid IS NULL THEN 'The policy is missing.' ELSE 'The policy is not what amp.protect() made.' END, p.again
    FROM protected p JOIN amp.expected_policies w ON w.relation = p.relation
    LEFT JOIN policies o ON o.polrelid = w.relation AND o.polname = w.name
    WHERE p.relation = ANY (own) AND (o.polpermissive, o.polcmd, o.polroles, o.using_text, o.check_text)
          IS DISTINCT FROM (w.permissive, w.command::"char", '{0}'::oid[], w.using_text, w.check_text)
    UNION ALL
    SELECT 'warning', 'policy-permissive', format('policy %I on %s', o.polname, p.named),
           'A permissive policy beside amp''s neither allows nor forbids anything inside the tenant; after DROP EXTENSION it would open the table.',
           format('DROP POLICY %I ON %s', o.polname, p.named)
    FROM protected p JOIN pg_policy o ON o.polrelid = p.relation WHERE o.polpermissive AND o.polname <> 'amp_allow'
    UNION ALL
    SELECT 'warning', 'policy-without-row-security', amp.qualified(c.oid), 'It has policies, and row security is not enabled: they do nothing.',
           format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', amp.qualified(c.oid))
    FROM unnest(with_policies) o(oid) JOIN pg_class c ON c.oid = o.oid
    WHERE NOT c.relrowsecurity AND EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = c.oid)
      AND NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = c.oid)
    UNION ALL
    SELECT 'error', 'truncate-unguarded', p.named, 'The trigger that refuses TRUNCATE is missing or does not always fire.', p.again
    FROM protected p
    WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = p.relation AND t.tgfoid = 'amp.refuse_truncate()'::regprocedure AND t.tgenabled = 'A')
    UNION ALL
    SELECT 'error', 'approval-ungated', amp.qualified(g.relation), 'It demands approval, but the trigger for that is missing or disabled.',
           format('SELECT amp.require_approval(%L, %L, %L, %L, %L)', amp.qualified(coalesce(g.parent, g.relation)), g.gated_column, g.states,
                  g.subject_type, g.content_columns)
    FROM amp.approval_gates g
    WHERE (touched IS NULL OR g.relation = ANY (family))
      AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = g.relation AND t.tgfoid = 'amp.gate_approval()'::regprocedure AND t.tgenabled = 'A')
    UNION ALL
    SELECT 'warning', 'foreign-key-acts-on-strangers', format('foreign key %I of %s', k.conname, amp.qualified(k.conrelid)),
           format('Deleting from %s changes rows there, and its AFTER triggers, of another owner''s, run with the rights of who deletes.',
                  amp.qualified(k.confrelid)),
           format('ALTER TABLE %s OWNER TO %s', amp.qualified(k.conrelid), o.relowner::regrole)
    FROM foreign_keys k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class o ON o.oid = k.confrelid
    WHERE k.parent_tenant IS NOT NULL AND k.conparentid = 0 AND k.confdeltype IN ('c', 'n', 'd') AND c.relowner <> o.relowner
    UNION ALL
    SELECT CASE WHEN w.others THEN 'error' ELSE 'warning' END, 'foreign-key-from-unprotected', format('foreign key %I of %s', k.conname, amp.qualified(k.conrelid)),
           format('Whoever writes there learns which keys %s has, of every tenant.', amp.qualified(k.confrelid)),
           CASE WHEN t.has_column THEN format('SELECT * FROM amp.protect(%L, %L)', amp.qualified(k.conrelid), k.parent_tenant)
                ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', amp.qualified(k.conrelid), k.conname) END
    FROM foreign_keys k JOIN pg_class c ON c.oid = k.conrelid
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM aclexplode(c.relacl) g WHERE g.grantee <> c.relowner AND g.privilege_type IN ('INSERT', 'UPDATE')
        UNION ALL
        SELECT FROM pg_attribute a, aclexplode(a.attacl) g
        WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey) AND g.grantee <> c.relowner AND g.privilege_type IN ('INSERT', 'UPDATE'))) w(others)
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = k.parent_tenant AND NOT a.attisdropped)) t(has_column)
    WHERE k.conparentid = 0 AND k.child_tenant IS NULL AND k.parent_tenant IS NOT NULL
    UNION ALL
    SELECT 'warning', 'foreign-key-to-unprotected', format('foreign key %I of %s', k.conname, amp.qualified(k.conrelid)),
           format('Whoever changes %s, which is neither protected nor shared, decides about rows of every tenant.', amp.qualified(k.confrelid)),
           CASE WHEN t.has_column THEN format('SELECT * FROM amp.protect(%L, %L)', amp.qualified(k.confrelid), k.child_tenant)
                ELSE format('SELECT amp.share_table(%L)', amp.qualified(k.confrelid)) END
    FROM foreign_keys k
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attname = k.child_tenant AND NOT a.attisdropped)) t(has_column)
    WHERE k.conparentid = 0 AND k.child_tenant IS NOT NULL AND k.parent_tenant IS NULL
      AND NOT EXISTS (SELECT FROM amp.shared_tables o WHERE o.relation = k.confrelid)
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
    SELECT 'error', 'table-unprotected', b.named, 'A table of a protected schema is neither protected nor shared.',
           CASE WHEN t.has_column THEN format('SELECT * FROM amp.protect(%L, %L)', b.named, s.tenant_column)
                ELSE format('SELECT amp.share_table(%L)', b.named) END
    FROM beside b JOIN amp.protected_schemas s ON s.schema = b.nspname
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = b.oid AND a.attname = s.tenant_column AND NOT a.attisdropped)) t(has_column)
    WHERE b.relkind <> 'f'
    UNION ALL
    SELECT 'error', 'foreign-table', b.named, 'A foreign table of a protected schema: PostgreSQL has no row security for it.',
           format('DROP FOREIGN TABLE %s', b.named)
    FROM beside b JOIN amp.protected_schemas s ON s.schema = b.nspname
    WHERE b.relkind = 'f'
    UNION ALL
    SELECT 'warning', 'table-like-protected', b.named,
           format('It has a column %I, as protected tables beside it, and is neither protected nor shared.', n.tenant_column),
           format('SELECT * FROM amp.protect(%L, %L)', b.named, n.tenant_column)
    FROM beside b JOIN neighbours n ON n.relnamespace = b.relnamespace
    JOIN pg_attribute a ON a.attrelid = b.oid AND a.attname = n.tenant_column AND NOT a.attisdropped
    WHERE b.relkind <> 'f' AND NOT b.relispartition AND NOT EXISTS (SELECT FROM amp.protected_schemas s WHERE s.schema = b.nspname)
    UNION ALL
    SELECT 'error', 'foreign-key-without-tenant', format('foreign key %I of %s', k.conname, amp.qualified(k.conrelid)),
           'It is checked and cascades without row security: across tenants.', format('SELECT * FROM amp.protect(%L)', amp.qualified(k.conrelid))
    FROM foreign_keys k
    WHERE k.conparentid = 0 AND k.child_tenant IS NOT NULL AND k.parent_tenant IS NOT NULL AND NOT EXISTS (
        SELECT FROM unnest(k.conkey, k.confkey) u(child, parent)
        JOIN pg_attribute c ON c.attrelid = k.conrelid AND c.attnum = u.child AND c.attname = k.child_tenant
        JOIN pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = u.parent AND p.attname = k.parent_tenant)
    UNION ALL
    -- With amp's default it is the tenant who deletes, and no other tenant's rows refer to his.
    SELECT 'error', 'foreign-key-sets-tenant', format('foreign key %I of %s', k.conname, p.named),
           'It gives rows the default of their tenant column, past row security: they go over to that tenant.', p.again
    FROM foreign_keys k JOIN protected p ON p.relation = k.conrelid
    WHERE k.conparentid = 0 AND p.attnum = ANY (k.conkey)
      AND (k.confupdtype = 'd' OR k.confdeltype = 'd' AND (k.confdelsetcols IS NULL OR p.attnum = ANY (k.confdelsetcols)))
      -- What shows the default locks the table, as above. Without one PostgreSQL refuses the null.
      AND CASE WHEN p.relation = ANY (own) THEN EXISTS (
          SELECT FROM pg_attrdef d
          WHERE d.adrelid = p.relation AND d.adnum = p.attnum
            AND pg_get_expr(d.adbin, d.adrelid) NOT IN ('amp.tenant_id()', 'amp.tenant_uuid()', 'amp.tenant_bigint()')) END
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
    SELECT 'warning', 'statistics-of-stranger', format('statistics %I.%I', n.nspname, x.stxname),
           format('%s, who does not own %s, owns statistics of it: what they show are all tenants'' rows.', x.stxowner::regrole, p.named),
           format('ALTER STATISTICS %I.%I OWNER TO %s', n.nspname, x.stxname, p.relowner::regrole)
    FROM protected p JOIN pg_statistic_ext x ON x.stxrelid = p.relation JOIN pg_namespace n ON n.oid = x.stxnamespace
    WHERE x.stxowner <> p.relowner
    UNION ALL
    SELECT 'info', 'sequence-shared', format('column %I of %s', a.attname, p.named),
           'Its numbers come from one sequence: a tenant sees in its own how many rows others insert.',
           format('ALTER TABLE %s ALTER COLUMN %I DROP %s -- then rows bring their ids, from gen_random_uuid() for example', p.named, a.attname,
                  CASE WHEN a.attidentity <> '' THEN 'IDENTITY' ELSE 'DEFAULT' END)
    FROM protected p JOIN pg_attribute a ON a.attrelid = p.relation AND a.attnum > 0 AND NOT a.attisdropped AND (a.attidentity <> '' OR a.atthasdef)
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = p.relation)
      AND (a.attidentity <> '' OR EXISTS (
          SELECT FROM pg_depend u JOIN pg_class q ON q.oid = u.refobjid AND q.relkind = 'S'
          WHERE u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid AND u.refclassid = 'pg_class'::regclass));
END
$$;
COMMENT ON FUNCTION amp.table_findings(oid[], oid[]) IS
'Internal: what doctor() finds in protected tables and schemas. With relations (pg_class): what concerns them, their parts and parents, and foreign keys from and to them.';
