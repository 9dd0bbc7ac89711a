-- What is protected, and what is shared on purpose.

CREATE TABLE amp.protected_tables (
    relation regclass CONSTRAINT protected_tables_pkey PRIMARY KEY,
    tenant_column name NOT NULL,
    read_permission text COLLATE "C",
    insert_permission text COLLATE "C",
    update_permission text COLLATE "C",
    delete_permission text COLLATE "C",
    spend boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE amp.protected_tables IS
'Tables under amp''s policies, partitions and inheritance children included. A NULL permission is not asked for.';
COMMENT ON COLUMN amp.protected_tables.spend IS 'Inserts are refused when a spending limit with hard_stop_at_limit is used up.';

CREATE TABLE amp.shared_tables (relation regclass CONSTRAINT shared_tables_pkey PRIMARY KEY);
COMMENT ON TABLE amp.shared_tables IS 'Tables declared tenantless by amp.share_table().';

CREATE TABLE amp.protected_schemas (
    schema name CONSTRAINT protected_schemas_pkey PRIMARY KEY,
    tenant_column name NOT NULL
);
COMMENT ON TABLE amp.protected_schemas IS 'Schemas in which every table has to be protected or shared.';

-- Everybody may read these; row security is for who may write everything (pg_write_all_data).
ALTER TABLE amp.protected_tables ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.protected_tables FOR SELECT USING (true);
ALTER TABLE amp.shared_tables ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.shared_tables FOR SELECT USING (true);
ALTER TABLE amp.protected_schemas ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.protected_schemas FOR SELECT USING (true);
GRANT SELECT ON amp.protected_tables, amp.shared_tables, amp.protected_schemas TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('amp.protected_tables', '');
SELECT pg_catalog.pg_extension_config_dump('amp.shared_tables', '');
SELECT pg_catalog.pg_extension_config_dump('amp.protected_schemas', '');

CREATE FUNCTION amp.qualified(relation regclass) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;
COMMENT ON FUNCTION amp.qualified(regclass) IS 'Internal: schema and name, quoted, whatever the search_path.';

CREATE FUNCTION amp.assert_owner(relation regclass, role oid DEFAULT current_user::regrole) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'which table?', HINT = 'Pass a table''s name.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = '42P01', MESSAGE = format('there is no table with object id %s', relation::oid),
            HINT = 'Pass a table''s name.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND pg_has_role(role, c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('must be owner of table %s', relation),
            HINT = 'Run it as the owner of the table or as a superuser.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_owner(regclass, oid) IS 'Internal: raises 42501 unless the role has the rights of the table''s owner.';

CREATE FUNCTION amp.descendants(root regclass) RETURNS TABLE (relation regclass)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree(oid, depth) AS (
        SELECT root::oid, 0
        UNION
        SELECT i.inhrelid, t.depth + 1 FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT oid::regclass FROM tree GROUP BY oid ORDER BY max(depth), oid
$$;
COMMENT ON FUNCTION amp.descendants(regclass) IS 'Internal: a table and its partitions or inheritance children, parents first.';

CREATE FUNCTION amp.state_type(relation regclass, state_column name, states text[], question text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type record;
    spelled text[];
BEGIN
    WITH RECURSIVE base AS (
        SELECT a.atttypid AS oid, a.atttypmod AS modifier FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attname = state_column AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
    )
    SELECT t.oid, t.typtype, format_type(t.oid, b.modifier) AS name INTO type
    FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42703',
            MESSAGE = format('table %s has no column %s', relation, coalesce(quote_ident(state_column), 'NULL')),
            HINT = 'Pass the column that says which state a row is in.';
    END IF;
    -- Of these it is known when two values are equal.
    IF type.typtype <> 'e' AND type.oid NOT IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, 'boolean'::regtype,
                                                'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = format('column %I of table %s has type %s', state_column, relation, type.name),
            HINT = 'Use text, an enum, a whole number or boolean.';
    END IF;
    IF states IS NULL OR cardinality(states) = 0 OR array_position(states, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = question, HINT = 'Pass states => ''{published}'', for example.';
    END IF;
    BEGIN
        EXECUTE format('SELECT array_agg((s::%s)::text ORDER BY n) FROM unnest($1) WITH ORDINALITY u(s, n)', type.name)
            INTO spelled USING states;
    EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('column %I of table %s never holds some of the states %s', state_column, relation, states),
            DETAIL = SQLERRM || '.', HINT = format('Write them as %s does.', type.name);
    END;
    IF spelled <> states THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('column %I of table %s never holds some of the states %s', state_column, relation, states),
            HINT = format('Write them as %s.', spelled);
    END IF;
    RETURN type.name;
END
$$;
COMMENT ON FUNCTION amp.state_type(regclass, name, text[], text) IS
'Internal: the type below the domains of a column that says which state a row is in. Errors: 42703 no such column, 42804 its type, 22023 no states of it.';
