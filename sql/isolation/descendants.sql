-- Schema changes: a new part of a protected table is protected with it, and a dropped table is forgotten.

CREATE FUNCTION amp.protect_descendants() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT i.inhrelid::regclass AS relation, i.inhparent::regclass AS parent, p.tenant_column,
               p.read_permission, p.insert_permission, p.update_permission, p.delete_permission, p.spend
        FROM pg_inherits i
        JOIN amp.protected_tables p ON p.relation = i.inhparent
        WHERE NOT EXISTS (SELECT FROM amp.protected_tables own WHERE own.relation = i.inhrelid)
          AND i.inhrelid IN (SELECT d.objid FROM pg_event_trigger_ddl_commands() d
                             UNION ALL
                             SELECT c.inhrelid FROM pg_event_trigger_ddl_commands() d JOIN pg_inherits c ON c.inhparent = d.objid)
    LOOP
        PERFORM FROM amp.protect(part.relation, part.tenant_column, part.read_permission, NULL,
                                 part.insert_permission, part.update_permission, part.delete_permission, part.spend);
    END LOOP;
    -- A part counts as its parent does. Through a parent that does not, its rows would be counted or not as the statement comes.
    FOR part IN
        SELECT own.relation, i.inhparent::regclass AS parent, own.metric
        FROM amp.meters own JOIN pg_inherits i ON i.inhrelid = own.relation
        WHERE NOT EXISTS (SELECT FROM amp.meters m WHERE m.relation = i.inhparent AND m.metric = own.metric)
          AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d WHERE d.objid IN (i.inhrelid, i.inhparent))
    LOOP
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('table %s has a meter for %s, and %s has none', part.relation, part.metric, part.parent),
            HINT = format('SELECT amp.meter(%L, %L), or amp.unmeter(%L, %L), first.',
                          amp.qualified(part.parent), part.metric, amp.qualified(part.relation), part.metric);
    END LOOP;
    FOR part IN
        SELECT d.relation, m.metric, m.state_column, m.states
        FROM amp.meters m JOIN pg_inherits i ON i.inhparent = m.relation, amp.descendants(i.inhrelid::regclass) d
        WHERE NOT EXISTS (SELECT FROM amp.meters own WHERE own.relation = d.relation AND own.metric = m.metric
                            AND (own.state_column, own.states) IS NOT DISTINCT FROM (m.state_column, m.states)
                            AND own.root = coalesce(pg_partition_root(d.relation), d.relation))
          AND i.inhrelid IN (SELECT d.objid FROM pg_event_trigger_ddl_commands() d
                             UNION ALL
                             SELECT c.inhrelid FROM pg_event_trigger_ddl_commands() d JOIN pg_inherits c ON c.inhparent = d.objid)
    LOOP
        PERFORM amp.meter_part(part.relation, part.metric, part.state_column, part.states);
    END LOOP;
    -- What is detached counts on, for itself.
    FOR part IN
        SELECT m.relation, m.metric, m.state_column, m.states FROM amp.meters m
        WHERE m.root <> m.relation AND m.root <> coalesce(pg_partition_root(m.relation), m.relation)
          AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d
                      WHERE d.objid IN (m.relation, m.root) OR pg_partition_root(d.objid) = m.root)
    LOOP
        PERFORM amp.meter_part(part.relation, part.metric, part.state_column, part.states);
    END LOOP;
    FOR part IN
        SELECT n.relation, i.inhparent::regclass AS parent
        FROM pg_inherits i JOIN amp.approval_gates g ON g.relation = i.inhparent, amp.descendants(i.inhrelid::regclass) n
        WHERE NOT EXISTS (SELECT FROM amp.approval_gates own WHERE own.relation = n.relation AND own.parent IS NOT NULL)
          AND i.inhrelid IN (SELECT d.objid FROM pg_event_trigger_ddl_commands() d
                             UNION ALL
                             SELECT c.inhrelid FROM pg_event_trigger_ddl_commands() d JOIN pg_inherits c ON c.inhparent = d.objid)
    LOOP
        PERFORM amp.gate_part(part.relation, part.parent);
    END LOOP;
    -- A partition that is detached loses its parent's trigger, and gets one of its own.
    FOR part IN
        SELECT g.relation FROM amp.approval_gates g
        WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = g.relation AND i.inhparent = g.parent)
          AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d WHERE d.objid IN (g.relation, g.parent)) AND g.parent IS NOT NULL
    LOOP
        PERFORM amp.gate_part(part.relation, part.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.protect_descendants() IS
'Event trigger: CREATE TABLE ... PARTITION OF or INHERITS and ALTER TABLE ... ATTACH PARTITION or INHERIT protect the new part like its parent, or fail.';

CREATE FUNCTION amp.forget_dropped() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped text;
BEGIN
    FOR dropped IN
        DELETE FROM amp.protected_tables p USING pg_event_trigger_dropped_objects() d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND p.relation = d.objid
        RETURNING d.object_identity
    LOOP
        PERFORM amp.log_change('table.dropped', NULL, jsonb_build_object('table', dropped));
    END LOOP;
    DELETE FROM amp.shared_tables s USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND s.relation = d.objid;
    DELETE FROM amp.meters m USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND m.relation = d.objid;
    DELETE FROM amp.meters m USING pg_event_trigger_dropped_objects() d
    WHERE d.object_type = 'trigger' AND d.address_names[3] = 'amp_count_' || m.metric
      AND m.relation = to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]));
    DELETE FROM amp.approval_gates g USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND g.relation = d.objid;
    FOR dropped IN
        DELETE FROM amp.approval_gates g USING pg_event_trigger_dropped_objects() d
        WHERE d.object_type = 'trigger' AND d.address_names[3] = 'amp_approval'
          AND g.relation = to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))
        RETURNING amp.qualified(g.relation)
    LOOP
        PERFORM amp.log_change('gate.dropped', NULL, jsonb_build_object('table', dropped));
    END LOOP;
    DELETE FROM amp.protected_schemas s USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_namespace'::regclass AND s.schema = d.object_name;
END
$$;
COMMENT ON FUNCTION amp.forget_dropped() IS 'Event trigger: takes dropped tables and schemas out of the registry.';

CREATE EVENT TRIGGER amp_protect_descendants ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA')
    EXECUTE FUNCTION amp.protect_descendants();
CREATE EVENT TRIGGER amp_forget_dropped ON sql_drop EXECUTE FUNCTION amp.forget_dropped();
COMMENT ON EVENT TRIGGER amp_protect_descendants IS 'Protects new partitions and children of protected tables.';
COMMENT ON EVENT TRIGGER amp_forget_dropped IS 'Takes dropped tables and schemas out of amp''s registry.';
