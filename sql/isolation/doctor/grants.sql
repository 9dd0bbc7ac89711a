-- What the doctor finds in privileges: on protected tables, by default on later ones, and on what leads past them.

CREATE FUNCTION amp.grant_findings(touched oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    family CONSTANT oid[] := CASE WHEN touched IS NULL THEN ARRAY(SELECT p.relation::oid FROM amp.protected_tables p) ELSE amp.relatives(touched) END;
BEGIN
    RETURN QUERY
    WITH granted AS (
        SELECT c.oid, c.relowner, NULL::name AS attname, c.relacl AS acl
        FROM unnest(family) f(oid) JOIN amp.protected_tables p ON p.relation = f.oid JOIN pg_class c ON c.oid = f.oid
        WHERE c.relacl IS NOT NULL
        UNION ALL
        SELECT c.oid, c.relowner, a.attname, a.attacl
        FROM unnest(family) f(oid) JOIN amp.protected_tables p ON p.relation = f.oid JOIN pg_class c ON c.oid = f.oid
        JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
        WHERE a.attacl IS NOT NULL
    )
    SELECT CASE WHEN g.privilege_type IN ('TRIGGER', 'REFERENCES') THEN 'error' ELSE 'warning' END, 'grant-' || lower(g.privilege_type),
           concat(n.named, ' (' || quote_ident(t.attname) || ')'),
           CASE g.privilege_type
               WHEN 'TRIGGER' THEN 'Whoever makes a trigger runs his code in other tenants'' sessions.'
               WHEN 'REFERENCES' THEN 'Whoever makes a foreign key to it learns which keys exist, of every tenant.'
               WHEN 'MAINTAIN' THEN 'Whoever may lock, cluster or reindex it stops every tenant.'
               ELSE 'Its trigger refuses TRUNCATE, but nobody needs the privilege.' END,
           format('REVOKE %s%s ON %s FROM %s CASCADE', g.privilege_type, ' (' || quote_ident(t.attname) || ')', n.named,
                  CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
    FROM granted t CROSS JOIN LATERAL aclexplode(t.acl) g
    CROSS JOIN LATERAL (SELECT amp.qualified(t.oid)) n(named)
    WHERE g.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE', 'MAINTAIN') AND g.grantee <> t.relowner
      -- What others have granted on goes with it.
      AND g.grantor = t.relowner;
END
$$;
COMMENT ON FUNCTION amp.grant_findings(oid[]) IS
'Internal: what doctor() finds in privileges on protected tables; with relations (pg_class): on them, their parts and parents.';

CREATE FUNCTION amp.default_grant_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN g.privilege_type IN ('TRIGGER', 'REFERENCES') THEN 'error' ELSE 'warning' END, 'grant-default',
           concat('tables of ', d.defaclrole::regrole, ' in schema ' || quote_ident(n.nspname)),
           format('Every later table is made with %s for %s: see grant-%s.', g.privilege_type, who.name, lower(g.privilege_type)),
           concat('ALTER DEFAULT PRIVILEGES FOR ROLE ', d.defaclrole::regrole, ' IN SCHEMA ' || quote_ident(n.nspname),
                  format(' REVOKE %s ON TABLES FROM %s CASCADE', g.privilege_type, who.name))
    FROM pg_default_acl d
    LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    CROSS JOIN LATERAL aclexplode(d.defaclacl) g
    CROSS JOIN LATERAL (SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END) who(name)
    WHERE d.defaclobjtype = 'r' AND g.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE', 'MAINTAIN') AND g.grantee <> d.defaclrole
      AND EXISTS (SELECT FROM amp.protected_tables)
      AND (d.defaclnamespace = 0 OR n.nspname IN (SELECT s.schema FROM amp.protected_schemas s)
           OR d.defaclnamespace IN (SELECT c.relnamespace FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation))
$$;
COMMENT ON FUNCTION amp.default_grant_findings() IS
'Internal: what doctor() finds in the privileges that later tables are made with, where there are protected ones.';

CREATE FUNCTION amp.access_findings() RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH named AS MATERIALIZED (
        -- Whose privileges are theirs.
        SELECT 0::oid AS role, 'PUBLIC' AS name
        UNION SELECT m.role, m.role::regrole::text FROM amp.subject_roles s, unnest(s.roles) m(role)
    )
    SELECT 'warning', 'schema-creatable', format('schema %I', n.nspname),
           format('%s may create in it: functions and tables that stand before others for whoever has it in his search_path.', who.name),
           format('REVOKE CREATE ON SCHEMA %I FROM %s CASCADE', n.nspname, who.name)
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) g JOIN named who ON who.role = g.grantee
    WHERE g.privilege_type = 'CREATE' AND g.grantee <> n.nspowner AND g.grantor = n.nspowner
      AND n.oid IN (SELECT c.relnamespace FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation)
      -- Who makes the tables there may.
      AND NOT EXISTS (SELECT FROM amp.protected_tables p JOIN pg_class c ON c.oid = p.relation
                      WHERE c.relnamespace = n.oid AND c.relowner = g.grantee)
    UNION ALL
    SELECT 'warning', 'foreign-server', format('server %I', s.srvname),
           format('%s may use it: a session through it is another one, of another role, and without tenant.', who.name),
           format('REVOKE USAGE ON FOREIGN SERVER %I FROM %s CASCADE', s.srvname, who.name)
    FROM pg_foreign_server s CROSS JOIN LATERAL aclexplode(s.srvacl) g JOIN named who ON who.role = g.grantee
    WHERE g.privilege_type = 'USAGE' AND g.grantee <> s.srvowner AND g.grantor = s.srvowner
    UNION ALL
    SELECT 'warning', 'user-mapping', format('user mapping for %s, server %I', who.name, m.srvname),
           'A foreign table or dblink opens a session with it: another one, of another role, and without tenant.',
           format('DROP USER MAPPING FOR %s SERVER %I', who.name, m.srvname)
    FROM pg_user_mappings m JOIN named who ON who.role = m.umuser
    UNION ALL
    -- pageinspect is not among them: its functions are refused to everybody but superusers, whatever is granted.
    SELECT 'warning', 'extension-function', format('extension %I', e.extname),
           format('%s may call what reads tables past row security, or opens another session: %s.', who.name,
                  concat(min(p.proname COLLATE "C"), ' and ' || nullif(count(*) - 1, 0) || ' more')),
           string_agg(format('REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE', amp.named_function(p.oid), who.name), '; ' ORDER BY p.oid)
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    JOIN pg_proc p ON p.oid = d.objid
    CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g JOIN named who ON who.role = g.grantee
    WHERE e.extname IN ('adminpack', 'amcheck', 'dblink', 'pg_buffercache', 'pg_freespacemap', 'pg_surgery', 'pg_visibility', 'pg_walinspect',
                        'pgrowlocks', 'pgstattuple')
      AND g.privilege_type = 'EXECUTE' AND g.grantee <> p.proowner AND g.grantor = p.proowner AND p.prorettype NOT IN ('fdw_handler'::regtype, 'trigger'::regtype)
      AND NOT (e.extname = 'dblink' AND p.proname NOT LIKE 'dblink%' OR p.proname LIKE '%\_validator')
    GROUP BY e.extname, who.name
$$;
COMMENT ON FUNCTION amp.access_findings() IS
'Internal: what doctor() finds in privileges, of those who may use protected tables, on schemas, foreign servers and functions of extensions.';
