-- A tenant's way out: everything of it as one text, and its end.

CREATE FUNCTION amp.own_tables() RETURNS TABLE (relation regclass, belongs text, exported text, purged boolean)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES
        ('amp.tenants'::regclass, 't.id = $1', 't.*', false),
        ('amp.tenant_configs', 't.tenant_id = $1', 't.*', true),
        -- Not default_tenant_id and created_at, which tell of other tenants; see purge_people() for who goes.
        ('amp.app_users', 't.id IN (SELECT m.user_id FROM amp.members m WHERE m.tenant_id = $1)', 't.id, t.email', false),
        ('amp.members', 't.tenant_id = $1', 't.*', true),
        ('amp.roles', 't.tenant_id = $1', 't.*', true),
        ('amp.usage_counters', 't.tenant_id = $1', 't.*', true),
        ('amp.usage_keys', 't.tenant_id = $1', 't.*', true),
        ('amp.usage_corrections', 't.tenant_id = $1', 't.*', true),
        ('amp.alerts', 't.tenant_id = $1', 't.*', true),
        ('amp.monthly_usage', 't.tenant_id = $1', NULL, true),
        ('amp.spending_limits', 't.tenant_id = $1', NULL, true),
        ('amp.settled_limits', 't.tenant_id = $1', NULL, true),
        ('amp.spending_watches', 't.tenant_id = $1', NULL, true),
        ('amp.audit_log', 't.tenant_id = $1 AND t.action <> ''context.refused''', 't.*', false),
        ('amp.stored_api_keys', 't.tenant_id = $1', NULL, true),
        ('amp.revoked_api_keys', 't.tenant_id = $1', NULL, true),
        ('amp.tenant_locks', 't.tenant_id = $1', NULL, true),
        ('amp.secrets', 't.tenant_id = $1', NULL, true),
        ('amp.brand_contexts', 't.tenant_id = $1', 't.*', true),
        ('amp.stored_brand_shares', '$1 IN (t.source_tenant, t.target_tenant)',
            't.target_tenant, t.source_tenant, t.element, t.expires_at, t.shared_at', true),
        ('amp.ended_brand_shares', '$1 IN (t.source_tenant, t.target_tenant)', NULL, true),
        ('amp.brand_elements', 't.source_tenant = $1', NULL, true),
        -- Before what they are found by.
        ('amp.approval_decisions', 't.request_id IN (SELECT r.id FROM amp.approval_requests r WHERE r.tenant_id = $1)', 't.*', true),
        ('amp.approval_requests', 't.tenant_id = $1', 't.*', true)
$$;
COMMENT ON FUNCTION amp.own_tables() IS
'Internal: amp''s tables that hold something of a tenant, those that others refer to first: which of their rows t are tenant $1''s, what of them is exported (NULL: nothing), whether a purge deletes them.';

-- The order of tables.

CREATE FUNCTION amp.tenant_tables() RETURNS TABLE (
        relation regclass, tenant_column name, read_permission text, parts regclass[], height bigint, circle regclass)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE unit(part, relation) AS (
        -- Partitions are read through what they are partitions of. Inheritance children have columns of their own: they stand for themselves.
        SELECT p.relation::oid, p.relation::oid
        FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation
        WHERE NOT (c.relispartition AND EXISTS (
            SELECT FROM pg_inherits i JOIN amp.protected_tables above ON above.relation = i.inhparent WHERE i.inhrelid = p.relation))
        UNION ALL
        SELECT i.inhrelid, u.relation
        FROM unit u JOIN pg_class c ON c.oid = u.part AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = u.part
    ), edge(child, parent) AS (
        SELECT DISTINCT child.relation, parent.relation
        FROM pg_constraint k JOIN unit child ON child.part = k.conrelid JOIN unit parent ON parent.part = k.confrelid
        WHERE k.contype = 'f'
    ), reach(child, parent) AS (
        SELECT u.part, u.part FROM unit u WHERE u.part = u.relation
        UNION
        SELECT r.child, e.parent FROM reach r JOIN edge e ON e.child = r.parent
    )
    SELECT p.relation, p.tenant_column, p.read_permission,
           ARRAY(SELECT u.part::regclass FROM unit u JOIN pg_class c ON c.oid = u.part
                 WHERE u.relation = p.relation AND c.relkind = 'r' ORDER BY u.part),
           -- Whoever refers to a table reaches all that it reaches, and himself.
           (SELECT count(*) FROM reach r WHERE r.child = p.relation),
           (SELECT least(p.relation::oid, min(there.parent))::regclass
            FROM reach there JOIN reach back ON back.child = there.parent AND back.parent = there.child
            WHERE there.child = p.relation
              AND (there.parent <> there.child OR EXISTS (SELECT FROM edge e WHERE e.child = p.relation AND e.parent = p.relation))
            HAVING count(*) > 0)
    FROM amp.protected_tables p
    WHERE EXISTS (SELECT FROM unit u WHERE u.part = p.relation AND u.relation = p.relation)
$$;
COMMENT ON FUNCTION amp.tenant_tables() IS
'Internal: the protected tables, without partitions of protected tables, whose names are in parts. A foreign key leads from a greater to a smaller height, but for tables that refer to themselves or each other: these have the same circle.';

CREATE FUNCTION amp.tenant_condition(relation regclass, tenant_column name, tenant text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type CONSTANT oid := (SELECT a.atttypid FROM pg_attribute a
                          WHERE a.attrelid = relation AND a.attname = tenant_column AND NOT a.attisdropped);
BEGIN
    IF type IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('table %s has no column %I any more, by which it was protected', amp.qualified(relation), tenant_column),
            HINT = 'The table''s owner calls amp.protect() with the column that it has now.';
    END IF;
    RETURN CASE
        WHEN type IN ('text'::regtype, 'varchar'::regtype) THEN format('t.%I = $1', tenant_column)
        -- As in src/id.rs: only the canonical text is the key.
        WHEN type = 'uuid'::regtype AND tenant ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN format('t.%I = $1::uuid', tenant_column)
        WHEN type = 'bigint'::regtype AND tenant ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
            CASE WHEN tenant::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
                THEN format('t.%I = $1::bigint', tenant_column) END
    END;
END
$$;
COMMENT ON FUNCTION amp.tenant_condition(regclass, name, text) IS
'Internal: which rows t of a protected table are tenant $1''s; NULL if its id is no key of that type, and there are none. Errors: 55000 the column was renamed or dropped.';

-- Export.

CREATE FUNCTION amp.exported_columns(relation regclass) RETURNS TABLE (columns text, json_nulls text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE base(attnum, type) AS (
        SELECT a.attnum, a.atttypid FROM pg_attribute a
        WHERE a.attrelid = exported_columns.relation AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT b.attnum, d.typbasetype FROM base b JOIN pg_type d ON d.oid = b.type AND d.typtype = 'd'
    )
    -- PostgreSQL's own types as JSON has them; arrays whose subscripts do not begin at 1 would come back with others. Types
    -- that somebody made, and what is made of them, by their text: they may have a cast to json, a function of their owner's.
    SELECT string_agg(CASE
            WHEN t.oid < 16384 AND t.typtype <> 'c' AND t.typcategory <> 'A' THEN format('t.%I', a.attname)
            WHEN t.oid < 16384 AND e.typarray = t.oid AND e.typtype <> 'c' AND e.oid NOT IN ('json'::regtype, 'jsonb'::regtype)
                THEN format('CASE WHEN array_dims(t.%1$I) !~ ''^(\[1:[0-9]+\])+$'' THEN to_json(t.%1$I::text) '
                            'WHEN t.%1$I IS NOT NULL THEN to_json(t.%1$I) END AS %1$I', a.attname)
            ELSE format('CASE WHEN num_nulls(t.%1$I) = 0 THEN format(''%%s'', t.%1$I) END AS %1$I', a.attname)
        END, ', ' ORDER BY a.attnum),
        string_agg(CASE WHEN t.oid IN ('json'::regtype, 'jsonb'::regtype)
            THEN format('CASE WHEN %s(t.%I) = ''null'' THEN %L END',
                        CASE t.oid WHEN 'json'::regtype THEN 'json_typeof' ELSE 'jsonb_typeof' END, a.attname, a.attname) END,
            ', ' ORDER BY a.attnum)
    FROM base b
    JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
    LEFT JOIN pg_type e ON e.oid = t.typelem
    JOIN pg_attribute a ON a.attrelid = exported_columns.relation AND a.attnum = b.attnum
$$;
COMMENT ON FUNCTION amp.exported_columns(regclass) IS
'Internal: the select list by which rows t are exported, and expressions that name the columns with JSON''s null, which is not SQL''s.';

CREATE FUNCTION amp.exported_tenant_for_caller(tenant_id text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text;
BEGIN
    IF EXISTS (SELECT FROM pg_roles r WHERE r.oid = amp.caller() AND (r.rolsuper OR r.rolbypassrls)) THEN
        IF tenant_id IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'which tenant?',
                HINT = 'This session bypasses row security and has no tenant of its own: pass tenant_id.';
        END IF;
        PERFORM amp.assert_tenant(tenant_id);
        RETURN tenant_id;
    END IF;
    IF amp.is_operator() AND amp.context() ->> 'tenant_id' IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = 'an operator cannot export a tenant',
            DETAIL = 'Operators have no view of tenants'' rows.',
            HINT = 'A member with users.manage, a service that acts as the tenant, or a superuser can.';
    END IF;
    own := amp.own_tenant(tenant_id);
    -- Of amp's own tables, what the documents that they are behind ask for.
    PERFORM amp.require_permission(p) FROM unnest(ARRAY['users.manage', 'content.view', 'integrations.manage', 'analytics.view']) p
    WHERE amp.user_id() IS NOT NULL;
    RETURN own;
END
$$;
COMMENT ON FUNCTION amp.exported_tenant_for_caller(text) IS
'Internal: the tenant that the caller may export: his own, or any for who bypasses row security. Errors: as export_tenant().';

CREATE FUNCTION amp.own_rows_for_caller(tenant_id text) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    tenant CONSTANT text := amp.exported_tenant_for_caller(own_rows_for_caller.tenant_id);
    own record;
BEGIN
    FOR own IN SELECT o.* FROM amp.own_tables() o WHERE o.exported IS NOT NULL LOOP
        RETURN QUERY EXECUTE format(
            'SELECT json_build_object(''table'', %L, ''row'', row_to_json(r.*))::text FROM (SELECT %s FROM %s t WHERE %s) r',
            amp.qualified(own.relation), own.exported, amp.qualified(own.relation), own.belongs) USING tenant;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.own_rows_for_caller(text) IS 'export_tenant(): the rows of amp''s own tables, by the rights of who called that.';

CREATE FUNCTION amp.assert_reads_plainly(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reader CONSTANT oid := amp.caller();
    part regclass;
    foreign_code record;
BEGIN
    -- It locks: not for everybody.
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = reader AND (r.rolsuper OR r.rolbypassrls)) THEN
        PERFORM amp.own_tenant(NULL);
        PERFORM amp.require_permission('users.manage') WHERE amp.user_id() IS NOT NULL;
    END IF;
    FOR part IN SELECT d.relation FROM amp.descendants(relation) d JOIN amp.protected_tables p ON p.relation = d.relation LOOP
        -- From here on nobody adds what is looked for below. Not on a standby, where nobody can.
        IF NOT pg_is_in_recovery() THEN
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', amp.qualified(part));
        END IF;
        SELECT format('policy %I', p.polname) AS name INTO foreign_code
        FROM pg_policy p
        WHERE p.polrelid = part AND p.polcmd IN ('r', '*') AND NOT EXISTS (
            SELECT FROM amp.expected_policies e
            WHERE e.relation = part AND (e.name, e.permissive, e.command::"char") = (p.polname, p.polpermissive, p.polcmd)
              -- The text says it: an operator or function that is not PostgreSQL's or amp's own shows its schema.
              AND (pg_get_expr(p.polqual, part), pg_get_expr(p.polwithcheck, part)) IS NOT DISTINCT FROM (e.using_text, e.check_text))
        LIMIT 1;
        IF NOT FOUND THEN
            -- The planner computes constants in predicates of indexes, checks and statistics, and a reader generated columns.
            SELECT pg_describe_object(d.classid, d.objid, 0) || ', by function ' || f.oid::regprocedure AS name INTO foreign_code
            FROM (SELECT 'pg_class'::regclass AS class, part::oid AS object
                  UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = part
                  UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = part
                  UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM pg_statistic_ext x WHERE x.stxrelid = part
                  UNION ALL SELECT 'pg_attrdef'::regclass, e.oid FROM pg_attrdef e JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                  WHERE e.adrelid = part AND a.attgenerated <> '') o
            JOIN pg_depend d ON d.classid = o.class AND d.objid = o.object
            LEFT JOIN pg_operator q ON d.refclassid = 'pg_operator'::regclass AND q.oid = d.refobjid
            JOIN pg_proc f ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE q.oprcode END
            JOIN pg_roles r ON r.oid = f.proowner
            WHERE f.oid >= 16384 AND NOT r.rolsuper AND NOT pg_has_role(reader, f.proowner, 'USAGE')
               OR f.oid >= 16384 AND NOT r.rolsuper AND (SELECT u.rolsuper FROM pg_roles u WHERE u.oid = reader)
            LIMIT 1;
        END IF;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = format('reading table %s would run code of somebody else''s: %s', amp.qualified(part), foreign_code.name),
                DETAIL = 'An export reads every protected table, whoever owns it, and such code would run with the rights and in the tenant of who exports.',
                HINT = 'Drop it, or amp.unprotect() the table if it is none of the application''s.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.assert_reads_plainly(regclass) IS
'Internal, for who may export: raises 42501 if who said mark_caller() would run a stranger''s code by reading a table: in policies that are not amp''s, in expressions of indexes, checks, statistics and columns. Keeps it so until the transaction ends.';

CREATE FUNCTION amp.export_tenant(tenant_id text DEFAULT NULL) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1
    SET lc_monetary = 'C' AS $$
DECLARE
    bypasses boolean := (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user);
    tenant text;
    part record;
    columns text;
    json_nulls text;
    parts CONSTANT text := 'SELECT t.*, amp.qualified(t.relation) AS name FROM amp.tenant_tables() t '
                           'ORDER BY t.height, coalesce(t.circle, t.relation), amp.qualified(t.relation)';
BEGIN
    PERFORM amp.mark_caller();
    tenant := amp.exported_tenant_for_caller(export_tenant.tenant_id);
    -- Whoever may not read all of it gets nothing, not less.
    FOR part IN EXECUTE parts LOOP
        IF NOT has_table_privilege(part.relation, 'SELECT') THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('permission denied for table %s', part.name),
                DETAIL = 'An export reads every protected table.',
                HINT = format('GRANT SELECT ON %s TO %I, or export as another role.', part.name, current_user);
        END IF;
        PERFORM amp.tenant_condition(part.relation, part.tenant_column, tenant); -- its error
        PERFORM amp.mark_caller();
        PERFORM amp.assert_reads_plainly(part.relation);
        PERFORM amp.require_permission(part.read_permission) WHERE part.read_permission IS NOT NULL AND NOT bypasses;
    END LOOP;
    RETURN NEXT (
        SELECT json_build_object('amp_export', json_build_object(
            'version', 1, 'tenant_id', tenant,
            'tables', (SELECT json_agg(amp.qualified(o.relation)) FROM amp.own_tables() o WHERE o.exported IS NOT NULL)::jsonb
                || coalesce(jsonb_agg(amp.qualified(t.relation)
                                ORDER BY t.height, coalesce(t.circle, t.relation), amp.qualified(t.relation)), '[]'),
            'circles', coalesce((
                SELECT jsonb_agg(c.names ORDER BY c.names)
                FROM (SELECT jsonb_agg(amp.qualified(m.relation) ORDER BY amp.qualified(m.relation)) AS names
                      FROM amp.tenant_tables() m WHERE m.circle IS NOT NULL GROUP BY m.circle) c), '[]'),
            'exported_at', to_char(statement_timestamp(), 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))::text
        FROM amp.tenant_tables() t);
    PERFORM amp.mark_caller();
    RETURN QUERY SELECT amp.own_rows_for_caller(tenant);
    FOR part IN EXECUTE parts LOOP
        -- Compared here, too: the policies are not for who bypasses them.
        CONTINUE WHEN amp.tenant_condition(part.relation, part.tenant_column, tenant) IS NULL;
        SELECT c.columns, c.json_nulls INTO columns, json_nulls FROM amp.exported_columns(part.relation) c;
        RETURN QUERY EXECUTE format(
            'SELECT CASE WHEN r.json_nulls = ''{}'' THEN json_build_object(''table'', %1$L, ''row'', r.document) '
                        'ELSE json_build_object(''table'', %1$L, ''row'', r.document, ''json_nulls'', r.json_nulls) END::text '
            'FROM (SELECT (SELECT row_to_json(c.*) FROM (SELECT %2$s) c) AS document, array_remove(ARRAY[%3$s]::text[], NULL) AS json_nulls '
                  'FROM %4$s t WHERE %5$s) r',
            part.name, columns, coalesce(json_nulls, ''),
            CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = part.relation AND c.relkind = 'p') THEN '' ELSE 'ONLY ' END || part.name,
            amp.tenant_condition(part.relation, part.tenant_column, tenant)) USING tenant;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.export_tenant(text) IS
'users.manage, or a service that acts as the tenant itself: everything of the session''s tenant as lines of JSON, of one moment; a superuser or BYPASSRLS names any tenant. First {"amp_export": {"version", "tenant_id", "tables", "circles", "exported_at"}}, then {"table", "row"} for each row, the tables that others refer to first; no keys, no secrets. See docs/lifecycle.md. Errors: as tenant_id(), TN004 not permitted to see all of it, or an operator, 42501 no SELECT on a table, or reading it would run a stranger''s code, or a policy that is not amp''s, 22004 which tenant.';

-- Deletion, and purge: what is left of a deleted tenant is its row, without its name, and the audit log. Rows of transactions that were
-- under way when the tenant was deleted must not come after: amp.purges notes whom a purge waits for, and that it has waited.

CREATE TABLE amp.purges (
    tenant_id text COLLATE "C" CONSTRAINT purges_pkey PRIMARY KEY,
    step text COLLATE "C" NOT NULL DEFAULT 'deletion' CHECK (step IN ('deletion', 'transactions', 'prepared', 'quiet')),
    awaited text[] COLLATE "C",
    purged jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE amp.purges IS 'Purges of tenants, under way and done, with the rows deleted by table. Operators see them.';
COMMENT ON COLUMN amp.purges.step IS
'What it waits for: that the deletion is heard by all, that transactions and then prepared transactions of before end; quiet when they have.';
COMMENT ON COLUMN amp.purges.awaited IS 'The transactions of this step that had not ended when it was looked at last.';
ALTER TABLE amp.purges ENABLE ROW LEVEL SECURITY;
CREATE POLICY operator ON amp.purges FOR SELECT TO amp_operator USING (true);
GRANT SELECT ON amp.purges TO amp_operator;
SELECT pg_catalog.pg_extension_config_dump('amp.purges', '');

CREATE FUNCTION amp.transactions(step text) RETURNS text[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here CONSTANT oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
    found text[] := '{}';
BEGIN
    CASE step
        WHEN 'deletion' THEN
            -- A commit is seen before the other backends are told what it changed; the lock is let go after that.
            found := ARRAY(SELECT l.virtualtransaction FROM pg_locks l
                           WHERE l.locktype = 'relation' AND l.database = here AND l.relation = 'amp.tenants'::regclass
                             AND l.mode = 'RowExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid());
        WHEN 'transactions' THEN
            -- A session without transaction id and snapshot has written nothing, and hears of the deletion before it does. Looked at
            -- twice: between the two readings of one look a statement may get its id and give back its snapshot.
            FOR look IN 1..2 LOOP
                PERFORM pg_stat_clear_snapshot();
                found := found || ARRAY(
                    SELECT l.virtualtransaction FROM pg_stat_activity a
                    JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.virtualxid = l.virtualtransaction
                    WHERE a.datid = here AND a.pid <> pg_backend_pid() AND a.backend_type NOT IN ('autovacuum worker', 'walsender')
                      AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL));
            END LOOP;
        WHEN 'prepared' THEN
            found := ARRAY(SELECT p.transaction::text || ' ' || p.gid FROM pg_prepared_xacts p WHERE p.database = current_database());
    END CASE;
    RETURN found;
END
$$;
COMMENT ON FUNCTION amp.transactions(text) IS
'Internal: the transactions of others in this database: that are changing amp.tenants (deletion), that have an id or a snapshot (transactions), prepared ones.';

CREATE FUNCTION amp.settle_purge(tenant text) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present amp.purges;
BEGIN
    SELECT p.* INTO STRICT present FROM amp.purges p WHERE p.tenant_id = tenant FOR UPDATE;
    WHILE present.step <> 'quiet' LOOP
        present.awaited := ARRAY(
            SELECT DISTINCT u FROM unnest(amp.transactions(present.step)) u
            WHERE present.awaited IS NULL OR u = ANY (present.awaited) ORDER BY u);
        EXIT WHEN present.awaited <> '{}';
        present.awaited := NULL;
        present.step := CASE present.step WHEN 'deletion' THEN 'transactions' WHEN 'transactions' THEN 'prepared' ELSE 'quiet' END;
    END LOOP;
    UPDATE amp.purges p SET step = present.step, awaited = present.awaited
    WHERE p.tenant_id = tenant AND (p.step, p.awaited) IS DISTINCT FROM (present.step, present.awaited);
    RETURN coalesce(present.awaited, '{}');
END
$$;
COMMENT ON FUNCTION amp.settle_purge(text) IS
'Internal: the transactions that a purge still waits for; none when nobody can add rows to the tenant any more.';

CREATE FUNCTION amp.refuse_unsettled(tenant text, awaited text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000',
        MESSAGE = format('tenant "%s" cannot be purged while %s transaction(s) from before its deletion run', tenant, cardinality(awaited)),
        DETAIL = format('Their rows would come after the purge. Transactions: %s.', array_to_string(awaited[1:5], ', ')),
        HINT = format('Wait, or look for old transactions in pg_stat_activity and pg_prepared_xacts and end them; then CALL amp.purge_tenant(%L).', tenant);
END
$$;
COMMENT ON FUNCTION amp.refuse_unsettled(text, text[]) IS 'Internal: raises 55000 and names the transactions.';

CREATE FUNCTION amp.begin_purge(tenant text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- What others commit from now on has to be seen.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'a purge needs isolation level read committed',
            HINT = 'Run it in a transaction of its own, after SET default_transaction_isolation = ''read committed''.';
    END IF;
    INSERT INTO amp.purges (tenant_id) VALUES (tenant) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION amp.begin_purge(text) IS 'Internal: notes that a deleted tenant is to be purged. Errors: 55000 isolation level.';

CREATE FUNCTION amp.run_as_owner(relation regclass, statement text, tenant text) RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_run_as_owner';
COMMENT ON FUNCTION amp.run_as_owner(regclass, text, text) IS
'Internal: runs a statement on a table, with the tenant as $1, as the table''s owner, past row security, as a security-restricted operation and with a fixed search_path. The number of rows changed, or the value selected.';

CREATE FUNCTION amp.is_own_change(xmin xid) RETURNS boolean
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'amp_is_own_change';
COMMENT ON FUNCTION amp.is_own_change(xid) IS 'Internal: whether the running transaction wrote the version of a row with this xmin.';

CREATE FUNCTION amp.purge_people(tenant text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    people text[];
    gone bigint;
BEGIN
    people := ARRAY(SELECT m.user_id FROM amp.members m WHERE m.tenant_id = tenant
                    UNION SELECT u.id FROM amp.app_users u WHERE u.default_tenant_id = tenant);
    -- Whoever is just giving one of them something else to do is waited for, and then seen.
    PERFORM FROM amp.app_users u WHERE u.id = ANY (people) ORDER BY u.id FOR UPDATE;
    DELETE FROM amp.app_users u
    WHERE u.id = ANY (people)
      AND NOT EXISTS (SELECT FROM amp.members m WHERE m.user_id = u.id AND m.tenant_id <> tenant)
      AND NOT EXISTS (SELECT FROM amp.account_members a WHERE a.user_id = u.id)
      AND NOT EXISTS (SELECT FROM amp.bound_roles b WHERE b.user_id = u.id)
      AND NOT EXISTS (SELECT FROM amp.stored_api_keys k WHERE k.user_id = u.id AND k.tenant_id IS DISTINCT FROM tenant);
    GET DIAGNOSTICS gone = ROW_COUNT;
    UPDATE amp.app_users u SET default_tenant_id = NULL WHERE u.default_tenant_id = tenant;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION amp.purge_people(text) IS
'Internal: deletes the people of a tenant who have nothing else: no other membership, no account, no bound role, no key for more than this tenant.';

CREATE FUNCTION amp.note_purged(tenant text, name text, rows bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE amp.purges p SET purged = p.purged || jsonb_build_object(name, coalesce((p.purged ->> name)::bigint, 0) + rows)
    WHERE p.tenant_id = tenant AND rows > 0
$$;
COMMENT ON FUNCTION amp.note_purged(text, text, bigint) IS 'Internal: adds to the rows that a purge has deleted from a table.';

CREATE FUNCTION amp.refuse_strangers_triggers(part regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rights CONSTANT oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = part);
    reached regclass;
    stranger record;
BEGIN
    FOR reached IN
        WITH RECURSIVE reached(relation) AS (
            SELECT part::oid
            UNION
            SELECT k.conrelid FROM reached r
            JOIN pg_constraint k ON k.contype = 'f' AND k.confrelid = r.relation AND k.confdeltype IN ('c', 'n', 'd')
        )
        SELECT r.relation FROM reached r
    LOOP
        -- Nobody adds a trigger or a foreign key from here on; those who only write are not kept waiting.
        EXECUTE format('LOCK TABLE ONLY %s IN ROW EXCLUSIVE MODE', amp.qualified(reached));
        WITH called AS (
            SELECT t.oid AS trigger, m.id[1]::oid AS function
            FROM pg_trigger t, regexp_matches(t.tgqual::text, ':funcid (\d+)', 'g') m(id) WHERE t.tgrelid = reached
            UNION
            SELECT t.oid, q.oprcode
            FROM pg_trigger t, regexp_matches(t.tgqual::text, ':opnos? (?:\(o )?([\d ]+)', 'g') m(id),
                 regexp_split_to_table(btrim(m.id[1]), ' +') i(id) JOIN pg_operator q ON q.oid = i.id::oid
            WHERE t.tgrelid = reached
        )
        SELECT t.tgname AS name, code.what INTO stranger
        FROM pg_trigger t, LATERAL (
            SELECT f.proowner, NOT f.prosecdef, format('is code of %s', f.proowner::regrole) FROM pg_proc f WHERE f.oid = t.tgfoid
            UNION ALL
            -- Its WHEN runs with these rights, too, and nobody knows who wrote it: so the owner's own functions, and those of
            -- PostgreSQL that run a query, are not trusted there either unless they are immutable.
            SELECT f.proowner, true, format('has code of %s in its WHEN', f.proowner::regrole) FROM called c JOIN pg_proc f ON f.oid = c.function
            WHERE c.trigger = t.oid
            UNION ALL
            SELECT 0, true, format('calls %s in its WHEN, which is not immutable', f.oid::regprocedure)
            FROM called c JOIN pg_proc f ON f.oid = c.function WHERE c.trigger = t.oid AND f.provolatile <> 'i'
            UNION ALL
            -- A domain's checks are its owner's code.
            SELECT y.typowner, true, format('uses type %s of %s', y.oid::regtype, y.typowner::regrole)
            FROM pg_depend d JOIN pg_type y ON d.refclassid = 'pg_type'::regclass AND y.oid = d.refobjid
            WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
        ) code(owner, plain, what) LEFT JOIN pg_roles o ON o.oid = code.owner
        WHERE t.tgrelid = reached AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 24 <> 0 -- on DELETE or UPDATE
          -- What a foreign key changes, it changes as that table's owner; but AFTER triggers there wait for the end of the whole statement.
          AND (reached = part OR t.tgtype & 2 = 0)
          AND code.plain AND code.owner <> rights AND o.rolsuper IS NOT TRUE
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('trigger %I of table %s %s', stranger.name, amp.qualified(reached), stranger.what),
                DETAIL = format('Deleting from table %s would run it with the rights of that one''s owner.', amp.qualified(part)),
                HINT = 'Drop the trigger, or the foreign key by which it is reached.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.refuse_strangers_triggers(regclass) IS
'Internal: raises 55000 if deleting from a table as its owner would run a trigger that is neither his nor a superuser''s.';

-- By ctid, which no index on the table has to help with but the one on the tenant; the second condition is for a row that moved.
CREATE FUNCTION amp.delete_rows(relation regclass, belongs text, tenant text, most bigint) RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT amp.refuse_strangers_triggers(relation);
    SELECT amp.run_as_owner(relation, CASE
        WHEN most IS NULL THEN format('DELETE FROM ONLY %s t WHERE %s', amp.qualified(relation), belongs)
        ELSE format('DELETE FROM ONLY %1$s t WHERE t.ctid = ANY (ARRAY(SELECT t.ctid FROM ONLY %1$s t WHERE %2$s LIMIT %3$s)) AND %2$s',
                    amp.qualified(relation), belongs, most)
    END, tenant)::bigint
$$;
COMMENT ON FUNCTION amp.delete_rows(regclass, text, text, bigint) IS
'Internal: deletes rows of a tenant from one table, not its children, with its owner''s rights; the most at a time, or all of them for NULL.';

CREATE FUNCTION amp.purge_order(tenant text) RETURNS TABLE (parts regclass[], names text[], conditions text[], circular boolean)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(p.part ORDER BY t.relation, p.part), array_agg(amp.qualified(t.relation) ORDER BY t.relation, p.part),
           array_agg(t.condition ORDER BY t.relation, p.part), t.circle IS NOT NULL
    FROM (SELECT t.*, amp.tenant_condition(t.relation, t.tenant_column, tenant) AS condition FROM amp.tenant_tables() t) t
    CROSS JOIN unnest(t.parts) p(part) JOIN pg_class c ON c.oid = p.part
    WHERE t.condition IS NOT NULL
    GROUP BY t.height, t.circle, coalesce(t.circle, t.relation), c.relowner
    ORDER BY t.height DESC, coalesce(t.circle, t.relation), c.relowner
$$;
COMMENT ON FUNCTION amp.purge_order(text) IS
'Internal: the tables with rows of a tenant, without their parents, in the order in which they can be emptied. Those in one line have one owner, and go in one statement if they refer to each other or to themselves.';

CREATE FUNCTION amp.purge_rows(tenant text, batch_rows bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    budget bigint := purge_rows.batch_rows;
    part record;
    gone bigint;
    removed bigint[];
BEGIN
    PERFORM FROM amp.purges p WHERE p.tenant_id = tenant AND p.step = 'quiet' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'this purge has not waited for older transactions yet',
            HINT = 'CALL amp.purge_tenant(), which does all of it.';
    END IF;
    -- Code of a table's owner finds them before his own objects, whatever its search_path: they would run with his rights.
    IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema())
       OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = pg_my_temp_schema()) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'a session with temporary objects cannot purge',
            DETAIL = 'Triggers of the tables could take them for their own.', HINT = 'Run DISCARD TEMP first.';
    END IF;
    FOR part IN SELECT o.* FROM amp.purge_order(tenant) o LOOP
        IF part.circular AND cardinality(part.parts) > 1 THEN
            PERFORM amp.refuse_strangers_triggers(u) FROM unnest(part.parts) u;
            removed := (
                SELECT amp.run_as_owner(part.parts[1], format('WITH %s SELECT ARRAY[%s]',
                    string_agg(format('d%s AS (DELETE FROM ONLY %s t WHERE %s RETURNING 1)',
                                      n, amp.qualified(part.parts[n]), part.conditions[n]), ', ' ORDER BY n),
                    string_agg(format('(SELECT count(*) FROM d%s)', n), ', ' ORDER BY n)), tenant)
                FROM generate_subscripts(part.parts, 1) n)::bigint[];
            PERFORM amp.note_purged(tenant, part.names[n], removed[n]) FROM generate_subscripts(part.parts, 1) n;
            budget := budget - (SELECT sum(u) FROM unnest(removed) u);
        ELSE
            FOR n IN 1..cardinality(part.parts) LOOP
                LOOP
                    gone := amp.delete_rows(part.parts[n], part.conditions[n], tenant, CASE WHEN NOT part.circular THEN budget END);
                    PERFORM amp.note_purged(tenant, part.names[n], gone);
                    budget := budget - gone;
                    EXIT WHEN gone IS NULL OR gone = 0 OR budget <= 0;
                END LOOP;
                EXIT WHEN budget <= 0;
            END LOOP;
        END IF;
        IF budget <= 0 THEN
            RETURN false;
        END IF;
    END LOOP;
    FOR part IN SELECT o.*, amp.qualified(o.relation) AS name FROM amp.own_tables() o LOOP
        IF part.relation = 'amp.app_users'::regclass THEN
            PERFORM amp.note_purged(tenant, part.name, amp.purge_people(tenant));
        END IF;
        CONTINUE WHEN NOT part.purged;
        LOOP
            gone := amp.delete_rows(part.relation, part.belongs, tenant, budget);
            PERFORM amp.note_purged(tenant, part.name, gone);
            budget := budget - gone;
            IF budget <= 0 THEN
                RETURN false;
            END IF;
            EXIT WHEN gone = 0;
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION amp.purge_rows(text, bigint) IS
'Internal: deletes at most so many rows of a tenant (all for NULL), or more where tables refer to themselves; true when it found no more. Errors: 55000 not waited, or temporary objects; 23503 referred to by a table that is not protected; those of the tables'' triggers.';

CREATE FUNCTION amp.finish_purge(tenant text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
    kept bigint;
    counts jsonb;
BEGIN
    FOR part IN
        SELECT u.part, u.name, u.condition FROM amp.purge_order(tenant) o, unnest(o.parts, o.names, o.conditions) u(part, name, condition)
    LOOP
        kept := amp.run_as_owner(part.part, format('SELECT count(*) FROM ONLY %s t WHERE %s', amp.qualified(part.part), part.condition), tenant);
        IF kept > 0 THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('%s row(s) of tenant "%s" are left in table %s', kept, tenant, part.name),
                DETAIL = 'They were deleted and are there: a trigger or a rule of the table keeps them, or somebody adds rows past row security.',
                HINT = format('Have the table''s owner let them go; then CALL amp.purge_tenant(%L).', tenant);
        END IF;
    END LOOP;
    counts := (SELECT p.purged || jsonb_build_object('total', (SELECT coalesce(sum(c.value::bigint), 0) FROM jsonb_each_text(p.purged) c))
               FROM amp.purges p WHERE p.tenant_id = tenant);
    UPDATE amp.tenants t SET name = '(purged)', slug = 'purged', account_id = NULL, updated_at = now(), purged_at = now()
    WHERE t.id = tenant AND t.purged_at IS NULL;
    IF FOUND THEN
        PERFORM amp.log_change('tenant.purged', tenant, jsonb_build_object('purged', counts));
    END IF;
    RETURN counts;
END
$$;
COMMENT ON FUNCTION amp.finish_purge(text) IS
'Internal: leaves nothing of a purged tenant''s name, and tells what was deleted, by table. Errors: 55000 rows are left.';

CREATE FUNCTION amp.purge_deleted_for_caller(tenant_id text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present record;
    awaited text[];
BEGIN
    PERFORM amp.assert_called_by_operator();
    SELECT t.status, amp.is_own_change(t.xmin) AS own INTO present FROM amp.tenants t WHERE t.id = purge_deleted_for_caller.tenant_id;
    IF NOT FOUND THEN
        PERFORM amp.assert_tenant(tenant_id);
    ELSIF present.status <> 'deleted' OR present.own THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('tenant "%s" is not deleted yet', tenant_id),
            DETAIL = 'Its rows can be purged when its deletion is committed.',
            HINT = format('CALL amp.purge_tenant(%1$L), or SELECT amp.delete_tenant(%1$L), COMMIT, and then purge.', tenant_id);
    END IF;
    PERFORM amp.begin_purge(tenant_id);
    FOR attempt IN 1..100 LOOP
        awaited := amp.settle_purge(tenant_id);
        EXIT WHEN awaited = '{}';
        PERFORM pg_sleep(0.02);
    END LOOP;
    IF awaited <> '{}' THEN
        PERFORM amp.refuse_unsettled(tenant_id, awaited);
    END IF;
    PERFORM amp.purge_rows(tenant_id, NULL);
    RETURN amp.tenant_document(tenant_id) || jsonb_build_object('purged', amp.finish_purge(tenant_id));
END
$$;
COMMENT ON FUNCTION amp.purge_deleted_for_caller(text) IS 'The work of delete_tenant() with purge, for operators.';

CREATE FUNCTION amp.delete_tenant(tenant_id text, purge boolean DEFAULT false) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF purge THEN
        -- What the caller's transaction has deferred runs with his rights, here; in the purge nothing may be deferred.
        SET CONSTRAINTS ALL IMMEDIATE;
        PERFORM amp.mark_caller();
        RETURN amp.purge_deleted_for_caller(tenant_id);
    END IF;
    PERFORM amp.mark_caller();
    RETURN amp.set_tenant_status(tenant_id, 'deleted');
END
$$;
COMMENT ON FUNCTION amp.delete_tenant(text, boolean) IS
'Operator: ends a tenant. Its rows stay, out of everybody''s reach; its id is never given again, its slug is free. Returns its document. With purge, for a tenant whose deletion is committed: deletes its rows, in this transaction, and adds to the document "purged": rows by table and "total". Errors: TN004, TN002; with purge 55000 not deleted yet, or older transactions are running, and those of purge_tenant().';

CREATE FUNCTION amp.begin_purge_for_caller(tenant_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    UPDATE amp.tenants t SET status = 'deleted', updated_at = now()
    WHERE t.id = begin_purge_for_caller.tenant_id AND t.status <> 'deleted';
    IF FOUND THEN
        PERFORM amp.log_change('tenant.deleted', tenant_id);
    ELSE
        PERFORM amp.assert_tenant(tenant_id);
    END IF;
    PERFORM amp.begin_purge(tenant_id);
END
$$;
COMMENT ON FUNCTION amp.begin_purge_for_caller(text) IS 'The first step of purge_tenant(), for operators: deletes the tenant.';

CREATE FUNCTION amp.await_purge_for_caller(tenant_id text, patient boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    awaited text[];
BEGIN
    PERFORM amp.assert_called_by_operator();
    IF EXISTS (SELECT FROM amp.tenants t WHERE t.id = tenant_id AND (t.status <> 'deleted' OR amp.is_own_change(t.xmin))) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('tenant "%s" is not deleted yet', tenant_id),
            HINT = 'CALL amp.purge_tenant(), which does all of it.';
    END IF;
    awaited := amp.settle_purge(tenant_id);
    IF awaited <> '{}' AND patient IS NOT TRUE THEN
        PERFORM amp.refuse_unsettled(tenant_id, awaited);
    END IF;
    RETURN awaited = '{}';
END
$$;
COMMENT ON FUNCTION amp.await_purge_for_caller(text, boolean) IS
'The second step of purge_tenant(), for operators: whether older transactions have ended. Errors: 55000 they have not, and patience is at its end.';

CREATE FUNCTION amp.purge_batch_for_caller(tenant_id text, batch_rows integer) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    IF amp.purge_rows(tenant_id, batch_rows) THEN
        RETURN amp.finish_purge(tenant_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.purge_batch_for_caller(text, integer) IS
'The third step of purge_tenant(), for operators: deletes some rows; the counts when it was the last time, else NULL.';

-- A procedure that commits has no SET of its own. Until set_config() was called anew after each COMMIT, nothing here is looked up by a
-- search_path: no operator, and of types only those that are SQL's own words.
CREATE PROCEDURE amp.purge_tenant(
        tenant_id text, batch_rows integer DEFAULT 10000, patience interval DEFAULT '10 minutes', INOUT purged jsonb DEFAULT NULL)
    LANGUAGE plpgsql AS $$
DECLARE
    until timestamp with time zone;
    quiet boolean := false;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF batch_rows IS NULL OR batch_rows < 1 OR patience IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'batch_rows has to be 1 or more, and patience an interval',
            HINT = 'Leave them out for 10000 rows and ten minutes.';
    END IF;
    PERFORM amp.mark_caller();
    PERFORM amp.begin_purge_for_caller(tenant_id);
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    until := clock_timestamp() + patience;
    LOOP
        PERFORM amp.mark_caller();
        quiet := amp.await_purge_for_caller(tenant_id, clock_timestamp() < until);
        -- Without a snapshot, or two purges would wait for each other.
        COMMIT;
        EXIT WHEN quiet;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        PERFORM pg_sleep(0.1);
    END LOOP;
    LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        -- Foreign keys that are deferred have to be checked with each statement.
        SET CONSTRAINTS ALL IMMEDIATE;
        PERFORM amp.mark_caller();
        purged := amp.purge_batch_for_caller(tenant_id, batch_rows);
        COMMIT;
        EXIT WHEN purged IS NOT NULL;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE amp.purge_tenant(text, integer, interval, jsonb) IS
'Operator: deletes a tenant, waits until no transaction of before is left, and deletes its rows, in a transaction for every batch_rows of them; locks nothing but rows of the tenant. Broken off, it goes on when it is called again. purged is {"schema.table": rows, ..., "total"}. Errors: TN004, TN002, 22023, 2D000 inside of a transaction, 55000 transactions of before still run after patience, or rows that a trigger keeps, 23503 a table that is not protected refers to rows.';
