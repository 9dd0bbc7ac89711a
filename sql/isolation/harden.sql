-- amp.harden() and its opposite: what PostgreSQL lets everybody call that tells about, or acts on, others who share a database role. Views check
-- the functions in them against who asks, so that a function that is revoked closes every view over it. What is changed is noted in
-- amp.hardening, with the access list that was there before.

CREATE TABLE amp.hardening (
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('function', 'schema', 'database')),
    identity text COLLATE "C" NOT NULL,
    privilege text COLLATE "C" NOT NULL,
    revoked boolean NOT NULL,
    keeper text COLLATE "C",
    acl_before text COLLATE "C",
    CONSTRAINT hardening_pkey PRIMARY KEY (kind, identity)
);
COMMENT ON TABLE amp.hardening IS
'What amp.harden() looked after, and changed, in this database. It has rows as long as the database is hardened.';
COMMENT ON COLUMN amp.hardening.identity IS 'Schema, name and types of arguments; the name of a schema; nothing for the database.';
COMMENT ON COLUMN amp.hardening.privilege IS 'What PUBLIC is not to have.';
COMMENT ON COLUMN amp.hardening.revoked IS 'Whether PUBLIC had it.';
COMMENT ON COLUMN amp.hardening.keeper IS 'The role that was granted it in place of PUBLIC, if there is one.';
COMMENT ON COLUMN amp.hardening.acl_before IS 'The access list as it was before; NULL: the default.';
-- Everybody may read it, as the catalogs; row security is for who may write everything (pg_write_all_data).
ALTER TABLE amp.hardening ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON amp.hardening FOR SELECT USING (true);
GRANT SELECT ON amp.hardening TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('amp.hardening', '');

CREATE VIEW amp.hardenable WITH (security_invoker) AS
    SELECT 'function' AS kind, pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)) AS identity,
           p.oid AS id, p.proowner AS owner, p.proacl AS acl, pg_catalog.acldefault('f', p.proowner) AS acl_default,
           pg_catalog.format('ROUTINE %I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)) AS named
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    UNION ALL
    SELECT 'schema', n.nspname, n.oid, n.nspowner, n.nspacl, pg_catalog.acldefault('n', n.nspowner), pg_catalog.format('SCHEMA %I', n.nspname)
    FROM pg_catalog.pg_namespace n
    UNION ALL
    SELECT 'database', '', d.oid, d.datdba, d.datacl, pg_catalog.acldefault('d', d.datdba), pg_catalog.format('DATABASE %I', d.datname)
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database();
COMMENT ON VIEW amp.hardenable IS
'Internal: functions, schemas and this database, as amp.hardening and GRANT name them, with their access lists.';
GRANT SELECT ON amp.hardenable TO PUBLIC;

CREATE FUNCTION amp.hardening_targets() RETURNS TABLE (
        kind text, identity text, privilege text, keeper text, id oid, named text, acl aclitem[], grantor oid, owner oid)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH target(kind, id, privilege, keeper) AS (
        -- By name, so that what another version of PostgreSQL has is found, too.
        SELECT 'function', p.oid, 'EXECUTE', t.keeper
        FROM (VALUES
            -- What sessions do and have done; what tables, indexes and databases hold, and how they are used. Not the counters of
            -- checkpoints: they tell of the server as a whole, and a dump that revokes those of 15 cannot be restored into 17.
            ('pg_stat_get_(?!bgwriter_|checkpoint|buf_(written|fsync)_backend).*', 'pg_read_all_stats'),
            ('pg_(relation|table|indexes|total_relation|database|tablespace)_size|pg_relation_filepath', 'pg_read_all_stats'),
            -- Whether a row that the caller need not see was updated, by its ctid.
            ('currtid2', 'pg_read_all_stats'),
            -- Who waits for whom, and for what.
            ('pg_lock_status|pg_(safe_snapshot_)?blocking_pids|pg_isolation_test_session_is_blocked', 'pg_read_all_stats'),
            -- What others left behind, in the server or in a session that was passed on.
            ('pg_prepared_xact|pg_prepared_statement|pg_cursor|pg_notification_queue_usage', 'pg_read_all_stats'),
            -- How much is written, and when.
            ('pg_current_wal_(insert_|flush_)?lsn|pg_last_wal_(receive|replay)_lsn|pg_logical_emit_message', 'pg_read_all_stats'),
            ('pg_get_replication_slots|pg_control_(checkpoint|recovery)', 'pg_read_all_stats'),
            ('pg_last_committed_xact|pg_xact_commit_timestamp(_origin)?|pg_last_xact_replay_timestamp', 'pg_read_all_stats'),
            -- Which transactions lock the same row.
            ('pg_get_multixact_members', 'pg_read_all_stats'),
            ('pg_available_wal_summaries|pg_wal_summary_contents|pg_get_wal_summarizer_state', 'pg_read_all_stats'),
            -- What acts on other sessions, or passes something on past every table.
            ('pg_(terminate|cancel)_backend', 'pg_signal_backend'),
            ('pg_(try_)?advisory_(xact_)?lock(_shared)?', 'pg_database_owner'),
            ('lo_.*|loread|lowrite', 'pg_database_owner')) t(pattern, keeper)
        JOIN pg_proc p ON p.proname ~ format('^(%s)$', t.pattern) AND p.pronamespace = 'pg_catalog'::regnamespace
        UNION ALL
        -- Extensions that tell the same.
        SELECT 'function', d.objid, 'EXECUTE', 'pg_read_all_stats'
        FROM pg_extension e
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
        WHERE e.extname IN ('pageinspect', 'pg_buffercache', 'pg_freespacemap', 'pg_prewarm', 'pg_proctab', 'pg_qualstats', 'pg_query_state',
                            'pg_show_plans', 'pg_stat_kcache', 'pg_stat_monitor', 'pg_stat_statements', 'pg_store_plans', 'pg_surgery',
                            'pg_visibility', 'pg_wait_sampling', 'pg_walinspect', 'pgfincore', 'pgrowlocks', 'pgsentinel', 'pgstattuple',
                            'system_stats')
        UNION ALL
        -- A temporary table outlives its tenant in a session that is passed on, and stands before others of its name.
        SELECT 'database', d.oid, 'TEMPORARY', NULL FROM pg_database d WHERE d.datname = current_database()
        UNION ALL
        SELECT 'schema', n.oid, 'CREATE', NULL FROM pg_namespace n WHERE n.nspname = 'public'
    )
    SELECT t.kind, o.identity, t.privilege, t.keeper, o.id, o.named, o.acl, a.grantor, o.owner
    FROM target t JOIN amp.hardenable o ON o.kind = t.kind AND o.id = t.id
    LEFT JOIN LATERAL (
        -- The owner's grant last: others' are to be revoked first.
        SELECT e.grantor FROM aclexplode(coalesce(o.acl, o.acl_default)) e WHERE e.grantee = 0 AND e.privilege_type = t.privilege
        ORDER BY e.grantor = o.owner LIMIT 1) a ON true
$$;
COMMENT ON FUNCTION amp.hardening_targets() IS
'Internal: what is not for PUBLIC in a hardened database: the privilege, who keeps it, and who has granted it to PUBLIC now, if anybody has.';

CREATE FUNCTION amp.hardening_gaps() RETURNS TABLE (object text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws(' ', t.kind, CASE t.kind WHEN 'database' THEN quote_ident(current_database()) ELSE t.identity END),
           CASE WHEN t.grantor = t.owner THEN 'SELECT * FROM amp.harden()'
                ELSE format('SET ROLE %s; REVOKE %s ON %s FROM PUBLIC; RESET ROLE', t.grantor::regrole, t.privilege, t.named) END
    FROM amp.hardening_targets() t WHERE t.grantor IS NOT NULL
$$;
COMMENT ON FUNCTION amp.hardening_gaps() IS
'What everybody may do in this database, and may not in a hardened one; each with what closes it.';

CREATE FUNCTION amp.assert_hardener() RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'only a superuser hardens a database, or undoes it',
            DETAIL = 'It changes who may call functions of PostgreSQL.', HINT = 'Run it as a superuser.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.assert_hardener() IS 'Internal: raises 42501 unless a superuser''s rights are in force.';

CREATE FUNCTION amp.harden() RETURNS TABLE (status text, object text, what text, remedy text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    target record;
    noted amp.hardening;
    notes amp.hardening[] := '{}';
BEGIN
    PERFORM amp.assert_hardener();
    LOCK TABLE amp.hardening IN SHARE ROW EXCLUSIVE MODE;
    FOR target IN SELECT t.* FROM amp.hardening_targets() t ORDER BY t.kind, t.identity COLLATE "C" LOOP
        SELECT h.* INTO noted FROM amp.hardening h WHERE h.kind = target.kind AND h.identity = target.identity;
        object := concat_ws(' ', target.kind, CASE target.kind WHEN 'database' THEN quote_ident(current_database()) ELSE target.identity END);
        IF target.grantor IS NULL THEN
            status := 'kept'; what := format('PUBLIC has no %s', target.privilege); RETURN NEXT;
            IF noted IS NULL THEN
                notes := notes || (target.kind, target.identity, target.privilege, false, NULL, target.acl::text)::amp.hardening;
            END IF;
            CONTINUE;
        ELSIF target.grantor <> target.owner THEN
            status := 'left'; what := format('PUBLIC has %s from %s', target.privilege, target.grantor::regrole);
            remedy := format('SET ROLE %s; REVOKE %s ON %s FROM PUBLIC; RESET ROLE, then amp.harden() again',
                             target.grantor::regrole, target.privilege, target.named);
            RETURN NEXT;
            remedy := NULL;
            CONTINUE;
        END IF;
        -- Hardened before, and granted to PUBLIC again since: what was there before is without what harden() granted.
        IF noted.keeper IS NOT NULL THEN
            EXECUTE format('REVOKE %s ON %s FROM %I', target.privilege, target.named, noted.keeper);
            SELECT o.acl INTO STRICT target.acl FROM amp.hardenable o WHERE o.kind = target.kind AND o.id = target.id;
        END IF;
        noted := (target.kind, target.identity, target.privilege, true, NULL, target.acl::text);
        EXECUTE format('REVOKE %s ON %s FROM PUBLIC', target.privilege, target.named);
        what := format('%s revoked from PUBLIC', target.privilege);
        IF target.keeper IS NOT NULL AND NOT EXISTS (
            SELECT FROM aclexplode(target.acl) a WHERE a.grantee = target.keeper::regrole AND a.privilege_type = target.privilege) THEN
            EXECUTE format('GRANT %s ON %s TO %I', target.privilege, target.named, target.keeper);
            noted.keeper := target.keeper;
            what := format('%s, granted to %I', what, target.keeper);
        END IF;
        notes := notes || noted;
        status := 'done'; RETURN NEXT;
    END LOOP;
    -- 17 gave it another argument, so that a dump that revokes it cannot be restored there: to pg_dump it was always so, and the restored database
    -- is hardened by its notes.
    INSERT INTO pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
    SELECT p.oid, 'pg_proc'::regclass, 0, 'i', p.proacl
    FROM pg_proc p JOIN unnest(notes) n ON n.identity = format('%I.%I(%s)', 'pg_catalog', p.proname, oidvectortypes(p.proargtypes))
    WHERE n.kind = 'function' AND n.revoked AND p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = 'pg_logical_emit_message'
      AND NOT EXISTS (SELECT FROM pg_init_privs i WHERE i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass AND i.objsubid = 0);
    IF notes <> '{}' THEN
        INSERT INTO amp.hardening SELECT n.* FROM unnest(notes) n
        ON CONFLICT ON CONSTRAINT hardening_pkey DO UPDATE SET
            privilege = excluded.privilege, revoked = excluded.revoked, keeper = excluded.keeper, acl_before = excluded.acl_before;
        PERFORM amp.log_change('database.hardened', NULL, jsonb_build_object('objects', cardinality(notes)));
    END IF;
END
$$;
COMMENT ON FUNCTION amp.harden() IS
'Superuser: takes from PUBLIC, in this database, what tells about or acts on others who share a database role: statistics, activity, locks, sizes, cancelling, advisory locks, large objects, temporary objects. Idempotent; amp.unharden() undoes it; docs/hardening.md says what stops working. Errors: 42501 not a superuser.';

CREATE FUNCTION amp.unharden() RETURNS TABLE (status text, object text, what text, remedy text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    noted record;
    present record;
    before aclitem[];
BEGIN
    PERFORM amp.assert_hardener();
    LOCK TABLE amp.hardening IN SHARE ROW EXCLUSIVE MODE;
    -- What was dropped since is not among them.
    FOR noted IN
        SELECT h.*, o.id, o.named FROM amp.hardening h JOIN amp.hardenable o ON o.kind = h.kind AND o.identity = h.identity
        ORDER BY h.kind, h.identity
    LOOP
        object := concat_ws(' ', noted.kind, CASE noted.kind WHEN 'database' THEN quote_ident(current_database()) ELSE noted.identity END);
        IF NOT noted.revoked THEN
            status := 'kept'; what := format('PUBLIC had no %s before', noted.privilege); RETURN NEXT;
            CONTINUE;
        END IF;
        EXECUTE format('GRANT %s ON %s TO PUBLIC', noted.privilege, noted.named);
        what := format('%s granted to PUBLIC', noted.privilege);
        IF noted.keeper IS NOT NULL THEN
            EXECUTE format('REVOKE %s ON %s FROM %I', noted.privilege, noted.named, noted.keeper);
            what := format('%s, revoked from %I', what, noted.keeper);
        END IF;
        SELECT o.acl, o.acl_default INTO STRICT present FROM amp.hardenable o WHERE o.kind = noted.kind AND o.id = noted.id;
        BEGIN
            before := noted.acl_before::aclitem[];
        EXCEPTION WHEN undefined_object THEN
            before := '{}'; -- It names a role that is gone.
        END;
        IF coalesce(before, present.acl_default) @> present.acl AND present.acl @> coalesce(before, present.acl_default) THEN
            -- It says the same; now it is the same, for GRANT never goes back to the default, nor to another order.
            CASE noted.kind
                WHEN 'function' THEN UPDATE pg_proc SET proacl = before WHERE oid = noted.id;
                WHEN 'schema' THEN UPDATE pg_namespace SET nspacl = before WHERE oid = noted.id;
                WHEN 'database' THEN UPDATE pg_database SET datacl = before WHERE oid = noted.id;
            END CASE;
            status := 'done';
        ELSE
            status := 'left'; what := what || '; somebody has changed other privileges on it since, and they stay so';
        END IF;
        RETURN NEXT;
    END LOOP;
    IF EXISTS (SELECT FROM amp.hardening) THEN
        DELETE FROM pg_init_privs i USING pg_proc p
        WHERE i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass AND p.pronamespace = 'pg_catalog'::regnamespace
          AND p.proname = 'pg_logical_emit_message';
        DELETE FROM amp.hardening;
        PERFORM amp.log_change('database.unhardened');
    END IF;
END
$$;
COMMENT ON FUNCTION amp.unharden() IS
'Superuser: undoes amp.harden(): each access list is what it was. Where somebody has changed one since, his changes stay, and the row says so. Errors: 42501 not a superuser.';

CREATE FUNCTION amp.harden_again() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- harden() closes first and notes then. Rows about what is open are another database's, and come with its dump.
    IF EXISTS (SELECT FROM restored r JOIN amp.hardening_targets() t ON t.kind = r.kind AND t.identity = r.identity WHERE t.grantor = t.owner) THEN
        DELETE FROM amp.hardening;
        PERFORM amp.harden();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION amp.harden_again() IS
'Trigger: hardens a database into which a hardened one is restored, and notes what was there before in this one.';
CREATE TRIGGER amp_harden_again AFTER INSERT ON amp.hardening REFERENCING NEW TABLE AS restored
    FOR EACH STATEMENT EXECUTE FUNCTION amp.harden_again();
ALTER TABLE amp.hardening ENABLE ALWAYS TRIGGER amp_harden_again;
