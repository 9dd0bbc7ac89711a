-- What a protected table carries: its policies, and the trigger on TRUNCATE, to which row security does not apply.

CREATE FUNCTION amp.tenant_function(relation regclass, tenant_column name) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attribute record;
BEGIN
    SELECT a.atttypid, format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated, a.attidentity,
           l.collisdeterministic, l.collname
    INTO attribute
    FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42703',
            MESSAGE = format('table %s has no column %s', relation, coalesce(quote_ident(tenant_column), 'NULL')),
            HINT = format('ALTER TABLE %s ADD COLUMN tenant_id text COLLATE "C", fill it, or pass tenant_column => ''...''; '
                          'for a table without tenants, SELECT amp.share_table(%L).', relation, relation::text);
    END IF;
    IF attribute.attgenerated <> '' OR attribute.attidentity <> '' THEN
        RAISE EXCEPTION USING ERRCODE = '42809',
            MESSAGE = format('column %I of table %s is generated', tenant_column, relation),
            HINT = 'The tenant of a row is stored with it: use an ordinary column.';
    END IF;
    IF attribute.collisdeterministic = false THEN
        RAISE EXCEPTION USING ERRCODE = '42P22',
            MESSAGE = format('column %I of table %s has the non-deterministic collation %I', tenant_column, relation, attribute.collname),
            DETAIL = 'Two different ids could compare as equal, and two tenants would share rows.',
            HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE text COLLATE "C"', relation, tenant_column);
    END IF;
    CASE attribute.atttypid
        WHEN 'text'::regtype, 'varchar'::regtype THEN RETURN 'tenant_id';
        WHEN 'uuid'::regtype THEN RETURN 'tenant_uuid';
        WHEN 'bigint'::regtype THEN RETURN 'tenant_bigint';
        ELSE
            RAISE EXCEPTION USING ERRCODE = '42804',
                MESSAGE = format('column %I of table %s has type %s', tenant_column, relation, attribute.type),
                DETAIL = 'A tenant column is text, varchar, uuid or bigint.',
                HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE text COLLATE "C" USING %I::text', relation, tenant_column, tenant_column);
    END CASE;
END
$$;
COMMENT ON FUNCTION amp.tenant_function(regclass, name) IS
'Internal: which of tenant_id, tenant_uuid and tenant_bigint fits the column. Errors: 42703 no such column, 42804 type, 42809 generated, 42P22 collation.';

CREATE FUNCTION amp.policies(relation regclass, tenant_column name, tenant_function text,
        read text, "insert" text, "update" text, "delete" text, spend boolean)
    RETURNS TABLE (name text, definition text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The floor is restrictive, and so is each role check: no policy that anybody adds can widen either. The read permission is
    -- asked for in the floor's own comparison, which an index serves; a check of its own would run once a row. Something has
    -- to allow, or nobody sees anything: amp_allow says the same as the floor, so PostgreSQL keeps one of the two, and it goes
    -- with the floor when the extension is dropped; a constant would stay behind alone and open the table.
    SELECT p.* FROM
        (SELECT format('%I = amp.%I()', tenant_column, tenant_function) AS own,
                format('%I = amp.%I(%s)', tenant_column, tenant_function, quote_literal(read)) AS readable) t,
        LATERAL (VALUES
            ('amp_allow', format('AS PERMISSIVE FOR ALL USING (%s) WITH CHECK (true)', t.readable)),
            ('amp_tenant', format('AS RESTRICTIVE FOR ALL USING (%s) WITH CHECK (%s)', t.readable, t.own)),
            ('amp_insert', 'AS RESTRICTIVE FOR INSERT WITH CHECK ('
                           || coalesce('amp.require_permission(' || quote_literal("insert") || ')', 'true') || ')'),
            ('amp_update', format('AS RESTRICTIVE FOR UPDATE USING (%1$s) WITH CHECK (%1$s)',
                                  coalesce('amp.require_permission(' || quote_literal("update") || ')', 'amp.context_holds()'))),
            ('amp_delete', 'AS RESTRICTIVE FOR DELETE USING ('
                           || coalesce('amp.require_permission(' || quote_literal("delete") || ')', 'amp.context_holds()') || ')'),
            ('amp_spend', CASE WHEN spend THEN 'AS RESTRICTIVE FOR INSERT WITH CHECK (amp.require_spending())' END)
        ) p(name, definition)
    WHERE p.definition IS NOT NULL
$$;
COMMENT ON FUNCTION amp.policies(regclass, name, text, text, text, text, text, boolean) IS 'Internal: the policies of a protected table.';

CREATE FUNCTION amp.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The login role, too: a SECURITY DEFINER function's owner is not who asked for it.
    IF amp.context() ->> 'tenant_id' IS NOT NULL OR NOT EXISTS (
        SELECT FROM pg_class c WHERE c.oid = TG_RELID AND pg_has_role(current_user, c.relowner, 'USAGE')
        AND (pg_has_role(session_user, c.relowner, 'MEMBER') OR current_setting('amp.allow_bypass')::boolean))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = format('TRUNCATE of protected table %s is refused', TG_RELID::regclass),
            DETAIL = 'It would remove the rows of every tenant; row security does not apply to it.',
            HINT = 'DELETE removes the rows of your tenant. The table''s owner can TRUNCATE where no tenant is set.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.refuse_truncate() IS 'Trigger on protected tables: TRUNCATE is for the owner, outside of a tenant. Errors: TN004.';
