-- Whole schemas: what is protected, and what is shared on purpose.

CREATE FUNCTION amp.share_table("table" regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_table("table");
    IF EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = "table") THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is protected', "table"),
            HINT = format('SELECT * FROM amp.unprotect(%L) first, if its rows really belong to no tenant.', "table");
    END IF;
    PERFORM amp.mark_caller();
    PERFORM amp.register_shared("table");
END
$$;
COMMENT ON FUNCTION amp.share_table(regclass) IS
'Table owner: declares that a table''s rows belong to no tenant. Idempotent. Errors: 42501 not the owner, 42809 no table, 55000 it is protected.';

CREATE FUNCTION amp.protect_schema(schema name, tenant_column name DEFAULT 'tenant_id',
        read text DEFAULT 'content.view', write text DEFAULT 'missions.create', fix boolean DEFAULT false)
    RETURNS TABLE (status text, object text, what text, remedy text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    root regclass;
    roots regclass[];
    noted amp.protected_tables;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $1) THEN
        RAISE EXCEPTION USING ERRCODE = '3F000', MESSAGE = format('schema %s does not exist', coalesce(quote_ident($1), 'NULL')),
            HINT = 'Name a schema of your application.';
    END IF;
    IF $1 IN ('pg_catalog', 'information_schema', 'pg_toast', 'amp') THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = format('schema %I is not an application''s', $1),
            HINT = 'Name a schema of your application.';
    END IF;
    PERFORM amp.assert_permissions(ARRAY[read, write]);
    PERFORM amp.mark_caller();
    PERFORM amp.register_schema($1, tenant_column);
    SELECT array_agg(c.oid::regclass ORDER BY c.oid) INTO roots
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      -- Parts come with their parent, if that is protected or one of these.
      AND NOT EXISTS (
          SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
          WHERE i.inhrelid = c.oid AND (
              EXISTS (SELECT FROM amp.protected_tables t WHERE t.relation = i.inhparent)
              OR p.relnamespace = c.relnamespace AND EXISTS (
                  SELECT FROM pg_attribute a WHERE a.attrelid = p.oid AND a.attname = $2 AND NOT a.attisdropped)))
      AND NOT EXISTS (SELECT FROM amp.shared_tables s WHERE s.relation = c.oid);
    -- All of them are noted first, so that each finds the others protected and no foreign key is in the way of a key.
    FOREACH root IN ARRAY coalesce(roots, '{}') LOOP
        IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = root AND a.attname = $2 AND NOT a.attisdropped)
           AND NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = root) THEN
            PERFORM amp.assert_table(root), amp.tenant_function(root, tenant_column), amp.mark_caller();
            PERFORM amp.register_protection(root, tenant_column, read, write, write, write, false);
        END IF;
    END LOOP;
    FOREACH root IN ARRAY coalesce(roots, '{}') LOOP
        -- With what was just noted, or with what it was protected with before.
        SELECT p.* INTO noted FROM amp.protected_tables p WHERE p.relation = root;
        IF FOUND THEN
            RETURN QUERY SELECT p.* FROM amp.protect(
                root, noted.tenant_column, noted.read_permission, NULL, noted.insert_permission, noted.update_permission,
                noted.delete_permission, noted.spend, protect_schema.fix) p;
        ELSE
            status := 'left'; object := format('table %s', root);
            what := format('has no column %I', tenant_column);
            remedy := format('Add the column and run amp.protect(%1$L), or SELECT amp.share_table(%1$L)', amp.qualified(root));
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.protect_schema(name, name, text, text, boolean) IS
'Schema owner: protects every table of a schema that has the tenant column and is not shared, and reports the rest. Errors: 3F000 no such schema, 42501 not the owner, and those of amp.protect().';
