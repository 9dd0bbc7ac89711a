-- The DDL guard: a statement that would leave a protected table less safe than it was fails.
--
-- When a statement ends, what the doctor finds in the relations and functions that it touched is compared with what he would have found before it,
-- and every new error refuses it. So a hole that was there already stops nobody, a statement that closes one of two passes, and there is no second
-- list of what is safe. What he would have found before is asked for only if there is an error now: the catalogs still have it (src/isolation/ddl_guard.rs).
--
-- One thing is let pass on purpose: a registered table whose row security is not complete yet is wide open anyhow, and a key or grant on it tells
-- nothing more. That is what a table looks like while a dump is restored.
--
-- A new table of a protected schema may be protected, or shared, until its transaction ends: nobody else sees it before.

CREATE FUNCTION amp.note_ddl() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'amp_note_ddl';
COMMENT ON FUNCTION amp.note_ddl() IS 'Event trigger: notes where a statement begins, and that it has ended.';

CREATE FUNCTION amp.ddl_renames() RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_ddl_renames';
COMMENT ON FUNCTION amp.ddl_renames() IS 'Internal: whether the running DDL statement gives something another name or schema.';

CREATE FUNCTION amp.catalogs_at(moment text, query text, relations oid[], functions oid[]) RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_catalogs_at';
COMMENT ON FUNCTION amp.catalogs_at(text, text, oid[], oid[]) IS
'Internal: a text from the catalogs as they are "now", or were before the running "statement", or before the "transaction", whatever the isolation level.';

CREATE FUNCTION amp.granted_relations(command pg_ddl_command) RETURNS oid[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_granted_relations';
COMMENT ON FUNCTION amp.granted_relations(pg_ddl_command) IS 'Internal: the tables that a GRANT was about.';

CREATE FUNCTION amp.granted_functions(command pg_ddl_command) RETURNS oid[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'amp_granted_functions';
COMMENT ON FUNCTION amp.granted_functions(pg_ddl_command) IS 'Internal: the functions and procedures that a GRANT was about.';

CREATE FUNCTION amp.unsafe_ddl_allowed() RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'amp_unsafe_ddl_allowed';
COMMENT ON FUNCTION amp.unsafe_ddl_allowed() IS 'Internal: whether a superuser has set amp.allow_unsafe_ddl in this transaction.';

CREATE FUNCTION amp.relations_of(classes oid[], objects oid[]) RETURNS oid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN ARRAY(
        WITH object AS (SELECT o.class, o.id FROM unnest(classes, objects) o(class, id)), touched(id) AS (
            SELECT o.id FROM object o WHERE o.class = 'pg_class'::regclass
            UNION SELECT x.indrelid FROM object o JOIN pg_index x ON x.indexrelid = o.id WHERE o.class = 'pg_class'::regclass
            UNION SELECT p.polrelid FROM object o JOIN pg_policy p ON p.oid = o.id WHERE o.class = 'pg_policy'::regclass
            UNION SELECT t.tgrelid FROM object o JOIN pg_trigger t ON t.oid = o.id WHERE o.class = 'pg_trigger'::regclass
            UNION SELECT r.ev_class FROM object o JOIN pg_rewrite r ON r.oid = o.id WHERE o.class = 'pg_rewrite'::regclass
            UNION SELECT d.adrelid FROM object o JOIN pg_attrdef d ON d.oid = o.id WHERE o.class = 'pg_attrdef'::regclass
            UNION SELECT k.conrelid FROM object o JOIN pg_constraint k ON k.oid = o.id WHERE o.class = 'pg_constraint'::regclass
        )
        -- Most of what is made anywhere has nothing to do with a protected table.
        SELECT c.oid FROM touched t JOIN pg_class c ON c.oid = t.id
        WHERE c.relpersistence <> 't' AND c.relnamespace <> 'amp'::regnamespace AND (
            c.relkind IN ('v', 'm')
            OR EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = c.oid)
            OR EXISTS (SELECT FROM amp.protected_schemas s JOIN pg_namespace n ON n.nspname = s.schema WHERE n.oid = c.relnamespace)
            OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
            OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
            OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f')
            OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)));
END
$$;
COMMENT ON FUNCTION amp.relations_of(oid[], oid[]) IS
'Internal: the relations that these objects (catalog and object id) are or belong to, as far as they can have to do with protected ones.';

CREATE FUNCTION amp.functions_over(relations oid[], functions oid[]) RETURNS oid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE over(class, id) AS (
            SELECT 'pg_class'::regclass::oid, r.oid FROM unnest(relations) r(oid)
            UNION SELECT 'pg_proc'::regclass::oid, f.oid FROM unnest(functions) f(oid)
            UNION
            SELECT CASE WHEN w.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END, coalesce(w.ev_class, d.objid)
            FROM over o
            JOIN pg_depend d ON d.refclassid = o.class AND d.refobjid = o.id AND d.classid IN ('pg_proc'::regclass, 'pg_rewrite'::regclass)
            LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        )
        SELECT o.id FROM over o WHERE o.class = 'pg_proc'::regclass);
END
$$;
COMMENT ON FUNCTION amp.functions_over(oid[], oid[]) IS
'Internal: these functions, and those whose parsed bodies reach them or the relations, through views and other functions.';

CREATE FUNCTION amp.ddl_errors(relations oid[], functions oid[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT jsonb_agg(to_jsonb(f)) FROM (
            SELECT t.* FROM amp.table_findings(relations) t
            UNION ALL SELECT g.* FROM amp.grant_findings(relations) g
            UNION ALL SELECT d.* FROM amp.dependent_findings(relations) d
            UNION ALL SELECT p.* FROM amp.function_findings(functions) p
            UNION ALL SELECT a.* FROM amp.default_grant_findings() a WHERE 'pg_default_acl'::regclass::oid = ANY (relations)
        ) f
        -- A table is made with its foreign keys before it is protected, perhaps in another transaction.
        WHERE f.severity = 'error' AND f.code <> 'foreign-key-from-unprotected');
END
$$;
COMMENT ON FUNCTION amp.ddl_errors(oid[], oid[]) IS 'Internal: the errors that doctor() finds in these relations and functions, and that a schema change is not to make; NULL for none.';

CREATE FUNCTION amp.family_errors(family oid[], lockable oid[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (SELECT jsonb_agg(to_jsonb(f)) FROM amp.table_findings(family, lockable) f WHERE f.severity = 'error');
END
$$;
COMMENT ON FUNCTION amp.family_errors(oid[], oid[]) IS
'Internal: the errors that doctor() finds in these relations without locking any but the second ones; NULL for none.';

CREATE FUNCTION amp.unguarded(relations oid[]) RETURNS oid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT c.oid FROM pg_class c JOIN amp.protected_tables p ON p.relation = c.oid
        WHERE c.oid = ANY (relations)
          AND NOT (c.relrowsecurity AND c.relforcerowsecurity
                   AND EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = c.oid AND o.polname = 'amp_tenant')));
END
$$;
COMMENT ON FUNCTION amp.unguarded(oid[]) IS
'Internal, asked of the catalogs before a statement: those of the relations that were registered without row security.';

CREATE FUNCTION amp.opened(moment text, relations oid[], functions oid[]) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    errors CONSTANT text := 'SELECT amp.ddl_errors($1, $2)::text';
    family oid[];
    excused text[];
    found jsonb;
    before jsonb;
    again jsonb;
BEGIN
    found := amp.catalogs_at('now', errors, relations, functions)::jsonb;
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    family := amp.catalogs_at('now', 'SELECT amp.relatives($1)::text', relations, '{}')::oid[];
    excused := ARRAY(
        SELECT amp.qualified(u) FROM unnest(amp.catalogs_at(moment, 'SELECT amp.unguarded($1)::text', coalesce(family, '{}'), '{}')::oid[]) u);
    -- A new part is no relative of anything yet, before the statement: what was open in its parents was so then.
    before := coalesce(amp.catalogs_at(moment, errors, relations, functions)::jsonb, '[]')
           || coalesce(amp.catalogs_at(moment, 'SELECT amp.family_errors($1, $2)::text', coalesce(family, relations), relations)::jsonb, '[]');
    -- Another session may have closed it in between.
    again := coalesce(amp.catalogs_at('now', errors, relations, functions)::jsonb, '[]');
    RETURN (
        SELECT jsonb_agg(f.document ORDER BY f.document ->> 'code', f.document ->> 'object')
        FROM jsonb_array_elements(found) f(document)
        WHERE again @> jsonb_build_array(f.document)
          AND NOT EXISTS (
                SELECT FROM jsonb_array_elements(before) b(document)
                WHERE (b.document ->> 'code', b.document ->> 'object', b.document ->> 'fix')
                    = (f.document ->> 'code', f.document ->> 'object', f.document ->> 'fix'))
          AND NOT EXISTS (
                SELECT FROM unnest(excused) named
                WHERE f.document ->> 'object' = named OR right(f.document ->> 'object', length(named) + 4) IN (' on ' || named, ' of ' || named))
          -- What has another name now would be taken for another finding; a statement that renames does nothing else.
          AND NOT (amp.ddl_renames()
                   AND (SELECT count(*) FROM jsonb_array_elements(found) o(document) WHERE o.document ->> 'code' = f.document ->> 'code')
                    <= (SELECT count(*) FROM jsonb_array_elements(before) o(document) WHERE o.document ->> 'code' = f.document ->> 'code')));
END
$$;
COMMENT ON FUNCTION amp.opened(text, oid[], oid[]) IS
'Internal: the errors that doctor() finds in these relations and functions now, and would not have found before the "statement" or "transaction"; NULL for none.';

CREATE FUNCTION amp.refuse_opened(command text, opened jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    IF amp.unsafe_ddl_allowed() THEN
        FOR found IN SELECT o.document FROM jsonb_array_elements(opened) o(document) LOOP
            PERFORM amp.log_change('ddl.unsafe', NULL, jsonb_build_object(
                'command', command, 'code', found ->> 'code', 'object', found ->> 'object'));
            RAISE WARNING USING ERRCODE = 'TN008', MESSAGE = format('%s leaves a hole: %s (%s)', command, found ->> 'object', found ->> 'code'),
                DETAIL = found ->> 'finding', HINT = format('To close it: %s', found ->> 'fix');
        END LOOP;
        RETURN;
    END IF;
    found := opened -> 0;
    RAISE EXCEPTION USING ERRCODE = 'TN008',
        MESSAGE = format('%s would leave a hole: %s (%s)', command, found ->> 'object', found ->> 'code'),
        DETAIL = concat(found ->> 'finding', CASE WHEN jsonb_array_length(opened) > 1 THEN format(' And %s more.', jsonb_array_length(opened) - 1) END),
        HINT = CASE
            WHEN found ->> 'code' = 'table-unprotected' THEN format('Before COMMIT: %s.', found ->> 'fix')
            WHEN found ->> 'code' LIKE 'grant-%' THEN 'Grant SELECT, INSERT, UPDATE and DELETE: ALL gives more.'
            WHEN found ->> 'code' = 'view-without-security-invoker' THEN 'Make it WITH (security_invoker = true).'
            WHEN found ->> 'code' = 'materialized-view' THEN 'Make a view WITH (security_invoker = true), or a table that you fill and protect.'
            WHEN found ->> 'code' = 'rule-acts-as-owner' THEN 'Make a trigger that does it, with the rights of who writes.'
            WHEN found ->> 'code' = 'foreign-key-sets-tenant' THEN 'Name the other columns: ON DELETE SET DEFAULT (column).'
            WHEN found ->> 'code' IN ('key-without-tenant', 'foreign-key-without-tenant') THEN 'Put the tenant column in front of the key, on both sides of a foreign key.'
            WHEN found ->> 'code' IN ('row-security-off', 'policy-changed', 'truncate-unguarded', 'tenant-column-missing', 'tenant-column-nullable')
                THEN format('SELECT * FROM amp.unprotect(%L) takes the protection of the table away.', regexp_replace(found ->> 'object', '^policy amp_\w+ on ', ''))
            ELSE format('%s would close it.', found ->> 'fix') END
            || ' A superuser can SET LOCAL amp.allow_unsafe_ddl = on.';
END
$$;
COMMENT ON FUNCTION amp.refuse_opened(text, jsonb) IS
'Internal: raises TN008 for what a statement has opened; with amp.allow_unsafe_ddl writes it to the audit log instead, and warns.';

CREATE FUNCTION amp.finished_later() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY['table-unprotected', 'approval-ungated']
$$;
COMMENT ON FUNCTION amp.finished_later() IS 'Internal: the findings that may wait for the end of the transaction: protecting or sharing closes that of a new table; a gate that is made anew is closed in two steps.';

CREATE TABLE amp.unfinished_tables (relation oid NOT NULL, forgotten boolean NOT NULL DEFAULT false);
COMMENT ON TABLE amp.unfinished_tables IS
'Internal: tables that are looked at again when the transaction ends: new ones of protected schemas, and those that were taken out of the registry. Always empty.';
COMMENT ON COLUMN amp.unfinished_tables.forgotten IS 'It was taken out of the registry, and must not have amp''s policies any more.';
ALTER TABLE amp.unfinished_tables ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION amp.assert_finished() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    opened jsonb;
BEGIN
    DELETE FROM amp.unfinished_tables u WHERE u.relation = NEW.relation;
    IF NEW.forgotten THEN
        IF EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = NEW.relation AND o.polname = 'amp_tenant')
           AND NOT EXISTS (SELECT FROM amp.protected_tables p WHERE p.relation = NEW.relation) THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('table %s is protected', NEW.relation::regclass),
                HINT = 'Use amp.unprotect().';
        END IF;
        RETURN NULL;
    END IF;
    SELECT jsonb_agg(o.document) INTO opened
    FROM jsonb_array_elements(amp.opened('transaction', ARRAY[NEW.relation], '{}')) o(document)
    WHERE o.document ->> 'code' = ANY (amp.finished_later());
    IF opened IS NOT NULL THEN
        PERFORM amp.refuse_opened('this transaction', opened);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.assert_finished() IS 'Trigger, at the end of a transaction: a new table of a protected schema is protected or shared, and one out of the registry has no policies of amp''s. Errors: TN008, 55000.';
CREATE CONSTRAINT TRIGGER amp_finished AFTER INSERT ON amp.unfinished_tables DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION amp.assert_finished();
ALTER TABLE amp.unfinished_tables ENABLE ALWAYS TRIGGER amp_finished;

CREATE FUNCTION amp.refuse_if_opened(command text, relations oid[], functions oid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    opened jsonb;
    later jsonb;
BEGIN
    -- Errors are found in what a function reaches, too.
    functions := coalesce(amp.catalogs_at('now', 'SELECT amp.functions_over($1, $2)::text', relations, functions)::oid[], functions);
    IF relations = '{}' AND functions = '{}' THEN
        RETURN;
    END IF;
    SELECT jsonb_agg(o.document) FILTER (WHERE o.document ->> 'code' <> ALL (amp.finished_later())),
           jsonb_agg(o.document) FILTER (WHERE o.document ->> 'code' = ANY (amp.finished_later()))
    INTO opened, later
    FROM jsonb_array_elements(amp.opened('statement', relations, functions)) o(document);
    IF opened IS NOT NULL THEN
        PERFORM amp.refuse_opened(command, opened);
    END IF;
    IF later IS NOT NULL THEN
        INSERT INTO amp.unfinished_tables SELECT unnest(relations);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.refuse_if_opened(text, oid[], oid[]) IS
'Internal: fails if doctor() finds an error in these relations and functions, or in functions over them, that was not there before the statement. Errors: TN008.';

-- As the extension's owner, for whoever runs the statement need not be able to read the registry (row_security = off), and must not be able to write the
-- audit log. It only reads catalogs, and runs nobody's code.
CREATE FUNCTION amp.refuse_unsafe_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts CONSTANT text := 'SELECT ARRAY(SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = ANY ($1))::text';
    classes oid[];
    objects oid[];
    relations oid[];
    functions oid[];
BEGIN
    IF TG_EVENT = 'ddl_command_end' THEN
        SELECT array_agg(d.classid), array_agg(d.objid), array_agg(d.objid) FILTER (WHERE d.classid = 'pg_proc'::regclass)
        INTO classes, objects, functions
        FROM (
            SELECT c.classid, c.objid FROM pg_event_trigger_ddl_commands() c
            WHERE c.objid IS NOT NULL AND c.schema_name IS DISTINCT FROM 'amp' AND c.schema_name IS DISTINCT FROM 'pg_temp'
            UNION ALL
            SELECT 'pg_class'::regclass, g.relation
            FROM pg_event_trigger_ddl_commands() c, unnest(amp.granted_relations(c.command)) g(relation) WHERE c.command_tag = 'GRANT'
            UNION ALL
            SELECT 'pg_proc'::regclass, g.function
            FROM pg_event_trigger_ddl_commands() c, unnest(amp.granted_functions(c.command)) g(function) WHERE c.command_tag = 'GRANT'
        ) d;
        IF TG_TAG = 'ALTER DEFAULT PRIVILEGES' THEN
            relations := ARRAY['pg_default_acl'::regclass::oid];
        ELSIF objects IS NULL THEN
            RETURN;
        ELSE
            relations := amp.catalogs_at('now', 'SELECT amp.relations_of($1, $2)::text', classes, objects)::oid[];
            -- A statement that attaches a part names its parent alone.
            IF TG_TAG = 'ALTER TABLE' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = ANY (relations)) THEN
                relations := relations || ARRAY(
                    SELECT d.relation::oid
                    FROM (SELECT unnest(amp.catalogs_at('now', parts, relations, '{}')::oid[])
                          EXCEPT SELECT unnest(amp.catalogs_at('statement', parts, relations, '{}')::oid[])) n(part)
                    CROSS JOIN LATERAL amp.descendants(n.part::regclass) d);
            END IF;
        END IF;
    ELSE
        -- An ALTER TABLE that drops something is looked at when it ends. A table that is gone is out of the registry.
        IF TG_TAG NOT LIKE 'DROP%' THEN
            RETURN;
        END IF;
        SELECT array_agg(d.classid), array_agg(d.objid) INTO classes, objects
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.classid IN ('pg_policy'::regclass, 'pg_trigger'::regclass) OR d.classid = 'pg_class'::regclass AND d.objsubid > 0;
        IF objects IS NULL THEN
            RETURN;
        END IF;
        relations := amp.catalogs_at('statement', 'SELECT amp.relations_of($1, $2)::text', classes, objects)::oid[];
    END IF;
    functions := coalesce(functions, '{}');
    IF relations <> '{}' OR functions <> '{}' THEN
        PERFORM amp.refuse_if_opened(TG_TAG, relations, functions);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.refuse_unsafe_ddl() IS
'Event trigger: fails a statement after which doctor() finds an error in what it touched that was not there before. Errors: TN008.';

-- PostgreSQL fires no event trigger for REASSIGN OWNED: the library calls this, when it has run. Nobody else may.
CREATE FUNCTION amp.owned_by(owners oid[], classes oid[]) RETURNS oid[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(d.objid), '{}')
    FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = ANY (owners) AND d.deptype = 'o' AND d.classid = ANY (classes)
      AND d.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
$$;
COMMENT ON FUNCTION amp.owned_by(oid[], oid[]) IS 'Internal: the objects in this database, of these catalogs, that belong to these roles.';

CREATE FUNCTION amp.refuse_unsafe_reassignment(owners oid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owned CONSTANT text := 'SELECT amp.owned_by($1, $2)::text';
    classes CONSTANT oid[] := ARRAY['pg_class'::regclass::oid];
    relations oid[];
    functions oid[];
BEGIN
    -- A superuser who has switched the guard off has done so for this statement, too.
    IF NOT EXISTS (SELECT FROM pg_event_trigger e WHERE e.evtname = 'amp_refuse_unsafe' AND e.evtenabled <> 'D') THEN
        RETURN;
    END IF;
    relations := amp.catalogs_at('statement', owned, owners, classes)::oid[];
    functions := amp.catalogs_at('statement', owned, owners, ARRAY['pg_proc'::regclass::oid])::oid[];
    relations := amp.catalogs_at('now', 'SELECT amp.relations_of($1, $2)::text', array_fill(classes[1], ARRAY[cardinality(relations)]), relations)::oid[];
    IF relations <> '{}' OR functions <> '{}' THEN
        PERFORM amp.refuse_if_opened('REASSIGN OWNED', relations, functions);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.refuse_unsafe_reassignment(oid[]) IS
'Internal: fails a REASSIGN OWNED BY these roles after which doctor() finds an error in what belonged to them that was not there before. Errors: TN008.';

-- In the order of their names: renames are followed, parts protected, then everything is looked at. They fire whatever session_replication_role says.
CREATE EVENT TRIGGER amp_begin_ddl ON ddl_command_start EXECUTE FUNCTION amp.note_ddl();
CREATE EVENT TRIGGER amp_refuse_unsafe ON ddl_command_end
    WHEN TAG IN (
        'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA',
        'CREATE SCHEMA', 'CREATE VIEW', 'ALTER VIEW', 'CREATE MATERIALIZED VIEW', 'ALTER MATERIALIZED VIEW', 'CREATE RULE', 'ALTER RULE',
        'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE POLICY', 'ALTER POLICY', 'CREATE INDEX', 'ALTER INDEX', 'CREATE FUNCTION', 'ALTER FUNCTION',
        'CREATE PROCEDURE', 'ALTER PROCEDURE', 'ALTER ROUTINE', 'GRANT', 'ALTER DEFAULT PRIVILEGES')
    EXECUTE FUNCTION amp.refuse_unsafe_ddl();
CREATE EVENT TRIGGER amp_refuse_unsafe_drop ON sql_drop EXECUTE FUNCTION amp.refuse_unsafe_ddl();
CREATE EVENT TRIGGER amp_settle_ddl ON ddl_command_end EXECUTE FUNCTION amp.note_ddl();
ALTER EVENT TRIGGER amp_begin_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER amp_refuse_unsafe ENABLE ALWAYS;
ALTER EVENT TRIGGER amp_refuse_unsafe_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER amp_settle_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER amp_begin_ddl IS 'Notes where a statement begins.';
COMMENT ON EVENT TRIGGER amp_refuse_unsafe IS 'Refuses a statement that would open a hole in what it touched.';
COMMENT ON EVENT TRIGGER amp_refuse_unsafe_drop IS 'Refuses to drop what a protected table needs.';
COMMENT ON EVENT TRIGGER amp_settle_ddl IS 'Notes that a statement has ended.';
