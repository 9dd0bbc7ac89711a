-- What the doctor finds in functions. Those of extensions are not looked at: who installs one trusts it.

CREATE FUNCTION amp.named_function(function oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = function
$$;
COMMENT ON FUNCTION amp.named_function(oid) IS 'Internal: schema, name and arguments, quoted, whatever the search_path.';

CREATE FUNCTION amp.function_findings(functions oid[] DEFAULT NULL)
    RETURNS TABLE (severity text, code text, object text, finding text, fix text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    looked_at CONSTANT oid[] := coalesce(functions, ARRAY(
        SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'amp')));
BEGIN
    RETURN QUERY
    WITH RECURSIVE own AS MATERIALIZED (
        SELECT p.oid, p.proowner, p.prosecdef, p.proleakproof, p.provolatile, p.proconfig, p.prosqlbody IS NOT NULL AS parsed, p.prosrc,
               coalesce(p.proacl, acldefault('f', p.proowner)) AS acl, l.lanname, l.lanpltrusted, l.lanispl,
               o.rolname AS owner, o.rolsuper OR o.rolbypassrls AS bypasses, o.rolsuper AS super, n.nspname, f.named
        FROM unnest(looked_at) u(oid)
        JOIN pg_proc p ON p.oid = u.oid
        JOIN pg_language l ON l.oid = p.prolang
        JOIN pg_roles o ON o.oid = p.proowner
        JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'amp')
        CROSS JOIN LATERAL (SELECT amp.named_function(p.oid)) f(named)
        WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    ), open AS (
        SELECT f.* FROM own f
        WHERE f.prosecdef AND EXISTS (SELECT FROM aclexplode(f.acl) g WHERE g.grantee <> f.proowner AND g.privilege_type = 'EXECUTE')
    ), reaches(function, class, id) AS (
        -- What is known of a body that was parsed when it was made, through views, and through other functions: those that act with its owner's
        -- rights, or with those of another one who bypasses row security.
        SELECT f.oid, 'pg_proc'::regclass::oid, f.oid FROM open f WHERE f.parsed AND f.bypasses
        UNION
        SELECT r.function, u.class, u.id
        FROM reaches r
        CROSS JOIN LATERAL (
            SELECT d.refclassid, d.refobjid
            FROM pg_depend d
            WHERE r.class = 'pg_proc'::regclass AND d.classid = 'pg_proc'::regclass AND d.objid = r.id
              AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
            UNION ALL
            SELECT d.refclassid, d.refobjid
            FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
            WHERE r.class = 'pg_class'::regclass AND w.ev_class = r.id
              AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
        ) u(class, id)
        WHERE u.class = 'pg_class'::regclass OR EXISTS (
            SELECT FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
            WHERE p.oid = u.id AND p.prosqlbody IS NOT NULL AND (NOT p.prosecdef OR o.rolsuper OR o.rolbypassrls))
    )
    SELECT CASE WHEN f.reading THEN 'error' ELSE 'warning' END, CASE WHEN f.reading THEN 'definer-function-reads' ELSE 'definer-function' END, f.named,
           CASE WHEN f.reading THEN format('It reads protected tables as %I, who bypasses row security, for whoever may call it.', f.owner)
                ELSE format('It runs as %I, who bypasses row security, for whoever may call it.', f.owner)
                     || CASE WHEN EXISTS (SELECT FROM unnest(f.proconfig) c WHERE c LIKE 'amp.allow\_bypass=%') THEN ' It reaches protected tables (amp.allow_bypass).' ELSE '' END END,
           format('ALTER ROUTINE %s SECURITY INVOKER', f.named)
    FROM (SELECT f.*, EXISTS (SELECT FROM reaches r JOIN amp.protected_tables p ON p.relation = r.id
                             WHERE r.function = f.oid AND r.class = 'pg_class'::regclass) AS reading
          FROM open f WHERE f.bypasses) f
    UNION ALL
    -- An empty one, or pg_catalog alone, is that of a body which qualifies its names.
    SELECT 'warning', 'definer-search-path', f.named,
           CASE WHEN s.path IS NULL THEN 'It looks for what it names where its caller says, with its owner''s rights.'
                ELSE 'A temporary table of its caller''s stands before those that it names: pg_temp is not last in its search_path.' END,
           format('ALTER ROUTINE %s SET search_path = %s, pg_temp', f.named, coalesce(s.path, format('pg_catalog, %I', f.nspname)))
    FROM open f
    LEFT JOIN LATERAL (SELECT substr(c, 13) FROM unnest(f.proconfig) c WHERE c LIKE 'search_path=%') s(path) ON true
    WHERE NOT f.parsed AND f.lanname NOT IN ('c', 'internal')
      AND (s.path IS NULL OR s.path NOT IN ('', '""', 'pg_catalog') AND s.path !~ '(^|[ ,])"?pg_temp"?$')
    UNION ALL
    SELECT 'warning', 'leakproof-function', f.named,
           'It counts as telling nothing about its arguments, so it may see rows before a policy has looked at them.',
           format('ALTER FUNCTION %s NOT LEAKPROOF', f.named)
    FROM own f WHERE f.proleakproof
    UNION ALL
    SELECT 'warning', 'immutable-function', f.named,
           'It is declared IMMUTABLE and asks who is asking: a plan that is kept has the answer for another tenant.',
           format('ALTER FUNCTION %s STABLE', f.named)
    FROM own f
    WHERE f.provolatile = 'i' AND (
        f.prosrc ~* '\m(current_setting|current_user|session_user)\M|\mamp\s*\.\s*"?(tenant_id|tenant_uuid|tenant_bigint|user_id|role|context|has_permission|require_permission)\M'
        OR EXISTS (SELECT FROM pg_depend d JOIN pg_proc u ON u.oid = d.refobjid AND u.pronamespace = 'amp'::regnamespace
                   WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass))
    UNION ALL
    SELECT 'warning', 'untrusted-function', f.named,
           format('It is written in %I, which reaches the server''s files, and %s may call it.', f.lanname, who.name),
           format('REVOKE EXECUTE ON ROUTINE %s FROM %s CASCADE', f.named, who.name)
    FROM own f CROSS JOIN LATERAL aclexplode(f.acl) g
    CROSS JOIN LATERAL (SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END) who(name)
    WHERE f.lanispl AND NOT f.lanpltrusted AND g.privilege_type = 'EXECUTE' AND g.grantee <> f.proowner AND g.grantor = f.proowner
    UNION ALL
    SELECT DISTINCT 'warning', 'function-of-stranger', f.named,
           format('%I, who does not own %s, can change what runs in its users'' sessions: a trigger, default, check, index or policy of it calls this.',
                  f.owner, amp.qualified(c.oid)),
           format('ALTER FUNCTION %s OWNER TO %s', f.named, c.relowner::regrole)
    FROM own f
    JOIN pg_depend u ON u.refclassid = 'pg_proc'::regclass AND u.refobjid = f.oid
     AND u.classid IN ('pg_trigger'::regclass, 'pg_class'::regclass, 'pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_policy'::regclass)
    JOIN pg_depend d ON d.classid = u.classid AND d.objid = u.objid AND d.refclassid = 'pg_class'::regclass
    JOIN amp.protected_tables p ON p.relation = d.refobjid
    JOIN pg_class c ON c.oid = p.relation
    WHERE NOT f.super AND f.proowner <> c.relowner;
END
$$;
COMMENT ON FUNCTION amp.function_findings(oid[]) IS 'Internal: what doctor() finds in functions; with functions (pg_proc): in these.';
