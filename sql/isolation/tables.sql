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
