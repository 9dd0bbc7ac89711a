-- Schema changes: the registry follows a column or a schema that gets another name. Policies, keys and conditions of triggers do so by themselves.

CREATE FUNCTION amp.follow_renames() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    family oid[];
    renamed record;
BEGIN
    IF NOT amp.ddl_renames() THEN
        RETURN;
    END IF;
    FOR renamed IN
        SELECT n.nspname AS new, amp.catalogs_at('statement', 'SELECT n.nspname::text FROM pg_catalog.pg_namespace n WHERE n.oid = ANY ($1)',
                                                 ARRAY[n.oid], '{}') AS old
        FROM pg_event_trigger_ddl_commands() d JOIN pg_namespace n ON n.oid = d.objid WHERE d.classid = 'pg_namespace'::regclass
    LOOP
        UPDATE amp.protected_schemas s SET schema = renamed.new WHERE s.schema = renamed.old;
    END LOOP;
    -- A column is renamed in all parts of its table.
    family := ARRAY(SELECT DISTINCT r.relation::oid FROM pg_event_trigger_ddl_commands() d, amp.descendants(d.objid::regclass) r
                    WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0);
    FOR renamed IN
        SELECT a.attrelid AS relation, a.attname AS new, o.name::name AS old
        FROM jsonb_each_text(amp.catalogs_at('statement',
                 'SELECT pg_catalog.jsonb_object_agg(a.attrelid || '' '' || a.attnum, a.attname)::text FROM pg_catalog.pg_attribute a '
                 'WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped', family, '{}')::jsonb) o(place, name)
        JOIN pg_attribute a ON a.attrelid = split_part(o.place, ' ', 1)::oid AND a.attnum = split_part(o.place, ' ', 2)::smallint
        WHERE a.attname <> o.name
    LOOP
        UPDATE amp.protected_tables p SET tenant_column = renamed.new WHERE p.relation = renamed.relation AND p.tenant_column = renamed.old;
        IF FOUND THEN
            PERFORM amp.log_change('column.renamed', NULL, jsonb_build_object(
                'table', amp.qualified(renamed.relation), 'tenant_column', renamed.new, 'before', renamed.old));
        END IF;
        UPDATE amp.meters m SET state_column = renamed.new WHERE m.relation = renamed.relation AND m.state_column = renamed.old;
        UPDATE amp.approval_gates g
        SET gated_column = CASE WHEN g.gated_column = renamed.old THEN renamed.new ELSE g.gated_column END,
            key_columns = array_replace(g.key_columns, renamed.old, renamed.new),
            content_columns = array_replace(g.content_columns, renamed.old, renamed.new)
        WHERE g.relation = renamed.relation;
    END LOOP;
END
$$;
COMMENT ON FUNCTION amp.follow_renames() IS 'Event trigger: ALTER TABLE ... RENAME COLUMN and ALTER SCHEMA ... RENAME are followed by the registry.';

CREATE EVENT TRIGGER amp_follow_renames ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA') EXECUTE FUNCTION amp.follow_renames();
ALTER EVENT TRIGGER amp_follow_renames ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER amp_follow_renames IS 'Lets amp''s registry follow columns and schemas that get another name.';
