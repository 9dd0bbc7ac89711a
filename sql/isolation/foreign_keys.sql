-- Foreign keys between protected tables, made composite. PostgreSQL checks and cascades them without row security, so a plain
-- one lets a tenant probe for, link to and by CASCADE destroy another tenant's rows.

CREATE FUNCTION amp.plain_foreign_keys(relation regclass) RETURNS TABLE (
        constraint_name name, child regclass, parent regclass, child_tenant name, parent_tenant name,
        child_columns name[], parent_columns name[], definition_tail text, match_full boolean, problem text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.conname, c.conrelid::regclass, c.confrelid::regclass, ct.attname, pt.attname, cols.child, cols.parent,
        concat(
            CASE c.confupdtype WHEN 'c' THEN ' ON UPDATE CASCADE' WHEN 'r' THEN ' ON UPDATE RESTRICT' END,
            CASE c.confdeltype
                WHEN 'c' THEN ' ON DELETE CASCADE'
                WHEN 'r' THEN ' ON DELETE RESTRICT'
                -- Without a list of columns it would empty the tenant column, too.
                WHEN 'n' THEN format(' ON DELETE SET NULL (%s)', cols.on_delete)
                WHEN 'd' THEN format(' ON DELETE SET DEFAULT (%s)', cols.on_delete)
            END,
            CASE WHEN c.condeferrable THEN ' DEFERRABLE' END,
            CASE WHEN c.condeferred THEN ' INITIALLY DEFERRED' END,
            CASE WHEN NOT c.convalidated THEN ' NOT VALID' END),
        c.confmatchtype = 'f' AND cardinality(c.conkey) > 1,
        CASE
            WHEN c.confupdtype IN ('n', 'd') THEN 'ON UPDATE SET NULL and SET DEFAULT would change the tenant column, too'
            WHEN cols.crossed THEN 'a tenant column refers, or is referred to, as something else'
            WHEN ct.atttypid <> pt.atttypid THEN 'the two tenant columns have different types'
            WHEN to_jsonb(c) ->> 'conperiod' = 'true' THEN 'a temporal foreign key cannot be rewritten'
            WHEN to_jsonb(c) ->> 'conenforced' = 'false' THEN 'it is not enforced'
        END
    FROM pg_constraint c
    JOIN pg_attribute ct ON ct.attrelid = c.conrelid
        AND ct.attname = (SELECT p.tenant_column FROM amp.protected_tables p WHERE p.relation = c.conrelid)
    JOIN pg_attribute pt ON pt.attrelid = c.confrelid
        AND pt.attname = (SELECT p.tenant_column FROM amp.protected_tables p WHERE p.relation = c.confrelid)
    CROSS JOIN LATERAL (
        SELECT array_agg(ca.attname ORDER BY k.position) AS child,
               array_agg(pa.attname ORDER BY k.position) AS parent,
               bool_or(k.child = ct.attnum AND k.parent = pt.attnum) AS composite,
               bool_or(k.child = ct.attnum OR k.parent = pt.attnum) AS crossed,
               string_agg(quote_ident(ca.attname), ', ' ORDER BY k.position)
                   FILTER (WHERE c.confdelsetcols IS NULL OR k.child = ANY (c.confdelsetcols)) AS on_delete
        FROM unnest(c.conkey, c.confkey) WITH ORDINALITY AS k(child, parent, position)
        JOIN pg_attribute ca ON ca.attrelid = c.conrelid AND ca.attnum = k.child
        JOIN pg_attribute pa ON pa.attrelid = c.confrelid AND pa.attnum = k.parent
    ) cols
    WHERE c.contype = 'f' AND c.conparentid = 0
      AND plain_foreign_keys.relation IN (c.conrelid, c.confrelid)
      AND NOT cols.composite
$$;
COMMENT ON FUNCTION amp.plain_foreign_keys(regclass) IS
'Internal: the foreign keys of a protected table to or from protected tables that do not include the tenant, and how to rebuild them.';

CREATE FUNCTION amp.compose_foreign_key(
        constraint_name name, child regclass, parent regclass, child_tenant name, parent_tenant name,
        child_columns name[], parent_columns name[], definition_tail text, match_full boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    child_list text := (SELECT string_agg(quote_ident(u), ', ' ORDER BY n) FROM unnest(child_columns) WITH ORDINALITY t(u, n));
    parent_list text := (SELECT string_agg(quote_ident(u), ', ' ORDER BY n) FROM unnest(parent_columns) WITH ORDINALITY t(u, n));
BEGIN
    -- The parent's side needs a unique key of exactly these columns.
    IF NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = parent AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL
          AND (SELECT array_agg(a.attname ORDER BY a.attname) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, p)
               JOIN pg_attribute a ON a.attrelid = parent AND a.attnum = k.n WHERE k.p <= i.indnkeyatts)
            = (SELECT array_agg(u ORDER BY u) FROM unnest(parent_tenant || parent_columns) u)
    ) THEN
        EXECUTE format('ALTER TABLE %s ADD UNIQUE (%I, %s)', amp.qualified(parent), parent_tenant, parent_list);
    END IF;
    -- MATCH FULL would demand that the tenant be null with the rest: SIMPLE, and a check for all or none.
    IF match_full THEN
        EXECUTE format('ALTER TABLE %s ADD CHECK (num_nulls(%s) IN (0, %s))',
                       amp.qualified(child), child_list, cardinality(child_columns));
    END IF;
    -- Forced policies do not hide rows from the check of what is there already (src/isolation/foreign_key_check.rs).
    BEGIN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I FOREIGN KEY (%I, %s) REFERENCES %s (%I, %s)%s',
                       amp.qualified(child), constraint_name, child_tenant, child_list,
                       amp.qualified(parent), parent_tenant, parent_list, definition_tail);
    EXCEPTION WHEN foreign_key_violation THEN
        RAISE EXCEPTION USING ERRCODE = '23503',
            MESSAGE = format('rows of %s point at rows of another tenant in %s', child, parent),
            DETAIL = format('Foreign key %I would have to include %I.', constraint_name, child_tenant),
            HINT = format('Find the rows of %s whose row in %s has another %I, correct them, then run it again.',
                          child, parent, parent_tenant);
    END;
END
$$;
COMMENT ON FUNCTION amp.compose_foreign_key(name, regclass, regclass, name, name, name[], name[], text, boolean) IS
'Internal: adds a foreign key with the tenant in front, and the unique key it needs. Errors: 23503 rows point across tenants already.';
