-- The registry of what is protected, shared and whole schemas. Only these functions write it, each for the owner of what it notes:
-- the role that said mark_caller() just before, not the session's, in which a stranger's code may be running.

CREATE FUNCTION amp.await_related(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    related regclass;
BEGIN
    PERFORM amp.assert_owner(relation, amp.caller());
    FOR related IN
        SELECT DISTINCT CASE c.conrelid WHEN relation THEN c.confrelid ELSE c.conrelid END
        FROM pg_constraint c WHERE c.contype = 'f' AND relation IN (c.conrelid, c.confrelid) ORDER BY 1
    LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', amp.qualified(related));
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.await_related(regclass) IS
'Internal: waits for whoever is protecting a table at the other end of a foreign key, so that its protection is seen.';

CREATE FUNCTION amp.register_protection(
        relation regclass, tenant_column name, read text, "insert" text, "update" text, "delete" text, spend boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A temporary table would leave its row behind: no event trigger fires when a session ends.
    PERFORM amp.assert_table(relation, amp.caller());
    INSERT INTO amp.protected_tables AS p VALUES (relation, tenant_column, read, "insert", "update", "delete", spend)
    ON CONFLICT ON CONSTRAINT protected_tables_pkey DO UPDATE SET
        tenant_column = excluded.tenant_column, read_permission = excluded.read_permission,
        insert_permission = excluded.insert_permission, update_permission = excluded.update_permission,
        delete_permission = excluded.delete_permission, spend = excluded.spend;
    DELETE FROM amp.shared_tables s WHERE s.relation = register_protection.relation;
    PERFORM amp.log_change('table.protected', NULL, jsonb_build_object(
        'table', amp.qualified(relation), 'tenant_column', tenant_column, 'read', read, 'insert', "insert", 'update', "update",
        'delete', "delete", 'spend', nullif(spend, false)));
END
$$;
COMMENT ON FUNCTION amp.register_protection(regclass, name, text, text, text, text, boolean) IS 'Internal: notes a protected table, for its owner.';

CREATE FUNCTION amp.register_shared(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_table(relation, amp.caller());
    -- Nobody drops it now and leaves the row behind.
    EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', amp.qualified(relation));
    IF EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = register_shared.relation) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is protected', relation),
            HINT = format('SELECT * FROM amp.unprotect(%L) first, if its rows really belong to no tenant.', relation);
    END IF;
    INSERT INTO amp.shared_tables VALUES (relation) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM amp.log_change('table.shared', NULL, jsonb_build_object('table', amp.qualified(relation)));
    END IF;
END
$$;
COMMENT ON FUNCTION amp.register_shared(regclass) IS 'Internal: notes a shared table, for its owner.';

CREATE FUNCTION amp.register_schema(schema name, tenant_column name) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role oid := amp.caller();
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema AND pg_has_role(role, n.nspowner, 'USAGE')) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('must be owner of schema %I', schema),
            HINT = 'Run it as the owner of the schema or as a superuser.';
    END IF;
    INSERT INTO amp.protected_schemas AS s VALUES (register_schema.schema, register_schema.tenant_column)
    ON CONFLICT ON CONSTRAINT protected_schemas_pkey DO UPDATE SET tenant_column = excluded.tenant_column;
    PERFORM amp.log_change('schema.protected', NULL, jsonb_build_object('schema', schema, 'tenant_column', tenant_column));
END
$$;
COMMENT ON FUNCTION amp.register_schema(name, name) IS 'Internal: notes a protected schema, for its owner.';

CREATE FUNCTION amp.forget_table(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_owner(relation, amp.caller());
    IF EXISTS (SELECT FROM pg_inherits i JOIN amp.protected_tables p ON p.relation = i.inhparent WHERE i.inhrelid = forget_table.relation) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is a part of a protected table', relation),
            HINT = 'Unprotect the parent, or detach this one first.';
    END IF;
    -- By what is so, not only by who calls: a table that still has its policies when the transaction ends is not forgotten. The guard of schema
    -- changes lets them be dropped only afterwards.
    INSERT INTO amp.unfinished_tables VALUES (relation, true);
    DELETE FROM amp.protected_tables p WHERE p.relation = forget_table.relation;
    IF FOUND THEN
        PERFORM amp.log_change('table.unprotected', NULL, jsonb_build_object('table', amp.qualified(relation)));
    END IF;
    DELETE FROM amp.shared_tables s WHERE s.relation = forget_table.relation;
    DELETE FROM amp.meters m WHERE m.relation = forget_table.relation;
    DELETE FROM amp.approval_gates g WHERE g.relation = forget_table.relation;
    IF FOUND THEN
        PERFORM amp.log_change('gate.dropped', NULL, jsonb_build_object('table', amp.qualified(relation)));
    END IF;
END
$$;
COMMENT ON FUNCTION amp.forget_table(regclass) IS 'Internal: takes a table out of the registry, for its owner; until the transaction ends its policies have to be gone, too.';
