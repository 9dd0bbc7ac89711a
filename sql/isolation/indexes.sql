-- Unique keys without the tenant tell a tenant that another one has a value. Indexes not led by it let EXPLAIN, statistics and
-- timing tell more. Here they are found and, when asked, rebuilt with the tenant in front.

CREATE FUNCTION amp.tells_apart(collation_id oid, comparison oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- What came with PostgreSQL has an object id below this one.
    SELECT comparison < 16384 AND NOT EXISTS (SELECT FROM pg_collation l WHERE l.oid = collation_id AND NOT l.collisdeterministic)
$$;
COMMENT ON FUNCTION amp.tells_apart(oid, oid) IS
'Internal: whether an index tells any two tenants apart by its column of that collation and operator class, or equality operator.';

CREATE FUNCTION amp.foreign_indexes(relation regclass, tenant_column name) RETURNS TABLE (
        index regclass, constraint_name name, what text, rebuild text, again text[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid::regclass, k.conname,
        CASE
            WHEN x.indisexclusion THEN 'exclusion constraint without the tenant: tells whether another tenant''s row is in the way'
            WHEN NOT has_tenant AND x.indisunique AND names_tenant
                THEN 'unique by a comparison under which two tenants can be equal: tells whether another tenant has a value'
            WHEN NOT has_tenant AND x.indisunique THEN 'unique without the tenant: tells whether another tenant has a value'
            ELSE 'not led by the tenant: EXPLAIN, statistics and timing tell about other tenants'' rows'
        END,
        CASE
            WHEN x.indisexclusion AND starts_with(pg_get_constraintdef(k.oid), exclude_prefix)
                THEN format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s%I WITH =, %s', amp.qualified(relation),
                            k.conname, k.conname, exclude_prefix, tenant_column,
                            substr(pg_get_constraintdef(k.oid), length(exclude_prefix) + 1))
            WHEN k.contype IN ('p', 'u') AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'false'
                THEN format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s (%s)%s%s%s', amp.qualified(relation),
                            k.conname, k.conname,
                            CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END
                                || CASE WHEN x.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' ELSE '' END,
                            concat_ws(', ', quote_ident(tenant_column), other_keys),
                            ' INCLUDE (' || included || ')',
                            CASE WHEN k.condeferrable THEN ' DEFERRABLE' END,
                            CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' END)
            WHEN k.oid IS NULL AND am.amname = 'btree' AND NOT has_tenant AND starts_with(definition, index_prefix)
                THEN format('DROP INDEX %s; %s%I, %s', amp.qualified(x.indexrelid::regclass),
                            replace_only, tenant_column, substr(definition, length(index_prefix) + 1))
        END,
        -- What hangs on the index and has to be said again for the new one, whose name is the constraint's, or the same.
        array_remove(ARRAY[
            CASE WHEN x.indisreplident THEN format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I',
                                                   amp.qualified(relation), coalesce(k.conname, i.relname)) END,
            CASE WHEN x.indisclustered THEN format('ALTER TABLE %s CLUSTER ON %I',
                                                   amp.qualified(relation), coalesce(k.conname, i.relname)) END,
            'COMMENT ON CONSTRAINT ' || quote_ident(k.conname) || ' ON ' || amp.qualified(relation)
                || ' IS ' || quote_literal(obj_description(k.oid, 'pg_constraint')),
            'COMMENT ON INDEX ' || format('%I.%I', s.nspname, coalesce(k.conname, i.relname))
                || ' IS ' || quote_literal(obj_description(x.indexrelid, 'pg_class'))], NULL)
    FROM pg_index x
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_namespace s ON s.oid = i.relnamespace
    JOIN pg_am am ON am.oid = i.relam
    JOIN pg_attribute t ON t.attrelid = x.indrelid AND t.attname = tenant_column
    LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')
    CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(c.attnum = t.attnum AND amp.tells_apart(c.collated, c.class)) FILTER (WHERE c.position <= x.indnkeyatts), false)
                   AS has_tenant,
               coalesce(bool_or(c.attnum = t.attnum) FILTER (WHERE c.position <= x.indnkeyatts), false) AS names_tenant,
               string_agg(quote_ident(a.attname), ', ' ORDER BY c.position)
                   FILTER (WHERE c.position <= x.indnkeyatts AND c.attnum <> t.attnum) AS other_keys,
               string_agg(quote_ident(a.attname), ', ' ORDER BY c.position)
                   FILTER (WHERE c.position > x.indnkeyatts) AS included
        FROM unnest(x.indkey::int2[], x.indcollation::oid[], x.indclass::oid[]) WITH ORDINALITY AS c(attnum, collated, class, position)
        LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = c.attnum
    ) cols
    -- The server prints these words itself, so what follows them is the list of columns, whatever the names contain.
    CROSS JOIN LATERAL (
        SELECT pg_get_indexdef(x.indexrelid) AS definition,
               format('EXCLUDE USING %s (', am.amname) AS exclude_prefix,
               format('CREATE %sINDEX %I ON %s%s USING btree (', CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END, i.relname,
                      CASE WHEN i.relkind = 'I' THEN 'ONLY ' ELSE '' END, amp.qualified(relation)) AS index_prefix,
               format('CREATE %sINDEX %I ON %s USING btree (', CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END, i.relname,
                      amp.qualified(relation)) AS replace_only
    ) texts
    WHERE x.indrelid = relation
      AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.indexrelid)
      AND CASE WHEN x.indisexclusion
               THEN NOT EXISTS (
                   SELECT FROM unnest(x.indkey::int2[], x.indcollation::oid[], k.conexclop) AS e(attnum, collated, operator)
                   JOIN pg_operator o ON o.oid = e.operator
                   WHERE e.attnum = t.attnum AND o.oprname = '=' AND amp.tells_apart(e.collated, e.operator))
               ELSE x.indkey[0] <> t.attnum OR x.indisunique AND NOT has_tenant
          END
$$;
COMMENT ON FUNCTION amp.foreign_indexes(regclass, name) IS
'Internal: indexes and constraints of a table that tell about other tenants, and the SQL that puts the tenant in front (NULL where only a person can).';

CREATE FUNCTION amp.has_tenant_index(relation regclass, tenant_column name) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_index x
        JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_am am ON am.oid = i.relam AND am.amname = 'btree'
        JOIN pg_attribute t ON t.attrelid = x.indrelid AND t.attname = tenant_column
        WHERE x.indrelid = relation AND x.indisvalid AND x.indpred IS NULL AND x.indkey[0] = t.attnum)
$$;
COMMENT ON FUNCTION amp.has_tenant_index(regclass, name) IS 'Internal: whether a whole B-tree index is led by the tenant column.';

CREATE FUNCTION amp.rebuild_indexes(relation regclass, tenant_column name, fix boolean)
    RETURNS TABLE (status text, object text, what text, remedy text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
    command text;
BEGIN
    FOR found IN SELECT f.* FROM amp.foreign_indexes(relation, tenant_column) f ORDER BY f.index::text LOOP
        object := CASE WHEN found.constraint_name IS NULL THEN format('index %s', found.index)
                  ELSE format('constraint %I of %s', found.constraint_name, relation) END;
        status := 'left'; what := found.what; remedy := found.rebuild;
        IF fix AND remedy IS NOT NULL THEN
            BEGIN
                EXECUTE remedy;
                FOREACH command IN ARRAY found.again LOOP
                    EXECUTE command;
                END LOOP;
                status := 'done'; what := 'tenant put in front'; remedy := NULL;
            EXCEPTION
                WHEN dependent_objects_still_exist THEN
                    what := what || '; a foreign key of an unprotected table needs it';
                    remedy := 'Protect that table with fix => true: it rebuilds this key, too.';
                WHEN undefined_object THEN
                    what := what || '; ' || SQLERRM;
                    remedy := 'CREATE EXTENSION btree_gist, then protect the table again with fix => true.';
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.rebuild_indexes(regclass, name, boolean) IS
'Internal: reports the keys and indexes that tell about other tenants, and with fix rebuilds those that it can.';
