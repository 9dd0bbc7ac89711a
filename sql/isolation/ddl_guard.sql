-- The DDL guard: a statement that would leave a protected table less safe than it was fails.
--
-- When a statement ends, what the doctor finds in the relations and functions that it touched is compared with what he would have found before it,
-- and every new error refuses it. So a hole that was there already stops nobody, a statement that closes one of two passes, and there is no second
-- list of what is safe. What he would have found before is asked for only if there is an error now: the catalogs still have it (src/isolation/ddl_guard.rs).
--
-- Two things are let pass on purpose. A registered table whose row security is not complete yet is wide open anyhow, and a key or grant on it tells
-- nothing more: that is what a table looks like while a dump is restored. And a table that a statement has put under the policies, a part that is attached,
-- is safer than it was, whatever keys it brings along.
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
            OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f')));
END
$$;
COMMENT ON FUNCTION amp.relations_of(oid[], oid[]) IS
'Internal: the relations that these objects (catalog and object id) are or belong to, as far as they can have to do with protected ones.';

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

CREATE FUNCTION amp.unguarded(relations oid[], protected oid[]) RETURNS oid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT c.oid FROM pg_class c LEFT JOIN amp.protected_tables p ON p.relation = c.oid
        WHERE c.oid = ANY (relations) AND CASE
            WHEN p.relation IS NULL THEN c.oid = ANY (protected)
            ELSE NOT (c.relrowsecurity AND c.relforcerowsecurity
                      AND EXISTS (SELECT FROM pg_policy o WHERE o.polrelid = c.oid AND o.polname = 'amp_tenant')) END);
END
$$;
COMMENT ON FUNCTION amp.unguarded(oid[], oid[]) IS
'Internal, asked of the catalogs before a statement: those of the relations that were registered without row security, or not registered though they are protected now.';

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
        SELECT amp.qualified(u) FROM unnest(amp.catalogs_at(
            moment, 'SELECT amp.unguarded($1, $2)::text', coalesce(family, '{}'),
            ARRAY(SELECT p.relation::oid FROM amp.protected_tables p WHERE p.relation = ANY (family)))::oid[]) u);
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

-- As the extension's owner, for whoever runs the statement need not be able to read the registry (row_security = off), and must not be able to write the
-- audit log. It only reads catalogs, and runs nobody's code.
CREATE FUNCTION amp.refuse_unsafe_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    classes oid[];
    objects oid[];
    relations oid[];
    functions oid[];
    opened jsonb;
    later jsonb;
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
        ) d;
        IF TG_TAG = 'ALTER DEFAULT PRIVILEGES' THEN
            relations := ARRAY['pg_default_acl'::regclass::oid];
        ELSIF objects IS NULL THEN
            RETURN;
        ELSE
            relations := amp.catalogs_at('now', 'SELECT amp.relations_of($1, $2)::text', classes, objects)::oid[];
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
    IF relations = '{}' AND functions = '{}' THEN
        RETURN;
    END IF;
    SELECT jsonb_agg(o.document) FILTER (WHERE o.document ->> 'code' <> ALL (amp.finished_later())),
           jsonb_agg(o.document) FILTER (WHERE o.document ->> 'code' = ANY (amp.finished_later()))
    INTO opened, later
    FROM jsonb_array_elements(amp.opened('statement', relations, functions)) o(document);
    IF opened IS NOT NULL THEN
        PERFORM amp.refuse_opened(TG_TAG, opened);
    END IF;
    IF later IS NOT NULL THEN
        INSERT INTO amp.unfinished_tables SELECT unnest(relations);
    END IF;
END
$$;
COMMENT ON FUNCTION amp.refuse_unsafe_ddl() IS
'Event trigger: fails a statement after which doctor() finds an error in what it touched that was not there before. Errors: TN008.';

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
