-- What the doctor finds in the server, its settings, and what this database leaves to everybody.

CREATE FUNCTION amp.is_preloaded() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'amp_is_preloaded';
COMMENT ON FUNCTION amp.is_preloaded() IS 'Internal: whether the library is in shared_preload_libraries.';

CREATE FUNCTION amp.server_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'warning', 'not-preloaded', 'shared_preload_libraries',
           'The first statement of a session is not checked before it starts, and refusals are in the server''s log alone.',
           'Add amp_tenancy to shared_preload_libraries and restart.'
    WHERE NOT amp.is_preloaded()
    UNION ALL
    SELECT 'warning', 'old-minor', format('PostgreSQL %s', current_setting('server_version')),
           'A later minor release closes holes in row security (CVE-2026-16237, CVE-2026-120154: ON CONFLICT).',
           format('Upgrade to %s.%s or later.', major, least)
    FROM (VALUES (15, 20), (16, 16), (17, 12), (18, 7)) v(major, least)
    WHERE current_setting('server_version_num')::integer BETWEEN major * 10000 AND major * 10000 + least - 1
    UNION ALL
    -- A minor release does not change the views of a cluster that is there already.
    SELECT 'error', 'statistics-views-old', format('view pg_catalog.%I', v.name),
           'It shows statistics of rows that the asker may not see (CVE-2024-4317): later releases repair new clusters only.',
           'Run fix-CVE-2024-4317.sql, from the server''s share directory, in every database.'
    FROM (VALUES ('pg_stats_ext'), ('pg_stats_ext_exprs')) v(name)
    WHERE pg_get_viewdef(format('pg_catalog.%I', v.name)::regclass) !~ 'row_security_active'
       OR pg_get_viewdef(format('pg_catalog.%I', v.name)::regclass) !~ 'pg_has_role\(c\.relowner'
    UNION ALL
    SELECT 'error', 'event-triggers-off', 'event_triggers', 'Schema changes are not checked, and new partitions are not protected.',
           'ALTER SYSTEM RESET event_triggers; SELECT pg_reload_conf()'
    WHERE current_setting('event_triggers', true) = 'off'
    UNION ALL
    SELECT 'error', 'event-trigger-disabled', format('event trigger %I', t.evtname),
           'Schema changes are not checked, or new partitions are not protected.', format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', t.evtname)
    FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
    WHERE p.pronamespace = 'amp'::regnamespace AND t.evtenabled NOT IN ('O', 'A')
    UNION ALL
    SELECT 'info', 'plans-logged', 'auto_explain.log_analyze', 'Plans in the server''s log tell how many rows of other tenants a statement met.',
           'ALTER SYSTEM SET auto_explain.log_analyze = off; SELECT pg_reload_conf()'
    WHERE current_setting('auto_explain.log_analyze', true) = 'on' AND current_setting('auto_explain.log_min_duration', true) <> '-1'
$$;
COMMENT ON FUNCTION amp.server_findings() IS 'Internal: what doctor() finds in the server.';

CREATE FUNCTION amp.setting_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'error', 'setting-granted', format('parameter %s', a.parname), format('%s may change what only a superuser is to change.', who.name),
           format('REVOKE %s ON PARAMETER %s FROM %s CASCADE', g.privilege_type, a.parname, who.name)
    FROM pg_parameter_acl a CROSS JOIN LATERAL aclexplode(a.paracl) g
    CROSS JOIN LATERAL (SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END) who(name)
    WHERE (a.parname LIKE 'amp.%' OR a.parname IN ('session_replication_role', 'event_triggers', 'lo_compat_privileges'))
      AND g.grantee <> 10 AND a.parname NOT IN ('amp.tenant_id', 'amp.user_id')
    UNION ALL
    SELECT CASE WHEN w.code = 'setting-guards-off' THEN 'error' ELSE 'warning' END, w.code,
           concat(w.name, ' of ', nullif(o.whose, '')),
           CASE w.code
               WHEN 'setting-context' THEN 'A context comes from a session''s own SQL: this one is ignored, and everybody can read it.'
               WHEN 'setting-row-security' THEN 'Whoever is under a policy gets errors in place of rows.'
               ELSE 'What is guarded by triggers, foreign keys or event triggers is not.' END,
           format('ALTER %s RESET %s', o.whose, w.name)
    FROM pg_db_role_setting s
    CROSS JOIN LATERAL (SELECT concat_ws(' IN ',
        CASE WHEN s.setrole <> 0 THEN format('ROLE %s', s.setrole::regrole) END,
        (SELECT format('DATABASE %I', d.datname) FROM pg_database d WHERE d.oid = s.setdatabase))) o(whose)
    CROSS JOIN LATERAL unnest(s.setconfig) c(entry)
    JOIN (VALUES
        ('amp.tenant_id', 'setting-context', '.*'), ('amp.user_id', 'setting-context', '.*'),
        ('row_security', 'setting-row-security', 'off|false|no|0'), ('session_replication_role', 'setting-guards-off', 'replica|local'),
        ('event_triggers', 'setting-guards-off', 'off|false|no|0')) w(name, code, bad)
      ON lower(split_part(c.entry, '=', 1)) = w.name AND substr(c.entry, strpos(c.entry, '=') + 1) ~* format('^(%s)$', w.bad)
    WHERE s.setdatabase = 0 OR s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$$;
COMMENT ON FUNCTION amp.setting_findings() IS 'Internal: what doctor() finds in settings that are granted, or set for roles and databases.';

CREATE FUNCTION amp.hardening_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM amp.hardening) THEN
        RETURN QUERY SELECT 'warning', 'not-hardened', format('database %I', current_database()),
            'Whoever shares a database role with other tenants sees their statements, sizes and locks, and can cancel them.', 'SELECT * FROM amp.harden()';
    ELSE
        RETURN QUERY SELECT 'warning', 'hardening-undone', g.object, 'Everybody may again what amp.harden() has taken away.', g.fix FROM amp.hardening_gaps() g;
    END IF;
    RETURN QUERY
        SELECT 'warning', 'large-objects', format('database %I', current_database()),
               format('It has %s large objects, which belong to roles, not to tenants: who shares the role reads them.', count(*)),
               'SELECT * FROM amp.harden()'
        FROM pg_largeobject_metadata
        WHERE has_function_privilege('public', 'pg_catalog.lo_get(oid)', 'EXECUTE')
        HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION amp.hardening_findings() IS 'Internal: what doctor() finds that amp.harden() closes.';
